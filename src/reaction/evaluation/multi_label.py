"""Average precision where videos have several classes: each class ranks the videos, and its own should come first.

Of a class it is the mean, over the videos that have it, of the precision down to their place in its ranking: what
Charades_v1_classify.m computes, and scikit-learn's `average_precision_score`. Videos of one score share the last of
their places. A class that no video has does not count. All are fractions in [0, 1].

In a bootstrap a video that is drawn several times counts so often in the mean and before others, but its precision has
it once: copies of a video say nothing of its place, and with them the precision of rare classes would come out higher
in nearly every draw than in the whole.
"""

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.statistics import Statistic


def average_precisions(scores: NDArray, labels: NDArray) -> NDArray:
    """Of each class (classes,), NaN for one that no video has; scores (n, classes), labels zeros and ones like them.

    Raises ValueError on scores that are not finite, which would otherwise rank first or last by accident.
    """
    everyone = np.ones((1, len(scores)))
    return np.array([ranked(everyone)[0] for ranked in _rankings(scores, labels)])


def mean_average_precision(scores: NDArray, labels: NDArray) -> Statistic:
    """The mean over those classes that a drawn video has."""
    rankings = [one for one, has in zip(_rankings(scores, labels), np.any(labels, axis=0), strict=True) if has]
    return lambda drawn: np.nanmean([ranked(drawn) for ranked in rankings], axis=0)


def best_is_right(scores: NDArray, labels: NDArray) -> NDArray[np.bool_]:
    """Whether the best class of each video is one of its own, (n,)."""
    return np.take_along_axis(np.asarray(labels), np.argmax(scores, axis=1)[:, None], axis=1)[:, 0] > 0


def confusion(scores: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """Counts (classes, classes): row = a class of the video, column = its best class; a video is in several rows."""
    best = np.eye(scores.shape[1], dtype=np.int64)[np.argmax(scores, axis=1)]  # (n, classes)
    return (np.asarray(labels) > 0).astype(np.int64).T @ best


def _rankings(scores: NDArray, labels: NDArray) -> list[Statistic]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels) > 0
    if not np.isfinite(scores).all():
        broken = int((~np.isfinite(scores)).any(axis=1).sum())
        raise ValueError(f"{broken} of {len(scores)} videos have NaN or infinite scores: score the run again")
    return [_ranking(*of_class) for of_class in zip(scores.T, labels.T, strict=True)]


def _ranking(scores: NDArray, has: NDArray) -> Statistic:
    """Of one class, its average precision from how often each of the videos (n,) was drawn."""
    order = np.argsort(-scores, kind="stable")
    own = np.flatnonzero(has[order])  # (P,), the places of the videos that have it
    last = np.searchsorted(-scores[order], -scores[order][own], side="right") - 1  # (P,), of those with their score
    hits_until = np.searchsorted(own, last, side="right") - 1  # (P,)

    def average_precision(drawn: NDArray) -> NDArray:
        ranked = drawn[:, order]  # (draws, n)
        hits = ranked[:, own]  # (draws, P)
        until, found = hits.cumsum(axis=1)[:, hits_until], ranked.cumsum(axis=1)[:, last]
        precision = (until - hits + 1) / (found - hits + 1)  # itself once
        total = hits.sum(axis=1)
        return np.divide((precision * hits).sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0)

    return average_precision
