"""YOWO against the published counts, its attention and boxes against values known by hand."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reaction.models.weights import WeightsError
from reaction.models.yowo import (
    ANCHORS,
    BACKBONES_3D,
    YOWO,
    YOWO_AVA,
    ChannelAttention,
    Predictions,
    classes_in,
    decode,
    detect,
    freeze_bank,
    freeze_branches,
    from_branches,
    load_matching,
    refit,
)

torch.set_num_threads(1)

# Parameters and multiply-adds in units of 10^9 at 16 frames of 224 x 224 and 24 classes, measured on the public code;
# fvcore's way of counting: convolutions, matrix products, and 2 per output of a batch normalisation.
PUBLISHED = {
    "resnext101": (121_095_050, 43.729),
    "resnet18": (105_031_050, 38.270),
    "resnet50": (119_772_810, 45.472),
    "resnet101": (158_818_954, 60.778),
    "mobilenet_2x": (86_448_970, 7.930),
    "mobilenetv2_1x": (75_141_450, 7.614),
    "shufflenet_2x": (77_049_050, 7.561),
    "shufflenetv2_2x": (78_984_250, 7.158),
}


def on_meta(**options) -> YOWO:
    with torch.device("meta"):
        return YOWO(**options)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: YOWO, frames: int) -> float:
    normalised = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.register_forward_hook(lambda _layer, _inputs, output: normalised.append(2 * output.numel()))
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, frames, 224, 224, device="meta"))
    return counter.get_total_flops() / 2 + sum(normalised)


def tiny(**options) -> YOWO:
    torch.manual_seed(0)
    return YOWO(**({"classes": 3, "width": 0.0625, "backbone_3d": "resnet18"} | options))


@pytest.mark.parametrize("backbone", PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(backbone):
    network = on_meta(backbone_3d=backbone)
    count, giga = PUBLISHED[backbone]
    assert parameters(network) == count
    assert round(multiply_adds(network, 16) / 1e9, 3) == giga
    assert [*BACKBONES_3D] == [*PUBLISHED]


def test_parts_of_the_network_have_the_published_sizes():
    network = on_meta()
    sizes = [parameters(part) for part in (network.backbone_2d, network.backbone_3d, network.cfam, network.conv_final)]
    assert sizes == [50_962_889, 47_521_216, 22_462_465, 148_480]
    assert [parameters(on_meta(classes=classes)) for classes in (21, 80)] == [121_079_690, 121_381_770]
    assert len(network.state_dict()) == 780


@pytest.mark.parametrize(("frames", "giga"), [(8, 24.984), (32, 81.966)])
def test_clips_of_8_and_32_frames(frames, giga):
    assert round(multiply_adds(on_meta(), frames) / 1e9, 3) == giga


@pytest.mark.parametrize(("classes", "channels"), [(24, 145), (21, 130), (80, 425)])
def test_predictions_of_each_dataset(classes, channels):
    network = on_meta(classes=classes, backbone_3d="shufflenetv2_2x")
    assert network(torch.empty(2, 3, 16, 224, 224, device="meta")).shape == (2, channels, 7, 7)


def test_tensors_are_called_as_in_the_public_checkpoints():
    state = on_meta().state_dict()
    shapes = {name: tuple(state[name].shape) for name in state if name.startswith(("cfam", "conv_final"))}
    expected = {"cfam.sc.gamma": (1,), "conv_final.weight": (145, 1024, 1, 1)}
    expected |= {"cfam.conv_out.1.weight": (1024, 1024, 1, 1), "cfam.conv_out.1.bias": (1024,)}
    for n, (inputs, kernel) in enumerate(((2473, 1), (1024, 3), (1024, 3)), start=1):
        expected[f"cfam.conv_bn_relu{n}.0.weight"] = (1024, inputs, kernel, kernel)
        norm = f"cfam.conv_bn_relu{n}.1."
        expected |= {norm + part: (1024,) for part in ("weight", "bias", "running_mean", "running_var")}
        expected |= {norm + "num_batches_tracked": ()}
    assert shapes == expected
    branches = {name.split(".")[0] for name in state} - {"cfam", "conv_final"}
    assert branches == {"backbone_2d", "backbone_3d"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("code", [1.42388, 0.57612, 1.42388, 0.57612, 0.84464, 1.15536]),
        ("paper", [1.84464, 0.15536, 1.84464, 0.15536, 0.42388, 1.57611]),
    ],
)
def test_channel_attention_of_code_and_paper(kind, expected):
    attention = ChannelAttention(kind)
    x = torch.tensor([[1.0, 0], [1, 0], [0, 1]]).view(1, 3, 1, 2)
    with torch.no_grad():
        assert torch.equal(attention(x), x)  # gamma starts at 0
        attention.gamma.fill_(1)
        assert attention(x).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_each_row_of_the_ablation_sees_what_it_says():
    clip = torch.randn(2, 3, 8, 64, 64)
    last = clip.clone()
    last[:, :, :-1] = 0
    for parts in ("2d", "3d", "2d+3d", "2d+3d+cfam"):
        network = tiny(parts=parts).eval()
        with torch.no_grad():
            same = torch.equal(network(clip), network(last))
        assert network(clip).shape == (2, 40, 2, 2)
        assert same == (parts == "2d"), "a 2D branch alone sees the key frame, the last one, alone"
        assert (network.backbone_2d is None, network.backbone_3d is None) == ("2d" not in parts, "3d" not in parts)
    with pytest.raises(ValueError, match=r"parts is one of 2d, 3d, .* not '4d' and 'resnet18'"):
        tiny(parts="4d")


@pytest.mark.parametrize("backbone", BACKBONES_3D)
def test_gradients_reach_every_weight_of_a_narrow_network(backbone):
    network = tiny(backbone_3d=backbone)
    nn.init.ones_(network.cfam.sc.gamma)
    network(torch.randn(2, 3, 8, 64, 64)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.dim() > 1 and not p.grad.abs().sum() > 0] == []


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def prediction(poses: int | None = None) -> Predictions:
    """Of one cell of a 2 x 3 grid, row 1, column 2, second of two anchors; everything else is 0."""
    output = torch.zeros(1, 2, 9, 2, 3)
    output[0, 1, :, 1, 2] = torch.tensor([logit(0.25), logit(0.75), math.log(2), math.log(0.5), logit(0.9), 0, 1, 2, 3])
    return decode(output.flatten(1, 2), torch.tensor([[1.0, 1.0], [0.5, 1.0]]), poses=poses)


def test_a_decoded_box_is_where_yolos_equations_put_it():
    found = prediction()
    assert found.box.shape == (1, 12, 4)
    box, confidence, classes = (part[0, 6 + 3 + 2] for part in found)
    centre, sides = ((2.25 / 3), (1.75 / 2)), ((2 * 0.5) / 3, (0.5 * 1.0) / 2)
    corners = [c + sign * s / 2 for sign in (-1, 1) for c, s in zip(centre, sides, strict=True)]
    assert box.tolist() == pytest.approx(corners)
    assert confidence == pytest.approx(0.9)
    assert classes.tolist() == pytest.approx([math.exp(k) / sum(math.exp(i) for i in range(4)) for k in range(4)])
    first = found.box[0, 0].tolist()  # the first cell: its middle, one cell wide and high
    assert first == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_avas_poses_exclude_each_other_and_its_actions_do_not():
    classes = prediction(poses=2).classes[0, 11].tolist()
    sigmoid = [1 / (1 + math.exp(-k)) for k in range(4)]
    assert classes == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), *sigmoid[2:]])


def test_detections_are_pixels_within_the_frame_less_what_overlaps_a_surer_box():
    box = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.5], [0.5, 0.5, 1.2, 0.9], [0.0, 0.0, 0.1, 0.1]])
    confidence = torch.tensor([0.6, 0.9, 0.5, 0.9])
    classes = torch.tensor([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [0.004, 0.005]])
    found = detect(Predictions(box[None], confidence[None], classes[None]), 0, width=320, height=240)
    torch.testing.assert_close(found.box, torch.tensor([[38.4, 24, 160, 120], [160, 120, 320, 216]]))
    torch.testing.assert_close(found.score, torch.tensor([[0.18, 0.72], [0.5, 0.0]]))
    nobody = detect(Predictions(box[None], confidence[None] * 0, classes[None]), 0, width=320, height=240)
    assert (nobody.box.shape, nobody.score.shape) == ((0, 4), (0, 2))


def test_clips_of_a_bank_stand_for_the_clips_own_features():
    network = tiny().eval()
    clip, bank = torch.randn(2, 3, 8, 64, 64), torch.randn(3, 3, 8, 64, 64)
    with torch.no_grad():
        own = torch.eye(2)
        torch.testing.assert_close(network(clip, clip, own), network(clip))
        first, second, third = network.features_3d(bank)
        mixed = torch.stack([(first + second) / 2, third])
        both = torch.cat((mixed, network.backbone_2d(clip[:, :, -1])), dim=1)
        weight = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
        torch.testing.assert_close(network(clip, bank, weight), network.conv_final(network.cfam(both)))


def test_a_fixed_bank_is_neither_trained_nor_measured_again():
    network = tiny()
    freeze_bank(network)
    before = {name: value.clone() for name, value in network.backbone_3d.state_dict().items()}
    network.train()
    network(torch.randn(2, 3, 8, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.backbone_3d.state_dict().items())
    assert all(parameter.grad is None for parameter in network.backbone_3d.parameters())
    assert network.cfam.training


def test_frozen_branches_are_the_public_recipes():
    network = on_meta()
    freeze_branches(network)
    free = {".".join(name.split(".")[:3]) for name, p in network.named_parameters() if p.requires_grad}
    branches = {name for name in free if name.startswith("backbone")}
    assert branches == {"backbone_2d.models.29", "backbone_2d.models.30"} | {
        f"backbone_3d.layer4.{n}" for n in range(3)
    }
    assert {name.split(".")[0] for name in free - branches} == {"cfam", "conv_final"}


def test_weights_of_a_branch_come_with_an_account():
    source, network = tiny(classes=5), tiny()
    state = source.backbone_3d.state_dict() | {"fc.weight": torch.zeros(2, 2)}
    del state["conv1.weight"]
    coverage = load_matching(network.backbone_3d, state)
    assert (coverage.unexpected, coverage.missing, coverage.reshaped) == (("fc.weight",), ("conv1.weight",), ())
    whole = load_matching(network, source.state_dict())
    assert (whole.reshaped, whole.missing, whole.unexpected) == (("conv_final.weight",), (), ())
    assert torch.equal(network.cfam.conv_out[1].weight, source.cfam.conv_out[1].weight)
    with pytest.raises(WeightsError, match="no tensor fits YOWO; the file starts with a, b"):
        load_matching(network, {"a": torch.zeros(1), "b": torch.zeros(1)})


def test_weights_of_the_branches_see_what_they_were_trained_on():
    """Bytes q in the public code's scale and in ours give the same behind the first normalisation, but at the edges."""
    source, network = tiny().eval(), tiny().eval()
    hara = source.backbone_3d.state_dict() | {"fc.weight": torch.zeros(2, 2)}
    state = from_branches(source.backbone_2d.state_dict(), hara)
    coverage = load_matching(network, state)
    assert coverage.unexpected == ("backbone_3d.fc.weight",)
    assert {name.split(".")[0] for name in coverage.missing} == {"cfam", "conv_final"}
    q = torch.randint(256, (1, 3, 9, 64, 64)).float()
    ours = (q / 255 - 0.5) / 0.5
    seen = q - torch.tensor([114.7748, 107.7354, 99.4750]).view(3, 1, 1, 1)
    with torch.no_grad():
        there, here = (net.backbone_3d.bn1(net.backbone_3d.conv1(x)) for net, x in ((source, seen), (network, ours)))
        torch.testing.assert_close(here[:, :, 3:-3, 2:-2, 2:-2], there[:, :, 3:-3, 2:-2, 2:-2], rtol=1e-3, atol=1e-2)
        first = [net.backbone_2d.models["0"] for net in (source, network)]
        there, here = first[0](q[:, :, 0] / 255), first[1](ours[:, :, 0])
    torch.testing.assert_close(here[..., 1:-1, 1:-1], there[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES_3D)
def test_every_3d_branch_has_its_first_convolution_refitted(backbone):
    state = tiny(backbone_3d=backbone).state_dict()
    changed = {name for name, value in refit(state, YOWO_AVA).items() if not torch.equal(value, state[name])}
    assert len(changed) == 4
    assert {name.split(".")[0] for name in changed} == {"backbone_2d", "backbone_3d"}


def test_classes_of_a_public_checkpoint():
    assert classes_in(on_meta(classes=21, backbone_3d="resnet18").state_dict()) == 21
    with pytest.raises(WeightsError, match="these are not YOWO's; the file starts with a"):
        classes_in({"a": torch.zeros(1)})


def test_published_anchors():
    assert ANCHORS["ucf101_24"][0] == (0.70458, 1.18803)
    assert ANCHORS["ava"][-1] == (5.16303, 6.33821)
    for anchors in ANCHORS.values():
        assert len(anchors) == 5
        assert list(anchors) == sorted(anchors), "from narrow to wide"
