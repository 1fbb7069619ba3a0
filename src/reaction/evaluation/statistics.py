"""How sure an accuracy is: intervals over videos and seeds, spread over runs.

A bootstrap draws whole videos, or whole groups of them where the videos of a group stand or fall together. Clips cut
from one film resemble each other, so the true uncertainty of HMDB-51 or UCF-101 is somewhat larger than an interval
over videos.

Networks trained with other seeds would score otherwise, too. Seeds are few, and drawing three of three with replacement
never leaves the range of the three, which holds the truth three times in four. So the mean over seeds is drawn from
Student's t around what was found, as wide as the seeds' own spread (`seed_error`). Where the seeds alone are uncertain
that is the t interval, where the videos alone are, the bootstrap's; what a single network's luck on single videos
gives is counted by both, which errs towards too wide.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray], NDArray]
"""From how often each video or group was drawn, (draws, n), to one value per draw, (draws,)."""


class Interval(NamedTuple):
    low: float
    high: float


class SeedError(NamedTuple):
    """The standard error of a mean that other seeds would give, and its degrees of freedom."""

    error: float
    freedom: int


def accuracy(hits: NDArray) -> Statistic:
    """The fraction of hits (n,) among the drawn videos; NaN for a draw without any."""
    hits = np.asarray(hits, dtype=np.float64)
    return lambda drawn: _ratio(drawn @ hits, drawn.sum(axis=1))


def class_accuracy(hits: NDArray, labels: NDArray) -> Statistic:
    """The mean over the drawn classes of the fraction of hits in each."""
    members = (np.asarray(labels)[:, None] == np.unique(labels)).astype(np.float64)  # (n, classes)
    hits_of_class = members * np.asarray(hits, dtype=np.float64)[:, None]
    return lambda drawn: np.nanmean(_ratio(drawn @ hits_of_class, drawn @ members), axis=1)


def _ratio(part: NDArray, whole: NDArray) -> NDArray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def bootstrap(
    statistic: Statistic,
    n: int,
    *,
    seeds: SeedError | None = None,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
    chunk: int = 100,
) -> Interval:
    """The percentile interval of a statistic over n videos, or groups, drawn n times with replacement (Efron 1979).

    With `seeds` each draw is of other seeds as well. The draws depend on `seed` and n alone. Draws on which the
    statistic is undefined are left out.
    """
    rng = np.random.default_rng(seed)
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    values = np.concatenate([statistic(_drawn(n, size, rng)) for size in sizes])
    return of_draws(values, seeds, rng, level=level)


def of_draws(values: NDArray, seeds: SeedError | None, rng: np.random.Generator, *, level: float = 0.95) -> Interval:
    """The percentile interval of a statistic's values (draws,), NaN left out, with `seeds` each of other seeds too."""
    if seeds is not None:
        values = values + seeds.error * _students(seeds.freedom, len(values), rng)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _drawn(n: int, draws: int, rng: np.random.Generator) -> NDArray:
    chosen = rng.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(chosen.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _students(freedom: int, draws: int, rng: np.random.Generator) -> NDArray:
    """Draws of Student's t in random order, as evenly as they fall; its tails are too long for a few thousand."""
    many = rng.standard_t(freedom, 100 * draws)
    return rng.permutation(np.quantile(many, (np.arange(draws) + 0.5) / draws))


def seed_error(values: Sequence[Sequence[float]]) -> SeedError | None:
    """Of the mean over splits of the mean over seeds, from each split's value per seed.

    None where a split has one seed only, which says nothing of others.
    """
    if min(map(len, values)) < 2:
        return None
    error = math.sqrt(sum(np.var(of_split, ddof=1) / len(of_split) for of_split in values)) / len(values)
    return SeedError(error, sum(len(of_split) - 1 for of_split in values))


def paired_bootstrap(
    first: Statistic, second: Statistic, n: int, seeds: SeedError | None = None, **options: float
) -> Interval:
    """The interval of `first - second` with both seeing the same draws; `seeds` are of the difference.

    Options as `bootstrap`'s.
    """
    return bootstrap(lambda drawn: first(drawn) - second(drawn), n, seeds=seeds, **options)


def unanimous(difference: float, n: int) -> Interval:
    """The interval of a mean difference in [-1, 1] when all n units show the same, which tells a bootstrap nothing.

    The units that would show something else are at most the share that the exact binomial interval of 0 in n allows.
    """
    others = exact_binomial(0, n).high
    return Interval(difference - others * (1 + difference), difference + others * (1 - difference))


def exact_binomial(correct: int, n: int, *, level: float = 0.95) -> Interval:
    """The exact interval of a proportion (Clopper & Pearson 1934), never narrower than it says."""
    tail = (1 - level) / 2
    low = 0.0 if correct == 0 else _bisect(lambda p: _at_least(correct, n, p) > tail)
    high = 1.0 if correct == n else _bisect(lambda p: 1 - _at_least(correct + 1, n, p) < tail)
    return Interval(low, high)


def _at_least(correct: int, n: int, p: float) -> float:
    """P(X >= correct) of a binomial, summed in logarithms."""
    k = np.arange(correct, n + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    return float(np.exp(choose + k * math.log(p) + (n - k) * math.log1p(-p)).sum())


def _bisect(above: Callable[[float], bool]) -> float:
    """Where `above`, false then true over (0, 1), turns true."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return (low + high) / 2


class McNemar(NamedTuple):
    """Videos that only the first side had right, those that only the second had right, and the p-value."""

    gained: int
    lost: int
    p: float


def mcnemar(first: NDArray, second: NDArray) -> McNemar:
    """McNemar's exact test (1947) of the hits (n,) of two networks on the same videos, two-sided.

    If both were right equally often, each video on which one alone is right would fall to either side like a coin. p
    is the chance of at least so uneven a fall. It says nothing about networks trained with other seeds, and takes the
    videos for independent: where they come in groups that stand or fall together p is too small, by any factor.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(gained, lost, min(1.0, 2 * _at_least(max(gained, lost), gained + lost, 0.5)))


def combined_p(values: Sequence[float]) -> float:
    """One p-value from those of several runs on the same or overlapping videos: twice their mean, at most 1.

    Seeds share their test videos and splits share some, so the runs' tests are not independent, and Fisher's product
    would call one stroke of luck many. Twice the mean is a p-value whatever the dependence (Ruschendorf 1982; Vovk &
    Wang, Biometrika 2020): more seeds never make it smaller than their p-values are on average.
    """
    return min(1.0, 2 * float(np.mean(values))) if len(values) > 1 else float(values[0])


def spread(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1) over runs; None for a single run, which has no spread to show."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
