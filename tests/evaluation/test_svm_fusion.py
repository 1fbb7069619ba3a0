import numpy as np
import pytest
from numpy.typing import NDArray

from reaction.evaluation.classification import softmax
from reaction.evaluation.svm_fusion import LinearSVM, stack_streams, train_svm

pytest.importorskip("sklearn")


def blobs(n: int, classes: int, streams: int = 2) -> tuple[NDArray, NDArray]:
    """Softmax scores of some streams stacked, and labels that each stream knows a little about."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    drawn = [softmax(rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]) for _ in range(streams)]
    return stack_streams(drawn), labels


def test_each_stream_has_length_one_and_keeps_its_direction():
    first, second = np.array([[0.6, 0.2, 0.2]]), np.array([[0.5, 0.5, 0.0]])
    features = stack_streams([first, second])
    np.testing.assert_allclose(features[0, :3], first[0] / np.sqrt(0.44))
    np.testing.assert_allclose(features[0, 3:], [2**-0.5, 2**-0.5, 0])
    assert features.shape == (1, 6)


def one_vs_rest(features: NDArray, targets: NDArray, cost: float, steps: int = 20_000) -> NDArray:
    """Weights and bias of min |w|^2 / 2 + cost * sum max(0, 1 - t w x)^2, x ending in a constant 1: plain descent."""
    inputs = np.c_[features, np.ones(len(features))]
    rate = 1 / (1 + 2 * cost * np.linalg.norm(inputs, 2) ** 2)  # one over the gradient's Lipschitz constant
    w = np.zeros(inputs.shape[1])
    for _ in range(steps):
        slack = np.maximum(0, 1 - targets * (inputs @ w))
        w -= rate * (w - 2 * cost * inputs.T @ (slack * targets))
    return w


@pytest.mark.parametrize(("classes", "cost"), [(3, 1.0), (2, 0.5)])
def test_one_vs_rest_solves_its_own_problem(classes, cost):
    features, labels = blobs(40, classes)
    svm = train_svm(features, labels, classes=classes, cost=cost)
    assert svm.weights.shape == (classes, 2 * classes)
    for k in range(classes):
        expected = one_vs_rest(features, np.where(labels == k, 1.0, -1.0), cost)
        np.testing.assert_allclose([*svm.weights[k], svm.bias[k]], expected, atol=5e-3)


def joint_objective(svm: LinearSVM, features: NDArray, labels: NDArray, cost: float) -> float:
    """Crammer & Singer's: squared weights / 2 and the margin by which the best wrong class comes too close."""
    scores = svm.scores(features)
    own = scores[np.arange(len(labels)), labels]
    others = scores + 1 - np.eye(scores.shape[1])[labels]  # the own class needs no margin to itself
    return (np.sum(svm.weights**2) + np.sum(svm.bias**2)) / 2 + cost * (others.max(axis=1) - own).sum()


def test_crammer_singer_cannot_be_improved_by_small_steps():
    features, labels = blobs(60, 4)
    svm = train_svm(features, labels, classes=4, multi_class="crammer-singer")
    best = joint_objective(svm, features, labels, 1.0)
    rng = np.random.default_rng(0)
    for size in (1e-2, 1e-1, 1.0):
        for _ in range(50):
            other = LinearSVM(svm.weights + size * rng.normal(size=(4, 8)), svm.bias + size * rng.normal(size=4))
            assert joint_objective(other, features, labels, 1.0) > best


@pytest.mark.parametrize("multi_class", ["one-vs-rest", "crammer-singer"])
def test_it_weighs_a_good_stream_above_a_noisy_one(multi_class):
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 5
    good = softmax(rng.normal(size=(600, 5)) + 3 * np.eye(5)[labels])
    noise = softmax(3 * rng.normal(size=(600, 5)))
    features = stack_streams([good, noise])
    svm = train_svm(features[:300], labels[:300], classes=5, multi_class=multi_class)
    fused = (svm.scores(features[300:]).argmax(axis=1) == labels[300:]).mean()
    averaged = ((good + noise)[300:].argmax(axis=1) == labels[300:]).mean()
    assert fused > averaged + 0.05
    assert np.abs(svm.weights[:, :5]).mean() > 3 * np.abs(svm.weights[:, 5:]).mean()


@pytest.mark.parametrize("multi_class", ["one-vs-rest", "crammer-singer"])
def test_the_same_seed_gives_the_same_weights(multi_class):
    features, labels = blobs(30, 12, streams=3)  # more features than videos: the dual problem, which draws
    first, second = (train_svm(features, labels, classes=12, multi_class=multi_class) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.bias, second.bias)


def test_a_class_without_a_training_video_is_named():
    features, labels = blobs(30, 3)
    with pytest.raises(ValueError, match="1 of 4 classes have no training video, the first is label 3"):
        train_svm(features, labels, classes=4)
    with pytest.raises(ValueError, match=r"one-vs-rest, crammer-singer, not 'ovo'"):
        train_svm(features, labels, classes=3, multi_class="ovo")
