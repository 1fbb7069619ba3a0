"""Overlaps of boxes, intersection over union and its generalisation: Rezatofighi et al., CVPR 2019.

https://arxiv.org/abs/1902.09630. GIoU = IoU - |hull \\ union| / |hull|, in (-1, 1], where the hull is the smallest box
around both; unlike IoU it tells how far boxes that do not meet are apart.

Choices: boxes without an area overlap nothing, also not themselves, and give numbers and gradients that are finite.
"""

import torch
from torch import Tensor


def areas(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), never negative."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that belong together, shapes broadcast; 0 where both are empty."""
    shared, union = _shared_and_union(first, second)
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of boxes (..., 4) that belong together, shapes broadcast; a loss is 1 - giou."""
    shared, union = _shared_and_union(first, second)
    hull = areas(
        torch.cat([torch.minimum(*_corners(first, second, 0)), torch.maximum(*_corners(first, second, 2))], -1)
    )
    tiny = torch.finfo(union.dtype).tiny
    return shared / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every one of (N, 4) with every one of (M, 4): (N, M)."""
    return iou(first[:, None], second[None])


def pairwise_giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of every one of (N, 4) with every one of (M, 4): (N, M)."""
    return giou(first[:, None], second[None])


def _shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    corners = [torch.maximum(*_corners(first, second, 0)), torch.minimum(*_corners(first, second, 2))]
    shared = areas(torch.cat(corners, -1))
    return shared, areas(first) + areas(second) - shared


def _corners(first: Tensor, second: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The upper left (0) or lower right (2) corners of both, of one shape."""
    return torch.broadcast_tensors(first[..., start : start + 2], second[..., start : start + 2])
