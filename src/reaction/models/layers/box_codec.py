"""Boxes as offsets from others: R-CNN's code (Girshick et al., CVPR 2014, appendix C; Ren et al., NIPS 2015).

https://arxiv.org/abs/1311.2524, https://arxiv.org/abs/1506.01497. A box is coded by how far its centre lies from the
anchor's, in the anchor's widths and heights, and by the logarithms of how much wider and higher it is, each times a
weight: 10, 10, 5, 5 in Fast R-CNN's second stage, 2, 2, 1, 1 in Sparse R-CNN, 1 in a region proposal network.

Choice: logarithms are cut at log(1000 / 16) before they are raised, as Detectron does; Sparse R-CNN has 1e5 / 16.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def to_centre(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 to centre x, centre y, width, height: (..., 4)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def to_corners(boxes: Tensor) -> Tensor:
    """Centre x, centre y, width, height to x1, y1, x2, y2: (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True)
class BoxCodec:
    """R-CNN's code with a weight for each of x, y, width and height."""

    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    largest_log: float = math.log(1000 / 16)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Offsets (..., 4) that lead from anchors (..., 4) to boxes (..., 4); all must have an area."""
        box, anchor = to_centre(boxes), to_centre(anchors)
        moves = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
        logs = torch.log(box[..., 2:] / anchor[..., 2:])
        return torch.cat([moves, logs], -1) * boxes.new_tensor(self.weights)

    def decode(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """The boxes (..., 4) that offsets (..., 4) mean at anchors (..., 4)."""
        offsets, anchor = offsets / offsets.new_tensor(self.weights), to_centre(anchors)
        centre = anchor[..., :2] + offsets[..., :2] * anchor[..., 2:]
        extent = anchor[..., 2:] * offsets[..., 2:].clamp(max=self.largest_log).exp()
        return to_corners(torch.cat([centre, extent], -1))
