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
    tubelets = Tubelets(start, tubelet, frames, edge=edge, suppression=suppression, overlap=overlap)
    return tubelets.paths(score, best=best, least_score=least_score, least_frames=least_frames)


class Tubelets:
    """The tubelets of a video, to be linked once for each class: arguments as `link_tubelets`'s."""

    def __init__(
        self,
        start: NDArray,
        tubelet: NDArray,
        frames: int,
        *,
        edge: float = 1.0,
        suppression: float = 0.6,
        overlap: float = 0.5,
    ) -> None:
        self.start, self.tubelet, self.length = np.asarray(start), tubelet, tubelet.shape[1]
        own = np.unique(self.start[self.start <= frames - self.length])
        self.rows = {frame: np.flatnonzero(self.start == frame) for frame in own.tolist()}
        self.hides: dict[int, list[tuple[int, float]]] = {}  # by how much, summed over the K frames
        self.followed_by: dict[int, set[int]] = {}
        for frame, rows in self.rows.items():
            sums = self._overlaps(rows, rows, 0, 1.0).sum(axis=2)
            for i, j in np.argwhere((sums > suppression * self.length) & ~np.eye(len(rows), dtype=bool)).tolist():
                self.hides.setdefault(int(rows[i]), []).append((int(rows[j]), float(sums[i, j])))
            for later in range(1, self.length + 1):
                after = self.rows.get(frame + later, rows[:0])
                for i, j in np.argwhere(self._overlaps(rows, after, later, edge).mean(axis=2) >= overlap).tolist():
                    self.followed_by.setdefault(int(rows[i]), set()).add(int(after[j]))

    def paths(
        self, score: NDArray, *, best: int = 10, least_score: float = 0.005, least_frames: int = 15
    ) -> list[Path]:
        """The paths of the class that has these scores (N,)."""
        scores = score.astype(np.float64).tolist()
        growing: list[_Growing] = []
        ended: list[_Growing] = []
        for frame, rows in self.rows.items():
            ended += [path for path in growing if frame - path.last > self.length]
            growing = [path for path in growing if frame - path.last <= self.length]
            growing.sort(key=lambda path: -path.mean)
            free = self._soft_best(rows.tolist(), scores, best)
            for path in growing:
                close = self.followed_by.get(path.rows[-1], ())
                if (first := next((row for row in free if row in close), None)) is not None:
                    path.add(frame, first, free.pop(first))
            growing += [_Growing(frame, [row], [value]) for row, value in free.items()]
        long = [path for path in ended + growing if path.last + self.length - path.first >= least_frames]
        return [self._averaged(path) for path in long if path.mean >= least_score]

    def _soft_best(self, rows: Sequence[int], score: Sequence[float], best: int) -> dict[int, float]:
        """The best of the tubelets in `rows` with their scores, after suppression, best first.

        As the source has it: one that overlaps a better one by more than the threshold (mean over the K frames, with
        the extra pixel) is not removed, but its score is multiplied, once, by 1 minus the *sum* of its K overlaps,
        which is negative for most K above 1, and it suppresses no other.
        """
        value, settled = {row: score[row] for row in rows}, set()
        for row in sorted(rows, key=lambda row: -score[row]):
            if row in settled:
                continue
            settled.add(row)
            for other, overlaps in self.hides.get(row, ()):
                if other not in settled:
                    settled.add(other)
                    value[other] *= 1 - overlaps
        return {row: value[row] for row in sorted(rows, key=lambda row: -value[row])[:best]}

    def _overlaps(self, rows: NDArray, others: NDArray, later: int, edge: float) -> NDArray:
        """How much each tubelet overlaps each that begins `later`, on the common frames or next to them: (n, m, k)."""
        first, second = self.tubelet[rows, later:], self.tubelet[others, : self.length - later]
        if later == self.length:
            first, second = self.tubelet[rows, -1:], self.tubelet[others, :1]
        shape = (len(rows), len(others), first.shape[1])
        pairs = (np.broadcast_to(one, (*shape, 4)).reshape(-1, 4) for one in (first[:, None], second[None]))
        return iou(*pairs, edge).reshape(shape)

    def _averaged(self, path: "_Growing") -> Path:
        frames = path.last + self.length - path.first
        box, count = np.zeros((frames, 4)), np.zeros((frames, 1))
        place = self.start[path.rows][:, None] - path.first + np.arange(self.length)  # (n, K)
        np.add.at(box, place, self.tubelet[path.rows])
        np.add.at(count, place, 1)
        return Path(path.first, box / count, path.mean)


@dataclass
class _Growing:
    """A path, tubelet after tubelet; `last` is where the last of them begins."""

    first: int
    rows: list[int]
    scores: list[float]
    last: int = -1
    mean: float = 0.0

    def __post_init__(self) -> None:
        self.last, self.mean = self.first, self.scores[0]

    def add(self, frame: int, row: int, score: float) -> None:
        self.rows.append(row)
        self.scores.append(score)
        self.last, self.mean = frame, sum(self.scores) / len(self.scores)
