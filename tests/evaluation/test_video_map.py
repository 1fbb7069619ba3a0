"""Video-mAP: cases known by hand, the plain way, and what must not matter."""

import numpy as np
import pytest

from reaction.evaluation.annotations import true_tubes
from reaction.evaluation.link_tubelets import link_tubelets
from reaction.evaluation.link_viterbi import viterbi_paths
from reaction.evaluation.tubes import Tube, suppress_tubes
from reaction.evaluation.video_map import (
    ACT,
    HIGH_THRESHOLDS,
    MULTISPORTS,
    PROTOCOLS,
    ROAD,
    YOWO,
    YOWO_THRESHOLDS,
    VideoProtocol,
    mean_over,
    video_map,
)

ALL = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


def tube(video: int, x: float = 0, *, start: int = 0, length: int = 20, label: int = 0, score: float = 1.0) -> Tube:
    return Tube(video, label, start, np.tile([x, 0.0, x + 30, 40], (length, 1)), score)


def means(truth: list[Tube], tubes: list[Tube], threshold: float = 0.5, classes: int = 1) -> list[float]:
    return [
        video_map(truth, tubes, classes=classes, protocol=protocol, thresholds=[threshold])[0].mean
        for protocol in (YOWO, ACT, ROAD, MULTISPORTS)
    ]


def test_hit_miss_hit_on_two():
    truth = [tube(0), tube(1)]
    tubes = [tube(0, score=0.9), tube(2, score=0.8), tube(1, score=0.7)]
    assert means(truth, tubes) == pytest.approx([5 / 6 * 2 / 2.00001, 19 / 24, 19 / 24, 5 / 6])


def test_perfect_is_a_little_less_for_yowo():
    assert means([tube(0)], [tube(0)]) == pytest.approx([0.99999, 1, 1, 1], abs=1e-9)


def test_a_tube_twice_as_long_as_the_action_counts_up_to_a_half():
    """YOWO's tubes span the video: 20 of 40 frames are the action's."""
    truth, whole = [tube(0, start=10)], [tube(0, length=40)]
    at = {threshold: means(truth, whole, threshold) for threshold in (0.45, 0.5, 0.51)}
    assert at[0.5][:3] == pytest.approx([0.99999, 1, 1])
    assert at[0.51] == [0, 0, 0, 0]
    assert at[0.5][3] == 0  # durations are 19 and 39 for multisports
    assert at[0.45][3] == 1


def test_a_second_choice_and_none():
    """Both tubes overlap the first truth most; suppression, where there is some, spares them."""
    truth = [tube(0, 0, length=20), tube(0, 0, start=14, length=20)]
    tubes = [tube(0, 0, length=20, score=0.9), tube(0, 0, start=16, length=4, score=0.8)]
    values = means(truth, tubes, threshold=0.1)
    assert values[1:] == pytest.approx([1, 1, 1 / 2])
    assert values[0] == pytest.approx(2 / 2.00001)


def test_yowo_and_act_suppress_what_repeats():
    truth, tubes = [tube(0)], [tube(0, score=0.9), tube(0, 2, score=0.95)]
    assert means(truth, tubes, threshold=0.9) == pytest.approx([0, 0, 0.25, 0.5])
    assert means(truth, tubes, threshold=0.8) == pytest.approx([0.99999, 1, 1, 1])


def test_classes_without_truth():
    assert means([tube(0)], [tube(0)], classes=2) == pytest.approx([0.99999 / 2, 1, 1 / 2, 1])


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="video 3 has the score NaN"):
        means([tube(3)], [tube(3, score=float("nan"))])


def crowd(seed: int) -> tuple[list[Tube], list[Tube]]:
    rng = np.random.default_rng(seed)
    truth, tubes = [], []
    for video in range(8):
        for _ in range(rng.integers(1, 4)):
            start, length, x = int(rng.integers(10)), int(rng.integers(5, 30)), float(rng.integers(60))
            truth.append(tube(video, x, start=start, length=length, label=int(rng.integers(3))))
            for _ in range(5):
                shift, later = rng.normal(0, 6), int(rng.integers(0, 5))
                tubes.append(tube(video, x + shift, start=start + later, length=length,
                                  label=truth[-1].label, score=float(rng.random())))  # fmt: skip
    return truth, tubes


def plain(truth: list[Tube], tubes: list[Tube], label: int, protocol: VideoProtocol, threshold: float) -> float:
    """One class, tube after tube, as the sources' loops go."""
    left = [one for one in truth if one.label == label]
    total = len(left) + protocol.extra
    mine = [one for one in tubes if one.label == label]
    if protocol.suppression is not None:
        videos = {one.video for one in mine}
        mine = [kept for v in videos for kept in
                suppress_tubes([one for one in mine if one.video == v], protocol.overlap, 0.3)]  # fmt: skip
    flagged: set[int] = set()
    tp, precision, recall = 0, [1.0], [0.0]
    for n, one in enumerate(sorted(mine, key=lambda one: -one.score), start=1):
        others = [other for other in left if other.video == one.video]
        if others:
            best = max(others, key=lambda other: protocol.overlap(one, other))
            if protocol.overlap(one, best) >= threshold and id(best) not in flagged:
                tp += 1
                flagged.add(id(best))
                if protocol.second_choice:
                    left = [other for other in left if other is not best]
        precision.append(tp / n)
        recall.append(tp / total)
    steps = range(1, len(recall))
    if protocol.area == "trapezoid":
        return sum((recall[i] - recall[i - 1]) * (precision[i] + precision[i - 1]) / 2 for i in steps)
    return sum((recall[i] - recall[i - 1]) * max(precision[i:]) for i in steps)


@ALL
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_plain_loop(protocol, seed):
    truth, tubes = crowd(seed)
    for result in video_map(truth, tubes, classes=3, protocol=protocol, thresholds=(0.2, 0.5)):
        expected = [plain(truth, tubes, label, protocol, result.threshold) for label in range(3)]
        assert result.per_class.tolist() == pytest.approx(expected, abs=1e-9)
        assert 0.02 < result.mean < 0.98


@ALL
def test_neither_order_nor_scale_of_scores_matters(protocol):
    truth, tubes = crowd(5)
    first = video_map(truth, tubes, classes=3, protocol=protocol, thresholds=[0.3])[0].per_class
    order = np.random.default_rng(0).permutation(len(tubes))
    shuffled = [tubes[i] for i in order]
    scaled = [Tube(one.video, one.label, one.start, one.box, np.log(one.score)) for one in tubes]
    for other in (shuffled, scaled):
        assert video_map(truth, other, classes=3, protocol=protocol, thresholds=[0.3])[0].per_class.tolist() == (
            first.tolist()
        )


def test_the_mean_from_half_to_almost_one():
    assert HIGH_THRESHOLDS[0] == 0.5
    assert HIGH_THRESHOLDS[-1] == pytest.approx(0.95)
    results = video_map([tube(0)], [tube(0, 2)], classes=1, protocol=ACT, thresholds=HIGH_THRESHOLDS)
    assert 0.85 < 29 / 33 < 0.9  # the overlap, with a pixel more
    assert mean_over(results) == pytest.approx(8 / 10)


@pytest.mark.real_data
def test_perfect_detections_of_jhmdb(jhmdb_boxes):
    """Every annotated box found and linked: all tubes are hit at all thresholds, but for what YOWO adds to recall."""
    truth = true_tubes(jhmdb_boxes, list(jhmdb_boxes))
    rng = np.random.default_rng(0)
    linked: dict[str, list[Tube]] = {"viterbi": [], "tubelets": []}
    truth = truth[::3]  # for time's sake; all 21 classes are there
    for one in truth:
        frame, score = np.arange(len(one.box)), np.full(len(one.box), 0.2 + 0.8 * rng.random())
        paths = viterbi_paths(frame, one.box, score, len(one.box))
        linked["viterbi"] += [path.tube(one.video, one.label) for path in paths]
        # Fast actors leave half of their last box behind within a frame.
        paths = link_tubelets(frame, one.box[:, None], score, len(one.box), overlap=0.2)
        linked["tubelets"] += [path.tube(one.video, one.label) for path in paths]
    assert {len(tubes) for tubes in linked.values()} == {len(truth)}
    for result in video_map(truth, linked["viterbi"], classes=21, protocol=YOWO, thresholds=YOWO_THRESHOLDS):
        assert result.per_class.tolist() == pytest.approx([1.0] * 21, abs=1e-5)
        assert result.mean < 1
    for protocol in (ACT, ROAD, MULTISPORTS):
        for result in video_map(truth, linked["tubelets"], classes=21, protocol=protocol, thresholds=HIGH_THRESHOLDS):
            assert result.per_class.tolist() == pytest.approx([1.0] * 21)
