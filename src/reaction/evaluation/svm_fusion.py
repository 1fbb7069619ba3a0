"""Late fusion by a linear SVM: Simonyan & Zisserman, "Two-Stream Convolutional Networks", NIPS 2014, section 2.

https://arxiv.org/abs/1406.2199; "training a multi-class linear SVM on stacked L2-normalised softmax scores as
features".

A video's softmax scores are the mean over its views, per stream (or the softmax of the mean, where the protocol
averages before it); each stream's scores are divided by their Euclidean length, the streams are laid side by side, and
an SVM trained on the training videos gives the fused class scores. The SVM is LIBLINEAR's (Fan et al., JMLR 2008),
through scikit-learn.

What the paper leaves unsaid, and what we chose:
- the training videos' scores come from the networks that were trained on those videos, and are surer of themselves than
  the test videos' are; nothing else is left to train on in the official splits;
- LIBLINEAR's C: the protocol's `svm.c`, 1;
- which multi-class SVM, of which the paper says no more than "multi-class linear SVM": `svm.multi_class`, by default
  "one-vs-rest" with the squared hinge loss, LIBLINEAR's own default, a plane per class against all others; or
  "crammer-singer", all planes at once (Crammer & Singer, JMLR 2001);
- the bias is one more weight of a constant input 1, regularised as the others are, as LIBLINEAR has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MULTI_CLASS = {"one-vs-rest": "ovr", "crammer-singer": "crammer_singer"}
MOST_STEPS = 100_000


@dataclass(frozen=True)
class LinearSVM:
    """One hyperplane per class: weights (classes, features) and bias (classes,)."""

    weights: NDArray
    bias: NDArray

    def scores(self, features: NDArray) -> NDArray:
        """Fused scores (n, classes) of features (n, features): signed distances times the weights' length."""
        return features @ self.weights.T + self.bias


def stack_streams(probabilities: Sequence[NDArray]) -> NDArray:
    """Softmax scores (n, classes) of each stream to features (n, streams * classes), each stream of length 1."""
    scores = [np.asarray(stream, dtype=np.float64) for stream in probabilities]
    return np.concatenate([stream / np.linalg.norm(stream, axis=1, keepdims=True) for stream in scores], axis=1)


def train_svm(
    features: NDArray,
    labels: NDArray,
    *,
    classes: int,
    cost: float = 1.0,
    multi_class: str = "one-vs-rest",
    seed: int = 0,
) -> LinearSVM:
    """The SVM of training features (n, features) and labels (n,), which must have a video of every class.

    `seed` orders the videos where LIBLINEAR solves the dual problem, with more features than videos.
    """
    from sklearn.svm import LinearSVC  # takes a second to import: only those who train pay for it

    if multi_class not in MULTI_CLASS:
        raise ValueError(f"multi_class is one of {', '.join(MULTI_CLASS)}, not {multi_class!r}")
    absent = np.setdiff1d(np.arange(classes), labels)
    if len(absent):
        raise ValueError(f"{len(absent)} of {classes} classes have no training video, the first is label {absent[0]}")
    kind = MULTI_CLASS[multi_class]
    svm = LinearSVC(C=cost, multi_class=kind, dual="auto", max_iter=MOST_STEPS, random_state=seed)
    svm.fit(features, labels)
    if classes > 2:
        return LinearSVM(svm.coef_, svm.intercept_)
    # Of two classes scikit-learn keeps the second one's plane alone.
    return LinearSVM(np.concatenate([-svm.coef_, svm.coef_]), np.concatenate([-svm.intercept_, svm.intercept_]))
