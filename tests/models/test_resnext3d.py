"""3D ResNet and ResNeXt against the public layouts and counts, and a second implementation of a block."""

import pytest
import torch
from torch.nn import functional as F

from reaction.models.resnext3d import Bottleneck, ResNet3D, ResNeXt3D, ZeroFilled

torch.set_num_threads(1)


def batch_norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def layout(blocks: tuple[int, ...], middle: tuple[int, ...], outputs: tuple[int, ...], groups: int) -> dict:
    """Every tensor of kenshohara's bottleneck networks, less `fc`."""
    shapes = {"conv1.weight": (64, 3, 7, 7, 7)} | batch_norm("bn1", 64)
    inputs = 64
    for n, (count, m, out) in enumerate(zip(blocks, middle, outputs, strict=True), start=1):
        for b in range(count):
            block = f"layer{n}.{b}"
            convs = ((m, inputs, 1, 1, 1), (m, m // groups, 3, 3, 3), (out, m, 1, 1, 1))
            for k, shape in enumerate(convs, start=1):
                shapes |= {f"{block}.conv{k}.weight": shape} | batch_norm(f"{block}.bn{k}", shape[0])
            if b == 0:
                shapes |= {f"{block}.downsample.0.weight": (out, inputs, 1, 1, 1)}
                shapes |= batch_norm(f"{block}.downsample.1", out)
            inputs = out
    return shapes


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_tensors_are_haras_in_name_shape_and_order():
    with torch.device("meta"):
        resnet, resnext = shapes(ResNet3D(depth=50)), shapes(ResNeXt3D())
    expected = layout((3, 4, 6, 3), (64, 128, 256, 512), (256, 512, 1024, 2048), 1)
    assert (len(resnet), resnet, list(resnet)) == (318, expected, list(expected))
    expected = layout((3, 4, 23, 3), (128, 256, 512, 1024), (256, 512, 1024, 2048), 32)
    assert (resnext, list(resnext)) == (expected, list(expected))


@pytest.mark.parametrize("frames", [8, 16, 32])
def test_features_have_a_sixteenth_of_the_frames_and_a_32nd_of_the_sides(frames):
    with torch.device("meta"):
        for network in (ResNeXt3D(), ResNet3D(depth=18, shortcut="A")):
            features = network(torch.empty(2, 3, frames, 224, 224))
            assert features.shape == (2, network.outputs, max(1, frames // 16), 7, 7)


def test_a_bottleneck_computes_what_its_formula_says():
    torch.manual_seed(0)
    block = Bottleneck(8, 16, 32, stride=2, groups=4).eval()
    x = torch.randn(2, 8, 4, 6, 6)
    state = block.state_dict()

    def norm(name: str, y: torch.Tensor) -> torch.Tensor:
        return y / (1 + 1e-5) ** 0.5 * state[f"{name}.weight"].view(-1, 1, 1, 1)

    y = norm("bn1", torch.einsum("bithw,oi->bothw", x, state["conv1.weight"][..., 0, 0, 0])).relu()
    parts = [
        F.conv3d(part, weight, stride=2, padding=1)
        for part, weight in zip(y.chunk(4, dim=1), state["conv2.weight"].chunk(4), strict=True)
    ]
    y = norm("bn2", torch.cat(parts, dim=1)).relu()
    y = norm("bn3", torch.einsum("bithw,oi->bothw", y, state["conv3.weight"][..., 0, 0, 0]))
    straight = torch.einsum("bithw,oi->bothw", x[:, :, ::2, ::2, ::2], state["downsample.0.weight"][..., 0, 0, 0])
    with torch.no_grad():
        torch.testing.assert_close(block(x), (y + norm("downsample.1", straight)).relu())


def test_shortcut_a_has_no_parameters_and_lets_the_gradient_pass():
    x = torch.randn(1, 2, 3, 4, 4, requires_grad=True)
    y = ZeroFilled(3, 2)(x)
    assert y.shape == (1, 5, 2, 2, 2)
    assert y[:, 2:].abs().sum() == 0
    torch.testing.assert_close(y[:, :2], F.avg_pool3d(x, 1, stride=2))
    y.sum().backward()
    assert x.grad.sum() == 2 * 2 * 2 * 2
    with torch.device("meta"):
        assert not [name for name in ResNet3D(depth=18, shortcut="A").state_dict() if "downsample" in name]


def test_gradients_reach_every_parameter_of_narrow_networks():
    torch.manual_seed(0)
    for network in (ResNeXt3D(width=0.0625), ResNet3D(depth=18, width=0.125)):
        network(torch.randn(2, 3, 8, 64, 64)).square().sum().backward()
        assert [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_an_unknown_depth_is_named():
    with pytest.raises(ValueError, match=r"\[18, 34, 50, 101\] and shortcut A or B, not 51 and 'B'"):
        ResNet3D(depth=51)
