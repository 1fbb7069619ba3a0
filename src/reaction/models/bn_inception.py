"""BN-Inception: Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training", ICML 2015.

https://arxiv.org/abs/1502.03167

The backbone of Temporal Segment Networks (Wang et al., ECCV 2016), in the layout of their Caffe file
(yjxiong/temporal-segment-networks `models/*/tsn_bn_inception_*_deploy.prototxt`: every convolution has a bias, 3c and
4e halve the grid, 5b pools by the maximum). Module names follow Cadene/pretrained-models.pytorch `bninception.py`, so
its `bn_inception-239d2248.pth` loads without renaming; tsn-pytorch calls `last_linear` `fc`, or `new_fc` beside the
trunk.

Choices and deviations:
- any number of input channels, and a `width` that scales every other channel count;
- `dropout` before the last layer, TSN's 0.8 (0.7 for flow); the ImageNet network has none;
- batch normalisation keeps nine tenths of its running statistics, Caffe's momentum of 0.9, which PyTorch calls 0.1;
  pretrained-models.pytorch hands PyTorch 0.9, which would keep one tenth;
- weights start as Caffe's "xavier" filler, uniform within the root of 3 / fan-in; biases as zero instead of 0.2, since
  a batch normalisation follows;
- the last pooling is the mean over whatever grid there is, 7 x 7 at 224 pixels;
- where 3c or 4e meets an odd number of cells, which never happens at 224 pixels, Caffe's pooling is one cell short of
  the strided convolutions and cannot be joined to them: there it is padded by one cell.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled


class Block(NamedTuple):
    """Output channels of a block's convolutions; without `one` and `pool` the block halves the grid."""

    three: tuple[int, int]  # 3x3_reduce, 3x3
    double: tuple[int, int]  # double_3x3_reduce, double_3x3_1 and double_3x3_2
    one: int = 0
    pool: int = 0


BLOCKS = {
    "inception_3a": Block(three=(64, 64), double=(64, 96), one=64, pool=32),
    "inception_3b": Block(three=(64, 96), double=(64, 96), one=64, pool=64),
    "inception_3c": Block(three=(128, 160), double=(64, 96)),
    "inception_4a": Block(three=(64, 96), double=(96, 128), one=224, pool=128),
    "inception_4b": Block(three=(96, 128), double=(96, 128), one=192, pool=128),
    "inception_4c": Block(three=(128, 160), double=(128, 160), one=160, pool=128),
    "inception_4d": Block(three=(128, 192), double=(160, 192), one=96, pool=128),
    "inception_4e": Block(three=(128, 192), double=(192, 256)),
    "inception_5a": Block(three=(192, 320), double=(160, 224), one=352, pool=128),
    "inception_5b": Block(three=(192, 320), double=(192, 224), one=352, pool=128),
}
LAYERS = tuple(BLOCKS)
MAX_POOLED = "inception_5b"
SMALLEST_INPUT = 32


class BNInception(nn.Module):
    """BN-Inception for images of any channel count, at least 32 x 32 pixels.

    `width` scales every channel count but the input's and the classes', rounded to a multiple of 8 and at least 8.
    At 224 pixels and width 1 the last block gives 1024 x 7 x 7.
    """

    first_conv = "conv1_7x7_s2.weight"
    last_layer = "last_linear"
    # What the ImageNet weights were trained on: B, G, R from 0 to 255 less their means, here in the order R, G, B.
    input_bgr, input_mean, input_std = True, (128.0, 117.0, 104.0), (1.0, 1.0, 1.0)

    def __init__(self, *, classes: int = 1000, channels: int = 3, width: float = 1.0, dropout: float = 0.8) -> None:
        super().__init__()
        c64, c192 = scaled(64, width), scaled(192, width)
        self._add("conv1_7x7_s2", channels, c64, 7, stride=2)
        self._add("conv2_3x3_reduce", c64, c64, 1)
        self._add("conv2_3x3", c64, c192, 3)
        outputs = c192
        for name, block in BLOCKS.items():
            outputs = self._add_block(name, outputs, block, width)
        self.dropout = nn.Dropout(dropout)
        self.last_linear = nn.Linear(outputs, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classify(self.features(x))

    def features(self, x: Tensor, layer: str = LAYERS[-1]) -> Tensor:
        """Output (B, channels of the layer, h, w) of the block called `layer`, one of LAYERS."""
        x = self._stem(x)
        for name in LAYERS[: _depth(layer)]:
            x = self._block(name, x)
        return x

    def continue_from(self, features: Tensor, layer: str) -> Tensor:
        """Logits (B, classes) of what `features` gave at the same `layer`."""
        for name in LAYERS[_depth(layer) :]:
            features = self._block(name, features)
        return self.classify(features)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of the last block's features: global average, dropout, one linear layer."""
        pooled = features.mean((2, 3))  # (B, C)
        return self.last_linear(self.dropout(pooled))

    def _stem(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < SMALLEST_INPUT:
            size = f"{x.shape[-1]} x {x.shape[-2]}"
            raise ValueError(f"BN-Inception needs at least {SMALLEST_INPUT} x {SMALLEST_INPUT} pixels, got {size}")
        x = x.contiguous(memory_format=torch.channels_last)  # faster on a CPU, as in Inception-V3
        x = F.max_pool2d(self._conv("conv1_7x7_s2", x), 3, stride=2, ceil_mode=True)  # (B, 64, 56, 56) from 224 x 224
        x = self._conv("conv2_3x3", self._conv("conv2_3x3_reduce", x))  # (B, 192, 56, 56)
        return F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # (B, 192, 28, 28)

    def _block(self, name: str, x: Tensor) -> Tensor:
        three = self._conv(f"{name}_3x3", self._conv(f"{name}_3x3_reduce", x))
        double = self._conv(f"{name}_double_3x3_1", self._conv(f"{name}_double_3x3_reduce", x))
        double = self._conv(f"{name}_double_3x3_2", double)
        if not BLOCKS[name].one:
            return torch.cat((three, double, _halved(x)), dim=1)
        pooling = F.max_pool2d if name == MAX_POOLED else F.avg_pool2d
        pool = self._conv(f"{name}_pool_proj", pooling(x, 3, stride=1, padding=1))
        return torch.cat((self._conv(f"{name}_1x1", x), three, double, pool), dim=1)

    def _conv(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)), inplace=True)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        # The public names are flat, inception_3a_1x1 and not inception_3a.1x1: no module of its own for a block.
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _add_block(self, name: str, inputs: int, block: Block, width: float) -> int:
        """Adds the block's layers; the number of its output channels."""
        three, double = ([scaled(count, width) for count in counts] for counts in (block.three, block.double))
        stride = 1 if block.one else 2
        if block.one:
            self._add(f"{name}_1x1", inputs, scaled(block.one, width), 1)
        self._add(f"{name}_3x3_reduce", inputs, three[0], 1)
        self._add(f"{name}_3x3", three[0], three[1], 3, stride=stride)
        self._add(f"{name}_double_3x3_reduce", inputs, double[0], 1)
        self._add(f"{name}_double_3x3_1", double[0], double[1], 3)
        self._add(f"{name}_double_3x3_2", double[1], double[1], 3, stride=stride)
        if not block.one:
            return three[1] + double[1] + inputs
        self._add(f"{name}_pool_proj", inputs, scaled(block.pool, width), 1)
        return scaled(block.one, width) + three[1] + double[1] + scaled(block.pool, width)


def _halved(x: Tensor) -> Tensor:
    """3x3 maxima with stride 2 on as many cells as a padded convolution of that stride has."""
    odd = [cells % 2 for cells in x.shape[-2:]]
    return F.max_pool2d(x, 3, stride=2, padding=odd, ceil_mode=True)


def _depth(layer: str) -> int:
    if layer not in LAYERS:
        raise ValueError(f"no layer {layer!r} in BN-Inception; choose one of {', '.join(LAYERS)}")
    return LAYERS.index(layer) + 1


def _initialise(model: BNInception) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")  # within the root of 3 / fan-in
            nn.init.zeros_(module.bias)
