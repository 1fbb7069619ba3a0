"""3D ResNet and ResNeXt: Hara et al., "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs?", CVPR 2018.

https://arxiv.org/abs/1711.09577

Tensors are called as in kenshohara/3D-ResNets-PyTorch `models/resnet.py` and `resnext.py`, so its files load without
renaming but for `module.` in front. YOWO takes the features of `layer4`, without pooling or classifier.

Choices and deviations:
- no `fc`: the networks here are trunks;
- `width` scales every channel count; in ResNeXt the number of groups, whose width stays the paper's 4 to 32;
- shortcuts of type A, which skip positions and fill up with zero channels, pass their gradient on; the public code
  detaches them, so that its ResNet-18 learns nothing through them.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled

RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BASIC = (18, 34)
CARDINALITY = 32


class Trunk(nn.Module):
    """What 3D ResNet and ResNeXt share: clips (B, 3, T, H, W) to (B, `outputs`, T / 16, H / 32, W / 32), rounded up."""

    outputs: int

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 64, T, H / 2, W / 2)
        x = F.max_pool3d(x, 3, stride=2, padding=1)  # (B, 64, T / 2, H / 4, W / 4)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def _add_stem(self, outputs: int) -> None:
        self.conv1 = nn.Conv3d(3, outputs, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


class ResNet3D(Trunk):
    """`depth` is 18, 34, 50 or 101; `shortcut` "A" (no parameters) or "B" (a 1x1x1 convolution) where shapes change."""

    def __init__(self, *, depth: int = 50, shortcut: str = "B", width: float = 1.0) -> None:
        super().__init__()
        if depth not in RESNETS or shortcut not in ("A", "B"):
            raise ValueError(f"depth is one of {list(RESNETS)} and shortcut A or B, not {depth} and {shortcut!r}")
        block = BasicBlock if depth in BASIC else Bottleneck
        inputs = scaled(64, width)
        self._add_stem(inputs)
        for n, blocks in enumerate(RESNETS[depth], start=1):
            middle = scaled(32 * 2**n, width)
            outputs = middle * block.expansion
            stage = [block(inputs, middle, outputs, stride=1 if n == 1 else 2, shortcut=shortcut)]
            stage += [block(outputs, middle, outputs) for _ in range(blocks - 1)]
            self.add_module(f"layer{n}", nn.Sequential(*stage))
            inputs = outputs
        self.outputs = inputs
        self._initialise()


class ResNeXt3D(Trunk):
    """ResNeXt-101: 32 groups, 2048 channels of output."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        groups = max(1, round(CARDINALITY * width))
        inputs = scaled(64, width)
        self._add_stem(inputs)
        for n, blocks in enumerate(RESNETS[101], start=1):
            middle, outputs = groups * 2 ** (n + 1), scaled(128 * 2**n, width)
            stage = [Bottleneck(inputs, middle, outputs, stride=1 if n == 1 else 2, groups=groups)]
            stage += [Bottleneck(outputs, middle, outputs, groups=groups) for _ in range(blocks - 1)]
            self.add_module(f"layer{n}", nn.Sequential(*stage))
            inputs = outputs
        self.outputs = inputs
        self._initialise()


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, middle: int, outputs: int, *, stride: int = 1, shortcut: str = "B") -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, middle, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = nn.Conv3d(middle, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 in `groups`, 1x1x1 beside a shortcut; the stride is in the middle one."""

    expansion = 4

    def __init__(
        self, inputs: int, middle: int, outputs: int, *, stride: int = 1, groups: int = 1, shortcut: str = "B"
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(middle)
        self.conv2 = nn.Conv3d(middle, middle, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(middle)
        self.conv3 = nn.Conv3d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ZeroFilled(nn.Module):
    """Shortcut A: every `stride`-th position, and `more` channels of zeros behind those there are."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, 0, 0, self.more))


def _shortcut(inputs: int, outputs: int, stride: int, kind: str) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "A":
        return ZeroFilled(outputs - inputs, stride)
    return nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm3d(outputs))
