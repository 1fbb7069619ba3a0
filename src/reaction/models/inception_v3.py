"""Inception-V3: "Rethinking the Inception Architecture for Computer Vision", Szegedy et al., CVPR 2016.

https://arxiv.org/abs/1512.00567

Layer sizes, module names and initialisation follow pytorch/vision `torchvision/models/inception.py`, so its files load
without renaming (`keys/torchvision_inception_v3.txt` lists every tensor).

Deviations:
- any number of input channels, and a `width` that scales every other channel count for tests and small machines;
- no `transform_input`: that step turns ImageNet-normalised RGB into (x / 255 - 0.5) / 0.5, which is what the clip
  loader hands over for every stream, so torchvision's ImageNet weights fit RGB input as it comes;
- `features` and `continue_from` cut the network at a named block, for attention maps.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = (
    "Mixed_5b",
    "Mixed_5c",
    "Mixed_5d",
    "Mixed_6a",
    "Mixed_6b",
    "Mixed_6c",
    "Mixed_6d",
    "Mixed_6e",
    "Mixed_7a",
    "Mixed_7b",
    "Mixed_7c",
)
FIRST_CONV = "Conv2d_1a_3x3.conv.weight"
SMALLEST_INPUT = 75


class InceptionOutputs(NamedTuple):
    """Logits (B, classes) of the main and of the auxiliary classifier."""

    logits: Tensor
    aux_logits: Tensor


class InceptionV3(nn.Module):
    """Inception-V3 for images of any channel count, at least 75 x 75 pixels, normalised to [-1, 1].

    `width` scales every channel count but the input's and the classes', rounded to a multiple of 8 and at least 8.
    `aux` adds the auxiliary classifier of section 4. At 299 pixels and width 1 the last block gives 2048 x 8 x 8.
    """

    first_conv = FIRST_CONV
    last_layer = "fc"

    def __init__(
        self,
        *,
        classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.5,
        aux: bool = False,
    ) -> None:
        super().__init__()

        def c(count: int) -> int:
            return scaled(count, width)

        self.Conv2d_1a_3x3 = BasicConv2d(channels, c(32), 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(c(32), c(32), 3)
        self.Conv2d_2b_3x3 = BasicConv2d(c(32), c(64), 3, padded=True)
        self.maxpool1 = nn.MaxPool2d(3, stride=2)
        self.Conv2d_3b_1x1 = BasicConv2d(c(64), c(80), 1)
        self.Conv2d_4a_3x3 = BasicConv2d(c(80), c(192), 3)
        self.maxpool2 = nn.MaxPool2d(3, stride=2)
        self.Mixed_5b = InceptionA(c(192), pool=32, width=width)
        self.Mixed_5c = InceptionA(self.Mixed_5b.outputs, pool=64, width=width)
        self.Mixed_5d = InceptionA(self.Mixed_5c.outputs, pool=64, width=width)
        self.Mixed_6a = InceptionB(self.Mixed_5d.outputs, width=width)
        self.Mixed_6b = InceptionC(self.Mixed_6a.outputs, middle=128, width=width)
        self.Mixed_6c = InceptionC(self.Mixed_6b.outputs, middle=160, width=width)
        self.Mixed_6d = InceptionC(self.Mixed_6c.outputs, middle=160, width=width)
        self.Mixed_6e = InceptionC(self.Mixed_6d.outputs, middle=192, width=width)
        self.AuxLogits = InceptionAux(self.Mixed_6e.outputs, classes, width=width) if aux else None
        self.Mixed_7a = InceptionD(self.Mixed_6e.outputs, width=width)
        self.Mixed_7b = InceptionE(self.Mixed_7a.outputs, width=width)
        self.Mixed_7c = InceptionE(self.Mixed_7b.outputs, width=width)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.Mixed_7c.outputs, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor | InceptionOutputs:
        """Logits (B, classes) of images (B, C, H, W); with `aux`, training mode gives the auxiliary logits as well."""
        if self.AuxLogits is None or not self.training:
            return self.classify(self.features(x))
        middle = self.features(x, "Mixed_6e")  # (B, 768, h, w)
        return InceptionOutputs(self.continue_from(middle, "Mixed_6e"), self.AuxLogits(middle))

    def features(self, x: Tensor, layer: str = "Mixed_7c") -> Tensor:
        """Output (B, channels of the layer, h, w) of the block called `layer`, one of LAYERS."""
        x = self._stem(x)
        for name in LAYERS[: _depth(layer)]:
            x = self.get_submodule(name)(x)
        return x

    def continue_from(self, features: Tensor, layer: str) -> Tensor:
        """Logits (B, classes) of what `features` gave at the same `layer`."""
        for name in LAYERS[_depth(layer) :]:
            features = self.get_submodule(name)(features)
        return self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of the last block's features: global average, dropout, one linear layer."""
        pooled = features.mean((2, 3))  # (B, C)
        return self.fc(self.dropout(pooled))

    def _stem(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < SMALLEST_INPUT:
            size = f"{x.shape[-1]} x {x.shape[-2]}"
            raise ValueError(f"Inception-V3 needs at least {SMALLEST_INPUT} x {SMALLEST_INPUT} pixels, got {size}")
        # Channels last is 1.4 to 1.8 times as fast on a CPU; the weights stay contiguous, as safetensors wants them.
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147) from 299 x 299
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))  # (B, 192, 71, 71)
        return self.maxpool2(x)  # (B, 192, 35, 35)


class BasicConv2d(nn.Module):
    """Convolution without bias, batch normalisation (eps 0.001), ReLU; `padded` keeps the size at stride 1."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1, padded: bool = False
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionA(nn.Module):
    """Figure 5 of the paper: 5x5 factorised into two 3x3 convolutions beside 1x1, 5x5 and pooling."""

    def __init__(self, inputs: int, *, pool: int, width: float) -> None:
        super().__init__()
        c48, c64, c96, pooled = (scaled(count, width) for count in (48, 64, 96, pool))
        self.branch1x1 = BasicConv2d(inputs, c64, 1)
        self.branch5x5_1 = BasicConv2d(inputs, c48, 1)
        self.branch5x5_2 = BasicConv2d(c48, c64, 5, padded=True)
        self.branch3x3dbl_1 = BasicConv2d(inputs, c64, 1)
        self.branch3x3dbl_2 = BasicConv2d(c64, c96, 3, padded=True)
        self.branch3x3dbl_3 = BasicConv2d(c96, c96, 3, padded=True)
        self.branch_pool = BasicConv2d(inputs, pooled, 1)
        self.outputs = c64 + c64 + c96 + pooled

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat((one, five, double, pool), dim=1)


class InceptionB(nn.Module):
    """Figure 10 of the paper: halves 35 x 35 to 17 x 17 by strided convolutions beside max pooling."""

    def __init__(self, inputs: int, *, width: float) -> None:
        super().__init__()
        c64, c96, c384 = (scaled(count, width) for count in (64, 96, 384))
        self.branch3x3 = BasicConv2d(inputs, c384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(inputs, c64, 1)
        self.branch3x3dbl_2 = BasicConv2d(c64, c96, 3, padded=True)
        self.branch3x3dbl_3 = BasicConv2d(c96, c96, 3, stride=2)
        self.outputs = c384 + c96 + inputs

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3(x)
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat((three, double, F.max_pool2d(x, 3, stride=2)), dim=1)


class InceptionC(nn.Module):
    """Figure 6 of the paper with n = 7: 7x7 factorised into 1x7 and 7x1 convolutions of `middle` channels."""

    def __init__(self, inputs: int, *, middle: int, width: float) -> None:
        super().__init__()
        m, c192 = scaled(middle, width), scaled(192, width)
        self.branch1x1 = BasicConv2d(inputs, c192, 1)
        self.branch7x7_1 = BasicConv2d(inputs, m, 1)
        self.branch7x7_2 = BasicConv2d(m, m, (1, 7), padded=True)
        self.branch7x7_3 = BasicConv2d(m, c192, (7, 1), padded=True)
        self.branch7x7dbl_1 = BasicConv2d(inputs, m, 1)
        self.branch7x7dbl_2 = BasicConv2d(m, m, (7, 1), padded=True)
        self.branch7x7dbl_3 = BasicConv2d(m, m, (1, 7), padded=True)
        self.branch7x7dbl_4 = BasicConv2d(m, m, (7, 1), padded=True)
        self.branch7x7dbl_5 = BasicConv2d(m, c192, (1, 7), padded=True)
        self.branch_pool = BasicConv2d(inputs, c192, 1)
        self.outputs = 4 * c192

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat((one, seven, double, pool), dim=1)


class InceptionD(nn.Module):
    """Halves 17 x 17 to 8 x 8, as InceptionB does, with a factorised 7x7 before one strided convolution."""

    def __init__(self, inputs: int, *, width: float) -> None:
        super().__init__()
        c192, c320 = scaled(192, width), scaled(320, width)
        self.branch3x3_1 = BasicConv2d(inputs, c192, 1)
        self.branch3x3_2 = BasicConv2d(c192, c320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(inputs, c192, 1)
        self.branch7x7x3_2 = BasicConv2d(c192, c192, (1, 7), padded=True)
        self.branch7x7x3_3 = BasicConv2d(c192, c192, (7, 1), padded=True)
        self.branch7x7x3_4 = BasicConv2d(c192, c192, 3, stride=2)
        self.outputs = c320 + c192 + inputs

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        seven = self.branch7x7x3_4(seven)
        return torch.cat((three, seven, F.max_pool2d(x, 3, stride=2)), dim=1)


class InceptionE(nn.Module):
    """Figure 7 of the paper: wide filter banks, 1x3 and 3x1 side by side, on the coarsest grid."""

    def __init__(self, inputs: int, *, width: float) -> None:
        super().__init__()
        c192, c320, c384, c448 = (scaled(count, width) for count in (192, 320, 384, 448))
        self.branch1x1 = BasicConv2d(inputs, c320, 1)
        self.branch3x3_1 = BasicConv2d(inputs, c384, 1)
        self.branch3x3_2a = BasicConv2d(c384, c384, (1, 3), padded=True)
        self.branch3x3_2b = BasicConv2d(c384, c384, (3, 1), padded=True)
        self.branch3x3dbl_1 = BasicConv2d(inputs, c448, 1)
        self.branch3x3dbl_2 = BasicConv2d(c448, c384, 3, padded=True)
        self.branch3x3dbl_3a = BasicConv2d(c384, c384, (1, 3), padded=True)
        self.branch3x3dbl_3b = BasicConv2d(c384, c384, (3, 1), padded=True)
        self.branch_pool = BasicConv2d(inputs, c192, 1)
        self.outputs = c320 + 4 * c384 + c192

    def forward(self, x: Tensor) -> Tensor:
        one = self.branch1x1(x)
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        wide = (self.branch3x3_2a(three), self.branch3x3_2b(three))
        deep = (self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double))
        pool = self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat((one, *wide, *deep, pool), dim=1)


class InceptionAux(nn.Module):
    """The auxiliary classifier on the last 17 x 17 grid (Figure 8); needs that grid to be at least 17 x 17."""

    def __init__(self, inputs: int, classes: int, *, width: float) -> None:
        super().__init__()
        c128, c768 = scaled(128, width), scaled(768, width)
        self.conv0 = BasicConv2d(inputs, c128, 1)
        self.conv1 = BasicConv2d(c128, c768, 5)
        self.fc = nn.Linear(c768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(F.avg_pool2d(x, 5, stride=3))  # (B, 128, 5, 5)
        x = self.conv1(x)  # (B, 768, 1, 1)
        return self.fc(x.mean((2, 3)))


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, to the nearest multiple of 8 and at least 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def expand_first_conv(
    weight: Tensor, channels: int, *, stream: str, extra: int = 0, map_channel: str = "mean"
) -> Tensor:
    """A first convolution for `channels` inputs from one trained on RGB: cross-modality initialisation.

    `weight` (O, 3, ...), over pictures or clips, becomes (O, channels, ...); `channels` counts the `extra` map channel,
    which comes last. Stream `rgb` keeps the three filters; any other stream gets their mean in every channel (Wang et
    al. 2016, section 3.2). The map channel starts as that mean or as zeros; the attention thesis does not say.
    """
    mean = weight.mean(dim=1, keepdim=True)  # (O, 1, ...)
    inputs, kernel = channels - extra, weight.shape[2:]
    if stream == "rgb" and inputs != weight.shape[1]:
        raise ValueError(f"stream rgb has {weight.shape[1]} channels and {extra} for the map, not {channels}")
    if map_channel not in ("mean", "zero"):
        raise ValueError(f"map_channel is 'mean' or 'zero', not {map_channel!r}")
    image = weight if stream == "rgb" else mean.expand(-1, inputs, *kernel)
    maps = (mean if map_channel == "mean" else torch.zeros_like(mean)).expand(-1, extra, *kernel)
    return torch.cat((image, maps), dim=1)


def _depth(layer: str) -> int:
    if layer not in LAYERS:
        raise ValueError(f"no layer {layer!r} in Inception-V3; choose one of {', '.join(LAYERS)}")
    return LAYERS.index(layer) + 1


def _initialise(model: InceptionV3) -> None:
    """Truncated normal of deviation 0.1, auxiliary classifier 0.001, as torchvision does; draws from torch's RNG."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.001 if name == "AuxLogits.fc" else 0.1)
