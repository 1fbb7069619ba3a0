"""VGG-16 against torchvision's layout and counts."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reaction.models.vgg import VGG16

torch.set_num_threads(1)

# torchvision's `cfgs["D"]`: the outputs of each 3x3 convolution, M for a pooling.
CONFIGURATION = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def layout() -> dict[str, tuple[int, ...]]:
    """Every tensor of torchvision's vgg16: places in its Sequentials count ReLU and pooling."""
    shapes: dict[str, tuple[int, ...]] = {}
    place, inputs = 0, 3
    for entry in CONFIGURATION:
        if entry != "M":
            shapes |= {f"features.{place}.weight": (entry, inputs, 3, 3), f"features.{place}.bias": (entry,)}
            inputs = entry
        place += 1 if entry == "M" else 2
    for place, outputs, inputs in ((0, 4096, 512 * 7 * 7), (3, 4096, 4096), (6, 1000, 4096)):
        shapes |= {f"classifier.{place}.weight": (outputs, inputs), f"classifier.{place}.bias": (outputs,)}
    return shapes


def tiny(**options) -> VGG16:
    torch.manual_seed(0)
    return VGG16(**({"classes": 5, "width": 0.0625} | options))


def test_tensors_are_torchvisions_in_name_shape_and_order():
    with torch.device("meta"):
        state = VGG16().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == layout()
    assert list(state) == list(layout())


@pytest.mark.parametrize(("options", "published"), [({}, 138_357_544), ({"classes": 101, "channels": 20}, 134_684_133)])
def test_parameters_equal_the_published_counts(options, published):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in VGG16(**options).parameters()) == published


def test_multiply_adds_equal_torchvisions():
    """`_ops` of VGG16_Weights in torchvision's `models/vgg.py`: 15.47."""
    counted = []
    with torch.device("meta"):
        model = VGG16().eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(
                    lambda layer, _inputs, output: counted.append(output.numel() * layer.weight[0].numel())
                )
        model(torch.empty(1, 3, 224, 224))
    assert sum(counted) / 1e9 == pytest.approx(15.47, abs=5e-3)


@pytest.mark.parametrize("pixels", [224, 160, 75])
def test_logits_equal_a_second_implementation(pixels):
    model = tiny(channels=2).eval()
    state, x = model.state_dict(), torch.randn(1, 2, pixels, pixels)
    expected, place = x, 0
    for entry in CONFIGURATION:
        if entry == "M":
            expected, place = F.max_pool2d(expected, 2), place + 1
        else:
            name = f"features.{place}"
            expected, place = (
                F.relu(F.conv2d(expected, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)),
                place + 2,
            )
    expected = F.adaptive_avg_pool2d(expected, 7).flatten(1)
    for place in (0, 3, 6):
        expected = F.linear(expected, state[f"classifier.{place}.weight"], state[f"classifier.{place}.bias"])
        expected = expected if place == 6 else F.relu(expected)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_gradients_reach_every_parameter():
    model = tiny(channels=20).eval()
    model(torch.randn(4, 20, 96, 96)).square().sum().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


def test_dropout_and_start_are_torchvisions():
    model = tiny(width=0.25, dropout=0.8)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.8, 0.8]
    assert model.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.05)
    convolution = model.features[28].weight  # (128, 128, 3, 3)
    assert convolution.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    assert not model.classifier[6].bias.any()


def test_refuses_small_inputs():
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 40 x 31"):
        tiny()(torch.randn(1, 3, 31, 40))
