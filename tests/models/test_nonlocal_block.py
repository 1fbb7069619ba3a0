"""The non-local block against equation 6 of its paper, written out position by position."""

import pytest
import torch
from torch import Tensor, nn

from reaction.models.nonlocal_block import NonLocal

torch.set_num_threads(1)


def stirred(**options) -> NonLocal:
    """A block of 6 channels in evaluation mode whose last normalisation is not the zero it starts with."""
    torch.manual_seed(0)
    block = NonLocal(6, **options).eval()
    nn.init.uniform_(block.bn.weight, 0.5, 1.5)
    nn.init.uniform_(block.bn.running_var, 0.5, 1.5)
    return block


def by_the_paper(block: NonLocal, x: Tensor, kind: str, pool: tuple[int, int, int] | None) -> Tensor:
    """y_i = sum over j of f(x_i, x_j) g(x_j) / C(x) for one map (6, T, H, W), then z_i = W y_i + x_i."""

    def linear(layer: nn.Conv3d, vector: Tensor) -> Tensor:
        return layer.weight[:, :, 0, 0, 0] @ vector + layer.bias

    seen = x if pool is None else nn.MaxPool3d(pool)(x[None])[0]
    others = list(seen.flatten(1).T)
    out = torch.empty_like(x).flatten(1)
    for i, own in enumerate(x.flatten(1).T):
        theta = linear(block.conv_theta, own)
        f = torch.stack([theta @ linear(block.conv_phi, other) for other in others])
        f = f / len(others) if kind == "dot_product" else (f * 3**-0.5).exp() / (f * 3**-0.5).exp().sum()
        y = sum(weight * linear(block.conv_g, other) for weight, other in zip(f, others, strict=True))
        w = linear(block.conv_out, y)
        bn = block.bn
        out[:, i] = own + (w - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
    return out.view_as(x)


@pytest.mark.parametrize("kind", ["dot_product", "softmax"])
@pytest.mark.parametrize("pool", [None, (1, 2, 2), (2, 2, 2)])
def test_equals_the_papers_sum(kind, pool):
    block = stirred(kind=kind, pool=pool)
    x = torch.randn(2, 6, 2, 4, 6)
    with torch.no_grad():
        expected = torch.stack([by_the_paper(block, one, kind, pool) for one in x])
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="dot_product, softmax, not 'gaussian'"):
        NonLocal(8, kind="gaussian")
