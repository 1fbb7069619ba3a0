import math
from itertools import product

import numpy as np
import pytest

from reaction.evaluation.statistics import (
    accuracy,
    bootstrap,
    class_accuracy,
    exact_binomial,
    paired_bootstrap,
    spread,
)


def test_bootstrap_of_three_videos_matches_all_27_draws():
    hits = np.array([1.0, 0.0, 0.0])
    every = np.repeat([np.mean(hits[list(draw)]) for draw in product(range(3), repeat=3)], 100)
    interval = bootstrap(accuracy(hits), 3, seed=1, draws=4000)
    assert tuple(interval) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])))


def test_bootstrap_of_an_accuracy_has_the_binomial_width():
    n, p = 1000, 0.7
    interval = bootstrap(accuracy(np.arange(n) < p * n), n, draws=4000)
    half = 1.96 * math.sqrt(p * (1 - p) / n)
    assert interval.low == pytest.approx(p - half, abs=0.003)
    assert interval.high == pytest.approx(p + half, abs=0.003)


def test_bootstrap_depends_on_the_seed_and_not_on_the_chunk():
    statistic = accuracy(np.arange(50) % 3 == 0)
    assert bootstrap(statistic, 50, seed=3) == bootstrap(statistic, 50, seed=3, chunk=2000)
    assert bootstrap(statistic, 50, seed=3, draws=30) != bootstrap(statistic, 50, seed=4, draws=30)


def test_class_accuracy_is_the_mean_over_drawn_classes():
    hits, labels = np.array([1, 0, 1, 1]), np.array([0, 0, 0, 4])
    drawn = np.array([[1, 1, 1, 1], [2, 1, 1, 0], [0, 2, 1, 1]])
    assert class_accuracy(hits, labels)(drawn) == pytest.approx([(2 / 3 + 1) / 2, 3 / 4, (1 / 3 + 1) / 2])


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(0)
    shared = rng.random(400) < 0.5
    better = shared.copy()
    better[:12] = True
    gained = int((better & ~shared).sum())
    paired = paired_bootstrap(accuracy(better), accuracy(shared), 400, draws=4000)
    poisson_half = 1.96 * math.sqrt(gained) / 400
    assert paired.high - paired.low == pytest.approx(2 * poisson_half, rel=0.2)
    assert paired.low > 0
    assert bootstrap(accuracy(better), 400).low < shared.mean()  # unpaired, nothing shows


def test_exact_binomial_against_the_published_example_and_closed_forms():
    """81 of 263: Newcombe 1998, Table I, method 5; the ends of a run without misses are roots."""
    assert exact_binomial(81, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert exact_binomial(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert exact_binomial(20, 20) == pytest.approx((0.025 ** (1 / 20), 1))


def test_exact_binomial_covers_at_least_what_it_says():
    n, p = 12, 0.3
    covered = 0.0
    for correct in range(n + 1):
        low, high = exact_binomial(correct, n)
        covered += math.comb(n, correct) * p**correct * (1 - p) ** (n - correct) * (low <= p <= high)
    assert covered >= 0.95


def test_spread_is_the_sample_deviation():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert spread([1.0]) is None
