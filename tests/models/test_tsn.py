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
