"""Accuracies of a classifier from its scores.

Scores rank the classes; of two equal scores the lower label comes first, everywhere. A label is an integer in
[0, classes), accuracies are fractions in [0, 1].
"""

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray) -> NDArray:
    """Probabilities over the last axis, float64, safe for large logits."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: NDArray) -> NDArray:
    """The probability of each class by itself, float64, safe for large logits."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def consensus(
    logits: NDArray, *, before_softmax: bool = True, pool: str = "mean", multi_label: bool = False
) -> NDArray:
    """One score per class from the views of a video: (n, V, classes) to (n, classes), float64.

    The mean of the logits as in TSN (Wang 2016, section 3.1), or, with `before_softmax=False`, the mean of the softmax
    of every view as in Two-Stream ConvNets (Simonyan 2014, section 5); with `multi_label` of the sigmoid instead. With
    `pool="max"` each class has its best view's instead of the mean (SlowFast on Charades).
    """
    likelihoods = sigmoid if multi_label else softmax
    each = np.asarray(logits, dtype=np.float64) if before_softmax else likelihoods(logits)  # (n, V, classes)
    return each.max(axis=1) if pool == "max" else each.mean(axis=1)


def label_ranks(scores: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """How many classes are placed before the true one: 0 is a hit at top-1. Shape (n,).

    Raises ValueError on scores that are not finite, which would otherwise rank first or last by accident.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if not np.isfinite(scores).all():
        broken = int((~np.isfinite(scores)).any(axis=1).sum())
        raise ValueError(f"{broken} of {len(scores)} videos have NaN or infinite scores: score the run again")
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # (n, 1)
    earlier = np.arange(scores.shape[1]) < labels[:, None]  # (n, classes)
    return ((scores > own) | ((scores == own) & earlier)).sum(axis=1)


def top_k(scores: NDArray, labels: NDArray, k: int = 1) -> float:
    """The fraction of videos whose true class is among the k best; k above the number of classes counts them all."""
    return float((label_ranks(scores, labels) < k).mean())


def cross_entropy(probabilities: NDArray, labels: NDArray) -> float:
    """The mean over videos of -log of the true class's probability, in nats; probabilities (n, classes)."""
    own = np.take_along_axis(np.asarray(probabilities), np.asarray(labels)[:, None], axis=1)
    return float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean())


def confusion(scores: NDArray, labels: NDArray) -> NDArray[np.int64]:
    """Counts (classes, classes): row = true class, column = predicted class."""
    classes = scores.shape[1]
    cells = np.asarray(labels) * classes + np.argmax(scores, axis=1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def per_class(scores: NDArray, labels: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Videos and hits of every class, both (classes,)."""
    counts = confusion(scores, labels)
    return counts.sum(axis=1), np.diagonal(counts).copy()


def mean_class_accuracy(scores: NDArray, labels: NDArray) -> float:
    """The mean of the classes' own accuracies, over the classes that have a video."""
    videos, correct = per_class(scores, labels)
    tested = videos > 0
    return float((correct[tested] / videos[tested]).mean())
