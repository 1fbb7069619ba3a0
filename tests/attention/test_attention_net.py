"""The attention network's loss against closed forms, and that it learns."""

import math

import pytest
import torch
from torch.nn import functional as F

from reaction.attention.attention_net import AttentionNet, bce_against, constant_bce, entropy_floor

torch.set_num_threads(1)


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_loss_of_a_constant_map_in_closed_form():
    target = torch.rand(2, 10, 14)
    maps = torch.full((2, 1, 3, 4), 0.3)
    mean = target.mean((1, 2))
    expected = -(mean * math.log(0.3) + (1 - mean) * math.log(0.7))
    torch.testing.assert_close(bce_against(maps, target), expected)


def test_the_sigmoid_map_is_upsampled_not_the_logits():
    maps = torch.tensor([[[[0.0, 1.0]]]])
    target = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    expected = -math.log(0.75) / 2  # up-sampled: 0, 1/4, 3/4, 1
    assert bce_against(maps, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("height", "width"), [(7, 5), (5, 7)])
def test_saturated_maps_give_a_finite_loss(height, width):
    """Interpolating ones to these sizes rounds to just above 1 in one of the two orders."""
    maps = torch.ones(1, 1, 1, 1)
    assert bce_against(maps, torch.ones(1, height, width)).item() == pytest.approx(0, abs=1e-6)
    assert bce_against(maps, torch.zeros(1, height, width)).isfinite().all()


def test_half_precision_maps_are_judged_in_single_precision():
    target = torch.rand(1, 8, 8)
    maps = torch.full((1, 1, 2, 2), 0.5, dtype=torch.bfloat16)
    assert bce_against(maps, target).item() == pytest.approx(math.log(2), rel=1e-6)


def test_no_map_beats_the_entropy_of_the_target():
    target = torch.tensor([[[0.0, 1.0], [0.5, 0.2]], [[0.0, 1.0], [1.0, 0.0]]])
    floor = entropy_floor(target)
    assert floor.tolist() == pytest.approx([(math.log(2) + binary_entropy(0.2)) / 4, 0.0])
    torch.testing.assert_close(bce_against(target[:, None], target), floor)
    for shift in (-0.05, 0.05):
        assert (bce_against((target + shift).clamp(0.01, 0.99)[:, None], target) > floor).all()


def test_the_best_constant_is_the_mean():
    targets = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0)) ** 3
    constant, loss = constant_bce(targets)
    grid = torch.linspace(0.001, 0.999, 999)
    losses = [bce_against(torch.full((5, 1, 1, 1), c.item()), targets).mean().item() for c in grid]
    assert constant == pytest.approx(grid[torch.tensor(losses).argmin()].item(), abs=0.001)
    assert loss == pytest.approx(min(losses), abs=1e-5)
    assert loss == pytest.approx(binary_entropy(targets.mean().item()), rel=1e-6)


def test_the_network_is_a_3x3_and_a_1x1_convolution():
    net = AttentionNet(channels=12, hidden=16)
    assert {name: tuple(value.shape) for name, value in net.named_parameters()} == {
        "conv.weight": (16, 12, 3, 3),
        "bn.weight": (16,),
        "bn.bias": (16,),
        "score.weight": (1, 16, 1, 1),
        "score.bias": (1,),
    }
    maps = net(torch.randn(2, 12, 4, 5))
    assert maps.shape == (2, 1, 4, 5)
    assert ((maps > 0) & (maps < 1)).all()


def test_another_kernel_keeps_the_size_of_the_map():
    net = AttentionNet(channels=12, hidden=16, kernel=5)
    assert net.conv.weight.shape == (16, 12, 5, 5)
    assert net(torch.randn(2, 12, 4, 5)).shape == (2, 1, 4, 5)
    with pytest.raises(ValueError, match="odd"):
        AttentionNet(channels=12, kernel=4)


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    net = AttentionNet(channels=4, hidden=8)
    bce_against(net(torch.randn(3, 4, 3, 3)), torch.rand(3, 20, 20)).mean().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())


def test_learns_where_a_channel_is_bright_beyond_the_best_constant():
    torch.manual_seed(0)
    features = torch.rand(8, 4, 5, 5)
    target = F.interpolate((features[:, :1] > 0.6).float(), (20, 20), mode="bilinear")[:, 0]
    net = AttentionNet(channels=4, hidden=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        bce_against(net(features), target).mean().backward()
        optimizer.step()
    loss, floor = bce_against(net(features), target).mean().item(), entropy_floor(target).mean().item()
    _, constant = constant_bce(target)
    assert floor < loss < floor + 0.5 * (constant - floor)
