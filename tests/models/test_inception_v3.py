"""Inception-V3 against torchvision: its tensors, its counts, its output for weights made by a formula."""

from pathlib import Path

import pytest
import torch
from torch import nn

import reaction.models
from reaction.models.inception_v3 import (
    LAYERS,
    InceptionOutputs,
    InceptionV3,
    expand_first_conv,
    scaled,
)

torch.set_num_threads(1)

KEYS = Path(reaction.models.__file__).parent / "keys" / "torchvision_inception_v3.txt"


def parameters(**options) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in InceptionV3(**options).parameters())


def multiply_adds(**options) -> dict[type, int]:
    """By kind of layer, at 299 pixels; fvcore counts 2 per output of a batch normalisation."""
    counts = {nn.Conv2d: 0, nn.Linear: 0, nn.BatchNorm2d: 0}

    def count(layer: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        per_output = 2 if isinstance(layer, nn.BatchNorm2d) else layer.weight[0].numel()
        counts[type(layer)] += output.numel() * per_output

    with torch.device("meta"):
        model = InceptionV3(**options).eval()
        for module in model.modules():
            if type(module) in counts:
                module.register_forward_hook(count)
        model(torch.empty(1, options.get("channels", 3), 299, 299))
    return counts


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


def tiny(**options) -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3(classes=5, width=0.0625, **options)


def test_tensors_are_torchvisions_in_name_shape_and_order():
    with torch.device("meta"):
        state = InceptionV3(aux=True).state_dict()
    assert [f"{name}\t{tuple(value.shape)}" for name, value in state.items()] == KEYS.read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"aux": True}, 27_161_264),
        ({}, 23_834_568),
        ({"classes": 51}, 21_890_067),
        ({"classes": 51, "channels": 20}, 21_894_963),
        ({"classes": 51, "channels": 4}, 21_890_355),
        ({"classes": 51, "channels": 21}, 21_895_251),
    ],
)
def test_parameters_equal_the_published_counts(options, published):
    assert parameters(**options) == published


def test_multiply_adds_of_convolutions_and_classifier_equal_torchvisions():
    """`_ops` of Inception_V3_Weights in torchvision's `models/inception.py`: 5.713."""
    counts = multiply_adds()
    assert (counts[nn.Conv2d] + counts[nn.Linear]) / 1e9 == pytest.approx(5.713, abs=5e-4)


@pytest.mark.parametrize(("options", "giga"), [({}, 5.731), ({"classes": 51, "channels": 20}, 5.838)])
def test_multiply_adds_of_all_layers_equal_fvcores(options, giga):
    pooling = 2048 * 8 * 8
    assert (sum(multiply_adds(**options).values()) + pooling) / 1e9 == pytest.approx(giga, abs=5e-4)


def test_logits_equal_torchvisions():
    """Golden: torchvision 0.29's inception_v3(num_classes=7), float64, with these weights and this input."""
    model = InceptionV3(classes=7).double().eval()
    fill_by_formula(model.state_dict())
    x = torch.sin(torch.arange(3 * 107 * 139, dtype=torch.float64) ** 1.5).reshape(1, 3, 107, 139)
    with torch.no_grad():
        logits = model(x)
    golden = [
        -0.10561945250203916,
        -0.26963806615291425,
        0.030362562108942406,
        0.19171431079327803,
        -0.1604746474490481,
        -0.3287648855802064,
        -0.18455585957247778,
    ]
    torch.testing.assert_close(logits, torch.tensor([golden], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("pixels", "layer", "shape"),
    [
        (299, "Mixed_5d", (288, 35, 35)),
        (299, "Mixed_6e", (768, 17, 17)),
        (299, "Mixed_7a", (1280, 8, 8)),
        (299, "Mixed_7c", (2048, 8, 8)),
        (224, "Mixed_7c", (2048, 5, 5)),
        (139, "Mixed_7c", (2048, 3, 3)),
        (96, "Mixed_7c", (2048, 1, 1)),
    ],
)
def test_feature_shapes(pixels, layer, shape):
    with torch.device("meta"):
        features = InceptionV3().eval().features(torch.empty(1, 3, pixels, pixels), layer)
    assert features.shape == (1, *shape)


@pytest.mark.parametrize("layer", LAYERS)
def test_cutting_the_network_anywhere_changes_nothing(layer):
    model = tiny().eval()
    x = torch.randn(2, 3, 75, 90)
    with torch.no_grad():
        assert torch.equal(model.continue_from(model.features(x, layer), layer), model(x))


def test_auxiliary_logits_come_in_training_only():
    model = tiny(aux=True)
    x = torch.randn(2, 3, 299, 299)
    outputs = model.train()(x)
    assert isinstance(outputs, InceptionOutputs)
    assert outputs.logits.shape == outputs.aux_logits.shape == (2, 5)
    with torch.no_grad():
        assert model.eval()(x).shape == (2, 5)


def test_convolutions_start_at_deviation_a_tenth_and_the_auxiliary_classifier_smaller():
    model = InceptionV3(width=0.25, aux=True)
    assert model.Mixed_6e.branch7x7_2.conv.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert model.AuxLogits.fc.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_same_seed_same_weights():
    first, second = tiny().state_dict(), tiny().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("count", "width", "expected"), [(80, 1, 80), (80, 0.25, 24), (48, 0.25, 16), (32, 0.125, 8)])
def test_width_rounds_to_eights(count, width, expected):
    assert scaled(count, width) == expected


def test_errors_name_the_choice():
    with pytest.raises(ValueError, match=r"Mixed_9z.*Mixed_7c"):
        tiny().features(torch.randn(1, 3, 75, 75), "Mixed_9z")
    with pytest.raises(ValueError, match="at least 75 x 75 pixels, got 80 x 74"):
        tiny()(torch.randn(1, 3, 74, 80))


def test_flow_filters_answer_grey_flow_as_the_rgb_filters_answer_grey_images():
    weight = torch.randn(4, 3, 3, 3)
    flow = expand_first_conv(weight, 20, stream="flow")
    grey = torch.randn(1, 1, 9, 9)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight) * 20 / 3
    torch.testing.assert_close(nn.functional.conv2d(grey.expand(-1, 20, -1, -1), flow), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_the_map_channel_comes_last_and_starts_as_named(stream):
    weight = torch.randn(4, 3, 3, 3)
    mean = expand_first_conv(weight, 4, stream=stream, extra=1, map_channel="mean")
    zero = expand_first_conv(weight, 4, stream=stream, extra=1, map_channel="zero")
    torch.testing.assert_close(mean[:, 3], weight.mean(1))
    assert not zero[:, 3].any()
    assert torch.equal(mean[:, :3], zero[:, :3])
    assert torch.equal(mean[:, :3], weight) == (stream == "rgb")


def test_expanding_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match="3 channels and 1 for the map, not 6"):
        expand_first_conv(torch.randn(4, 3, 3, 3), 6, stream="rgb", extra=1)
    with pytest.raises(ValueError, match="'mean' or 'zero', not 'ones'"):
        expand_first_conv(torch.randn(4, 3, 3, 3), 4, stream="rgb", extra=1, map_channel="ones")
