"""Foreign layouts against their published names and shapes, and against second implementations of the foreign code."""

import os
import pickle
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.bn_inception import BNInception
from reaction.models.convert import LAYOUTS, fit, from_caffe2, from_tsn_pytorch, recognise, refit
from reaction.models.i3d import I3D
from reaction.models.inception_v3 import InceptionV3
from reaction.models.resnet3d import C2D, NONLOCAL_R50, I3DResNet
from reaction.models.slowfast import Slow, SlowFast
from reaction.models.vgg import VGG16
from reaction.models.weights import WeightsError, read_weights

torch.set_num_threads(1)

KEYS = Path(__file__).parent / "keys"
State = dict[str, Tensor]


def foreign(name: str) -> State:
    """Random tensors of a public file's names and shapes: a line of the list is a layer, its kind and its weight.

    Scales keep the signal alive through 50 layers, so that a forward pass says something.
    """
    return dict(_foreign(name))


@cache
def _foreign(name: str) -> State:
    draw = torch.Generator().manual_seed(0)
    state: State = {}
    for line in (KEYS / f"{name}.txt").read_text().splitlines():
        layer, kind, *sides = line.split()
        shape = tuple(map(int, sides))
        if kind == "norm":
            parts = {part: 0.1 * torch.randn(shape, generator=draw) for part in ("bias", "running_mean")}
            parts |= {part: 0.8 + 0.4 * torch.rand(shape, generator=draw) for part in ("weight", "running_var")}
            parts["num_batches_tracked"] = torch.tensor(7)
        else:
            fan = torch.Size(shape[1:]).numel()
            parts = {"weight": torch.randn(shape, generator=draw) * (2 / fan) ** 0.5}
            parts |= {"bias": torch.randn(shape[0], generator=draw)} if kind == "biased" else {}
        state |= {f"{layer}.{part}": value for part, value in parts.items()}
    return state


def on_meta(build: Callable[..., nn.Module], **options) -> nn.Module:
    with torch.device("meta"):
        return build(**options)


def converted(state: State, network: nn.Module) -> nn.Module:
    """The network in evaluation mode with what the file has, strictly loaded."""
    fitted, coverage = fit(recognise(state).convert(state), network)
    network.load_state_dict(fitted, assign=True)
    assert coverage.unexpected == coverage.reshaped == ()
    assert {name.rpartition(".")[2] for name in coverage.missing} <= {"num_batches_tracked"}
    return network.eval()


@pytest.mark.parametrize(
    ("name", "tensors", "build"),
    [
        ("hassony2_i3d", 344, I3D),
        ("pytorchvideo_slowfast_r50", 662, lambda: SlowFast(alpha=4, lateral_kernel=7)),
        ("pytorchvideo_slow_r50", 320, Slow),
        ("pytorchvideo_c2d_r50", 320, C2D),
        ("pytorchvideo_i3d_r50", 320, I3DResNet),
        ("mmaction2_slowfast_r50", 642, SlowFast),
        ("mmaction2_slowonly_r50", 320, Slow),
    ],
)
def test_every_tensor_of_a_public_layout_has_its_place(name, tensors, build):
    state = foreign(name)
    assert len(state) == tensors
    fitted, coverage = fit(recognise(state).convert(state), on_meta(build))
    added = {"mmaction2_slowfast_r50": 16}.get(name, 0)  # four normalisations that change nothing
    assert len(coverage.loaded) == tensors + added
    assert coverage.unexpected == coverage.reshaped == ()
    assert len(coverage.missing) == added // 4
    assert not Counter(map(fingerprint, state.values())) - Counter(map(fingerprint, fitted.values()))


def fingerprint(value: Tensor) -> tuple:
    return tuple(value.shape), value.double().sum().item()


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME padding with zeros."""
    pads = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def hassony2(state: State, x: Tensor) -> Tensor:
    """The forward pass of kinetics_i3d_pytorch, by its names."""

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(same(x, weight.shape[2:], (stride,) * 3), weight, stride=stride)
        norm = (state[f"{name}.batch3d.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *norm, eps=1e-3))

    def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(same(x, kernel, stride), kernel, stride)

    x = pool(unit("conv3d_1a_7x7", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("conv3d_2c_3x3", unit("conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    for name in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
        if name in ("4b", "5b"):
            x = pool(x, *(((3, 3, 3), (2, 2, 2)) if name == "4b" else ((2, 2, 2), (2, 2, 2))))
        block = f"mixed_{name}.branch_"
        branches = [unit(f"{block}0", x)]
        branches += [unit(f"{block}{n}.1", unit(f"{block}{n}.0", x)) for n in (1, 2)]
        x = torch.cat([*branches, unit(f"{block}3.1", pool(x, (3, 3, 3), (1, 1, 1)))], dim=1)
    x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
    x = F.conv3d(x, state["conv3d_0c_1x1.conv3d.weight"], state["conv3d_0c_1x1.conv3d.bias"])
    return x.flatten(2).mean(2)


def test_logits_of_hassony2s_weights_are_those_of_its_code():
    state, clip = foreign("hassony2_i3d"), torch.randn(1, 3, 17, 40, 32)
    with torch.no_grad():
        torch.testing.assert_close(converted(state, on_meta(I3D))(clip), hassony2(state, clip), rtol=1e-4, atol=1e-4)


def pytorchvideo(state: State, clips: list[Tensor], alpha: int) -> Tensor:
    """The forward pass of pytorchvideo's slowfast_r50, by its names, of what each pathway sees."""

    def norm(name: str, x: Tensor) -> Tensor:
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def conv(name: str, x: Tensor, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv3d(x, weight, stride=stride, padding=[side // 2 for side in weight.shape[2:]])

    def residual(name: str, x: Tensor, side: int) -> Tensor:
        stride = (1, side, side)
        y = F.relu(norm(f"{name}.branch2.norm_a", conv(f"{name}.branch2.conv_a", x)))
        y = F.relu(norm(f"{name}.branch2.norm_b", conv(f"{name}.branch2.conv_b", y, stride)))
        y = norm(f"{name}.branch2.norm_c", conv(f"{name}.branch2.conv_c", y))
        if f"{name}.branch1_conv.weight" in state:
            x = norm(f"{name}.branch1_norm", conv(f"{name}.branch1_conv", x, stride))
        return F.relu(x + y)

    maps = []
    for path, clip in enumerate(clips):
        name = f"blocks.0.multipathway_blocks.{path}"
        stem = F.relu(norm(f"{name}.norm", conv(f"{name}.conv", clip, (1, 2, 2))))
        maps.append(F.max_pool3d(stem, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
    for stage, blocks in enumerate((0, 3, 4, 6, 3)):
        for path in (0, 1):
            for block in range(blocks):
                name = f"blocks.{stage}.multipathway_blocks.{path}.res_blocks.{block}"
                maps[path] = residual(name, maps[path], 2 if stage > 1 and block == 0 else 1)
        if stage < 4:
            name = f"blocks.{stage}.multipathway_fusion"
            fused = F.relu(norm(f"{name}.norm", conv(f"{name}.conv_fast_to_slow", maps[1], (alpha, 1, 1))))
            maps[0] = torch.cat([maps[0], fused], dim=1)
    return F.linear(torch.cat([x.mean((2, 3, 4)) for x in maps], 1), *(state[f"blocks.6.proj.{p}"] for p in PARTS))


PARTS = ("weight", "bias")


def test_logits_of_pytorchvideos_weights_are_those_of_its_code():
    state, clip = foreign("pytorchvideo_slowfast_r50"), torch.randn(1, 3, 16, 32, 32)
    network = converted(state, on_meta(SlowFast, alpha=4, lateral_kernel=7, slow_frames="nearest", size=32))
    with torch.no_grad():
        expected = pytorchvideo(state, [clip[:, :, ::4], clip], alpha=4)
        torch.testing.assert_close(network(clip), expected, rtol=1e-4, atol=1e-3)


def test_mmaction2s_lateral_connections_get_a_normalisation_that_changes_nothing():
    state = foreign("mmaction2_slowfast_r50")
    network = converted(state, on_meta(SlowFast))
    fast = torch.rand(1, 8, 16, 3, 3)
    weight = state["backbone.slow_path.conv1_lateral.conv.weight"].abs()
    with torch.no_grad():
        network.s1_fuse.conv_f2s.weight.copy_(weight)
        joined, _ = network.s1_fuse([torch.empty(1, 0, 2, 3, 3), fast])
    torch.testing.assert_close(joined, F.conv3d(fast, weight, stride=(8, 1, 1), padding=(2, 0, 0)))
    assert "ReLU" in recognise(state).note


def caffe2_names(blocks: tuple[int, ...]) -> dict[str, str]:
    """Every blob of SlowFast's Caffe2 file, and PySlowFast's name: MODEL_ZOO.md, c2_model_loading.py, written anew."""
    norm = {"_bn_s": "bn.weight", "_bn_b": "bn.bias", "_bn_rm": "bn.running_mean", "_bn_riv": "bn.running_var"}
    names = {"pred_w": "head.projection.weight", "pred_b": "head.projection.bias"}
    for t, path in (("", 0), ("t_", 1)):
        names[f"{t}conv1_w"] = f"s1.pathway{path}_stem.conv.weight"
        names |= {f"{t}res_conv1{blob}": f"s1.pathway{path}_stem.{part}" for blob, part in norm.items()}
        for stage, count in enumerate(blocks, start=2):
            for block in range(count):
                ours = f"s{stage}.pathway{path}_res{block}."
                layers = {"2a": "2.a", "2b": "2.b", "2c": "2.c"} | ({"1": "1"} if block == 0 else {})
                for branch, layer in layers.items():
                    blob = f"{t}res{stage}_{block}_branch{branch}"
                    names[f"{blob}_w"] = f"{ours}branch{layer}.weight"
                    names |= {f"{blob}{end}": f"{ours}branch{layer}_{part}" for end, part in norm.items()}
    last = [f"t_res{stage}_{count - 1}_branch2c_bn" for stage, count in enumerate(blocks[:3], start=2)]
    for stage, blob in enumerate(["t_pool1", *last], start=1):
        names[f"{blob}_subsample_w"] = f"s{stage}_fuse.conv_f2s.weight"
        names |= {f"{blob}_subsample{end}": f"s{stage}_fuse.{part}" for end, part in norm.items()}
    return names


def test_every_blob_of_the_caffe2_zoo_has_its_place():
    network = on_meta(SlowFast)
    expected = caffe2_names((3, 4, 6, 3))
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    blobs = {blob: torch.zeros(1).expand(shapes[name]) for blob, name in expected.items()}
    extra = {"conv1_w_momentum": torch.ones(1), "lr": torch.ones(1), "model_iter": torch.ones(1)}
    state = from_caffe2(blobs | extra)
    assert {blob: id(value) for blob, value in blobs.items()} == {
        blob: id(state[name]) for blob, name in expected.items()
    }
    _, coverage = fit(state, network)
    assert (len(coverage.loaded), len(coverage.missing), coverage.unexpected) == (552, 110, ())


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("nonlocal_conv3_1_theta_w", "s3.pathway0_nonlocal1.conv_theta.weight"),
        ("nonlocal_conv4_5_g_b", "s4.pathway0_nonlocal5.conv_g.bias"),
        ("nonlocal_conv4_3_out_w", "s4.pathway0_nonlocal3.conv_out.weight"),
        ("nonlocal_conv4_3_bn_s", "s4.pathway0_nonlocal3.bn.weight"),
        ("nonlocal_conv3_3_bn_riv", "s3.pathway0_nonlocal3.bn.running_var"),
        ("res_conv1_bn_riv", "s1.pathway0_stem.bn.running_var"),
        ("t_res3_1_branch2c_bn_riv", "s3.pathway1_res1.branch2.c_bn.running_var"),
        ("res4_0_branch1_bn_rm", "s4.pathway0_res0.branch1_bn.running_mean"),
    ],
)
def test_blobs_are_called_as_pyslowfast_calls_them(blob, name):
    assert list(from_caffe2({blob: torch.ones(1)})) == [name]
    assert name in I3DResNet(nonlocals=NONLOCAL_R50, width=0.125).state_dict() | SlowFast(width=0.125).state_dict()


@pytest.mark.parametrize(
    ("build", "classifier"),
    [(BNInception, "last_linear"), (VGG16, "classifier.6"), (InceptionV3, "fc")],
)
def test_tsns_trunk_and_classifier_become_one_network(build, classifier):
    source = build(width=0.0625, classes=5).state_dict()
    names = {name: f"base_model.{name}" for name in source} | {
        f"{classifier}.{part}": f"new_fc.{part}" for part in PARTS
    }
    file = {names[name]: value for name, value in source.items()}
    restored = from_tsn_pytorch(file)
    assert all(torch.equal(restored[name], value) for name, value in source.items())
    in_trunk = {name.replace("new_fc", "base_model.fc"): value for name, value in file.items()}
    assert from_tsn_pytorch(in_trunk).keys() == restored.keys()
    assert recognise(file).name.startswith("yjxiong/tsn-pytorch over ")


def test_normalisations_of_one_row_lose_it():
    source = BNInception(width=0.0625, classes=5)
    file = {
        f"base_model.{name}": value[None] if "_bn." in name and value.dim() else value
        for name, value in source.state_dict().items()
        if "num_batches" not in name
    }
    fitted, coverage = fit(from_tsn_pytorch(file), BNInception(width=0.0625, classes=5))
    assert all(torch.equal(fitted[name], value) for name, value in source.state_dict().items())
    assert len(coverage.reshaped) == 4 * 69
    assert len(coverage.missing) == 69


@pytest.mark.parametrize("build", [Slow, C2D, I3DResNet])
def test_imagenets_resnet_is_inflated(build):
    state = foreign("torchvision_resnet50")
    network = on_meta(build)
    fitted, coverage = fit(recognise(state).convert(state), network)
    assert coverage.missing == ("head.projection.weight", "head.projection.bias")
    assert coverage.unexpected == ("fc.weight", "fc.bias")
    assert (len(coverage.loaded), len(coverage.reshaped)) == (265, 53)  # normalisations and convolutions
    kernel = fitted["s4.pathway0_res0.branch2.a.weight"]  # (256, 512, N, 1, 1)
    torch.testing.assert_close(kernel.sum(2), state["layer3.0.conv1.weight"])
    assert set(fitted) == {name for name in network.state_dict() if not name.startswith("head")}


def test_imagenets_inception_is_inflated():
    state = foreign("torchvision_googlenet")
    fitted, coverage = fit(recognise(state).convert(state), on_meta(I3D))
    assert coverage.missing == ("logits.conv3d.weight", "logits.conv3d.bias")
    assert {name.split(".")[0] for name in coverage.unexpected} == {"aux1", "aux2"}
    kernel = fitted["Mixed_4b.b1b.conv3d.weight"]  # (208, 96, 3, 3, 3)
    torch.testing.assert_close(kernel.sum(2), state["inception4a.branch2.1.conv.weight"])


@pytest.mark.parametrize(
    ("build", "name", "channels", "mean", "std"),
    [
        (lambda: Slow(width=0.125), "facebookresearch/SlowFast", 3, 0.45, 0.225),
        (lambda: SlowFast(width=0.125), "facebookresearch/pytorchvideo", 3, 0.45, 0.225),
        (lambda: BNInception(width=0.0625), "Cadene bninception", 3, (104 / 255, 117 / 255, 128 / 255), 1 / 255),
        (lambda: BNInception(width=0.0625, channels=10), "Cadene bninception", 10, 128 / 255, 1 / 255),
        (lambda: VGG16(width=0.0625, channels=10), "torchvision vgg16", 10, 0.5, 0.226),
        (lambda: VGG16(width=0.0625), "torchvision vgg16", 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_converted_weights_see_in_our_input_what_they_saw_in_their_own(build, name, channels, mean, std):
    """The first convolutions' answers where padding does not reach; Caffe's networks take B, G, R."""
    network = build().eval()
    theirs = network.state_dict()
    ours = refit(theirs, next(layout for layout in LAYOUTS if layout.name == name), network)
    for first in {network.first_conv, "s1.pathway1_stem.conv.weight"} & set(theirs):
        size = (7, 9, 9) if theirs[first].dim() == 5 else (9, 9)
        pixels = torch.rand(2, channels, *size)  # of 1, in R, G, B
        scale = [torch.tensor(values).reshape(-1, *(1 for _ in size)) for values in (mean, std)]
        seen = pixels.flip(1) if channels == 3 and "Cadene" in name else pixels
        expected = answer(theirs, first, (seen - scale[0]) / scale[1])
        torch.testing.assert_close(answer(ours, first, (pixels - 0.5) / 0.5), expected, rtol=1e-4, atol=1e-3)


def answer(state: State, first: str, x: Tensor) -> Tensor:
    """What an unpadded first convolution and, where it has no bias, the mean of its normalisation give."""
    x = (F.conv3d if x.dim() == 5 else F.conv2d)(x, state[first])
    bias = state.get(first.replace("weight", "bias"))
    shift = -state[first.replace("conv.weight", "bn.running_mean")] if bias is None else bias
    return x + shift.reshape(-1, *(1 for _ in x.shape[2:]))


def test_differences_of_frames_are_not_converted():
    network = VGG16(width=0.0625, channels=15)
    layout = recognise(network.state_dict())
    with pytest.raises(WeightsError, match="15 channels: weights over RGB or flow are converted, and no others"):
        refit(network.state_dict(), layout, network)


def test_a_deeper_resnets_blocks_are_not_left_out_in_silence():
    state = foreign("torchvision_resnet50")
    state |= {name.replace("layer3.5", "layer3.6"): value for name, value in state.items() if "layer3.5" in name}
    _, coverage = fit(state, on_meta(Slow))
    assert "layer3.6.conv1.weight" in coverage.unexpected


def test_a_file_of_another_network_is_refused_by_name():
    with pytest.raises(WeightsError, match=r"\d+ tensors of SlowFast are not there: s1\.pathway1_stem.* and \d+ more"):
        fit(foreign("torchvision_resnet50"), on_meta(SlowFast))
    hara = {
        name: value[:, :, None] if value.dim() == 4 else value
        for name, value in foreign("torchvision_resnet50").items()
    }
    with pytest.raises(WeightsError, match=r"stem\.conv\.weight is \(64, 3, 1, 7, 7\) in the file, \(64, 3, 5, 7, 7\)"):
        fit(hara, on_meta(I3DResNet))
    state = foreign("pytorchvideo_slowfast_r50")
    with pytest.raises(WeightsError, match=r"conv_f2s\.weight is \(16, 8, 7, 1, 1\) in the file.*name another network"):
        fit(recognise(state).convert(state), on_meta(SlowFast))
    with pytest.raises(WeightsError, match=r"no layout that we know has these tensors: encoder\.weight; known: pier"):
        recognise({"encoder.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", sorted(path.stem for path in KEYS.glob("*.txt")))
def test_a_files_names_are_of_one_layout(name):
    state = foreign(name)
    assert len([layout for layout in LAYOUTS if recognise(state) is layout]) == 1
    whose = name.split("_")[0]
    assert whose in recognise(state).name.lower().replace("-", "")


def array_file(path: Path, blobs: dict[str, np.ndarray], protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL: {}"}, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_of_caffe2_are_read(tmp_path, protocol):
    blobs = {"conv1_w": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "lr": np.array([0.1])}
    read = read_weights(array_file(tmp_path / "zoo.pkl", blobs, protocol))
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in blobs.items()
    }


def test_arrays_as_python_2_wrote_them_are_read(tmp_path):
    """A file of Python 2 has the values as a string of bytes, and NumPy under its old name."""
    data = np.array([1.5, -2.0], dtype="<f4").tobytes()
    text = b"\x80\x02}U\x05blobs}U\x03a_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    text += b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN"
    text += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(data)]) + data + b"tbss."
    (tmp_path / "zoo.pkl").write_bytes(text)
    assert read_weights(tmp_path / "zoo.pkl")["a_w"].tolist() == [1.5, -2.0]


class Evil:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", ["open", "eval", "getattr", "system", "load", "loads"])
def test_a_hostile_file_is_refused_before_anything_is_called(tmp_path, protocol, function):
    made = tmp_path / "ran"
    evil = {
        "open": Evil(open, str(made), "w"),
        "eval": Evil(eval, f"open({str(made)!r}, 'w')"),
        "system": Evil(os.system, f"touch {made}"),
        "getattr": Evil(getattr, "text", "upper"),
        "load": Evil(np.load, str(tmp_path / "other.npy")),
        "loads": Evil(pickle.loads, b"."),
    }[function]
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": evil}}, protocol=protocol))
    with pytest.raises(WeightsError, match=r"zoo\.pkl: damaged, or holds more than tensors"):
        read_weights(tmp_path / "zoo.pkl")
    assert not made.exists()
