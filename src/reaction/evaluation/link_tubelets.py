"""Tubes that grow by tubelets: Kalogeiton et al., "Action Tubelet Detector" (ACT), ICCV 2017.

https://arxiv.org/abs/1705.01861; followed as MOC-Detector's `ACT_utils/ACT_build.py` and MultiSports' `link_tubes` have
it. Frame after frame, every tube takes the best tubelet that overlaps its last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.boxes import iou
from reaction.evaluation.tubes import Path


def link_tubelets(
    start: NDArray,
    tubelet: NDArray,
    score: NDArray,
    frames: int,
    *,
    edge: float = 1.0,
    suppression: float = 0.6,
    best: int = 10,
    overlap: float = 0.5,
    least_score: float = 0.005,
    least_frames: int = 15,
) -> list[Path]:
    """Paths of one class from tubelets (N, K, 4) that begin on frames (N,) and have one score (N,) each.

    On every frame the `best` tubelets after soft suppression extend paths, the best path first (mean score), each by
    the best-scored tubelet that overlaps its last one by `overlap` on the frames both cover, or the last box where
    there are none. A path ends K frames after it was last extended; what is left begins paths. Boxes of one frame are
    averaged. Paths that are weak or short are dropped.

    ACT and MOC have K = 7, UCF101-24 and J-HMDB; `edge` is their pixel. MultiSports has K = 1 and no pixel here (`edge`
    0), where a path ends on the first frame that does not extend it.
    """
    length = tubelet.shape[1]
    growing: list[list[_Tubelet]] = []
    ended: list[list[_Tubelet]] = []
    for frame in range(frames - length + 1):
        own = np.flatnonzero(start == frame)
        boxes, scores = _soft_best(tubelet[own], score[own], suppression, best)
        free = np.ones(len(boxes), bool)
        growing.sort(key=lambda path: -_mean_score(path))
        still = []
        for path in growing:
            close = free & (_overlaps(path[-1], boxes, frame, edge) >= overlap)
            if close.any():
                first = int(close.argmax())  # the best-scored
                path.append(_Tubelet(frame, boxes[first], float(scores[first])))
                free[first] = False
            finished = not close.any() and frame - path[-1].start >= length
            (ended if finished else still).append(path)
        growing = still + [[_Tubelet(frame, boxes[i], float(scores[i]))] for i in np.flatnonzero(free)]
    long = [path for path in ended + growing if path[-1].start + length - path[0].start >= least_frames]
    return [_averaged(path, length) for path in long if _mean_score(path) >= least_score]


@dataclass(frozen=True)
class _Tubelet:
    start: int
    box: NDArray  # (K, 4)
    score: float


def _mean_score(path: Sequence[_Tubelet]) -> float:
    return sum(one.score for one in path) / len(path)


def _soft_best(tubelet: NDArray, score: NDArray, threshold: float, best: int) -> tuple[NDArray, NDArray]:
    """The best tubelets (n, K, 4) with their scores (n,), after suppression, best first.

    As the source has it: one that overlaps a better one by more than the threshold (mean over the K frames, with the
    extra pixel) is not removed, but its score is multiplied, once, by 1 minus the *sum* of its K overlaps, which is
    negative for most K above 1, and it suppresses no other.
    """
    score, left, length = score.astype(np.float64), np.argsort(-score, kind="stable"), tubelet.shape[1]
    while len(left) > 1:
        first, left = left[0], left[1:]
        sums = _iou_with(tubelet[first], tubelet[left], 1.0).sum(axis=1)
        hidden = sums > threshold * length
        score[left[hidden]] *= 1 - sums[hidden]
        left = left[~hidden]
    order = np.argsort(-score, kind="stable")[:best]
    return tubelet[order], score[order]


def _overlaps(last: _Tubelet, boxes: NDArray, frame: int, edge: float) -> NDArray:
    """How much each tubelet (n, K, 4) that begins on `frame` overlaps a path's last one: (n,)."""
    gone = frame - last.start
    common = max(len(last.box) - gone, 0)
    if not common:
        return _iou_with(last.box[-1:], boxes[:, :1], edge)[:, 0]
    return _iou_with(last.box[gone:], boxes[:, :common], edge).mean(axis=1)


def _iou_with(one: NDArray, many: NDArray, edge: float) -> NDArray:
    """Overlap (n, k) of the boxes (k, 4) with each of (n, k, 4), frame by frame."""
    return iou(np.tile(one, (len(many), 1)), many.reshape(-1, 4), edge).reshape(len(many), len(one))


def _averaged(path: Sequence[_Tubelet], length: int) -> Path:
    first = path[0].start
    frames = path[-1].start + length - first
    box, count = np.zeros((frames, 4)), np.zeros((frames, 1))
    for one in path:
        place = slice(one.start - first, one.start - first + length)
        box[place] += one.box
        count[place] += 1
    return Path(first, box / count, _mean_score(path))
