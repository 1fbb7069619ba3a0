"""Tubes linked as frames come in: Singh et al., "Online Real-time Multiple Spatiotemporal Action Localisation" (ROAD).

ICCV 2017, https://arxiv.org/abs/1611.08563; followed as 3D-RetinaNet's `modules/gen_agent_paths.py` and
`modules/tube_helper.py` have it. Actors are linked whatever they do; `trimmed_tubes` finds what they do and when.

Deviations:
- the source takes boxes for overlapping that lie apart in both directions, by a product of two negative numbers; not
  here;
- the source fills the gaps of paths, and returns them as they were; here they are filled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.boxes import iou
from reaction.evaluation.tubes import Tube


@dataclass(frozen=True)
class ActorPath:
    """One actor on frames start, start + 1, ...: box (n, 4), score (n,) that someone acts, actions (n, C)."""

    start: int
    box: NDArray
    score: NDArray
    actions: NDArray


class _Seen(NamedTuple):
    """One actor on one frame."""

    frame: int
    box: NDArray
    score: float
    actions: NDArray


@dataclass
class _Live:
    """A path that may go on, and its rank, less is better."""

    seen: list[_Seen]
    rank: float = 0.0

    def add(self, one: _Seen, of: int) -> None:
        """Go on; the rank is by the mean of the `of` best scores."""
        self.seen.append(one)
        self.rank = -float(np.mean(sorted(each.score for each in self.seen)[-of:]))


@dataclass
class OnlineLinker:
    """Links boxes of actors, whatever they do, as frames come in.

    Paths, the best first, each take the box that is worth most of those that overlap their last one by `overlap` and
    that no other has taken: by its score, or by the mean of score and overlap. A path that found none for more than
    `gap` frames is over; boxes that nobody took begin paths. A path's rank is the mean of its `gap` + 1 best scores.
    """

    overlap: float = 0.1
    gap: int = 5
    cost: Literal["score", "mean"] = "mean"
    _live: list[_Live] = field(default_factory=list)
    _over: list[_Live] = field(default_factory=list)

    def update(self, frame: int, box: NDArray, score: NDArray, actions: NDArray) -> None:
        """Take boxes (n, 4), scores (n,) and action scores (n, C) of the next frame; frames without are skipped."""
        free = np.ones(len(box), bool)
        self._over += [path for path in self._live if frame - path.seen[-1].frame > self.gap]
        self._live = [path for path in self._live if frame - path.seen[-1].frame <= self.gap]
        for path, worth in zip(self._live, self._worth(box, score), strict=True):
            worth = worth * free
            if worth.sum() > 0.1:
                best = int(worth.argmax())
                path.add(_Seen(frame, box[best], float(score[best]), actions[best]), self.gap + 1)
                free[best] = False
        self._live.sort(key=lambda path: path.rank)
        for i in sorted(np.flatnonzero(free), key=lambda i: -score[i]):
            self._live.append(_Live([]))
            self._live[-1].add(_Seen(frame, box[i], float(score[i]), actions[i]), self.gap + 1)

    def paths(self, *, least_found: int = 8) -> list[ActorPath]:
        """All paths so far, gaps filled by straight lines; those with gaps and no more than `least_found` boxes go."""
        found = []
        for path in (one.seen for one in self._over + self._live):
            frame = np.arange(path[0].frame, path[-1].frame + 1)
            if len(frame) == len(path) or len(path) > least_found:
                known, *columns = (np.array(column) for column in zip(*path, strict=True))
                found.append(ActorPath(path[0].frame, *(_filled(frame, known, column) for column in columns)))
        return found

    def _worth(self, box: NDArray, score: NDArray) -> NDArray:
        """What each box is worth to each live path: (L, n)."""
        last = np.array([path.seen[-1].box for path in self._live]).reshape(-1, 4)
        n, m = len(last), len(box)
        overlap = iou(np.repeat(last, m, axis=0), np.tile(box, (n, 1))).reshape(n, m)
        worth = score if self.cost == "score" else (score + overlap) / 2
        return np.where(overlap >= self.overlap, worth, 0)


def _filled(frame: NDArray, known: NDArray, values: NDArray) -> NDArray:
    if len(frame) == len(known):
        return values.astype(np.float64)
    flat = values.reshape(len(values), -1).astype(np.float64)
    filled = np.stack([np.interp(frame, known, column) for column in flat.T], axis=1)
    return filled.reshape(len(frame), *values.shape[1:])


def smoothed_labels(value: NDArray, alpha: float) -> NDArray[np.int64]:
    """The labels (T,) whose values (L, T) have the largest sum, less `alpha` for each change of label."""
    if not alpha:
        return value.argmax(axis=0)
    change = alpha * (1 - np.eye(len(value)))  # (L now, L before)
    total, came_from = value[:, 0], []
    for column in value[:, 1:].T:
        options = total[None] - change
        came_from.append(options.argmax(axis=1))
        total = options.max(axis=1) + column
    labels = [int(total.argmax())]
    for before in reversed(came_from):
        labels.append(int(before[labels[-1]]))
    return np.array(labels[::-1], np.int64)


def trimmed_tubes(
    path: ActorPath,
    video: int,
    *,
    alpha: float | Sequence[float] | None,
    top: int = 10,
    least_frames: int = 6,
    by_actor: bool = False,
) -> list[Tube]:
    """The best actions of a path, and when they take place.

    Frames are on or off the action by how large its score is against its peak; `alpha`, one for all actions or one
    each, is the price of a change, and None keeps the whole path. Stretches of `least_frames` or fewer are dropped. A
    tube's score is the mean of the better half of its scores; of a whole path, that of its C // 4 best, as the source
    has it. `by_actor` trims by the score that someone acts, as the source does on UCF101-24.

    As in the source the last frame does not take part and stretches lie one frame late.
    """
    frames, actions = path.actions.shape
    if frames <= least_frames:
        return []
    rank = np.sort(path.actions, axis=0)[::-1][: max(1, actions // 4)].mean(axis=0)
    tubes = []
    for label in np.argsort(-rank, kind="stable")[:top]:
        if alpha is None:
            tubes.append(Tube(video, int(label), path.start, path.box, float(rank[label])))
            continue
        price = float(np.broadcast_to(alpha, actions)[label])
        for start, end in _stretches(path.score if by_actor else path.actions[:, label], price):
            if end - start > least_frames:
                best = np.sort(path.actions[start:end, label])[::-1][: max(1, (end - start) // 2)]
                tubes.append(Tube(video, int(label), path.start + start, path.box[start:end], float(best.mean())))
    return tubes


def _stretches(score: NDArray, alpha: float) -> list[tuple[int, int]]:
    """First frames and ends of the stretches where something takes place."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(score, 2), 5)
    peak = np.median(around, axis=1).max()
    if peak <= 0:
        return []
    on = score / peak
    labels = smoothed_labels(np.stack([on, 1 - on])[:, :-1], alpha)
    active = np.r_[False, labels[0] == 0, labels == 0, False]  # one frame late
    edges = np.flatnonzero(active[1:] != active[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
