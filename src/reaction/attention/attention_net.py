"""The attention network of Park's thesis (SNU 2019): a map from a stream's features, without the label.

Convolution, batch normalisation, ReLU, convolution, sigmoid on the features of one block; trained by binary
cross-entropy at image size, after bilinear up-sampling, against the Grad-CAM map. The sigmoid comes before the
up-sampling.
What the thesis leaves unsaid and what was chosen:
- the width: 512 `hidden` channels;
- the kernels: 3x3 (`kernel`), which keeps the map's size by padding, then 1x1;
- several layers: one network on the last one's features, against the combined map;
- the target: soft, the Grad-CAM map in [0, 1] as it is. Its own entropy is then the floor of the loss.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.attention.gradcam import upsample


class AttentionNet(nn.Module):
    """Features (B, channels, h, w) to a map (B, 1, h, w) in [0, 1]."""

    def __init__(self, channels: int, hidden: int = 512, *, kernel: int = 3) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"an attention network's kernel is odd, so that the map keeps its size, not {kernel}")
        self.conv = nn.Conv2d(channels, hidden, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(hidden)
        self.score = nn.Conv2d(hidden, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.relu(self.bn(self.conv(features)))  # (B, hidden, h, w)
        return torch.sigmoid(self.score(hidden))


def bce_against(maps: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy (B,), in nats, of maps (B, 1, h, w) up-sampled to targets (B, H, W) in [0, 1]."""
    probability = upsample(maps[:, 0].float(), *target.shape[-2:])
    # Interpolating between saturated values can round to just above 1, which the loss refuses.
    loss = F.binary_cross_entropy(probability.clamp(0.0, 1.0), target, reduction="none")  # (B, H, W)
    return loss.mean((1, 2))


def entropy_floor(target: Tensor) -> Tensor:
    """The least cross-entropy (B,) any map can have against soft targets (B, H, W): that of the target with itself."""
    return F.binary_cross_entropy(target, target, reduction="none").mean((1, 2))


def constant_bce(targets: Tensor) -> tuple[float, float]:
    """The best constant map for targets (B, H, W), which is their mean, and its cross-entropy: what a net must beat."""
    constant = targets.double().mean()
    return constant.item(), F.binary_cross_entropy(constant, constant).item()
