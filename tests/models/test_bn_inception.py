"""BN-Inception against the public layout: its tensors, its counts, its output by a second implementation."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.bn_inception import LAYERS, BNInception
from reaction.models.cnn_m import CNNM
from reaction.models.inception_v3 import expand_first_conv
from reaction.models.tsn import TSN
from reaction.models.vgg import VGG16

torch.set_num_threads(1)

# Name, inputs, outputs and kernel of each convolution, copied from Cadene/pretrained-models.pytorch `bninception.py`.
CONVOLUTIONS = """
conv1_7x7_s2 3 64 7, conv2_3x3_reduce 64 64 1, conv2_3x3 64 192 3,
inception_3a_1x1 192 64 1, inception_3a_3x3_reduce 192 64 1, inception_3a_3x3 64 64 3,
inception_3a_double_3x3_reduce 192 64 1, inception_3a_double_3x3_1 64 96 3, inception_3a_double_3x3_2 96 96 3,
inception_3a_pool_proj 192 32 1,
inception_3b_1x1 256 64 1, inception_3b_3x3_reduce 256 64 1, inception_3b_3x3 64 96 3,
inception_3b_double_3x3_reduce 256 64 1, inception_3b_double_3x3_1 64 96 3, inception_3b_double_3x3_2 96 96 3,
inception_3b_pool_proj 256 64 1,
inception_3c_3x3_reduce 320 128 1, inception_3c_3x3 128 160 3,
inception_3c_double_3x3_reduce 320 64 1, inception_3c_double_3x3_1 64 96 3, inception_3c_double_3x3_2 96 96 3,
inception_4a_1x1 576 224 1, inception_4a_3x3_reduce 576 64 1, inception_4a_3x3 64 96 3,
inception_4a_double_3x3_reduce 576 96 1, inception_4a_double_3x3_1 96 128 3, inception_4a_double_3x3_2 128 128 3,
inception_4a_pool_proj 576 128 1,
inception_4b_1x1 576 192 1, inception_4b_3x3_reduce 576 96 1, inception_4b_3x3 96 128 3,
inception_4b_double_3x3_reduce 576 96 1, inception_4b_double_3x3_1 96 128 3, inception_4b_double_3x3_2 128 128 3,
inception_4b_pool_proj 576 128 1,
inception_4c_1x1 576 160 1, inception_4c_3x3_reduce 576 128 1, inception_4c_3x3 128 160 3,
inception_4c_double_3x3_reduce 576 128 1, inception_4c_double_3x3_1 128 160 3, inception_4c_double_3x3_2 160 160 3,
inception_4c_pool_proj 576 128 1,
inception_4d_1x1 608 96 1, inception_4d_3x3_reduce 608 128 1, inception_4d_3x3 128 192 3,
inception_4d_double_3x3_reduce 608 160 1, inception_4d_double_3x3_1 160 192 3, inception_4d_double_3x3_2 192 192 3,
inception_4d_pool_proj 608 128 1,
inception_4e_3x3_reduce 608 128 1, inception_4e_3x3 128 192 3,
inception_4e_double_3x3_reduce 608 192 1, inception_4e_double_3x3_1 192 256 3, inception_4e_double_3x3_2 256 256 3,
inception_5a_1x1 1056 352 1, inception_5a_3x3_reduce 1056 192 1, inception_5a_3x3 192 320 3,
inception_5a_double_3x3_reduce 1056 160 1, inception_5a_double_3x3_1 160 224 3, inception_5a_double_3x3_2 224 224 3,
inception_5a_pool_proj 1056 128 1,
inception_5b_1x1 1024 352 1, inception_5b_3x3_reduce 1024 192 1, inception_5b_3x3 192 320 3,
inception_5b_double_3x3_reduce 1024 192 1, inception_5b_double_3x3_1 192 224 3, inception_5b_double_3x3_2 224 224 3,
inception_5b_pool_proj 1024 128 1
"""


def layout() -> dict[str, tuple[int, ...]]:
    """Every tensor of the public network with 1000 classes, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in CONVOLUTIONS.split(","):
        name, *numbers = row.split()
        inputs, outputs, kernel = map(int, numbers)
        shapes |= {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}
        shapes |= {f"{name}_bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}_bn.num_batches_tracked"] = ()
    return shapes | {"last_linear.weight": (1000, 1024), "last_linear.bias": (1000,)}


def by_the_book(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits in evaluation mode, written after the public source's forward, for sizes that suit Caffe's pooling."""

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride=stride, padding=(weight.shape[-1] - 1) // 2)
        bn = {part: state[f"{name}_bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        return F.relu(F.batch_norm(x, **bn, eps=1e-5))

    def block(name: str, x: Tensor) -> Tensor:
        stride = 2 if name[-2:] in ("3c", "4e") else 1
        three = conv(f"{name}_3x3", conv(f"{name}_3x3_reduce", x), stride)
        double = conv(f"{name}_double_3x3_1", conv(f"{name}_double_3x3_reduce", x))
        double = conv(f"{name}_double_3x3_2", double, stride)
        if stride == 2:
            return torch.cat([three, double, nn.MaxPool2d(3, 2, ceil_mode=True)(x)], 1)
        averages = nn.AvgPool2d(3, stride=1, padding=1, ceil_mode=True, count_include_pad=True)
        maxima = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        pooled = conv(f"{name}_pool_proj", (maxima if name.endswith("5b") else averages)(x))
        return torch.cat([conv(f"{name}_1x1", x), three, double, pooled], 1)

    x = nn.MaxPool2d(3, 2, ceil_mode=True)(conv("conv1_7x7_s2", x, 2))
    x = nn.MaxPool2d(3, 2, ceil_mode=True)(conv("conv2_3x3", conv("conv2_3x3_reduce", x)))
    for part in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        x = block(f"inception_{part}", x)
    return x.mean((2, 3)) @ state["last_linear.weight"].T + state["last_linear.bias"]


def tiny(**options) -> BNInception:
    """A narrow network whose batch normalisations do something in evaluation mode."""
    torch.manual_seed(0)
    model = BNInception(**({"classes": 5, "width": 0.0625, "dropout": 0.0} | options))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.0, 0.5)
    return model


def parameters(**options) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in BNInception(**options).parameters())


def test_tensors_are_the_public_ones_in_name_shape_and_order():
    with torch.device("meta"):
        state = BNInception().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == layout()
    assert list(state) == list(layout())


def test_parameters_equal_the_published_count():
    """11,295,240: the table of osmr/imgclsmob, for the weights of Cadene/pretrained-models.pytorch."""
    assert parameters() == 11_295_240
    classes, channels = 51 * 1025 - 1000 * 1025, (10 - 3) * 64 * 49
    assert parameters(classes=51, channels=10) == 11_295_240 + classes + channels


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 128)])
def test_logits_equal_a_second_implementation(height, width):
    model = tiny(channels=4).eval()
    x = torch.randn(2, 4, height, width)
    with torch.no_grad():
        torch.testing.assert_close(model(x), by_the_book(model.state_dict(), x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "layer", "shape"),
    [
        (224, "inception_3a", (256, 28, 28)),
        (224, "inception_3c", (576, 14, 14)),
        (224, "inception_4e", (1056, 7, 7)),
        (224, "inception_5b", (1024, 7, 7)),
        (112, "inception_5b", (1024, 4, 4)),
        (107, "inception_5b", (1024, 4, 4)),
        (32, "inception_5b", (1024, 1, 1)),
    ],
)
def test_feature_shapes_even_where_caffes_pooling_does_not_fit(pixels, layer, shape):
    with torch.device("meta"):
        features = BNInception().eval().features(torch.empty(1, 3, pixels, pixels), layer)
    assert features.shape == (1, *shape)


@pytest.mark.parametrize("layer", LAYERS)
def test_cutting_the_network_anywhere_changes_nothing(layer):
    model = tiny().eval()
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        assert torch.equal(model.continue_from(model.features(x, layer), layer), model(x))


def test_gradients_reach_every_parameter():
    model = tiny(channels=10).eval()  # in training mode a normalisation takes the bias before it out again
    model(torch.randn(4, 10, 64, 64)).square().sum().backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert still == []


def test_partial_bn_of_tsn_leaves_the_first_normalisation_training():
    model = TSN(tiny(), partial_bn=True).train()
    training = [name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d) and layer.training]
    assert training == ["backbone.conv1_7x7_s2_bn"]


@pytest.mark.parametrize("build", [BNInception, CNNM, VGG16])
@pytest.mark.parametrize(("stream", "channels"), [("flow", 10), ("rgbdiff", 15)])
def test_cross_modality_weights_fit_the_first_convolution(build, stream, channels):
    weight = build(width=0.125, classes=4).state_dict()[build.first_conv]
    target = build(width=0.125, classes=4, channels=channels).state_dict()[build.first_conv]
    expanded = expand_first_conv(weight, channels, stream=stream)
    assert expanded.shape == target.shape
    torch.testing.assert_close(expanded, weight.mean(1, keepdim=True).expand_as(target))


@pytest.mark.parametrize("build", [BNInception, CNNM, VGG16])
def test_every_backbone_names_its_last_layer(build):
    model = build(width=0.125, classes=4)
    assert model.get_submodule(model.last_layer).out_features == 4


def test_weights_start_as_caffes_xavier_filler():
    weight = BNInception(width=0.25).inception_4e_double_3x3_2.weight
    bound = (3 / weight[0].numel()) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound


def test_errors_name_the_choice():
    with pytest.raises(ValueError, match=r"inception_6a.*inception_5b"):
        tiny().features(torch.randn(1, 3, 64, 64), "inception_6a")
    with pytest.raises(ValueError, match="at least 32 x 32 pixels, got 40 x 31"):
        tiny()(torch.randn(1, 3, 31, 40))
