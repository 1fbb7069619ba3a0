"""Precise statistics against the mean and variance of all activations, computed at once."""

import pytest
import torch
from torch import nn

from reaction.training.precise_bn import precise_statistics

torch.set_num_threads(1)


def test_one_layers_statistics_are_those_of_all_its_inputs_however_they_are_batched():
    torch.manual_seed(0)
    x = torch.randn(12, 3, 2, 4, 4) * torch.tensor([1.0, 5.0, 0.1])[:, None, None, None] + 100  # (B, C, T, H, W)
    for sizes in ([12], [4, 4, 4], [1, 7, 4]):
        layer = nn.BatchNorm3d(3)
        precise_statistics(layer, x.split(sizes), layer)
        torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3, 4)))
        torch.testing.assert_close(layer.running_var, x.double().var((0, 2, 3, 4)).float(), rtol=1e-4, atol=0)


def test_a_deeper_layer_sees_what_it_sees_in_training():
    """Batches as large as in training, each normalised by itself in the layer before."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.Dropout(), nn.BatchNorm2d(3))
    batches = (torch.randn(3, 4, 2, 6, 6) * torch.tensor([1.0, 2.0, 7.0])[:, None, None, None, None]).unbind()
    precise_statistics(model, batches, model)
    alone = [
        (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
        for x in batches
    ]
    seen = torch.cat([model[1](x) for x in alone]).detach()
    torch.testing.assert_close(model[3].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[3].running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_one_batch_gives_what_a_momentum_of_one_keeps():
    x = torch.randn(8, 4, 3)
    ours, theirs = nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=1.0)
    theirs(x)
    precise_statistics(ours, [x], ours)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_nothing_but_the_statistics_changes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(), nn.BatchNorm2d(3)).train()
    model[3].eval()  # frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 2, 5, 5)
    generator = torch.random.get_rng_state()
    precise_statistics(model, [x], model)
    assert torch.equal(torch.random.get_rng_state(), generator)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"1.running_mean", "1.running_var"}
    assert [module.training for module in model] == [True, True, True, False]
    assert model[1].momentum == 0.1


def test_without_a_batch_there_are_no_statistics():
    with pytest.raises(ValueError, match="found 0; give more batches"):
        precise_statistics(nn.BatchNorm2d(3), [], print)
