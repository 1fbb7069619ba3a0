"""Overlaps of boxes, intersection over union and its generalisation: Rezatofighi et al., CVPR 2019.

https://arxiv.org/abs/1902.09630. GIoU = IoU - |hull \\ union| / |hull|, in (-1, 1], where the hull is the smallest box
around both; unlike IoU it tells how far boxes that do not meet are apart.

Choices: boxes without an area overlap nothing, also not themselves, and give numbers and gradients that are finite.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def areas(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), never negative."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that belong together, shapes broadcast; 0 where both are empty."""
    shared = _area_between(first, second, torch.maximum, torch.minimum)
    union = areas(first) + areas(second) - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of boxes (..., 4) that belong together, shapes broadcast; a loss is 1 - giou."""
    shared = _area_between(first, second, torch.maximum, torch.minimum)
    hull = _area_between(first, second, torch.minimum, torch.maximum)
    union, tiny = areas(first) + areas(second) - shared, torch.finfo(shared.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every one of (N, 4) with every one of (M, 4): (N, M)."""
    return iou(first[:, None], second[None])


def pairwise_giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of every one of (N, 4) with every one of (M, 4): (N, M)."""
    return giou(first[:, None], second[None])


def _area_between(first: Tensor, second: Tensor, low: Callable, high: Callable) -> Tensor:
    """The area (...) of the box from the `low` of the upper left corners to the `high` of the lower right ones."""
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = first.unbind(-1), second.unbind(-1)
    width, height = high(ax2, bx2) - low(ax1, bx1), high(ay2, by2) - low(ay1, by1)
    return width.clamp(min=0) * height.clamp(min=0)
