"""Non-local block: "Non-local Neural Networks", Wang et al., CVPR 2018.

https://arxiv.org/abs/1711.07971

Every position of a feature map adds what all positions say, weighted by how alike they are (equation 6). Names of
weights follow facebookresearch/SlowFast `slowfast/models/nonlocal_helper.py`, in whose newer versions `bn` is `norm`.

Deviations and choices:
- `dot_product` (section 3.2) divides by the number of positions, `softmax` (embedded Gaussian) first multiplies by
  inner ** -0.5, both as that code does; the paper's softmax has no such factor.
- `pool` shrinks the map before phi and g by a maximum. The paper's subsampling trick, and that code's default, is
  1 x 2 x 2; None is no pooling.
- The normalisation behind the last convolution starts at zero, so that a new block changes nothing (section 4.1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("dot_product", "softmax")


class NonLocal(nn.Module):
    """A residual non-local block on maps (B, channels, T, H, W); inside it has half as many channels."""

    def __init__(
        self, channels: int, *, kind: str = "dot_product", pool: tuple[int, int, int] | None = (1, 2, 2)
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"a non-local block is one of {', '.join(KINDS)}, not {kind!r}")
        self.kind, self.pool = kind, pool
        inner = max(1, channels // 2)
        self.conv_theta = nn.Conv3d(channels, inner, 1)
        self.conv_phi = nn.Conv3d(channels, inner, 1)
        self.conv_g = nn.Conv3d(channels, inner, 1)
        self.conv_out = nn.Conv3d(inner, channels, 1)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The map and what its positions hear from all others, (B, C, T, H, W)."""
        seen = x if self.pool is None else F.max_pool3d(x, self.pool)
        theta = self.conv_theta(x).flatten(2)  # (B, c, N)
        phi, g = self.conv_phi(seen).flatten(2), self.conv_g(seen).flatten(2)  # (B, c, M)
        heard = torch.matmul(g, self._weights(theta, phi).transpose(1, 2))  # (B, c, N)
        return x + self.bn(self.conv_out(heard.unflatten(2, x.shape[2:])))

    def _weights(self, theta: Tensor, phi: Tensor) -> Tensor:
        """How much each of N positions hears of each of M: (B, N, M)."""
        alike = torch.matmul(theta.transpose(1, 2), phi)
        if self.kind == "dot_product":
            return alike / phi.shape[2]
        return torch.softmax(alike * theta.shape[1] ** -0.5, dim=2)
