"""Boxes that are evaluated: what was annotated, what was detected, how much they overlap, who is whose.

Numbers are evaluated as a protocol's own files have them, so that its published figures can be met. Ours are half-open;
ACT's annotations count the last column and row a box covers: `inclusive` says it their way.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK = 1 << 18  # boxes compared at a time, for memory's sake


@dataclass(frozen=True)
class Truth:
    """Annotated boxes: video, frame and label int64 (N,), box (N, 4) as x1, y1, x2, y2. Bad rows raise ValueError."""

    video: NDArray
    frame: NDArray
    box: NDArray
    label: NDArray

    def __post_init__(self) -> None:
        check_boxes(self.box, video=self.video, frame=self.frame, label=self.label)

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, chosen: NDArray) -> "Truth":
        return Truth(self.video[chosen], self.frame[chosen], self.box[chosen], self.label[chosen])


@dataclass(frozen=True)
class Detections:
    """Detected boxes, each of one class: as `Truth`, with score (N,), higher is surer."""

    video: NDArray
    frame: NDArray
    box: NDArray
    label: NDArray
    score: NDArray

    def __post_init__(self) -> None:
        check_boxes(self.box, video=self.video, frame=self.frame, label=self.label, score=self.score)
        if np.isnan(self.score).any():
            raise ValueError(f"box {int(np.isnan(self.score).argmax())} has the score NaN, which ranks nowhere")

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, chosen: NDArray) -> "Detections":
        columns = (self.video, self.frame, self.box, self.label, self.score)
        return Detections(*(column[chosen] for column in columns))

    def of_class(self, label: int) -> "Detections":
        """Those of one class."""
        return self[self.label == label]


def check_boxes(box: NDArray, **columns: NDArray) -> None:
    """Raise ValueError, naming the first bad row, unless columns are equally long, numbers finite, corners in order."""
    if box.ndim != 2 or box.shape[1] != 4:
        raise ValueError(f"boxes have the shape {box.shape}: give (N, 4), x1, y1, x2, y2")
    for name, column in columns.items():
        if len(column) != len(box):
            raise ValueError(f"{len(box)} boxes but {len(column)} values of `{name}`: give one for each box")
    bad = ~np.isfinite(box).all(axis=1) | (box[:, 2:] < box[:, :2]).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"box {row} is {box[row].tolist()}: x1 <= x2 and y1 <= y2 are needed, all finite")


def check_labels(classes: int, *labels: NDArray) -> None:
    """Raise ValueError unless all labels are in [0, classes): counted from 1 they would make figures low, or 0."""
    for each in labels:
        if len(each) and (each.min() < 0 or each.max() >= classes):
            raise ValueError(f"labels go from {each.min()} to {each.max()}; {classes} classes are counted from 0")


def inclusive(box: NDArray) -> NDArray:
    """Our half-open boxes (N, 4) as x1, y1 and the last column and row they cover."""
    return np.asarray(box) - np.array([0, 0, 1, 1], np.asarray(box).dtype)


def as_counted(box: NDArray, edge: float) -> NDArray:
    """Our half-open boxes (N, 4) in the numbers of a protocol that adds `edge` to widths and heights.

    One that adds a pixel means the first and last columns by its numbers, one that adds nothing means edges. So either
    way widths are what they are, and a box thinner than a pixel has one.
    """
    return np.concatenate([box[:, :2], np.maximum(box[:, :2], inclusive(box)[:, 2:])], axis=1) if edge else box


def frame_ids(video: ArrayLike, frame: ArrayLike) -> NDArray[np.int64]:
    """One number (N,) for each frame of each video; both count from 0 or above, frames below 2^32."""
    video, frame = np.asarray(video, np.int64), np.asarray(frame, np.int64)
    if (frame >> 32).any() or (video < 0).any():
        raise ValueError("videos and frames are counted from 0, frames up to 2^32 - 1")
    return (video << 32) | frame


def places(*columns: NDArray) -> tuple[NDArray[np.int64], ...]:
    """The place of each number of each column among all their sorted, distinct numbers."""
    _, inverse = np.unique(np.concatenate(columns), return_inverse=True)
    return tuple(np.split(inverse, np.cumsum([len(column) for column in columns])[:-1]))


def place_in_run(keys: NDArray) -> NDArray[np.int64]:
    """For sorted keys (N,), how many of the same came before each."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
    return np.arange(len(keys)) - np.repeat(starts, np.diff(np.r_[starts, len(keys)]))


def iou(first: NDArray, second: NDArray, edge: float = 0.0) -> NDArray:
    """Overlap (N,) of boxes (N, 4) that belong together; `edge` is added to every width and height."""
    width = np.minimum(first[:, 2], second[:, 2]) - np.maximum(first[:, 0], second[:, 0]) + edge
    height = np.minimum(first[:, 3], second[:, 3]) - np.maximum(first[:, 1], second[:, 1]) + edge
    shared = np.multiply(np.maximum(width, 0), np.maximum(height, 0), dtype=np.float64)  # as numpy-based sources do
    union = area(first, edge) + area(second, edge) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def area(box: NDArray, edge: float = 0.0) -> NDArray:
    """Areas (N,) of boxes (N, 4)."""
    return (box[:, 2] - box[:, 0] + edge) * (box[:, 3] - box[:, 1] + edge)


@dataclass(frozen=True)
class Pairs:
    """Detections and truths that overlap: positions int64 (P,) of both, and how much (P,)."""

    detection: NDArray
    truth: NDArray
    overlap: NDArray

    def __getitem__(self, chosen: NDArray | slice) -> "Pairs":
        return Pairs(self.detection[chosen], self.truth[chosen], self.overlap[chosen])

    def __len__(self) -> int:
        return len(self.overlap)


def overlapping(
    detections: tuple[NDArray, NDArray], truths: tuple[NDArray, NDArray], *, least: float, edge: float = 0.0
) -> Pairs:
    """All pairs of one key that overlap by `least` or more, from the keys (N,) and boxes (N, 4) of both."""
    (keys, boxes), (true_keys, true_boxes) = detections, truths
    order = np.argsort(true_keys, kind="stable")
    sorted_keys = true_keys[order]
    found = []
    for start in range(0, len(keys), CHUNK):
        own, other = same_keys(keys[start : start + CHUNK], sorted_keys)
        own, other = own + start, order[other]
        overlap = iou(boxes[own], true_boxes[other], edge)
        close = overlap >= least
        found.append(Pairs(own[close], other[close], overlap[close]))
    if not found:
        none = np.empty(0, np.int64)
        return Pairs(none, none, np.empty(0))
    columns = ("detection", "truth", "overlap")
    return Pairs(*(np.concatenate([getattr(one, column) for one in found]) for column in columns))


def same_keys(keys: NDArray, sorted_keys: NDArray) -> tuple[NDArray, NDArray]:
    """Positions (P,) in keys (N,) and in sorted keys (M,) of every two that are equal."""
    left, right = np.searchsorted(sorted_keys, keys, "left"), np.searchsorted(sorted_keys, keys, "right")
    counts = right - left
    own = np.repeat(np.arange(len(keys)), counts)
    ends = np.cumsum(counts)
    return own, np.arange(len(own)) - np.repeat(ends - counts - left, counts)


def claim(
    pairs: Pairs, rank: NDArray, group: NDArray, *, second_choice: bool, last: NDArray | None = None
) -> tuple[NDArray, NDArray]:
    """Which detections get which truth: positions (H,) in both.

    In order of `rank` (P,), least first, each pair's detection asks for the truth it overlaps most; a truth goes to the
    first who asks. With `second_choice` the others ask for what is left (matched truths are deleted); without, they get
    nothing (PASCAL VOC: matched truths are flagged). `group` (P,) tells apart what never meets. Of equal ranks the
    larger overlap is first, so that order does not matter. Truths for which `last` (P,) is set are asked for last.
    """
    last = np.zeros(len(pairs), bool) if last is None else last
    order = np.lexsort((pairs.truth, -pairs.overlap, last, pairs.detection))
    if not second_choice:
        order = order[np.unique(pairs.detection[order], return_index=True)[1]]
    order = order[np.lexsort((pairs.truth[order], -pairs.overlap[order], last[order], rank[order], group[order]))]
    pairs, group = pairs[order], group[order]
    taken = [pairs[:0]]
    while len(pairs):
        taken.append(pairs[np.r_[True, group[1:] != group[:-1]]])  # the first of each group gets its wish
        left = ~np.isin(pairs.detection, taken[-1].detection) & ~np.isin(pairs.truth, taken[-1].truth)
        pairs, group = pairs[left], group[left]
    return np.concatenate([one.detection for one in taken]), np.concatenate([one.truth for one in taken])
