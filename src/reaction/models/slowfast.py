"""SlowFast: "SlowFast Networks for Video Recognition", Feichtenhofer et al., ICCV 2019.

https://arxiv.org/abs/1812.03982

Two 3D ResNets see one clip: the Slow pathway few frames with many channels, the Fast pathway `alpha` times as many
frames with `beta` times the channels. What the Fast one sees joins the Slow one after pool1, res2, res3 and res4
(section 3.4). `Slow` and `Fast` are the pathways alone, the baselines of table 5a. Weights have the names of
facebookresearch/SlowFast.

In the paper's words T x tau: `SlowFast(alpha=8)` on clips of 32 frames, every second one of the video, is 4 x 16;
`alpha=4` on the same clips is 8 x 8, on clips of 64 frames 16 x 8. `Slow` on every 16th frame, 4 of them, is 4 x 16.

Choices, where paper and code differ or are silent:
- `slow_frames`: which frames of the clip the Slow pathway sees. `linspace`, the code's way and the default, spreads
  them from the first to the last (alpha 8: 0, 10, 20, 31), `nearest` takes every alpha-th (0, 8, 16, 24), which is what
  the paper's stride says and mmaction2 does. A test has to pick them as the training did.
- `lateral_kernel`: 5 as in the paper; the code's 8x8 with R50 has 7.
- `temporal_res4`: of R101's 23 blocks in res4 only the first 6 have temporal kernels, in both pathways, in what the
  paper tells of (its 106 and 213 GFLOPs; the code calls it R101_50_50). (23, 23) is R101_101_101.
- `nonlocals`: behind which blocks of the Slow pathway's res3 and res4 non-local blocks stand. The paper says res4; the
  code puts them behind blocks 6, 13 and 20 of R101, and for R50 in res3 as well. The paper's 234 GFLOPs are with a
  `nonlocal_pool` of (2, 2, 2), products of matrices counted; the code's file for Kinetics pools (1, 2, 2), the default.
- `lateral`: `none`, `sum` and `concat` (time-to-channel: the alpha frames of one Slow frame side by side as channels),
  `sample` (every alpha-th frame) and `conv` (section 3.4); summing needs alpha * beta = 1. Only `conv` has weights; as
  in the code a normalisation and a ReLU follow it.
- `lateral_ratio`: the T-conv has 2 channels per channel of the Fast pathway. Table 5c's 34.4 GFLOPs of a Fast pathway
  at half the resolution and beta = 1/4 fit 1 (34.3), not 2 (36.0).
- beta = 1/6 and 1/12 are no fractions of 64 channels: conv1 is rounded up and the rest are its multiples, which comes
  nearest to table 5b (41.6 and 33.1 GFLOPs for 41.8 and 32.8). Its 54.5 of 1/4 we count as 53.6, and 6.4 of Fast-only
  in table 5a as 6.9, although 34.2 without lateral connections fits the same layers.
- `fast_input` (table 5c): `grey` by the weights of ITU-R BT.601; `half`, both sides halved by averaging 2 x 2 pixels,
  where lateral maps are enlarged again to the nearest pixel; `difference`, each grey frame less the one before, the
  first less itself (one channel is what the table's 34.2 GFLOPs fit, three would need 36.1); `flow`, for which the clip
  brings x and y of the flow as a 4th and 5th channel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled
from reaction.models.resnet3d import Pathway, ResNet3D

LATERALS = ("conv", "sum", "concat", "sample", "none")
SLOW_FRAMES = ("linspace", "nearest")
FAST_CHANNELS = {"rgb": 3, "grey": 1, "half": 3, "difference": 1, "flow": 2}
SLOW_KERNELS = ((1,), (1,), (1,), (3,), (3,))
FAST_KERNELS = ((5,), (3,), (3,), (3,), (3,))
GREY = (0.299, 0.587, 0.114)


class SlowFast(ResNet3D):
    """SlowFast over one clip (B, 3, alpha * T, H, W), the Fast pathway's frames, of which the Slow one sees T.

    The clip has 5 channels where `fast_input` is `flow`. The defaults are 4 x 16 with R50 of table 2 on clips of 32
    frames; `beta` is the Fast pathway's share of the channels.
    """

    def __init__(
        self,
        *,
        classes: int = 400,
        depth: int = 50,
        alpha: int = 8,
        beta: float = 1 / 8,
        lateral: str = "conv",
        lateral_kernel: int = 5,
        lateral_ratio: int = 2,
        temporal_res4: tuple[int, int] = (6, 6),
        nonlocals: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
        nonlocal_kind: str = "dot_product",
        nonlocal_pool: tuple[int, int, int] | None = (1, 2, 2),
        slow_frames: str = "linspace",
        fast_input: str = "rgb",
        dilated: bool = False,
        width: float = 1.0,
        dropout: float = 0.5,
        size: int = 224,
    ) -> None:
        _one_of("lateral", lateral, LATERALS)
        _one_of("slow_frames", slow_frames, SLOW_FRAMES)
        _one_of("fast_input", fast_input, tuple(FAST_CHANNELS))
        base = scaled(64, width)
        fast = Pathway(FAST_CHANNELS[fast_input], _narrow(base, beta), FAST_KERNELS, temporal_res4=temporal_res4[1])
        fuses = [
            LateralConv(fast.output(stage), alpha, lateral_kernel, lateral_ratio)
            if lateral == "conv"
            else Lateral(lateral, fast.output(stage), alpha)
            for stage in (1, 2, 3, 4)
        ]
        slow = Pathway(
            3,
            base,
            SLOW_KERNELS,
            lateral=tuple(fuse.added for fuse in fuses),
            temporal_res4=temporal_res4[0],
            nonlocals=((), *nonlocals, ()),
        )
        if lateral == "sum" and slow.base != alpha * fast.base:
            raise ValueError(f"lateral 'sum' needs beta = 1 / alpha: beta is {beta}, alpha {alpha}; or try 'concat'")
        super().__init__(
            [slow, fast],
            classes=classes,
            depth=depth,
            fuses=fuses,
            dilated=dilated,
            nonlocal_kind=nonlocal_kind,
            nonlocal_pool=nonlocal_pool,
            dropout=dropout,
            size=size,
        )
        self.alpha, self.slow_frames, self.fast_input = alpha, slow_frames, fast_input

    def split(self, clip: Tensor) -> list[Tensor]:
        """What the Slow pathway sees, (B, 3, T, H, W), and the Fast one, (B, its channels, alpha * T, h, w)."""
        channels, frames = clip.shape[1:3]
        expected = 5 if self.fast_input == "flow" else 3
        if channels != expected:
            raise ValueError(f"SlowFast with fast_input {self.fast_input!r} takes {expected} channels, not {channels}")
        if frames % self.alpha:
            raise ValueError(f"SlowFast takes a multiple of alpha, {self.alpha}, frames, not {frames}")
        return [clip[:, :3, slow_positions(frames, self.alpha, self.slow_frames)], fast_view(clip, self.fast_input)]


class Slow(ResNet3D):
    """The Slow pathway alone (Slow-only) over clips (B, channels, T, H, W) of every tau-th frame."""

    def __init__(
        self,
        *,
        classes: int = 400,
        channels: int = 3,
        depth: int = 50,
        temporal_res4: int = 6,
        nonlocals: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
        nonlocal_kind: str = "dot_product",
        nonlocal_pool: tuple[int, int, int] | None = (1, 2, 2),
        dilated: bool = False,
        width: float = 1.0,
        dropout: float = 0.5,
        size: int = 224,
    ) -> None:
        path = Pathway(
            channels,
            scaled(64, width),
            SLOW_KERNELS,
            temporal_res4=temporal_res4,
            nonlocals=((), *nonlocals, ()),
        )
        super().__init__(
            [path],
            classes=classes,
            depth=depth,
            dilated=dilated,
            nonlocal_kind=nonlocal_kind,
            nonlocal_pool=nonlocal_pool,
            dropout=dropout,
            size=size,
        )


class Fast(ResNet3D):
    """The Fast pathway alone (Fast-only) over clips (B, channels, alpha * T, H, W)."""

    def __init__(
        self,
        *,
        classes: int = 400,
        channels: int = 3,
        depth: int = 50,
        beta: float = 1 / 8,
        temporal_res4: int = 6,
        width: float = 1.0,
        dropout: float = 0.5,
        size: int = 224,
    ) -> None:
        path = Pathway(channels, _narrow(scaled(64, width), beta), FAST_KERNELS, temporal_res4=temporal_res4)
        super().__init__([path], classes=classes, depth=depth, dropout=dropout, size=size)


class Lateral(nn.Module):
    """How the Fast pathway's map joins the Slow one's; `added` is by how many channels that grows.

    `none`, `sum`, `concat` and `sample` of section 3.4, of which none has weights.
    """

    def __init__(self, kind: str, channels: int, alpha: int) -> None:
        super().__init__()
        self.kind, self.alpha = kind, alpha
        self.added = {"none": 0, "sum": 0, "concat": alpha * channels, "sample": channels}[kind]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Slow and fast maps (B, C, T, H, W), (B, c, alpha * T, h, w); the same, the slow one with what joined it."""
        slow, fast = maps
        if self.kind == "none":
            return maps
        if self.kind == "sample":
            return [torch.cat([slow, _as_large(fast[:, :, :: self.alpha], slow)], dim=1), fast]
        packed = _as_large(time_to_channel(fast, self.alpha), slow)
        return [slow + packed if self.kind == "sum" else torch.cat([slow, packed], dim=1), fast]


class LateralConv(nn.Module):
    """Time-strided convolution: k x 1 x 1, stride alpha, `ratio` times the Fast pathway's channels."""

    def __init__(self, channels: int, alpha: int, kernel: int, ratio: int) -> None:
        super().__init__()
        self.added = ratio * channels
        options = {"stride": (alpha, 1, 1), "padding": (kernel // 2, 0, 0)}
        self.conv_f2s = nn.Conv3d(channels, self.added, (kernel, 1, 1), bias=False, **options)
        self.bn = nn.BatchNorm3d(self.added)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """As Lateral's."""
        slow, fast = maps
        joins = F.relu(self.bn(self.conv_f2s(fast)), inplace=True)  # (B, ratio * c, T, h, w)
        return [torch.cat([slow, _as_large(joins, slow)], dim=1), fast]


def slow_positions(frames: int, alpha: int, way: str) -> list[int]:
    """Which of `frames` the Slow pathway sees, in the way called `linspace` or `nearest`.

    `linspace` is `torch.linspace(0, frames - 1, frames // alpha).long()` in exact arithmetic.
    """
    count = frames // alpha
    if way == "nearest":
        return list(range(0, frames, alpha))
    return [position * (frames - 1) // max(1, count - 1) for position in range(count)]


def fast_view(clip: Tensor, kind: str) -> Tensor:
    """What the Fast pathway sees of clips (B, C, T, H, W): one of the inputs of table 5c."""
    if kind == "rgb":
        return clip
    if kind == "flow":
        return clip[:, 3:]
    if kind == "half":
        return F.avg_pool3d(clip, (1, 2, 2))
    grey = (clip * clip.new_tensor(GREY)[:, None, None, None]).sum(1, keepdim=True)  # (B, 1, T, H, W)
    if kind == "grey":
        return grey
    return grey - torch.cat([grey[:, :, :1], grey[:, :, :-1]], dim=2)


def time_to_channel(fast: Tensor, alpha: int) -> Tensor:
    """Maps (B, c, alpha * T, H, W) with `alpha` frames packed into the channels of one: (B, alpha * c, T, H, W)."""
    return fast.unflatten(2, (-1, alpha)).movedim(3, 1).flatten(1, 2)


def _narrow(base: int, beta: float) -> int:
    """Channels of the Fast pathway's conv1."""
    return max(1, math.ceil(base * beta - 1e-9))


def _as_large(joins: Tensor, slow: Tensor) -> Tensor:
    """`joins` enlarged to the slow map's height and width; no copy where they are equal."""
    return joins if joins.shape[2:] == slow.shape[2:] else F.interpolate(joins, size=slow.shape[2:])


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
