import math
from itertools import product

import numpy as np
import pytest

from reaction.evaluation.statistics import (
    accuracy,
    bootstrap,
    class_accuracy,
    combined_p,
    exact_binomial,
    mcnemar,
    paired_bootstrap,
    seed_error,
    spread,
    unanimous,
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


def nothing(drawn):
    return np.zeros(len(drawn))


def test_where_the_videos_agree_the_seeds_alone_give_student_s_interval():
    """Three seeds: mean ± 4.303 s / sqrt(3) (Student 1908, table of 2 degrees of freedom)."""
    gains = [0.02, -0.01, 0.05]
    mean, half = np.mean(gains), 4.303 * np.std(gains, ddof=1) / math.sqrt(3)
    error = seed_error([gains])
    assert error == pytest.approx((np.std(gains, ddof=1) / math.sqrt(3), 2))
    interval = paired_bootstrap(lambda drawn: np.full(len(drawn), mean), nothing, 7, error)
    assert tuple(interval) == pytest.approx((mean - half, mean + half), abs=0.02 * half)


def test_seeds_of_several_splits_are_pooled_and_a_single_one_says_nothing():
    splits = [[0.0, 0.1, 0.2], [0.3, 0.5, 0.7]]
    assert seed_error(splits) == pytest.approx((math.sqrt(0.01 / 3 + 0.04 / 3) / 2, 4))
    assert seed_error([[0.1, 0.2], [0.3]]) is None
    statistic = accuracy(np.arange(50) % 3 == 0)
    once = paired_bootstrap(statistic, nothing, 50)
    alike = paired_bootstrap(statistic, nothing, 50, seed_error([[0.4, 0.4, 0.4]]))
    assert tuple(alike) == pytest.approx(tuple(once)), "seeds that agree add nothing"


@pytest.mark.parametrize(("of_groups", "of_seeds"), [(0.3, 0.0), (0.0, 0.1), (0.3, 0.05), (0.1, 0.03)])
def test_an_interval_over_groups_and_seeds_covers_what_it_says(of_groups, of_seeds):
    """Differences of 30 groups under 3 seeds: an effect of each group, one of each seed, and one of each pair."""
    rng, covered = np.random.default_rng(5), []
    for number in range(400):
        effects = of_groups * rng.normal(size=(30, 1)) + of_seeds * rng.normal(size=3) + 0.2 * rng.normal(size=(30, 3))
        found = accuracy(effects.mean(axis=1)), nothing, 30
        error = seed_error([effects.mean(axis=0)])
        intervals = [paired_bootstrap(*found, seeds, seed=number, draws=300) for seeds in (error, None)]
        covered.append([one.low <= 0 <= one.high for one in intervals])
    both, groups_alone = np.mean(covered, axis=0)
    assert 0.94 <= both <= 0.995
    assert groups_alone < (0.5 if of_seeds == 0.1 else 0.97), "without the seeds it claims too much"


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


def discordant(gained, lost, same=7):
    first = [1] * gained + [0] * lost + [1, 0] * same
    return first, [0] * gained + [1] * lost + [1, 0] * same


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (2, 2), (9, 2), (2, 9), (59, 121), (30, 31)])
def test_mcnemar_is_the_tail_of_a_fair_coin(gained, lost):
    """Counted in whole numbers: the outcomes at least as far from half and half."""
    thrown = gained + lost
    far = [math.comb(thrown, k) for k in range(thrown + 1) if abs(2 * k - thrown) >= abs(gained - lost)]
    found = mcnemar(*discordant(gained, lost))
    assert (found.gained, found.lost) == (gained, lost)
    assert found.p == pytest.approx(sum(far) / 2**thrown)


def test_mcnemar_rarely_rejects_what_is_true():
    rng = np.random.default_rng(0)
    found = [mcnemar(*(rng.random((2, 60)) < 0.6)).p for _ in range(2000)]
    assert 0.01 < np.mean(np.array(found) <= 0.05) <= 0.055, "exact, hence a little below 5 %"


def test_combined_p_holds_for_seeds_that_agree_and_is_no_smaller_than_their_mean():
    assert combined_p([0.03]) == 0.03, "one run stands for itself"
    assert combined_p([0.01, 0.02, 0.06]) == pytest.approx(0.06)
    assert combined_p([0.9, 0.4]) == 1.0
    shared = np.random.default_rng(1).random(4000)
    assert np.mean([combined_p([p, p, p]) <= 0.05 for p in shared]) <= 0.05, "three times the same test is one test"


def test_spread_is_the_sample_deviation():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert spread([1.0]) is None


def test_unanimous_units_leave_room_for_those_not_seen():
    most = 1 - 0.025 ** (1 / 20)
    assert unanimous(0.0, 20) == pytest.approx((-most, most))
    assert unanimous(1.0, 20) == pytest.approx((1 - 2 * most, 1)), "each of them may be as wrong as it was right"
