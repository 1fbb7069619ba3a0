"""Every kind of mistake once, and that the parts add up."""

import numpy as np
import pytest

from reaction.evaluation.boxes import Detections, Truth
from reaction.evaluation.detection_errors import KINDS, detection_errors, error_kinds
from reaction.evaluation.frame_map import ACT, frame_map

HERE, THERE = [0.0, 0, 39, 39], [100.0, 100, 139, 139]
# Video 0 has class 0 on frames 0 and 1 and class 1 on frame 2; video 1 has class 1 on frame 0.
TRUTH = Truth(
    np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]), np.array([HERE, HERE, HERE, HERE]), np.array([0, 0, 1, 1])
)


def found(*rows: tuple) -> Detections:
    """Rows of video, frame, box, class; the first is the surest."""
    video, frame, box, label = zip(*rows, strict=True)
    score = 1 - np.arange(len(rows)) / 10
    return Detections(np.array(video), np.array(frame), np.array(box), np.array(label), score)


def test_every_kind_of_mistake():
    detections = found(
        (0, 0, THERE, 0),  # the class is here, elsewhere
        (0, 2, HERE, 0),  # class 1 is where class 0 was seen
        (0, 7, HERE, 0),  # the class is in this video, not on this frame
        (0, 2, THERE, 0),  # a frame with another class, elsewhere: other, though the class is in the video
        (1, 3, HERE, 0),  # the class is not in this video
    )
    assert [KINDS[i] for i in error_kinds(TRUTH, detections, 0.5)] == [
        "localisation", "classification", "time", "other", "other",
    ]  # fmt: skip


def test_figures_by_hand():
    """Class 0, of two: hit, repeat of it, wrong time, hit. Class 1: nothing found."""
    detections = found((0, 0, HERE, 0), (0, 0, HERE, 0), (0, 7, HERE, 0), (0, 1, HERE, 0))
    figures = detection_errors(TRUTH, detections, classes=3).per_class
    assert {name: values[0] for name, values in figures.items()} == pytest.approx(
        {
            "precision": 0.5 * 1 + 0.5 * (1 / 3 + 2 / 4) / 2,
            "localisation": 0.5 * (1 / 3 + 1 / 4) / 2,
            "classification": 0,
            "time": 0.5 * (1 / 3 + 1 / 4) / 2,
            "other": 0,
            "missed": 0,
        }
    )
    assert figures["missed"][1] == 1
    assert figures["precision"][1] == 0
    assert all(np.isnan(values[2]) for values in figures.values())


def test_parts_add_up_to_one():
    rng = np.random.default_rng(3)
    detections = Detections(
        rng.integers(2, size=300), rng.integers(4, size=300), np.where(rng.random((300, 1)) < 0.4, HERE, THERE),
        rng.integers(2, size=300), rng.permutation(300) / 300,
    )  # fmt: skip
    result = detection_errors(TRUTH, detections, classes=2)
    parts = sum(result.per_class[name] for name in ("precision", *KINDS, "missed"))
    assert parts.tolist() == pytest.approx([1, 1])
    ap = frame_map(TRUTH, detections, classes=2, protocol=ACT)
    assert result.per_class["precision"].tolist() == ap.per_class.tolist()
    assert set(result.mean) == {"precision", *KINDS, "missed"}
