"""Two-Stream: architecture (c) of "Quo Vadis, Action Recognition?", Carreira & Zisserman, CVPR 2017.

https://arxiv.org/abs/1705.07750

Two Inception-V1 networks, one for a frame, one for a stack of ten flow fields; the prediction is the mean of both, and
both are trained end to end through it (section 2.3).

Choices: the mean is that of logits, as for Two-Stream I3D; `dropout` as in `inception_v1`. Each stream alone, a column
of the paper's table 2, is an ordinary Inception-V1.
"""

from typing import ClassVar

from torch import Tensor, nn

from reaction.models.inception_v1 import FIRST_CONV, InceptionV1

FLOW_CHANNELS = 20  # ten fields: x1, y1, x2, y2, ...


class TwoStream2D(nn.Module):
    """Two Inception-V1 networks for a frame and a stack of flow fields, both normalised to [-1, 1]."""

    first_convs: ClassVar = {"rgb": f"rgb.{FIRST_CONV}", "flow": f"flow.{FIRST_CONV}"}
    last_layers: ClassVar = {"rgb": "rgb.fc", "flow": "flow.fc"}

    def __init__(self, *, classes: int = 400, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        self.rgb = InceptionV1(classes=classes, width=width, dropout=dropout)
        self.flow = InceptionV1(classes=classes, channels=FLOW_CHANNELS, width=width, dropout=dropout)

    def forward(self, rgb: Tensor, flow: Tensor) -> Tensor:
        """Logits (B, classes) of frames (B, 3, H, W) and stacks of flow fields (B, 20, H, W)."""
        return (self.rgb(rgb) + self.flow(flow)) / 2
