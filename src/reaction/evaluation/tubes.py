"""Tubes: an actor's boxes over consecutive frames, and how much two of them overlap in space and time.

Boxes of frames are linked into tubes by one of `link_viterbi`, `link_tubelets` and `link_online`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.boxes import iou


@dataclass(frozen=True)
class Tube:
    """One actor of one class: box (n, 4) on the frames start, start + 1, ... of a video; score, higher is surer."""

    video: int
    label: int
    start: int
    box: NDArray
    score: float = 1.0

    def __post_init__(self) -> None:
        if self.box.ndim != 2 or self.box.shape[1] != 4 or not len(self.box):
            raise ValueError(f"a tube of video {self.video} has boxes of shape {self.box.shape}: give (n, 4), n > 0")

    @property
    def end(self) -> int:
        """The first frame after it."""
        return self.start + len(self.box)


def tube_of(video: int, label: int, frame: NDArray, box: NDArray, score: float = 1.0) -> Tube:
    """A tube from frames (n,) in any order and their boxes (n, 4). Raises ValueError where a frame is missing."""
    order = np.argsort(frame, kind="stable")
    frame = np.asarray(frame)[order]
    gaps = np.flatnonzero(np.diff(frame) != 1)
    if len(gaps):
        raise ValueError(
            f"video {video}: a tube goes from frame {frame[gaps[0]]} to {frame[gaps[0] + 1]}; split it there"
        )
    return Tube(video, label, int(frame[0]), np.asarray(box)[order], score)


@dataclass(frozen=True)
class TubeOverlap:
    """How a protocol compares tubes: the mean overlap of boxes on common frames times the overlap in time.

    edge: added to widths and heights. least_frames: with fewer in common the overlap is 0. counts_ends: frames in
    common and together are counted; without, they are last minus first, one less each.
    """

    edge: float = 0.0
    least_frames: int = 1
    counts_ends: bool = True

    def __call__(self, first: Tube, second: Tube) -> float:
        start, end = max(first.start, second.start), min(first.end, second.end)
        less = int(not self.counts_ends)
        common, together = end - start - less, max(first.end, second.end) - min(first.start, second.start) - less
        if end - start < self.least_frames or together <= 0:
            return 0.0
        boxes = (np.asarray(one.box[start - one.start : end - one.start], np.float64) for one in (first, second))
        return float(iou(*boxes, self.edge).mean() * common / together)


def suppress_tubes(tubes: Sequence[Tube], overlap: TubeOverlap, threshold: float) -> list[Tube]:
    """The tubes that overlap no better one that stays by more than `threshold`, best first."""
    kept: list[Tube] = []
    for tube in sorted(tubes, key=lambda one: -one.score):
        if all(overlap(tube, other) <= threshold for other in kept):
            kept.append(tube)
    return kept


@dataclass(frozen=True)
class Path:
    """Linked boxes (n, 4) of one class on frames start, start + 1, ..., and how sure they are together."""

    start: int
    box: NDArray
    score: float

    def tube(self, video: int, label: int) -> Tube:
        return Tube(video, label, self.start, self.box, self.score)
