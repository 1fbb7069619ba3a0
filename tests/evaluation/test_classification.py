import numpy as np
import pytest

from reaction.evaluation.classification import (
    confusion,
    consensus,
    label_ranks,
    mean_class_accuracy,
    per_class,
    softmax,
    top_k,
)


def hits_one_by_one(scores, labels, k):
    """The definition, sorted in plain Python: best score first, then lowest label."""
    hits = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        hits += label in order[:k]
    return hits / len(labels)


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_is_what_sorting_gives_ties_included(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 4, size=(300, 7)).astype(float), rng.integers(0, 7, size=300)
    assert top_k(scores, labels, k) == pytest.approx(hits_one_by_one(scores, labels, k))


def test_equal_scores_favour_the_lowest_label():
    scores = np.zeros((3, 3))
    assert label_ranks(scores, np.arange(3)).tolist() == [0, 1, 2]
    assert confusion(scores, np.arange(3))[:, 0].tolist() == [1, 1, 1]


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 videos have NaN"):
        top_k(np.array([[0.0, np.nan], [1.0, 0.0]]), np.array([0, 1]))


def test_mean_class_accuracy_weighs_classes_not_videos():
    predicted, labels = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 0])
    scores = np.eye(3)[predicted]
    assert top_k(scores, labels) == pytest.approx(4 / 5)
    assert mean_class_accuracy(scores, labels) == pytest.approx((3 / 4 + 1) / 2)  # class 2 has no video
    videos, correct = per_class(scores, labels)
    assert videos.tolist() == [4, 1, 0]
    assert correct.tolist() == [3, 1, 0]


def test_confusion_has_true_rows_and_predicted_columns():
    counts = confusion(np.eye(3)[[2, 2, 1]], np.array([0, 0, 1]))
    assert counts.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_softmax_in_closed_form_and_for_large_logits():
    assert softmax(np.array([[0.0, np.log(3.0)]])) == pytest.approx(np.array([[0.25, 0.75]]))
    assert softmax(np.array([[1000.0, 1000.0]])).tolist() == [[0.5, 0.5]]


def test_consensus_before_and_after_softmax_can_disagree():
    """One loud view wins on logits; two quiet ones win on probabilities, where none counts for more than 1."""
    logits = np.array([[[10.0, 0.0], [0.0, 2.0], [0.0, 2.0]]])  # (1, 3, 2)
    assert consensus(logits) == pytest.approx(np.array([[10 / 3, 4 / 3]]))
    quiet = 1 / (1 + np.exp(-2.0))
    assert consensus(logits, before_softmax=False)[0, 1] == pytest.approx((2 * quiet + 1 / (1 + np.exp(10.0))) / 3)
    assert consensus(logits, before_softmax=False).argmax() == 1
