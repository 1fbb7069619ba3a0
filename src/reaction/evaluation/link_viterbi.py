"""Tubes as best paths: Gkioxari & Malik, "Finding Action Tubes", CVPR 2015, as wei-tim/YOWO links them.

https://arxiv.org/abs/1411.6031; `core/eval_results.py`. The best path through all frames of a video is sought and taken
out, three times over. It needs the whole video at once.

Choices and deviations:
- the paper's successors let a step count only between boxes that overlap; YOWO's code does not ask, nor is it here;
- in a video of one frame, where there are no steps, the code takes the first box and we the best one.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reaction.evaluation.boxes import CHUNK, iou
from reaction.evaluation.tubes import Path


def viterbi_paths(frame: ArrayLike, box: ArrayLike, score: ArrayLike, frames: int, *, paths: int = 3) -> list[Path]:
    """The best paths through all `frames` frames of a video, of one class: boxes (N, 4) and scores (N,) on frames (N,).

    A step between boxes with scores s and t is worth IoU + s + t + s t / 2. The boxes of the best path are taken out
    before the next one is sought, until a frame has none left. Frames without a box have those of the nearest frame
    that has, the earlier of two. A path spans the whole video, so that nothing is trimmed in time.
    """
    return viterbi_class_paths(frame, box, np.asarray(score)[:, None], frames, paths=paths)[0]


def viterbi_class_paths(
    frame: ArrayLike, box: ArrayLike, score: ArrayLike, frames: int, *, paths: int = 3
) -> list[list[Path]]:
    """As `viterbi_paths`, of each of C classes, which share their boxes and have scores (N, C) of their own."""
    frame, box, score = np.asarray(frame, np.int64), np.asarray(box, np.float64), np.asarray(score, np.float64)
    if len(frame) and (frame.min() < 0 or frame.max() >= frames):
        raise ValueError(f"boxes lie on frames {frame.min()} to {frame.max()} of a video of {frames} frames")
    found: list[list[Path]] = [[] for _ in range(score.shape[1])]
    if not len(frame):
        return found
    rows, there = _rows_of_frames(frame, frames)
    boxes, scores = box[rows], score[rows].transpose(2, 0, 1)  # (T, M, 4), (C, T, M)
    left = np.tile(np.where(there, 0.0, -np.inf), (len(scores), 1, 1))  # (C, T, M): what a box that is gone costs
    each, along = np.arange(len(scores))[:, None], np.arange(frames)
    for _ in range(min(paths, there.sum(axis=1).min())):
        chosen = _best_paths(boxes, scores, left)  # (C, T)
        left[each, along, chosen] = -np.inf
        taken = rows[along, chosen]
        for label, own in enumerate(taken):
            found[label].append(Path(0, box[own], float(score[own, label].mean())))
    return found


def _rows_of_frames(frame: NDArray, frames: int) -> tuple[NDArray, NDArray]:
    """The rows of each frame's boxes, or of the nearest frame's that has some, and which are there: both (T, M)."""
    own = np.unique(frame)
    nearest = own[np.abs(own[None] - np.arange(frames)[:, None]).argmin(axis=1)]  # (T,)
    rows = {place: np.flatnonzero(frame == place) for place in own.tolist()}
    widest = max(map(len, rows.values()))
    padded = {place: np.pad(some, (0, widest - len(some)), constant_values=-1) for place, some in rows.items()}
    table = np.stack([padded[place] for place in nearest.tolist()])
    return table, table >= 0


def _overlaps(box: NDArray) -> Iterator[NDArray]:
    """Of boxes (T, M, 4) the overlap of each with each of the next frame's, (M, M), the last two frames first.

    Some frames at a time, for memory's sake, and made anew for each path: it costs little beside the steps of a class.
    """
    frames, widest, _ = box.shape
    size = max(1, CHUNK // widest**2)
    for end in range(frames - 1, 0, -size):
        here, there = (box[max(0, end - size) + later : end + later] for later in (0, 1))
        shape = (len(here), widest, widest)
        pairs = (np.broadcast_to(one, (*shape, 4)).reshape(-1, 4) for one in (here[:, :, None], there[:, None]))
        yield from iou(*pairs).reshape(shape)[::-1]


def _best_paths(box: NDArray, score: NDArray, left: NDArray) -> NDArray[np.int64]:
    """Which box each class takes on each frame so that the sum of its steps is largest: (C, T)."""
    classes, frames, _ = score.shape
    value, choices = left[:, -1] + (score[:, 0] if frames == 1 else 0), []
    for t, overlap in zip(range(frames - 2, -1, -1), _overlaps(box), strict=True):
        here, there = score[:, t, :, None], score[:, t + 1, None, :]
        total = overlap + here + there + here * there / 2 + value[:, None]  # (C, M, M)
        choices.append(total.argmax(axis=2))
        value = total.max(axis=2) + left[:, t]
    path = [value.argmax(axis=1)]
    for choice in reversed(choices):
        path.append(choice[np.arange(classes), path[-1]])
    return np.stack(path, axis=1)
