"""Inception-V1 against torchvision's GoogLeNet: its tensors, its counts, its output for weights made by a formula."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import reaction.models
from reaction.models.inception_v1 import InceptionV1, InceptionV1Trunk, fit_first_conv, spread

torch.set_num_threads(1)

KEYS = Path(reaction.models.__file__).parent / "keys" / "torchvision_googlenet.txt"


def fill_by_formula(state: dict[str, torch.Tensor]) -> None:
    for n, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            continue
        phase = torch.arange(value.numel(), dtype=torch.float64) * 0.7 + n
        if name.endswith(("bn.weight", "running_var")):
            filled = 1 + 0.2 * torch.sin(phase)
        elif value.dim() > 1:
            filled = torch.sin(phase * phase) * (3 / value[0].numel()) ** 0.5
        else:
            filled = 0.1 * torch.sin(phase)
        value.copy_(filled.reshape(value.shape))


def tiny(**options) -> InceptionV1:
    torch.manual_seed(0)
    return InceptionV1(classes=5, width=0.125, **options)


def test_tensors_are_torchvisions_in_name_shape_and_order():
    with torch.device("meta"):
        state = InceptionV1().state_dict()
    assert [f"{name}\t{tuple(value.shape)}" for name, value in state.items()] == KEYS.read_text().splitlines()


@pytest.mark.parametrize(("channels", "parameters", "giga"), [(3, 5_599_904, 1.50), (20, 5_653_216, 2.17)])
def test_parameters_and_multiply_adds_of_the_trunk(channels, parameters, giga):
    with torch.device("meta"):
        trunk = InceptionV1Trunk(channels=channels).eval()
        with FlopCounterMode(display=False) as counter:
            assert trunk.features(torch.empty(1, channels, 224, 224)).shape == (1, 1024, 7, 7)
    assert sum(parameter.numel() for parameter in trunk.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=5e-3)


@pytest.mark.parametrize(
    ("height", "width", "golden"),
    [
        (
            107,
            139,
            [
                0.2396226401797724,
                0.13374622318513388,
                -1.1159235066595428,
                0.1474399281553332,
                -0.3467152964771002,
                0.5461099927376146,
                1.0642910915074615,
            ],
        ),
        (
            15,
            15,
            [
                -0.021845775302148485,
                -0.034406564984314665,
                -0.19324922183450535,
                0.0838240608120906,
                0.1966261227351036,
                0.09933598133286922,
                0.19150353181585023,
            ],
        ),
    ],
)
def test_logits_equal_torchvisions(height, width, golden):
    """Golden: torchvision 0.29's GoogLeNet(num_classes=7, aux_logits=False), float64, these weights and this input."""
    model = InceptionV1(classes=7).double().eval()
    fill_by_formula(model.state_dict())
    x = torch.sin(torch.arange(3 * height * width, dtype=torch.float64) ** 1.5).reshape(1, 3, height, width)
    with torch.no_grad():
        logits = model(x)
    torch.testing.assert_close(logits, torch.tensor([golden], dtype=torch.float64), rtol=0, atol=1e-9)


def test_logits_are_a_linear_layer_over_mean_features():
    model = tiny().eval()
    x = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        features = model.features(x)
        assert features.shape == (2, model.outputs, 1, 2)
        torch.testing.assert_close(model(x), features.mean((2, 3)) @ model.fc.weight.T + model.fc.bias)


def test_weights_start_cut_at_two_deviations_of_the_root_of_fan_in():
    weight = InceptionV1(width=0.5).inception4e.branch2[1].conv.weight
    std = weight[0].numel() ** -0.5
    assert weight.abs().max().item() <= 2 * std
    assert weight.std().item() == pytest.approx(0.88 * std, rel=0.01)  # what the cut leaves of the deviation
    assert not tiny().fc.bias.any()


def test_same_seed_same_weights():
    first, second = tiny().state_dict(), tiny().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_spread_over_one_network_lack_only_the_classifier():
    state = tiny().state_dict() | {"aux1.fc1.weight": torch.zeros(1)}
    model = InceptionV1(classes=7, channels=20, width=0.125)
    model.first_convs = {"flow": InceptionV1.first_conv}
    coverage = model.load_state_dict(spread(state, model), strict=False)
    assert (coverage.missing_keys, coverage.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    expected = state["conv1.conv.weight"].mean(1, keepdim=True).expand(-1, 20, -1, -1)
    torch.testing.assert_close(model.conv1.conv.weight.detach(), expected)


def test_errors_name_the_fix():
    with pytest.raises(ValueError, match="at least 15 x 15 pixels, got 20 x 14"):
        tiny()(torch.randn(1, 3, 14, 20))
    with pytest.raises(ValueError, match="not the weights of torchvision's GoogLeNet"):
        fit_first_conv({"layer1.weight": torch.zeros(1)}, 3, stream="rgb")
