"""C3D with batch normalisation: its counts, its sizes, its answer over time."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reaction.models.c3d import C3D

torch.set_num_threads(1)


def tiny(**options) -> C3D:
    torch.manual_seed(0)
    return C3D(classes=5, width=0.125, **options)


def test_parameters_and_multiply_adds():
    """The convolutions by hand: outputs x 27 x inputs, after one, two and more halvings of 16 x 112 x 112."""
    layers = [(3, 64, 0), (64, 128, 1), (128, 256, 2), (256, 256, 2)]
    layers += [(256, 512, 3), (512, 512, 3), (512, 512, 4), (512, 512, 4)]
    by_hand = sum(inputs * outputs * 27 * 16 * 112 * 112 // 8**halvings for inputs, outputs, halvings in layers)
    with torch.device("meta"):
        model = C3D().eval()
        with FlopCounterMode(display=False) as counter:
            assert model(torch.empty(1, 3, 16, 112, 112)).shape == (1, 400)
        assert model.features(torch.empty(1, 3, 16, 112, 112)).shape == (1, 512, 1, 4, 4)
    assert sum(parameter.numel() for parameter in model.parameters()) == 79_653_712
    assert counter.get_flop_counts()["Global"][torch.ops.aten.convolution] == 2 * by_hand


def test_every_convolution_and_hidden_layer_is_normalised():
    names = [name for name, module in tiny().named_modules() if "BatchNorm" in type(module).__name__]
    convolutions = ["conv1a", "conv2a", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
    assert names == [f"{name}.bn" for name in convolutions] + ["fc6_bn", "fc7_bn"]


@pytest.mark.parametrize(("image", "cells"), [(112, 4), (96, 4), (64, 3), (48, 2), (40, 2), (16, 1)])
def test_the_first_linear_layer_fits_the_image(image, cells):
    model = tiny(image=image).eval()
    with torch.no_grad():
        assert model.features(torch.randn(1, 3, 16, image, image)).shape == (1, 64, 1, cells, cells)
        assert model(torch.randn(2, 3, 16, image, image)).shape == (2, 5)


@pytest.mark.parametrize(("frames", "outputs"), [(8, 1), (16, 1), (32, 2), (240, 15)])
def test_logits_are_the_mean_over_time(frames, outputs):
    model = tiny(image=16).eval()
    with torch.no_grad():
        x = torch.randn(2, 3, frames, 16, 16)
        features = model.features(x)
        assert features.shape[2] == outputs
        each = torch.stack([model.classify(features[:, :, t : t + 1]) for t in range(outputs)])
        torch.testing.assert_close(model(x), each.mean(0))


def test_training_moves_every_parameter_but_biases_that_normalisation_takes_away():
    model = tiny(image=32).train()
    model(torch.randn(4, 3, 16, 32, 32)).square().sum().backward()
    assert all(
        parameter.grad.abs().max() > 1e-6
        for name, parameter in model.named_parameters()
        if name not in ("fc6.bias", "fc7.bias")
    )


def test_another_size_is_refused_with_both():
    with pytest.raises(ValueError, match="made for 32 x 32 pixels, got 48 x 32; set its image"):
        tiny(image=32)(torch.randn(1, 3, 16, 32, 48))
