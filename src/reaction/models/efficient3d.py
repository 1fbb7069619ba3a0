"""Small 3D networks: Köpüklü et al., "Resource Efficient 3D Convolutional Neural Networks", ICCV workshops 2019.

https://arxiv.org/abs/1904.02422

3D versions of MobileNet, MobileNetV2, ShuffleNet (three groups) and ShuffleNetV2. Tensors are called as in
okankop/Efficient-3DCNNs `models/*.py` (its spelling `banch1` included), so its files load without renaming but for
`module.` in front.

Choices and deviations:
- no `classifier`: the networks here are trunks, as YOWO uses them;
- `width` is the width multiplier of these papers; ShuffleNetV2, which has a table of channels for 0.25 to 2, scales
  those of 1 for other widths;
- ShuffleNet's pooled shortcut repeats the last frame of an odd number, where the public code fails: 8 frames run too.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOBILENET = ((64, 1, 2), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 1))  # outputs, blocks, stride
MOBILENET_V2 = (  # expansion, outputs, blocks, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
SHUFFLENET = (24, 240, 480, 960)  # with three groups
GROUPS = 3
SHUFFLENET_V2 = {
    0.25: (24, 32, 64, 128, 1024),
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 224, 488, 976, 2048),
}
SHUFFLE_BLOCKS = (4, 8, 4)


class MobileNet3D(nn.Module):
    """Clips (B, 3, T, H, W) to features (B, 1024 x width, T / 16, H / 32, W / 32), each side rounded up."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        inputs = int(32 * width)
        layers: list[nn.Module] = [_conv_bn(3, inputs, 3, stride=(1, 2, 2))]
        for count, blocks, stride in MOBILENET:
            self.outputs = int(count * width)
            for i in range(blocks):
                layers.append(Separable(inputs, self.outputs, stride if i == 0 else 1))
                inputs = self.outputs
        self.features = nn.Sequential(*layers)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class Separable(nn.Module):
    """A 3x3x3 convolution in each channel, then a 1x1x1 one across them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, inputs, 3, stride=stride, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm3d(inputs)
        self.conv2 = nn.Conv3d(inputs, outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True)


class MobileNetV23D(nn.Module):
    """Clips (B, 3, T, H, W) to features (B, 1280, T / 16, H / 32, W / 32), each side rounded up.

    The 1280 channels of the last convolution grow with `width`, but never shrink.
    """

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        inputs = int(32 * width)
        layers: list[nn.Module] = [_conv_bn(3, inputs, 3, stride=(1, 2, 2), activation=nn.ReLU6)]
        for expansion, count, blocks, stride in MOBILENET_V2:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, int(count * width), stride if i == 0 else 1, expansion))
                inputs = int(count * width)
        self.outputs = int(1280 * max(width, 1.0))
        layers.append(_conv_bn(inputs, self.outputs, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class InvertedResidual(nn.Module):
    """Wider by `expansion`, filtered channel by channel, narrowed without activation; beside it, where it fits, x."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        layers = [] if expansion == 1 else [*_conv_bn(inputs, middle, 1, activation=nn.ReLU6)]
        layers += _conv_bn(middle, middle, 3, stride=stride, groups=middle, activation=nn.ReLU6)
        layers += _conv_bn(middle, outputs, 1, activation=None)
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class ShuffleNet3D(nn.Module):
    """Clips (B, 3, T, H, W) to features (B, 960 x width, T / 16, H / 32, W / 32), each side rounded up."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        # A stage's quarter is the middle of its blocks, which the groups divide.
        step = 4 * GROUPS
        counts = [max(step, int(count * width) // step * step) for count in SHUFFLENET]
        self.conv1 = _conv_bn(3, counts[0], 3, stride=(1, 2, 2))
        for n, ((inputs, outputs), blocks) in enumerate(zip(pairwise(counts), SHUFFLE_BLOCKS, strict=True), start=1):
            # Few channels come in: the first convolution of the first block is not grouped, at the paper's width.
            first = ShuffleBlock(inputs, outputs, stride=2, first_groups=1 if inputs == SHUFFLENET[0] else GROUPS)
            stage = [first, *(ShuffleBlock(outputs, outputs) for _ in range(blocks - 1))]
            self.add_module(f"layer{n}", nn.Sequential(*stage))
        self.outputs = counts[-1]
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(self.conv1(x), 3, stride=2, padding=1)
        return self.layer3(self.layer2(self.layer1(x)))


class ShuffleBlock(nn.Module):
    """Grouped 1x1x1, shuffle, 3x3x3 in each channel, grouped 1x1x1; with a stride joined to the pooled input."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, first_groups: int = GROUPS) -> None:
        super().__init__()
        middle = outputs // 4
        grown = outputs - inputs if stride == 2 else outputs
        self.stride = stride
        self.conv1 = nn.Conv3d(inputs, middle, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = nn.Conv3d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm3d(middle)
        self.conv3 = nn.Conv3d(middle, grown, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm3d(grown)

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(F.relu(self.bn1(self.conv1(x)), inplace=True), GROUPS)
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        y = y + x if self.stride == 1 else torch.cat((y, _pooled(x)), dim=1)
        return F.relu(y, inplace=True)


class ShuffleNetV23D(nn.Module):
    """Clips (B, 3, T, H, W) to features (B, 1024, T / 16, H / 32, W / 32); 2048 channels at width 2."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        scaled = tuple(max(2, int(count * width) // 2 * 2) for count in SHUFFLENET_V2[1.0])
        *counts, self.outputs = SHUFFLENET_V2.get(width, scaled)
        self.conv1 = _conv_bn(3, counts[0], 3, stride=(1, 2, 2))
        blocks: list[nn.Module] = []
        for (inputs, outputs), count in zip(pairwise(counts), SHUFFLE_BLOCKS, strict=True):
            blocks += [SplitBlock(inputs, outputs, stride=2), *(SplitBlock(outputs, outputs) for _ in range(count - 1))]
        self.features = nn.Sequential(*blocks)
        self.conv_last = _conv_bn(counts[-1], self.outputs, 1)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(self.conv1(x), 3, stride=2, padding=1)
        return self.conv_last(self.features(x))


class SplitBlock(nn.Module):
    """Half of the channels goes by, or, with a stride, through a branch of its own; then both are shuffled."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        half = outputs // 2
        if stride == 2:
            self.banch1 = nn.Sequential(
                *_conv_bn(inputs, inputs, 3, stride=2, groups=inputs, activation=None), *_conv_bn(inputs, half, 1)
            )
        entering = inputs if stride == 2 else half
        self.banch2 = nn.Sequential(
            *_conv_bn(entering, half, 1),
            *_conv_bn(half, half, 3, stride=stride, groups=half, activation=None),
            *_conv_bn(half, half, 1),
        )
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return shuffle(torch.cat((self.banch1(x), self.banch2(x)), dim=1), 2)
        by, through = x.chunk(2, dim=1)
        return shuffle(torch.cat((by, self.banch2(through)), dim=1), 2)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """(B, C, T, H, W) with the channels of the `groups` dealt out in turn: first of each, second of each, ..."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def _pooled(x: Tensor) -> Tensor:
    """Averages over two frames and 3 x 3 pixels with stride 2."""
    if x.shape[2] % 2:
        x = F.pad(x, (0, 0, 0, 0, 0, 1), mode="replicate")
    return F.avg_pool3d(x, (2, 3, 3), stride=2, padding=(0, 1, 1))


def _conv_bn(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int | tuple[int, int, int] = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    layers = [conv, nn.BatchNorm3d(outputs)]
    return nn.Sequential(*layers) if activation is None else nn.Sequential(*layers, activation(inplace=True))


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
