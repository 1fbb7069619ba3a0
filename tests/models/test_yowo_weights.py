"""`reaction convert` for YOWO: files of random weights in the layouts of others, and what a network makes of them."""

import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reaction.cli import main
from reaction.models.darknet19 import Darknet19
from reaction.models.yowo import BACKBONES_3D, YOWO, load_matching

torch.set_num_threads(1)

WIDTH = 0.0625
NETWORKS = "sources: {paper: A paper}\nnetworks:\n" + "".join(
    f"  - {{name: yowo_{name}, build: yowo.YOWO, options: {{backbone_3d: {name}, width: {WIDTH}}}, "
    "inputs: [[3, 16, 64, 64]], published: []}\n"
    for name in ("resnet18", "mobilenet_2x", "shufflenet_2x")
)
NETWORKS += (
    "  - {name: flat, build: yowo.YOWO, options: {parts: 2d, width: 0.0625}, inputs: [[3, 1, 64, 64]], published: []}"
)
NORMALISED = 22  # convolutions of Darknet with a batch normalisation; the 23rd has a bias


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A folder with networks of its own, narrow ones."""
    monkeypatch.chdir(tmp_path)
    Path("workflow").mkdir()
    Path("workflow/networks.yaml").write_text(NETWORKS)
    return tmp_path


def network(*, seed: int = 0, backbone: str = "resnet18", classes: int = 24) -> YOWO:
    """With statistics and attention that are not those of a new network."""
    torch.manual_seed(seed)
    built = YOWO(classes=classes, backbone_3d=backbone, width=WIDTH).eval()
    nn.init.constant_(built.cfam.sc.gamma, 0.3)
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return built


def darknet_file(path: str, branch: Darknet19, *, layers: int = 23) -> str:
    """As Darknet's `save_weights` does: bias, scale, mean, variance, kernel of each convolution, in order."""
    state = branch.state_dict()
    with open(path, "wb") as file:
        file.write(struct.pack("<3iq", 0, 2, 0, 5))
        for n in range(1, layers + 1):
            (kernel,) = [name for name in state if f".conv{n}.weight" in name]
            norm = kernel.replace(f"conv{n}.weight", f"bn{n}.")
            parts = ("bias", "weight", "running_mean", "running_var") if n <= NORMALISED else ()
            first = [norm + part for part in parts] or [kernel.replace("weight", "bias")]
            for name in [*first, kernel]:
                file.write(state[name].numpy().astype("<f4").tobytes())
    return path


def checkpoint(path: str, source: nn.Module, **more) -> str:
    """As torch's DataParallel under the public training scripts saves."""
    state = {f"module.{name}": value for name, value in source.state_dict().items()} | more
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}}, "score": 0.5}, path)
    return path


def started(path: str, **options) -> YOWO:
    target = network(seed=9, **options)
    load_matching(target, {name.removeprefix("backbone."): value for name, value in load_file(path).items()})
    return target


def inside(x: torch.Tensor, edge: int = 3) -> torch.Tensor:
    """Without the edge: zeros around a picture are its mean to the one and mid grey to the other."""
    return x[..., edge:-edge, edge:-edge]


@pytest.mark.parametrize(("classes", "mean", "std"), [(21, 0.0, 255.0), (80, 114.75, 57.375)])
def test_a_checkpoint_of_yowo_becomes_a_network_that_sees_what_it_saw(classes, mean, std, capsys):
    source = network(classes=classes)
    checkpoint("yowo.pth", source)
    assert main(["convert", "yowo.pth", "ours.safetensors", "--to", "yowo_resnet18"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"yowo.pth: the layout of wei-tim/YOWO, {classes} classes"
    assert out[1:] == [f"{len(source.state_dict())} tensors loaded", "0 missing", "0 unexpected", "0 reshaped"]
    assert set(load_file("ours.safetensors")) == {f"backbone.{name}" for name in source.state_dict()}
    target = started("ours.safetensors", classes=classes)
    pixels = torch.randint(256, (1, 3, 8, 64, 64)).float()
    theirs, ours = (pixels - mean) / std, pixels / 127.5 - 1
    with torch.no_grad():
        for branch, seen in (("backbone_2d.models.0", slice(-1, None)), ("backbone_3d.bn1", slice(None))):
            found = [first_layer(net, branch, x[:, :, seen]) for net, x in ((target, ours), (source, theirs))]
            torch.testing.assert_close(inside(found[0]), inside(found[1]), rtol=1e-3, atol=1e-3)
        features = torch.randn(1, target.cfam.conv_bn_relu1[0].in_channels, 2, 2)
        heads = [net.conv_final(net.cfam(features)) for net in (target, source)]
    torch.testing.assert_close(*heads)


def first_layer(net: YOWO, branch: str, clip: torch.Tensor) -> torch.Tensor:
    if branch.startswith("backbone_2d"):
        return net.backbone_2d.models["0"](clip[:, :, -1])
    seen = net.backbone_3d.bn1(net.backbone_3d.conv1(clip))
    return seen[:, :, 3:-3]


def test_branches_come_from_a_file_each(capsys):
    source = network()
    darknet_file("yolo.weights", source.backbone_2d)
    classifier = {"module.fc.weight": torch.zeros(400, 512), "module.fc.bias": torch.zeros(400)}
    checkpoint("resnet-18-kinetics.pth", source.backbone_3d, **classifier)
    files = ["yolo.weights", "resnet-18-kinetics.pth"]
    assert main(["convert", *files, "ours.safetensors", "--to", "yowo_resnet18"]) == 0
    out = capsys.readouterr().out
    assert "yolo.weights: the layout of Darknet" in out
    assert "22 missing: models.0.bn1.num_batches_tracked" in out
    assert "resnet-18-kinetics.pth: the layout of Hara's and Köpüklü's 3D networks" in out
    assert "2 unexpected: fc.weight, fc.bias" in out
    converted = load_file("ours.safetensors")
    branches = {f"backbone.{name}" for name in source.state_dict() if name.startswith("backbone_")}
    assert set(converted) == branches, "what follows the branches is left to training"
    target = started("ours.safetensors")
    pixels = torch.randint(256, (1, 3, 8, 64, 64)).float()
    ours = pixels / 127.5 - 1
    hara = pixels - torch.tensor([114.7748, 107.7354, 99.4750]).view(3, 1, 1, 1)
    with torch.no_grad():
        found, there = first_layer(target, "backbone_3d", ours), first_layer(source, "backbone_3d", hara)
        torch.testing.assert_close(inside(found), inside(there), rtol=1e-3, atol=1e-2)
        found, there = first_layer(target, "backbone_2d", ours), first_layer(source, "backbone_2d", pixels / 255)
        torch.testing.assert_close(inside(found), inside(there), rtol=1e-3, atol=1e-3)
    deep = "backbone_3d.layer4.1.conv2.weight"
    assert torch.equal(target.state_dict()[deep], source.state_dict()[deep])


@pytest.mark.parametrize("backbone", ["mobilenet_2x", "shufflenet_2x"])
def test_efficient_3d_networks_are_3d_branches_too(backbone, capsys):
    source = network(backbone=backbone)
    checkpoint("kinetics.pth", source.backbone_3d, **{"module.classifier.1.weight": torch.zeros(2, 2)})
    assert main(["convert", "kinetics.pth", "ours.safetensors", "--to", f"yowo_{backbone}"]) == 0
    assert "1 unexpected: classifier.1.weight" in capsys.readouterr().out
    assert len(load_file("ours.safetensors")) == len(source.backbone_3d.state_dict())
    assert backbone in BACKBONES_3D


def test_a_darknet_of_other_classes_or_its_trunk_alone_gives_the_layers_that_fit(capsys):
    branch = network().backbone_2d
    trunk = darknet_file("darknet19_448.conv.23.weights", branch, layers=18)
    assert main(["convert", trunk, "trunk.safetensors", "--to", "flat"]) == 0
    kernels = [name for name, value in load_file("trunk.safetensors").items() if value.dim() == 4]
    assert len(kernels) == 18
    branch.models["30"].conv23 = nn.Conv2d(branch.models["30"].conv23.in_channels, 12, 1)
    voc = darknet_file("yolo-voc.weights", branch)
    assert main(["convert", voc, "voc.safetensors", "--to", "flat"]) == 0
    assert "2 reshaped: models.30.conv23.bias, models.30.conv23.weight" in capsys.readouterr().out
    assert not [name for name in load_file("voc.safetensors") if ".models.30." in name]


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(capsys):
    source = network()
    whole, hara = checkpoint("yowo.pth", source), checkpoint("hara.pth", source.backbone_3d)
    yolo, other = darknet_file("yolo.weights", source.backbone_2d), checkpoint("other.pth", nn.Linear(2, 2))
    Path("cut.weights").write_bytes(Path(yolo).read_bytes()[:-40_000])
    for files, to, message in (
        (
            [whole],
            "yowo_mobilenet_2x",
            r"yowo.pth: \d+ tensors of YOWO are not there or have another shape: backbone_3d",
        ),
        ([hara], "yowo_mobilenet_2x", "hara.pth: no tensor fits MobileNet3D; the file starts with conv1.weight"),
        ([hara], "flat", "hara.pth: weights of a 3D branch, which this network does not have; name another network"),
        ([other], "yowo_resnet18", "other.pth: no tensor fits ResNet3D; the file starts with weight, bias"),
        ([yolo, yolo], "yowo_resnet18", "yolo.weights is for what another file is for already"),
        ([whole, yolo], "yowo_resnet18", "yolo.weights is for what another file is for already: give one checkpoint"),
        ([yolo, whole], "yowo_resnet18", "yowo.pth is for what another file is for already: give one checkpoint"),
        (["cut.weights"], "yowo_resnet18", "cut.weights: ends within layer"),
    ):
        assert main(["convert", *files, "ours.safetensors", "--to", to]) == 1
        said = capsys.readouterr().err
        assert re.search(message, said), said
        assert not Path("ours.safetensors").exists()
