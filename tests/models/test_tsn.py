"""Segmental consensus and partial batch normalisation."""

import pytest
import torch
from torch import nn

from reaction.models.inception_v3 import InceptionV3
from reaction.models.tsn import TSN

torch.set_num_threads(1)


class Means(nn.Module):
    """Logits that are the images' channel means."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def tiny(**options) -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3(classes=5, width=0.0625, **options)


def test_consensus_is_the_mean_over_segments():
    values = torch.tensor([[[1.0, 10.0], [3.0, 30.0]], [[5.0, 50.0], [9.0, 70.0]]])  # (B, K, C)
    clip = values[..., None, None].expand(-1, -1, -1, 4, 6)
    assert TSN(Means())(clip).tolist() == [[2.0, 20.0], [7.0, 60.0]]


VALUES = torch.tensor([[[1.0, 90.0], [3.0, 30.0], [2.0, 0.0]], [[5.0, 50.0], [9.0, 70.0], [4.0, 60.0]]])  # (B, K, C)


def test_max_consensus_takes_each_class_where_it_is_highest():
    clip = VALUES[..., None, None].expand(-1, -1, -1, 4, 6)
    assert TSN(Means(), consensus="max")(clip).tolist() == [[3.0, 90.0], [9.0, 70.0]]


def test_weighted_consensus_is_a_linear_combination_that_starts_as_the_mean():
    clip = VALUES[..., None, None].expand(-1, -1, -1, 4, 6)
    model = TSN(Means(), consensus="weighted", segments=3)
    torch.testing.assert_close(model(clip), VALUES.mean(1))
    with torch.no_grad():
        model.segment_weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
    assert model(clip).tolist() == [[1.5, 15.0], [1.5, 75.0]]
    model(clip)[0, 1].backward()
    assert model.segment_weights.grad.tolist() == [90.0, 30.0, 0.0]


@pytest.mark.parametrize(("consensus", "own"), [("average", []), ("max", []), ("weighted", ["segment_weights"])])
def test_a_consensus_adds_no_tensor_but_its_weights_and_draws_nothing(consensus, own):
    plain = TSN(tiny())
    model = TSN(tiny(), consensus=consensus, segments=3)
    after = torch.rand(1)
    assert sorted(model.state_dict()) == sorted([*plain.state_dict(), *own])
    tiny()
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("consensus", ["average", "max", "weighted"])
def test_a_lone_view_is_its_own_consensus(consensus):
    model = TSN(Means(), consensus=consensus, segments=3)
    if consensus == "weighted":
        torch.nn.init.constant_(model.segment_weights, 7.0)
    assert model(VALUES[:, :1, :, None, None]).tolist() == VALUES[:, 0].tolist()


def test_consensus_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match=r"average, max, weighted, not 'median'"):
        TSN(Means(), consensus="median")
    with pytest.raises(ValueError, match="needs segments, 2 or more, not None"):
        TSN(Means(), consensus="weighted")
    with pytest.raises(ValueError, match="weights for 3 segments, got 2"):
        TSN(Means(), consensus="weighted", segments=3)(torch.zeros(1, 2, 3, 4, 4))


def test_one_segment_is_the_backbone():
    backbone = tiny().eval()
    x = torch.randn(2, 3, 75, 75)
    with torch.no_grad():
        torch.testing.assert_close(TSN(backbone).eval()(x[:, None]), backbone(x))


def test_partial_bn_moves_only_the_first_statistics_and_affine():
    model = TSN(tiny(), partial_bn=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 2, 3, 75, 75)).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    first = {f"backbone.Conv2d_1a_3x3.bn.{name}" for name in statistics}
    assert {name for name in moved if ".bn." in name} == first
    assert any(name.endswith("Mixed_7c.branch1x1.conv.weight") for name in moved)


@pytest.mark.parametrize(("partial", "training"), [(False, 94), (True, 1)])
def test_partial_bn_survives_eval_and_train(partial, training):
    model = TSN(tiny(), partial_bn=partial)
    model.eval()
    model.train()
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(layers) == 94
    assert sum(layer.training for layer in layers) == training


def test_refuses_maps_and_an_auxiliary_head():
    with pytest.raises(ValueError, match="takes no attention maps"):
        TSN(Means())(torch.zeros(1, 1, 3, 4, 4), torch.zeros(1, 1, 1, 4, 4))
    with pytest.raises(ValueError, match="aux=False"):
        TSN(tiny(aux=True))


def test_only_the_classifier_trains_and_statistics_stay():
    torch.manual_seed(0)
    backbone = InceptionV3(classes=3, width=0.125, dropout=0.5)
    model = TSN(backbone)
    model.train_last_only()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    assert backbone.dropout.training
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        model(torch.randn(4, 1, 3, 96, 96)).square().sum().backward()
        sgd.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"backbone.fc.weight", "backbone.fc.bias"}
