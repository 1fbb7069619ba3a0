"""`reaction convert`: from a downloaded file to the weights that a run starts from."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reaction.cli import main
from reaction.models.bn_inception import BNInception
from reaction.models.i3d import I3D
from reaction.models.inception_v3 import InceptionV3
from reaction.models.weights import load_pretrained, read_weights
from reaction.training.networks import build_network, load_start

torch.set_num_threads(1)

NETWORKS = """
sources: {paper: A paper}
networks:
  - {name: small_v3, build: inception_v3.InceptionV3, options: {width: 0.0625}, inputs: [[3, 80, 80]], published: []}
  - {name: small_i3d, build: i3d.I3D, options: {width: 0.0625, channels: 2}, inputs: [[2, 8, 32, 32]], published: []}
  - {name: small_bn, build: bn_inception.BNInception, options: {width: 0.0625}, inputs: [[3, 64, 64]], published: []}
"""
NETWORK = {"backbone": "inception_v3", "width": 0.0625, "dropout": 0.2, "partial_bn": False, "segments": 2, "stack": 1}
NETWORK |= {"entry": None, "map_channel": None, "input": 80}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A folder with networks of its own, narrow ones."""
    monkeypatch.chdir(tmp_path)
    Path("workflow").mkdir()
    Path("workflow/networks.yaml").write_text(NETWORKS)
    return tmp_path


def tsn_checkpoint(source: BNInception) -> dict:
    """A checkpoint as yjxiong/tsn-pytorch writes it."""
    names = {name: f"module.base_model.{name}" for name in source.state_dict() if "num_batches" not in name}
    names |= {f"last_linear.{part}": f"module.new_fc.{part}" for part in ("weight", "bias")}
    state = source.state_dict()
    tensors = {theirs: state[name] for name, theirs in names.items()}
    return {"epoch": 80, "arch": "BNInception", "state_dict": tensors, "best_prec1": 84.5}


@pytest.mark.parametrize("name", ["tsn.pth.tar", "tsn.pth", "old.pth.tar"])
def test_a_tsn_checkpoint_becomes_a_run_that_answers_as_it_did(name, capsys):
    source = BNInception(classes=7, width=0.0625).eval()
    torch.save(tsn_checkpoint(source), name, _use_new_zipfile_serialization=not name.startswith("old"))
    assert main(["convert", name, "ours.safetensors", "--to", "small_bn"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{name}: the layout of yjxiong/tsn-pytorch over Cadene bninception"
    assert out[1] == "416 tensors loaded"
    assert out[2].startswith("69 missing: conv1_7x7_s2_bn.num_batches_tracked, ")
    assert out[3:] == ["0 unexpected", "0 reshaped"]
    model = started("ours.safetensors", classes=7, backbone="bn_inception")
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()
    bgr = pixels.flip(1) - torch.tensor([104.0, 117.0, 128.0])[:, None, None]
    with torch.no_grad():
        # Zeros around the picture are the mean colour to the one and mid grey to the other: their own borders differ.
        first, theirs = model.backbone.conv1_7x7_s2(pixels / 127.5 - 1), source.conv1_7x7_s2(bgr)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(first[inside], theirs[inside], rtol=1e-3, atol=1e-2)
    assert torch.equal(model.backbone.last_linear.weight, source.last_linear.weight)


def test_a_run_starts_from_converted_weights_once_refitted_and_no_more():
    source = BNInception(classes=3, width=0.0625)
    torch.save(source.state_dict(), "cadene.pth")
    assert main(["convert", "cadene.pth", "ours.safetensors", "--to", "small_bn"]) == 0
    converted, target = load_file("ours.safetensors"), BNInception(classes=3, width=0.0625)
    load_pretrained(target, read_weights("cadene.pth"), stream="rgb", public=True)
    assert all(name.startswith("backbone.") for name in converted)
    for name, value in target.state_dict().items():
        torch.testing.assert_close(converted[f"backbone.{name}"], value)
    model = started("ours.safetensors", classes=3, backbone="bn_inception")
    assert all(torch.equal(value, converted[name]) for name, value in model.state_dict().items())


def test_torchvisions_auxiliary_net_is_left_out_and_another_dataset_starts_its_own_classifier(capsys):
    torch.manual_seed(0)
    source = InceptionV3(classes=9, width=0.0625, aux=True)
    torch.save(source.state_dict(), "inception_v3.pth")
    assert main(["convert", "inception_v3.pth", "ours.safetensors", "--to", "small_v3"]) == 0
    assert "14 unexpected: AuxLogits.conv0.conv.weight" in capsys.readouterr().out
    model = started("ours.safetensors", classes=2)
    assert torch.equal(model.backbone.Mixed_5b.branch1x1.conv.weight, source.Mixed_5b.branch1x1.conv.weight)
    assert model.backbone.fc.weight.abs().max() < 0.01


def test_a_flow_i3d_of_old_pytorch_starts_a_run_that_answers_as_it_did(capsys):
    torch.manual_seed(0)
    source, clip = I3D(classes=4, channels=2, width=0.0625).eval(), torch.rand(1, 2, 8, 32, 32)
    torch.save({name: value for name, value in source.state_dict().items() if "num_batches" not in name}, "flow.pt")
    assert main(["convert", "flow.pt", "ours.safetensors", "--to", "small_i3d"]) == 0
    assert "57 missing: Conv3d_1a_7x7.bn.num_batches_tracked" in capsys.readouterr().out
    model = started("ours.safetensors", classes=4, stream="flow", backbone="i3d", stack=8).eval()
    with torch.no_grad():
        assert torch.equal(model.backbone(clip), source(clip))


def started(path: str, *, classes: int, stream: str = "rgb", **network) -> torch.nn.Module:
    """A run's network with the weights that its `weights` block names."""
    network = copy.deepcopy(NETWORK) | network
    model = build_network(network, stream=stream, classes=classes)
    weights = {"source": "file", "path": path, "url": None, "sha256": None}
    load_start(model, {"network": network, "stream": stream, "weights": weights}, None)
    return model


def unknown() -> dict[str, Tensor]:
    return {"encoder.weight": torch.zeros(2)}


@pytest.mark.parametrize(
    ("state", "out", "to", "message"),
    [
        (unknown, "ours.safetensors", "small_bn", "file.pth: no layout that we know has these tensors: encoder.weight"),
        (unknown, "ours.pth", "small_bn", "converted weights are safetensors; call it ours.safetensors"),
        (unknown, "ours.safetensors", "i3d", "no network is called 'i3d'; choose one of small_v3, small_i3d, small_bn"),
        (
            lambda: InceptionV3(width=0.0625).state_dict(),
            "ours.safetensors",
            "small_bn",
            "tensors of BNInception are not there: conv1_7x7_s2.weight",
        ),
        (
            lambda: BNInception(width=0.125).state_dict(),
            "ours.safetensors",
            "small_bn",
            "in the network; name another network",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(state, out, to, message, capsys):
    torch.save(state(), "file.pth")
    assert main(["convert", "file.pth", out, "--to", to]) == 1
    assert message in capsys.readouterr().err
    assert not Path(out).exists()
