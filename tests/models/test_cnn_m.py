"""CNN-M-2048 against the published sizes, and its normalisation against Krizhevsky's formula."""

import numpy as np
import pytest
import torch
from torch import nn

from reaction.models.cnn_m import CNNM

torch.set_num_threads(1)

# Kernel, inputs and outputs of each layer: Chatfield 2014, CNN-M, with 2048 units in the last hidden layer.
CONVOLUTIONS = ((7, 3, 96), (5, 96, 256), (3, 256, 512), (3, 512, 512), (3, 512, 512))
LINEAR = ((6 * 6 * 512, 4096), (4096, 2048))


def published(classes: int, channels: int = 3) -> int:
    convolutions = sum((kernel * kernel * inputs + 1) * outputs for kernel, inputs, outputs in CONVOLUTIONS)
    linear = sum((inputs + 1) * outputs for inputs, outputs in LINEAR)
    return convolutions + linear + 2049 * classes + (channels - 3) * 96 * 49


def parameters(**options) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in CNNM(**options).parameters())


def tiny(**options) -> CNNM:
    torch.manual_seed(0)
    return CNNM(**({"classes": 5, "width": 0.0625} | options))


@pytest.mark.parametrize("options", [{"classes": 1000}, {"classes": 101}, {"classes": 51, "channels": 20}])
def test_parameters_by_the_layer_sizes_of_the_paper(options):
    assert parameters(**options) == published(**options)


def test_the_float32_weights_are_as_large_as_the_authors_file():
    """VGG_CNN_M_2048.caffemodel: 370 MB, by the pages that offer it."""
    assert round(4 * parameters() / 1e6) == 370


def test_tensors_are_called_as_in_the_caffe_model():
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    with torch.device("meta"):
        assert list(CNNM().state_dict()) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


def test_grids_at_224_pixels():
    shapes = []
    with torch.device("meta"):
        model = CNNM()
        for layer in (model.conv1, model.conv2, model.conv5):
            layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape[1:])))
        features = model.features(torch.empty(1, 3, 224, 224))
    assert shapes == [(96, 109, 109), (256, 26, 26), (512, 13, 13)]
    assert features.shape == (1, 512, 6, 6)


def krizhevsky(a: np.ndarray, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> np.ndarray:
    """Response normalisation over channels (C, ...), section 3.3 of Krizhevsky et al., NIPS 2012: alpha is not / n."""
    b = np.empty_like(a)
    for i in range(len(a)):
        window = a[max(0, i - n // 2) : min(len(a) - 1, i + n // 2) + 1]
        b[i] = a[i] / (k + alpha * (window**2).sum(axis=0)) ** beta
    return b


def test_normalisation_is_krizhevskys():
    a = 300 * np.random.default_rng(0).random((96, 3, 4))  # large enough for alpha to count
    result = CNNM(width=0.0625).norm1(torch.from_numpy(a)[None])[0]
    np.testing.assert_allclose(result.numpy(), krizhevsky(a), rtol=1e-9)
    assert not np.allclose(result.numpy(), krizhevsky(a, alpha=2e-5), rtol=0.01)


def test_the_temporal_net_has_no_second_normalisation():
    def norms(model: CNNM) -> list[str]:
        return [name for name, layer in model.named_modules() if isinstance(layer, nn.LocalResponseNorm)]

    assert norms(tiny()) == ["norm1", "norm2"]
    assert norms(tiny(second_norm=False)) == ["norm1"]
    spatial, temporal = tiny(), tiny(second_norm=False)
    assert list(spatial.state_dict()) == list(temporal.state_dict())
    x = 50 * torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert not torch.allclose(spatial.eval()(x), temporal.eval()(x))


def test_dropout_follows_both_hidden_layers():
    model = tiny(dropout=0.9)
    calls = []
    model.dropout.register_forward_hook(lambda _layer, inputs, _output: calls.append(inputs[0].shape[1]))
    model(torch.randn(2, 3, 64, 64))
    assert calls == [256, 128]
    assert model.dropout.p == 0.9


@pytest.mark.parametrize("options", [{"channels": 20, "second_norm": False}, {}])
def test_gradients_reach_every_parameter(options):
    model = tiny(**options)
    model.eval()(torch.randn(4, options.get("channels", 3), 112, 112)).square().sum().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


def test_a_narrow_net_from_scratch_passes_the_signal():
    logits = tiny(width=0.125).eval()(torch.randn(8, 3, 112, 112))
    assert 0.01 < logits.std(dim=0).mean() < 10


def test_inputs_of_other_sizes_reach_the_same_classifier():
    model = tiny().eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 41, 41)).shape == model(torch.randn(1, 3, 300, 160)).shape == (1, 5)
    with pytest.raises(ValueError, match="at least 41 x 41 pixels, got 60 x 40"):
        model(torch.randn(1, 3, 40, 60))
