"""Average precision from the scores of hits and of everything that was found.

Detections of one score count together: a curve has one point per score, so a figure does not depend on the order of
equals. Public evaluators sort, some unstably, and give equals whatever order comes out.

How sure a figure is, a bootstrap over videos says (`Draws`). Whether a detection hits is a matter of its own video, so
a draw changes only how often each counts. At every score of a hit the detections at or above it are counted by video
once; a draw multiplies these counts, and costs by hits, not by detections.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 22  # points of curves computed at a time, for memory's sake


@dataclass(frozen=True)
class MeanAP:
    """Average precisions in [0, 1] of the classes (C,), NaN for one that does not count, and how they were measured.

    positives (C,): how many truths each class has. drawn (D, C): the same average precisions in each of the draws that
    were asked for, NaN where a draw has none of the class.
    """

    protocol: str
    threshold: float
    per_class: NDArray
    positives: NDArray | None = None
    drawn: NDArray | None = None

    @property
    def mean(self) -> float:
        return float(_mean(self.per_class))

    @property
    def drawn_means(self) -> NDArray:
        """The mean over the classes of each draw, (D,)."""
        return _mean(self.drawn)


def _mean(values: NDArray) -> NDArray:
    """Over the last axis, of what is not NaN; NaN where nothing is."""
    counted = ~np.isnan(values)
    total, count = np.where(counted, values, 0).sum(axis=-1), counted.sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


@dataclass(frozen=True)
class Draws:
    """Samples of videos, drawn with replacement one by one or in groups that stand or fall together.

    unit int64 (V,): the unit of each video. times float64 (D, U): how often each draw has each unit.
    """

    unit: NDArray
    times: NDArray

    def count(self, video: NDArray) -> NDArray:
        """How many each draw has of things that belong to these videos (N,): (D,)."""
        return self.times @ np.bincount(self.unit[video], minlength=self.times.shape[1])


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve at the scores of hits, best first, or one for each of several draws.

    score (P,). hits, found (..., P): how many hit, and how many there are, at this score or above. hits_before,
    found_before (..., P): the same above it. positives (...): what there was to hit.
    """

    score: NDArray
    hits: NDArray
    found: NDArray
    hits_before: NDArray
    found_before: NDArray
    positives: float | NDArray

    def every_point(self) -> NDArray:
        """The area (...) under the largest precision at this or a higher recall (PASCAL VOC from 2010 on)."""
        return (self._envelope() * self._gained()).sum(axis=-1)

    def trapezoid(self) -> NDArray:
        """The area (...) under straight lines between the points of the raw curve, from precision 1 at recall 0."""
        return self._under_lines(self.hits, self.hits_before, start=1.0)

    def share(self, scores: NDArray) -> NDArray:
        """As `trapezoid`, of what share detections of these scores have in all that was found, from 0 at recall 0."""
        before, upto = _counts(scores, self.score)
        return self._under_lines(upto, before, start=0.0)

    def at_recalls(self, count: int) -> NDArray:
        """The largest precision at or beyond `count` recalls from 0 to 1, 0 where none is reached (COCO has 101)."""
        place = np.searchsorted(self.hits / self.positives, np.linspace(0, 1, count), side="left")
        return np.append(self._envelope(), 0.0)[place]

    def recall(self) -> float:
        """What share of the positives was hit at all."""
        return float(self.hits[-1] / self.positives) if len(self.hits) else 0.0

    def _gained(self) -> NDArray:
        return _ratio(self.hits - self.hits_before, np.expand_dims(self.positives, -1), 0.0)

    def _envelope(self) -> NDArray:
        # A draw without the hits of a point repeats the hits before, at most as precisely: it raises nothing.
        return np.maximum.accumulate(_ratio(self.hits, self.found, 0.0)[..., ::-1], axis=-1)[..., ::-1]

    def _under_lines(self, upto: NDArray, before: NDArray, start: float) -> NDArray:
        """Between two hits the curve falls at one recall, so that a line starts from the last point `before` a hit."""
        first, last = _ratio(before, self.found_before, start), _ratio(upto, self.found, 0.0)
        return ((first + last) / 2 * self._gained()).sum(axis=-1)


def _ratio(part: NDArray, whole: NDArray, otherwise: float) -> NDArray:
    """Part of whole, or what it is `otherwise` where there is no whole."""
    return np.divide(part, whole, out=np.full(np.shape(part), otherwise), where=whole > 0)


def curve(scores: NDArray, hit_scores: NDArray, positives: float) -> Curve:
    """The curve of detections with `scores` (N,), of which those with `hit_scores` (H,) hit one of `positives` each.

    A score that is NaN is no detection.
    """
    distinct = np.unique(hit_scores)[::-1]
    found_before, found = _counts(scores, distinct)
    hits_before, hits = _counts(hit_scores, distinct)
    return Curve(distinct, hits, found, hits_before, found_before, positives)


def _counts(scores: NDArray, limits: NDArray) -> tuple[NDArray, NDArray]:
    """How many scores are above each limit, and how many are not below it. Sorting values is fast, ranking is not."""
    ordered = np.sort(scores)
    count = np.searchsorted(ordered, np.nan)  # NaN comes last
    above = count - np.searchsorted(ordered, limits, side="right")
    return above, count - np.searchsorted(ordered, limits, side="left")


@dataclass(frozen=True)
class Ranked:
    """The detections of one class by score, which of them hit, and what there was to hit.

    score (N,), NaN for no detection. video int64 (N,), positions. hits (H,): rows that hit. true_video int64 (T,): the
    video of each truth.
    """

    score: NDArray
    video: NDArray
    hits: NDArray
    true_video: NDArray

    def curve(self, extra: float = 0.0) -> Curve:
        """The curve of all videos; `extra` is added to the number of truths."""
        return curve(self.score, self.score[self.hits], len(self.true_video) + extra)

    def curves(self, draws: Draws, extra: float = 0.0) -> Iterator[Curve]:
        """The curves of one chunk of draws after another."""
        distinct = np.unique(self.score[self.hits])
        scored = ~np.isnan(self.score)
        score, unit = self.score[scored], draws.unit[self.video[scored]]
        units = draws.times.shape[1]
        positives = np.bincount(draws.unit[self.true_video], minlength=units)
        hit = _by_unit(self.score[self.hits], draws.unit[self.video[self.hits]], distinct, "right", units)
        upto, above = (_by_unit(score, unit, distinct, side, units) for side in ("right", "left"))
        size = max(1, CHUNK // max(1, len(distinct)))
        for start in range(0, len(draws.times), size):
            times = draws.times[start : start + size]
            hits, found, found_before = times @ hit, times @ upto, times @ above  # (d, P) each
            before = np.concatenate([np.zeros((len(times), 1)), hits[:, :-1]], axis=1)[:, : len(distinct)]
            yield Curve(distinct[::-1], hits, found, before, found_before, times @ positives + extra)


def _by_unit(values: NDArray, unit: NDArray, limits: NDArray, side: Literal["left", "right"], units: int) -> NDArray:
    """How many values of each unit are not below each limit, or with side `left` above it: (units, P), best first.

    Limits are ascending.
    """
    place = np.searchsorted(limits, values, side=side)  # how many limits a value reaches
    wide = len(limits) + 1
    count = np.bincount(unit * wide + place, minlength=units * wide).reshape(units, wide)
    return count[:, :0:-1].cumsum(axis=1).astype(np.float64)


class PerClass:
    """Average precisions of the classes as they are measured, one class after another; `no_truth` is that of others."""

    def __init__(self, classes: int, no_truth: float, draws: Draws | None = None) -> None:
        self.per_class, self.positives = np.full(classes, no_truth), np.zeros(classes, np.int64)
        self.draws = draws
        self.drawn = None if draws is None else np.full((len(draws.times), classes), no_truth)

    def add(
        self,
        label: int,
        ranked: Ranked,
        area: Callable[[Curve], NDArray],
        *,
        extra: float = 0.0,
        undetected: float = 0.0,
    ) -> None:
        """Measure a class that has truths; `undetected` is its average precision where it has no detection at all."""
        self.positives[label] = len(ranked.true_video)
        self.per_class[label] = area(ranked.curve(extra)) if not np.isnan(ranked.score).all() else undetected
        if self.draws is not None:
            drawn = np.concatenate([area(curves) for curves in ranked.curves(self.draws, extra)])
            drawn[self.draws.count(ranked.video[~np.isnan(ranked.score)]) == 0] = undetected
            drawn[self.draws.count(ranked.true_video) == 0] = np.nan
            self.drawn[:, label] = drawn

    def result(self, protocol: str, threshold: float) -> MeanAP:
        return MeanAP(protocol, threshold, self.per_class, self.positives, self.drawn)
