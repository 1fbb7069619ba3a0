"""Reading, fitting and fetching weights, and what is said when one of them cannot be done."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.bn_inception import BNInception
from reaction.models.cnn_m import CNNM
from reaction.models.i3d import I3D
from reaction.models.inception_v3 import InceptionV3
from reaction.models.vgg import VGG16
from reaction.models.weights import (
    WeightsError,
    download,
    fold_input,
    load_pretrained,
    read_weights,
    start_classifier,
)

torch.set_num_threads(1)

BODY = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(BODY).hexdigest()
FIRST = "Conv2d_1a_3x3.conv.weight"


def build(seed: int, **options) -> InceptionV3:
    torch.manual_seed(seed)
    return InceptionV3(**({"classes": 5, "width": 0.0625} | options))


class Answer(BaseHTTPRequestHandler):
    """Serves BODY, half of it under /cut, and nothing else."""

    def do_GET(self) -> None:
        if self.path not in ("/weights.pth", "/cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY if self.path != "/cut" else BODY[: len(BODY) // 2])

    def log_message(self, *_arguments) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_same_network_loads_whole():
    source, target = build(1), build(2)
    coverage = load_pretrained(target, source.state_dict(), stream="rgb")
    state = target.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in source.state_dict().items())
    assert len(coverage.loaded) == len(state)
    assert coverage.missing == coverage.unexpected == coverage.reshaped == ()


def test_an_imagenet_network_fits_a_flow_stream_with_a_map():
    source = build(1, classes=9, aux=True).state_dict()
    target = build(2, channels=11)
    coverage = load_pretrained(target, source, stream="flow", extra=1, map_channel="zero")
    first = target.state_dict()[FIRST]
    torch.testing.assert_close(first[:, :10], source[FIRST].mean(1, keepdim=True).expand(-1, 10, -1, -1))
    assert not first[:, 10].any()
    assert coverage.reshaped == (FIRST, "fc.weight", "fc.bias")
    assert coverage.missing == ()
    assert {name.split(".")[0] for name in coverage.unexpected} == {"AuxLogits"}
    assert torch.equal(target.state_dict()["Mixed_6c.branch_pool.bn.running_var"], torch.ones(16))


def test_a_clip_network_over_rgb_fits_a_flow_stream():
    source, target = I3D(width=0.125, classes=5), I3D(width=0.125, classes=4, channels=2)
    coverage = load_pretrained(target, source.state_dict(), stream="flow")
    first, rgb = (network.state_dict()[I3D.first_conv] for network in (target, source))  # (8, C, 7, 7, 7)
    torch.testing.assert_close(first, rgb.mean(1, keepdim=True).expand_as(first))
    assert coverage.reshaped == ("logits.conv3d.weight", "logits.conv3d.bias", I3D.first_conv)


def test_a_new_classifier_starts_as_tsns():
    target = build(2, classes=101, width=0.25)
    load_pretrained(target, build(1, width=0.25).state_dict(), stream="rgb")
    assert target.fc.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not target.fc.bias.any()


def test_the_coverage_reads_well():
    coverage = load_pretrained(build(2, channels=4), build(1).state_dict(), stream="rgb", extra=1)
    lines = str(coverage).splitlines()
    assert lines == ["565 tensors loaded", "0 missing", "0 unexpected", f"1 reshaped: {FIRST}"]


def test_files_of_old_torch_without_batch_counts_load():
    state = {name: value for name, value in build(1).state_dict().items() if "num_batches" not in name}
    coverage = load_pretrained(build(2), state, stream="rgb")
    assert len(coverage.missing) == 94
    assert {name.rpartition(".")[2] for name in coverage.missing} == {"num_batches_tracked"}


def test_weights_of_another_width_or_network_are_refused():
    with pytest.raises(WeightsError, match=r"Conv2d_.*in the file.*in the network"):
        load_pretrained(build(2), build(1, width=0.5).state_dict(), stream="rgb")
    with pytest.raises(WeightsError, match=r"no tensor fits InceptionV3; the file starts with layer1\.weight"):
        load_pretrained(build(2), {"layer1.weight": torch.zeros(1)}, stream="rgb")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_reads_every_format_with_and_without_prefix(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    state = {"module.fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2)}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"epoch": 3, "state_dict": state}, path)
    read = read_weights(path)
    assert sorted(read) == ["fc.bias", "fc.weight"]
    assert read["fc.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_our_weights_save_as_safetensors_after_a_step(tmp_path):
    model = build(1)
    model(torch.randn(2, 3, 107, 107)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(read_weights(tmp_path / "model.safetensors")[FIRST], model.state_dict()[FIRST])


def test_nothing_in_a_file_is_executed(tmp_path):
    path = tmp_path / "evil.pt"
    torch.save({"fc.weight": Evil(tmp_path / "ran")}, path)
    with pytest.raises(WeightsError, match=r"evil\.pt: damaged, or holds more than tensors"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


class Evil:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_files_are_named(tmp_path, suffix):
    path = tmp_path / f"half{suffix}"
    path.write_bytes(b"\x80\x02half of a file")
    with pytest.raises(WeightsError, match=r"half.*damaged"):
        read_weights(path)


def test_absent_and_foreign_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pt: no such file"):
        read_weights(tmp_path / "none.pt")
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(WeightsError, match=r"notes\.txt: weights are read from"):
        read_weights(tmp_path / "notes.txt")


@pytest.mark.parametrize("digits", [8, 64])
def test_downloads_and_checks(tmp_path, server, digits):
    path = download(f"{server}/weights.pth", DIGEST[:digits], tmp_path / "deep" / "weights.pth")
    assert path.read_bytes() == BODY


def test_does_not_fetch_what_is_there(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(BODY)
    assert download("http://127.0.0.1:1/nobody", DIGEST, path) == path


@pytest.mark.parametrize(
    ("page", "digest", "message"),
    [
        ("weights.pth", "0" * 64, "sha256 is .*, expected 0000.*by hand"),
        ("cut", DIGEST, "/cut: .*by hand"),
        ("absent", DIGEST, "/absent: 404.*by hand"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(tmp_path, server, page, digest, message):
    with pytest.raises(WeightsError, match=message):
        download(f"{server}/{page}", digest, tmp_path / "weights.pth")
    assert list(tmp_path.iterdir()) == []


def test_refuses_an_unchecked_download(tmp_path):
    with pytest.raises(WeightsError, match="first 8 hexadecimal digits"):
        download("http://127.0.0.1:1/nobody", "abc", tmp_path / "weights.pth")


@pytest.mark.parametrize("build", [BNInception, CNNM, VGG16])
def test_folded_weights_see_in_normalised_rgb_what_the_public_ones_see_in_their_own_input(build):
    torch.manual_seed(0)
    model = build(width=0.125, classes=4)
    state = model.state_dict()
    convolution = model.get_submodule(model.first_conv.removesuffix(".weight"))
    pixels = torch.randint(0, 256, (2, 3, 40, 40)).float()  # R, G, B
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.input_mean, model.input_std))
    theirs = (pixels - mean) / std
    theirs = F.conv2d(theirs.flip(1) if model.input_bgr else theirs, *weight_and_bias(state, model), stride=2)
    folded = fold_input(state, model, stream="rgb")
    ours = F.conv2d(pixels / 127.5 - 1, *weight_and_bias(folded, model), stride=2)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert folded.keys() == state.keys()
    assert convolution.weight is not folded[model.first_conv]


@pytest.mark.parametrize("build", [BNInception, CNNM, VGG16])
def test_folded_for_flow_no_motion_gives_the_public_bias(build):
    model = build(width=0.125, classes=4)
    folded = fold_input(model.state_dict(), model, stream="flow")
    assert torch.equal(weight_and_bias(folded, model)[1], weight_and_bias(model.state_dict(), model)[1])


def weight_and_bias(state: dict[str, Tensor], model: nn.Module) -> tuple[Tensor, Tensor]:
    return state[model.first_conv], state[model.first_conv.replace("weight", "bias")]


@pytest.mark.parametrize("build", [BNInception, CNNM, VGG16])
def test_public_weights_are_folded_before_they_are_expanded_and_our_own_are_not(build):
    torch.manual_seed(0)
    source, target = build(width=0.125, classes=9), build(width=0.125, classes=4, channels=10)
    state, first = source.state_dict(), source.first_conv
    for public, scale in ((False, 1.0), (True, 127.5)):
        coverage = load_pretrained(target, state, stream="flow", public=public)
        std = torch.tensor(build.input_std if public else (1.0, 1.0, 1.0))[:, None, None]
        expected = (scale * state[first] / std).mean(1, keepdim=True).expand(-1, 10, -1, -1)
        torch.testing.assert_close(target.state_dict()[first], expected)
        assert coverage.reshaped == (first, *(f"{source.last_layer}.{kind}" for kind in ("weight", "bias")))


def test_public_inception_weights_see_what_they_were_trained_on():
    source, target = build(1), build(2)
    load_pretrained(target, source.state_dict(), stream="rgb", public=True)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_public_weights_without_the_layer_that_is_folded_are_refused():
    state = CNNM(width=0.125).state_dict()
    del state["conv1.bias"]
    with pytest.raises(WeightsError, match=r"conv1\.weight over R, G, B, with conv1\.bias"):
        load_pretrained(CNNM(width=0.125), state, stream="rgb", public=True)
    flow = CNNM(width=0.125, channels=20)
    with pytest.raises(WeightsError, match="over R, G, B"):
        load_pretrained(flow, flow.state_dict(), stream="flow", public=True)


@pytest.mark.parametrize("build", [InceptionV3, BNInception, CNNM, VGG16])
def test_every_backbones_classifier_starts_as_tsns(build):
    backbone = build(width=0.125, classes=40)
    start_classifier(backbone)
    classifier = backbone.get_submodule(backbone.last_layer)
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not classifier.bias.any()
    assert backbone.state_dict()[backbone.first_conv].shape[1] == 3
