"""Average precision from the scores of hits and of everything that was found.

Detections of one score count together: a curve has one point per score, so a figure does not depend on the order of
equals. Public evaluators sort, some unstably, and give equals whatever order comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

JHMDB_SPLITS = ("split1", "split2", "split3")


@dataclass(frozen=True)
class MeanAP:
    """Average precisions in [0, 1] of the classes (C,), NaN for one that does not count, and how they were measured."""

    protocol: str
    threshold: float
    per_class: NDArray

    @property
    def mean(self) -> float:
        counted = self.per_class[~np.isnan(self.per_class)]
        return float(counted.mean()) if len(counted) else float("nan")


@dataclass(frozen=True)
class Curve:
    """A precision-recall curve at the scores of hits, best first.

    score (P,). hits, found (P,): how many hit, and how many there are, at this score or above. hits_before,
    found_before (P,): the same above it. positives: what there was to hit.
    """

    score: NDArray
    hits: NDArray
    found: NDArray
    hits_before: NDArray
    found_before: NDArray
    positives: float

    def every_point(self) -> float:
        """The area under the largest precision at this or a higher recall (PASCAL VOC from 2010 on)."""
        gained = (self.hits - self.hits_before) / self.positives
        return float((self._envelope() * gained).sum())

    def trapezoid(self) -> float:
        """The area under straight lines from point to point of the raw curve, from precision 1 at recall 0."""
        return self._under_lines(self.hits, self.hits_before, start=1.0)

    def share(self, scores: NDArray) -> float:
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

    def _envelope(self) -> NDArray:
        return np.maximum.accumulate((self.hits / self.found)[::-1])[::-1]

    def _under_lines(self, upto: NDArray, before: NDArray, start: float) -> float:
        """Between two hits the curve falls at one recall, so that a line starts from the last point `before` a hit."""
        first = np.divide(before, self.found_before, out=np.full(len(before), start), where=self.found_before > 0)
        gained = (self.hits - self.hits_before) / self.positives
        return float(((first + upto / self.found) / 2 * gained).sum())


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


def over_splits(results: Mapping[str, MeanAP], splits: Sequence[str] = JHMDB_SPLITS) -> dict[str, float]:
    """The mean AP of each split and, as `mean`, of all, in [0, 1]: J-HMDB-21 is reported over its three.

    Raises ValueError when splits are missing or too many, or were not measured in one way.
    """
    if set(results) != set(splits):
        raise ValueError(f"a mean over {', '.join(splits)} needs just these, not {', '.join(sorted(results))}")
    ways = {(one.protocol, one.threshold) for one in results.values()}
    if len(ways) > 1:
        raise ValueError(f"splits were measured in different ways: {sorted(ways)}")
    each = {split: results[split].mean for split in splits}
    return each | {"mean": float(np.mean(list(each.values())))}
