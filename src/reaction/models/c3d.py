"""3D-ConvNet: architecture (b) of "Quo Vadis, Action Recognition?", Carreira & Zisserman, CVPR 2017.

https://arxiv.org/abs/1705.07750

C3D (Tran et al., ICCV 2015, https://arxiv.org/abs/1412.0767) with batch normalisation after every convolution and both
hidden linear layers, and a first pooling that halves time too (section 2.2). Layers are named as there: conv1a to
conv5b, fc6, fc7. Made for 16 frames of 112 x 112 pixels; never pretrained on images.

Choices and deviations:
- the first pooling leaves one step of time of 16 frames before the last one, which therefore pools space only;
- linear layers have biases beside their normalisation, convolutions have none: 79,653,712 parameters at 400 classes,
  79 M in the paper;
- longer clips give one output for every 16 frames; their logits are averaged, as a test over a whole video does;
- another input is named by `image`, as many pixels as it has along each side: fc6 is made for it;
- any number of input channels, and a `width` that scales every other channel count;
- `dropout` 0.5 after both hidden layers, as in C3D; weights start as in Sonnet: see `inception_v1.initialise`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v1 import initialise
from reaction.models.inception_v3 import scaled

STAGES = {
    "conv1": {"a": 64},
    "conv2": {"a": 128},
    "conv3": {"a": 256, "b": 256},
    "conv4": {"a": 512, "b": 512},
    "conv5": {"a": 512, "b": 512},
}


class C3D(nn.Module):
    """C3D with batch normalisation for clips (B, C, T, `image`, `image`), normalised to [-1, 1]; 16 frames in training.

    `width` scales every channel count but the input's and the classes', rounded to a multiple of 8 and at least 8.
    Training needs two clips or more in a batch.
    """

    first_conv = "conv1a.conv.weight"
    last_layer = "fc8"

    def __init__(
        self, *, classes: int = 400, channels: int = 3, width: float = 1.0, dropout: float = 0.5, image: int = 112
    ) -> None:
        super().__init__()
        self.image = image
        inputs = channels
        for stage, layers in STAGES.items():
            for letter, count in layers.items():
                self.add_module(stage + letter, ConvBlock(inputs, scaled(count, width)))
                inputs = scaled(count, width)
        c4096 = scaled(4096, width)
        self.fc6 = nn.Linear(inputs * _cells(image) ** 2, c4096)
        self.fc6_bn = nn.BatchNorm1d(c4096)
        self.fc7 = nn.Linear(c4096, c4096)
        self.fc7_bn = nn.BatchNorm1d(c4096)
        self.fc8 = nn.Linear(c4096, classes)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of clips (B, C, T, H, W), averaged over time."""
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last pooling gives of clips (B, C, T, H, W): (B, 512, T / 16, 4, 4) from 112 x 112 pixels."""
        if x.shape[-2:] != (self.image, self.image):
            size = f"{x.shape[-1]} x {x.shape[-2]}"
            raise ValueError(f"this C3D was made for {self.image} x {self.image} pixels, got {size}; set its image")
        if x.is_cpu:  # 1.4 times as fast there
            x = x.contiguous(memory_format=torch.channels_last_3d)
        for stage, layers in STAGES.items():
            for letter in layers:
                x = self.get_submodule(stage + letter)(x)
            if stage != "conv5":
                x = F.max_pool3d(x, 2, stride=2, ceil_mode=True)  # at last (B, 512, 1, 7, 7) from 16 x 112 x 112
        return F.max_pool3d(x, (1, 2, 2), stride=(1, 2, 2), padding=(0, 1, 1))

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of what `features` gave, averaged over time."""
        x = features.transpose(1, 2)  # (B, T / 16, 512, 4, 4)
        times = x.shape[:2]
        x = x.flatten(0, 1).flatten(1)  # (B * T / 16, 8192)
        x = self.dropout(F.relu(self.fc6_bn(self.fc6(x)), inplace=True))  # (B * T / 16, 4096)
        x = self.dropout(F.relu(self.fc7_bn(self.fc7(x)), inplace=True))
        return self.fc8(x).unflatten(0, times).mean(dim=1)


class ConvBlock(nn.Module):
    """3x3x3 convolution without bias, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _cells(pixels: int) -> int:
    """Cells along a side after four halvings that round up and the last pooling, padded by one on both sides."""
    return -(-pixels // 16) // 2 + 1
