"""Anchors: the k shapes that annotated boxes are most like, after YOLOv2 (Redmon & Farhadi, CVPR 2017, section 2).

https://arxiv.org/abs/1612.08242

k-means whose distance is 1 - IoU of two boxes with one corner in common, so that large boxes count no more than small
ones. YOWO has five anchors per dataset, in cells of 32 pixels of a 224 x 224 image (`reaction.models.yowo.ANCHORS`).

Choices: centres start as the means of k equal parts of the boxes by area instead of k random boxes, so that the same
boxes give the same anchors; a centre moves to the mean of its boxes, and one without boxes stays where it is.
"""

from collections.abc import Iterable

import numpy as np

from reaction.data.boxes import Boxes

CELLS = 7


def sides_in_cells(annotated: Iterable[tuple[Boxes, int, int]]) -> np.ndarray:
    """Widths and heights (N, 2) in cells, 7 to a side, from (boxes, frame width, frame height) of each video."""
    sides = [(one.box[:, 2:] - one.box[:, :2]) / (width, height) * CELLS for one, width, height in annotated]
    return np.concatenate([np.empty((0, 2)), *sides])


def cluster(sides: np.ndarray, k: int = 5, *, rounds: int = 1000) -> np.ndarray:
    """Anchors (k, 2), width and height, from narrow to wide, for boxes of these `sides` (N, 2), N >= k."""
    if len(sides) < k:
        raise ValueError(f"{len(sides)} boxes are too few for {k} anchors")
    order = np.argsort(sides.prod(axis=1), kind="stable")
    centres = np.stack([part.mean(axis=0) for part in np.array_split(sides[order], k)])
    nearest = np.full(len(sides), -1)
    for _ in range(rounds):
        before, nearest = nearest, overlaps(sides, centres).argmax(axis=1)
        if np.array_equal(before, nearest):
            break
        for n in np.unique(nearest):
            centres[n] = sides[nearest == n].mean(axis=0)
    return centres[np.lexsort(centres.T[::-1])]


def overlaps(sides: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Intersection over union (N, k) of boxes (N, 2) and anchors (k, 2) with one corner in common."""
    (w, h), (aw, ah) = sides.T[..., None], anchors.T  # (N, 1) and (k,)
    shared = np.minimum(w, aw) * np.minimum(h, ah)
    return shared / (w * h + aw * ah - shared)


def mean_overlap(sides: np.ndarray, anchors: np.ndarray) -> float:
    """How well the anchors fit: the mean over boxes of the overlap with the best one."""
    return float(overlaps(sides, anchors).max(axis=1).mean())
