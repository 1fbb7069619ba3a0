"""Average precision of videos with several classes: by hand, and against scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reaction.evaluation.multi_label import average_precisions, best_is_right, confusion, mean_average_precision

SCORES = np.array([[0.9, 0.1, 3.0], [0.8, 0.7, 2.0], [0.3, 0.7, 1.0], [0.1, 0.2, 0.0]])
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])


def drawn_scores(n=60, classes=7, levels=12):
    """Scores with many equals, and labels of which some classes have few."""
    rng = np.random.default_rng(0)
    labels = rng.random((n, classes)) < np.linspace(0.05, 0.6, classes)
    return rng.integers(0, levels, (n, classes)) / levels + 0.3 * labels, labels.astype(np.int64)


def test_by_hand():
    found = average_precisions(SCORES, LABELS)
    assert found[0] == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    assert found[1] == pytest.approx((1 / 2 + 2 / 3) / 2)  # two have one score: both come second
    assert np.isnan(found[2])  # nobody has it
    assert mean_average_precision(SCORES, LABELS)(np.ones((1, 4)))[0] == pytest.approx(np.mean(found[:2]))


def test_it_is_scikit_learns():
    scores, labels = drawn_scores()
    theirs = average_precision_score(labels, scores, average=None)
    np.testing.assert_allclose(average_precisions(scores, labels), theirs, rtol=1e-12)


def one_by_one(scores, has, times):
    """The definition: of each video that has the class, how many of those not behind it have it, itself once."""
    total = 0.0
    for one in np.flatnonzero(has & (times > 0)):
        before = [other for other in range(len(scores)) if other != one and scores[other] >= scores[one]]
        found, hits = 1 + times[before].sum(), 1 + (times * has)[before].sum()
        total += times[one] * hits / found
    return total / (times * has).sum() if (times * has).any() else np.nan


def test_a_draw_counts_its_videos_as_often_as_they_were_drawn():
    scores, labels = drawn_scores()
    drawn = np.random.default_rng(1).multinomial(len(scores), [1 / len(scores)] * len(scores), size=5)
    theirs = [
        np.nanmean([one_by_one(*of_class, times) for of_class in zip(scores.T, labels.T, strict=True)])
        for times in drawn
    ]
    np.testing.assert_allclose(mean_average_precision(scores, labels)(drawn.astype(float)), theirs, rtol=1e-12)


def test_draws_lie_around_the_whole():
    rng = np.random.default_rng(2)
    labels = (rng.random((300, 20)) < 0.03).astype(np.int64)
    scores = rng.normal(size=labels.shape) + 1.5 * labels
    whole = np.nanmean(average_precisions(scores, labels))
    drawn = rng.multinomial(300, [1 / 300] * 300, size=400).astype(float)
    draws = mean_average_precision(scores, labels)(drawn)
    assert draws.mean() == pytest.approx(whole, abs=0.25 * draws.std())


def test_videos_without_a_class_behind_all_others_change_nothing():
    """As the official measure places them: so they may be left out of the dataset."""
    behind, none = np.full((5, 3), -1e9), np.zeros((5, 3), dtype=int)
    with_them = average_precisions(np.concatenate((SCORES, behind)), np.concatenate((LABELS, none)))
    np.testing.assert_array_equal(with_them, average_precisions(SCORES, LABELS))


def test_the_best_class_counts_in_the_rows_of_all_classes_of_a_video():
    scores = np.array([[0.9, 0.1, 0.0], [0.1, 0.7, 0.0], [0.0, 0.1, 0.2]])
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(best_is_right(scores, labels), [True, False, True])
    np.testing.assert_array_equal(confusion(scores, labels), [[1, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_scores_that_rank_nothing_are_refused():
    with pytest.raises(ValueError, match="1 of 4 videos have NaN"):
        average_precisions(np.where(SCORES == 0.9, np.nan, SCORES), LABELS)
