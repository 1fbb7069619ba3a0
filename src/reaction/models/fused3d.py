"""3D-Fused: architecture (d) of "Quo Vadis, Action Recognition?", Carreira & Zisserman, CVPR 2017.

https://arxiv.org/abs/1705.07750

After "Convolutional Two-Stream Network Fusion" (Feichtenhofer et al., CVPR 2016, https://arxiv.org/abs/1604.06573), on
Inception-V1: five frames, ten apart, and the ten flow fields from each of them on. Before its last average pooling, the
features of both networks, 5 x 7 x 7 each, go through a 3x3x3 convolution of 512 channels, a 3x3x3 max-pooling and a
linear layer (section 2.3). The whole is trained end to end.

Choices and deviations:
- both networks' features are concatenated: only so there are 39 M parameters, 39,770,384 at 400 classes;
- the convolution has a bias and a ReLU but no batch normalisation, as in Feichtenhofer's; the new layers start from
  Gaussian noise, as the paper says, of deviation 0.01, which it does not say;
- the max-pooling has stride 2 and is padded by one, so that no grid is too small; what it leaves, 3 x 4 x 4, is
  averaged. Any number of positions will do: 25 in a test of the whole video;
- `dropout` 0.5 before the linear layer.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v1 import FIRST_CONV, InceptionV1Trunk
from reaction.models.inception_v3 import scaled
from reaction.models.two_stream_2d import FLOW_CHANNELS

FIELDS = FLOW_CHANNELS // 2  # flow fields at each position


class Fused3D(nn.Module):
    """Two Inception-V1 networks fused over space and time, for frames and flow normalised to [-1, 1].

    `width` scales every channel count but the inputs' and the classes', rounded to a multiple of 8 and at least 8.
    """

    first_convs: ClassVar = {"rgb": f"rgb.{FIRST_CONV}", "flow": f"flow.{FIRST_CONV}"}
    last_layer = "fc"

    def __init__(self, *, classes: int = 400, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        c512 = scaled(512, width)
        self.rgb = InceptionV1Trunk(width=width)
        self.flow = InceptionV1Trunk(channels=FLOW_CHANNELS, width=width)
        self.fuse = nn.Conv3d(self.rgb.outputs + self.flow.outputs, c512, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c512, classes)
        for layer in (self.fuse, self.fc):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """Logits (B, classes) of frames (B, 3, S, H, W) and the ten flow fields from each on (B, 2, S * 10, H, W)."""
        return self.classify(self.features(rgb, flow))

    def features(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """Both networks' features at each position: (B, 2048, S, h, w)."""
        positions = rgb.shape[2]
        if flow.shape[2] != positions * FIELDS:
            fields = f"{positions} x {FIELDS} flow fields"
            raise ValueError(f"3D-Fused needs {fields} with {positions} frames, got {flow.shape[2]}")
        stacks = flow.unflatten(2, (positions, FIELDS)).permute(0, 2, 3, 1, 4, 5)  # (B, S, 10, 2, H, W)
        appearance = self.rgb.features(rgb.transpose(1, 2).flatten(0, 1))  # (B * S, 1024, h, w)
        motion = self.flow.features(stacks.flatten(2, 3).flatten(0, 1))  # of (B * S, 20, H, W)
        both = torch.cat((appearance, motion), dim=1)
        return both.unflatten(0, (len(rgb), positions)).transpose(1, 2)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of what `features` gave."""
        x = F.relu(self.fuse(features), inplace=True)  # (B, 512, S, 7, 7)
        x = F.max_pool3d(x, 3, stride=2, padding=1)  # (B, 512, 3, 4, 4) of five positions
        return self.fc(self.dropout(x.mean((2, 3, 4))))
