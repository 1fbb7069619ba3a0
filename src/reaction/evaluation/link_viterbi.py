"""Tubes as best paths: Gkioxari & Malik, "Finding Action Tubes", CVPR 2015, as wei-tim/YOWO links them.

https://arxiv.org/abs/1411.6031; `core/eval_results.py`. The best path through all frames of a video is sought and taken
out, three times over. It needs the whole video at once.

Choices and deviations:
- the paper's successors let a step count only between boxes that overlap; YOWO's code does not ask, nor is it here;
- in a video of one frame, where there are no steps, the code takes the first box and we the best one.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reaction.evaluation.boxes import iou
from reaction.evaluation.tubes import Path


def viterbi_paths(frame: ArrayLike, box: ArrayLike, score: ArrayLike, frames: int, *, paths: int = 3) -> list[Path]:
    """The best paths through all `frames` frames of a video, of one class: boxes (N, 4) and scores (N,) on frames (N,).

    A step between boxes with scores s and t is worth IoU + s + t + s t / 2. The boxes of the best path are taken out
    before the next one is sought, until a frame has none left. Frames without a box have those of the nearest frame
    that has, the earlier of two. A path spans the whole video, so that nothing is trimmed in time.
    """
    frame, box, score = np.asarray(frame, np.int64), np.asarray(box, np.float64), np.asarray(score, np.float64)
    if len(frame) and (frame.min() < 0 or frame.max() >= frames):
        raise ValueError(f"boxes lie on frames {frame.min()} to {frame.max()} of a video of {frames} frames")
    if not len(frame):
        return []
    own = np.unique(frame)
    nearest = own[np.abs(own[None] - np.arange(frames)[:, None]).argmin(axis=1)]  # (frames,)
    rows = [np.flatnonzero(frame == place) for place in nearest]
    found = []
    while len(found) < paths and all(map(len, rows)):
        steps = [_steps(box[a], score[a], box[b], score[b]) for a, b in pairwise(rows)]
        chosen = _best_path(steps) if steps else [int(score[rows[0]].argmax())]
        taken = np.array([own[place] for own, place in zip(rows, chosen, strict=True)])
        found.append(Path(0, box[taken], float(score[taken].mean())))
        rows = [np.delete(own, place) for own, place in zip(rows, chosen, strict=True)]
    return found


def _steps(box: NDArray, score: NDArray, next_box: NDArray, next_score: NDArray) -> NDArray:
    """What the step from each box to each of the next frame is worth: (n, m)."""
    s, t = score[:, None], next_score[None]
    return _each(box, next_box) + s + t + s * t / 2


def _each(first: NDArray, second: NDArray) -> NDArray:
    """Overlap (n, m) of each of (n, 4) with each of (m, 4)."""
    n, m = len(first), len(second)
    return iou(np.repeat(first, m, axis=0), np.tile(second, (n, 1))).reshape(n, m)


def _best_path(steps: Sequence[NDArray]) -> list[int]:
    """Which box to take on each frame so that the sum of the steps (n_i, n_i+1) is largest."""
    value, choices = np.zeros(steps[-1].shape[1]), []
    for step in reversed(steps):
        choices.append((step + value).argmax(axis=1))
        value = (step + value).max(axis=1)
    path = [int(value.argmax())]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path
