"""Inception-V1: "Going Deeper with Convolutions", Szegedy et al., CVPR 2015, with batch normalisation.

https://arxiv.org/abs/1409.4842

The 2D network under four of the five architectures of "Quo Vadis, Action Recognition?" (Carreira & Zisserman, CVPR
2017, https://arxiv.org/abs/1705.07750). Layer sizes and module names follow pytorch/vision
`torchvision/models/googlenet.py` (a 3x3 where the paper has a 5x5, a batch normalisation after each convolution), so
its files load without renaming, less the two auxiliary classifiers (`keys/torchvision_googlenet.txt`).

Choices and deviations:
- any number of input channels, and a `width` that scales every other channel count;
- no auxiliary classifiers: Quo Vadis has none;
- no `transform_input`: the clip loader hands over RGB as (x / 255 - 0.5) / 0.5, which that step makes of its own input;
- `dropout` 0.5, the one figure that the authors of Quo Vadis publish (google-deepmind/kinetics-i3d, README); the paper
  of 2015 has 0.4, torchvision 0.2;
- weights start as in DeepMind's Sonnet, normal of deviation root of 1 / fan-in, cut at two deviations, biases at zero;
  torchvision's deviation of 0.01 leaves less than `eps` of variance in a narrow network.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reaction.models.inception_v3 import BasicConv2d, expand_first_conv, scaled


class Block(NamedTuple):
    """Output channels of an Inception block's convolutions (table 1 of the paper)."""

    one: int  # 1x1
    three: tuple[int, int]  # 1x1, 3x3
    five: tuple[int, int]  # 1x1, 3x3 in place of 5x5
    pool: int  # 1x1 after the pooling

    def scaled(self, width: float) -> "Block":
        """The same block in a network whose channel counts are `width` times as many."""
        three, five = (tuple(scaled(count, width) for count in counts) for counts in (self.three, self.five))
        return Block(scaled(self.one, width), three, five, scaled(self.pool, width))

    @property
    def outputs(self) -> int:
        """Channels of the four branches together."""
        return self.one + self.three[1] + self.five[1] + self.pool


BLOCKS = {
    "inception3a": Block(one=64, three=(96, 128), five=(16, 32), pool=32),
    "inception3b": Block(one=128, three=(128, 192), five=(32, 96), pool=64),
    "inception4a": Block(one=192, three=(96, 208), five=(16, 48), pool=64),
    "inception4b": Block(one=160, three=(112, 224), five=(24, 64), pool=64),
    "inception4c": Block(one=128, three=(128, 256), five=(24, 64), pool=64),
    "inception4d": Block(one=112, three=(144, 288), five=(32, 64), pool=64),
    "inception4e": Block(one=256, three=(160, 320), five=(32, 128), pool=128),
    "inception5a": Block(one=256, three=(160, 320), five=(32, 128), pool=128),
    "inception5b": Block(one=384, three=(192, 384), five=(48, 128), pool=128),
}
FIRST_CONV = "conv1.conv.weight"
SMALLEST_INPUT = 15


class InceptionV1Trunk(nn.Module):
    """Inception-V1 without a classifier, for images of any channel count, at least 15 x 15 pixels.

    `width` scales every channel count but the input's, rounded to a multiple of 8 and at least 8; `outputs` is the
    number of channels it ends with. At 224 pixels and width 1 the last block gives 1024 x 7 x 7.
    """

    first_conv = FIRST_CONV

    def __init__(self, *, channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        c64, c192 = scaled(64, width), scaled(192, width)
        self.conv1 = BasicConv2d(channels, c64, 7, stride=2, padded=True)
        self.conv2 = BasicConv2d(c64, c64, 1)
        self.conv3 = BasicConv2d(c64, c192, 3, padded=True)
        self.pool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.pool2 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.outputs = c192
        for name, block in BLOCKS.items():
            self.add_module(name, InceptionBlock(self.outputs, block.scaled(width)))
            self.outputs = block.scaled(width).outputs
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """What the last block gives of images (B, C, H, W), before any pooling: (B, 1024, h, w)."""
        if min(x.shape[-2:]) < SMALLEST_INPUT:
            size = f"{x.shape[-1]} x {x.shape[-2]}"
            raise ValueError(f"Inception-V1 needs at least {SMALLEST_INPUT} x {SMALLEST_INPUT} pixels, got {size}")
        x = x.contiguous(memory_format=torch.channels_last)  # faster on a CPU, as in Inception-V3
        x = self.pool3(self.conv1(x))  # (B, 64, 56, 56) from 224 x 224
        x = self.pool3(self.conv3(self.conv2(x)))  # (B, 192, 28, 28)
        x = self.pool3(self.inception3b(self.inception3a(x)))  # (B, 480, 14, 14)
        x = self.inception4c(self.inception4b(self.inception4a(x)))  # (B, 512, 14, 14)
        x = self.pool2(self.inception4e(self.inception4d(x)))  # (B, 832, 7, 7)
        return self.inception5b(self.inception5a(x))  # (B, 1024, 7, 7)


class InceptionV1(InceptionV1Trunk):
    """Inception-V1 for images of any channel count, at least 15 x 15 pixels, normalised to [-1, 1]."""

    last_layer = "fc"

    def __init__(self, *, classes: int = 1000, channels: int = 3, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__(channels=channels, width=width)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.outputs, classes)
        initialise(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classify(self.features(x))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of the last block's features: global average, dropout, one linear layer."""
        pooled = features.mean((2, 3))  # (B, C)
        return self.fc(self.dropout(pooled))


class InceptionBlock(nn.Module):
    """Figure 2 (b) of the paper: four branches side by side."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(inputs, block.one, 1)
        self.branch2 = _reduced(inputs, block.three)
        self.branch3 = _reduced(inputs, block.five)
        pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.branch4 = nn.Sequential(pool, BasicConv2d(inputs, block.pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), dim=1)


def spread(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Inception-V1's weights by the names of each Inception-V1 inside `network`, without the classifiers.

    `network` names its first convolutions: `first_convs` by stream, or the one `first_conv` over RGB.
    """
    first_convs = network.first_convs if hasattr(network, "first_convs") else {"rgb": network.first_conv}
    own: dict[str, Tensor] = {}
    for stream, first in first_convs.items():
        fitted = fit_first_conv(state, network.get_parameter(first).shape[1], stream=stream)
        inner = first.removesuffix(FIRST_CONV)
        own |= {inner + name: value for name, value in fitted.items() if not name.startswith(("fc.", "aux"))}
    return own


def fit_first_conv(state: Mapping[str, Tensor], channels: int, *, stream: str) -> dict[str, Tensor]:
    """Inception-V1's weights over RGB, its first convolution made for `channels` of a stream (`expand_first_conv`)."""
    if FIRST_CONV not in state:
        raise ValueError(f"no {FIRST_CONV} among the tensors: these are not the weights of torchvision's GoogLeNet")
    return dict(state) | {FIRST_CONV: expand_first_conv(state[FIRST_CONV], channels, stream=stream)}


def initialise(network: nn.Module) -> None:
    """Sonnet's start of every convolution and linear layer in `network`; draws from torch's RNG."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            std = module.weight[0].numel() ** -0.5
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _reduced(inputs: int, counts: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(BasicConv2d(inputs, counts[0], 1), BasicConv2d(counts[0], counts[1], 3, padded=True))
