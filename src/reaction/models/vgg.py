"""VGG-16: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.

https://arxiv.org/abs/1409.1556

Configuration D. Layer sizes, module names and initialisation follow pytorch/vision `torchvision/models/vgg.py` (vgg16,
without batch normalisation), so its files load without renaming.

Choices and deviations:
- any number of input channels, and a `width` that scales every other channel count but the classes';
- inputs of another size than 224 pixels are averaged, or repeated, onto the 7 x 7 cells that the first linear layer
  sees, as torchvision does; at 224 pixels nothing is;
- dropout follows both hidden linear layers, 0.5; a two-stream recipe takes 0.8 (feichtenhofer/twostreamfusion).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a 2x2 pooling ends each
CELLS = 7  # along each side of the last pooling at 224 pixels
SMALLEST_INPUT = 2 ** len(STAGES)


class VGG16(nn.Module):
    """VGG-16 for images of any channel count, made for 224 x 224 pixels, at least 32 x 32."""

    first_conv = "features.0.weight"
    last_layer = "classifier.6"
    # What torchvision's ImageNet weights were trained on, for R, G, B from 0 to 255.
    input_bgr, input_mean, input_std = False, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, *, classes: int = 1000, channels: int = 3, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        c512, c4096 = scaled(512, width), scaled(4096, width)
        self.features = nn.Sequential(*_convolutions(channels, width))
        self.classifier = nn.Sequential(
            nn.Linear(c512 * CELLS * CELLS, c4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(c4096, c4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(c4096, classes),
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        if min(x.shape[-2:]) < SMALLEST_INPUT:
            size = f"{x.shape[-1]} x {x.shape[-2]}"
            raise ValueError(f"VGG-16 needs at least {SMALLEST_INPUT} x {SMALLEST_INPUT} pixels, got {size}")
        x = x.contiguous(memory_format=torch.channels_last)  # 1.15 times as fast on a CPU
        return self.classify(self.features(x))  # (B, 512, 7, 7) from 224 x 224

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of what `features` gave."""
        if features.shape[-2:] != (CELLS, CELLS):
            features = F.adaptive_avg_pool2d(features, CELLS)
        return self.classifier(features.flatten(1))


def _convolutions(inputs: int, width: float) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for stage in STAGES:
        for count in stage:
            outputs = scaled(count, width)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, stride=2))
    return layers


def _initialise(model: VGG16) -> None:
    """Normal weights, as torchvision's: of deviation root of 2 / fan-out in convolutions, 0.01 in linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
