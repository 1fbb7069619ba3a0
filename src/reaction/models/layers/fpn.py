"""Feature pyramid: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3.

https://arxiv.org/abs/1612.03144. Every stage is brought to one channel count by a 1x1 convolution; from the coarsest
down, each level adds the one above it, repeated to its size (nearest neighbour), and a 3x3 convolution ends it.

Module names are Detectron2's: `fpn_lateral2`, `fpn_output2` and so on for strides 4, 8, 16, 32.

Choices: no normalisation and no ReLU (as in the paper); weights as Caffe2's XavierFill, uniform over the fan-in
(Detectron2's), since the paper says nothing; a level that does not halve evenly is repeated to the finer one's size.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

FINEST = 2  # the log2 of the first level's stride


class FPN(nn.Module):
    """Levels p2, p3, ... of `channels` each from stages of `stages` channels, finest first."""

    def __init__(self, *, stages: Sequence[int] = (256, 512, 1024, 2048), channels: int = 256) -> None:
        super().__init__()
        self.levels = range(FINEST, FINEST + len(stages))
        for level, inputs in zip(self.levels, stages, strict=True):
            setattr(self, f"fpn_lateral{level}", nn.Conv2d(inputs, channels, 1))
            setattr(self, f"fpn_output{level}", nn.Conv2d(channels, channels, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """p2, p3, ... (B, channels, H_i, W_i) of stages (B, C_i, H_i, W_i), finest first."""
        laterals = [self._convolve("lateral", level, x) for level, x in zip(self.levels, stages, strict=True)]
        merged = [laterals.pop()]
        while laterals:
            finer = laterals.pop()
            merged.append(finer + F.interpolate(merged[-1], size=finer.shape[-2:], mode="nearest"))
        return [self._convolve("output", level, x) for level, x in zip(self.levels, reversed(merged), strict=True)]

    def _convolve(self, kind: str, level: int, x: Tensor) -> Tensor:
        return getattr(self, f"fpn_{kind}{level}")(x)
