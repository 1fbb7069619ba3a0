"""AVA's evaluators: where they disagree, the sources' loops written out, and what must not matter."""

import numpy as np
import pytest

from reaction.evaluation import ava
from reaction.evaluation.ava import ACTIVITYNET, MMACTION2, PROTOCOLS, SLOWFAST, ActionScores, AvaProtocol, ava_map
from reaction.evaluation.boxes import Truth, iou

A, B, FAR = [0.1, 0.1, 0.3, 0.5], [0.5, 0.1, 0.7, 0.5], [0.8, 0.8, 0.9, 0.9]
ALL = (ACTIVITYNET, SLOWFAST, MMACTION2)


def truth_of(*rows: tuple) -> Truth:
    """Rows of second, box, action, all of one video."""
    second, box, action = zip(*rows, strict=True)
    return Truth(np.zeros(len(rows), np.int64), np.array(second), np.array(box), np.array(action))


def found(*rows: tuple, actions: int = 1) -> ActionScores:
    """Rows of second, box, action, score: a row of scores each, as in a file."""
    score = np.full((len(rows), actions), np.nan)
    for i, (_, _, action, value) in enumerate(rows):
        score[i, action] = value
    box = np.array([row[1] for row in rows], float).reshape(-1, 4)
    return ActionScores(np.zeros(len(rows), np.int64), np.array([row[0] for row in rows], np.int64), box, score)


def values(truth: Truth, detections: ActionScores, **options) -> list[float]:
    return [ava_map(truth, detections, protocol=protocol, **options).mean for protocol in ALL]


def test_a_false_alarm_on_a_keyframe_without_truth():
    truth = truth_of((902, A, 0), (902, B, 0))
    detections = found((902, A, 0, 0.9), (903, A, 0, 0.8), (902, B, 0, 0.7))
    assert values(truth, detections) == pytest.approx([1, 0.5 + 0.5 * 2 / 3, 1])
    listed = np.array([[0, 903]])  # the ground truth lists it without an evaluated action
    assert values(truth, detections, listed=listed) == pytest.approx([0.5 + 0.5 * 2 / 3, 0.5 + 0.5 * 2 / 3, 1])


def test_a_class_with_truth_that_nobody_detects():
    truth = truth_of((902, A, 0), (902, A, 1))
    assert values(truth, found((902, A, 0, 0.9), actions=2)) == [0.5, 0.5, 1.0]


def test_a_class_without_truth_does_not_count():
    truth = truth_of((902, A, 0))
    assert values(truth, found((902, A, 0, 0.9), (902, A, 1, 0.9), actions=2)) == [1, 1, 1]


def test_two_detections_of_one_truth_the_worse_one_listed_first():
    truth = truth_of((902, A, 0))
    assert values(truth, found((902, A, 0, 0.5), (902, A, 0, 0.9))) == [1, 0.5, 1]
    assert values(truth, found((902, A, 0, 0.9), (902, A, 0, 0.5))) == [1, 1, 1]


def test_a_hit_beyond_the_fifty_best_of_its_keyframe():
    truth = truth_of((902, A, 0))
    others = [(902, FAR, 0, 0.9 - i / 100) for i in range(54)]
    after = [(902, FAR, 0, 0.2)] * 5
    detections = found(*others, (902, A, 0, 0.3), *after)
    assert values(truth, detections) == pytest.approx([0, 1 / 55, 1 / 55])


def test_the_fifty_best_are_taken_over_all_actions():
    truth = truth_of((902, A, 1))
    detections = found(*[(902, FAR, 0, 0.9)] * 50, (902, A, 1, 0.3), actions=2)
    assert values(truth, detections) == [0, 1, 1]
    assert values(truth, found(*[(902, FAR, 0, 0.9)] * 49, (902, A, 1, 0.3), actions=2)) == [1, 1, 1]


def test_the_fifty_best_are_the_same_however_many_are_ranked_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    second, score = rng.integers(900, 912, 400), np.round(rng.random((400, 6)), 1)
    detections = ActionScores(np.zeros(400, np.int64), second, np.tile(A, (400, 1)), score)
    kept = ~np.isnan(ava._best(detections, 50).score)
    for own in (second == one for one in np.unique(second)):
        ranked = np.argsort(-score[own].ravel(), kind="stable")[:50]
        assert np.flatnonzero(kept[own].ravel()).tolist() == sorted(ranked.tolist())
    for at_once in (1, 300, 1200):
        monkeypatch.setattr(ava, "SCORES", at_once)
        assert (~np.isnan(ava._best(detections, 50).score) == kept).all()


def test_truth_on_an_excluded_keyframe():
    """Three quarters are found, and the fourth is on a keyframe that the list takes out."""
    truth = truth_of(*((second, A, 0) for second in (902, 903, 904, 905)))
    detections = found(*((second, A, 0, 0.9) for second in (902, 903, 904)))
    assert values(truth, detections, excluded=np.array([[0, 905]])) == [0.75, 1.0, 0.75]


def test_an_overlap_of_just_a_half():
    """A width of 0.1 is not quite half of 0.2 in float32."""
    half = found((902, [0.1, 0.1, 0.2, 0.5], 0, 0.9))
    truth = truth_of((902, [0.1, 0.1, 0.3, 0.5], 0))
    exact = float(iou(half.box, truth.box)[0])
    assert exact >= 0.5 > float(iou(half.box.astype(np.float32), truth.box.astype(np.float32))[0])
    assert values(truth, half) == [1, 1, 0]


def test_boxes_without_an_area():
    truth = truth_of((902, A, 0))
    assert values(truth, found((902, [0.2, 0.2, 0.2, 0.4], 0, 0.9), (902, A, 0, 0.5))) == [1, 1, 0.5]


def test_mini_validation_takes_every_fourth_second_and_says_so():
    truth = truth_of((904, A, 0), (905, A, 0))
    detections = found((904, A, 0, 0.9))
    for protocol in ALL:
        full, mini = (ava_map(truth, detections, protocol=protocol, part=part) for part in ("full", "mini"))
        assert (full.mean, mini.mean) == (0.5, 1.0)
        assert (full.protocol, mini.protocol) == (protocol.name, f"{protocol.name}-mini")


def test_pixels_and_labels_counted_from_one_are_refused():
    truth, pixels = truth_of((902, A, 0)), found((902, [10, 10, 30, 50], 0, 0.9))
    with pytest.raises(ValueError, match="a box reaches 50: AVA's boxes are fractions"):
        ava_map(truth, pixels, protocol=ACTIVITYNET)
    with pytest.raises(ValueError, match="labels go from 1 to 1; 1 classes"):
        ava_map(truth_of((902, A, 1)), found((902, A, 0, 0.9)), protocol=ACTIVITYNET)


def crowd(seed: int, *, seconds: int = 16, people: int = 11, actions: int = 6) -> tuple[Truth, ActionScores]:
    rng = np.random.default_rng(seed)
    video, second = np.repeat([0, 1], 3 * seconds // 2), np.repeat(900 + np.arange(seconds), 3)
    corner = rng.random((len(second), 2)) / 2
    box = np.concatenate([corner, corner + 0.1 + rng.random((len(second), 2)) / 3], axis=1)
    label = rng.random((len(second), actions - 1)) < 0.3  # the last action has no truth
    row, action = np.nonzero(label)
    truth = Truth(video[row], second[row], box[row], action)
    source = np.repeat(np.arange(len(second)), people)
    found = box[source] + rng.normal(0, 0.04, (len(source), 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 0.01)
    score = rng.random((len(source), actions)) + 0.5 * np.pad(label, ((0, 0), (0, 1)))[source]
    score[rng.random(score.shape) < 0.2] = np.nan
    outside = rng.random(len(source)) < 0.1
    return truth, ActionScores(video[source], np.where(outside, 2000, second[source]), found, score)


def plain(truth: Truth, detections: ActionScores, action: int, protocol: AvaProtocol) -> float:
    """One action, keyframe after keyframe and detection after detection."""
    if protocol is ACTIVITYNET:
        detections = fifty_best(detections)
    annotated = set(zip(truth.video, truth.frame, strict=True))
    rows = []
    for key in sorted({*annotated, *zip(detections.video, detections.second, strict=True)}):
        if key not in annotated and protocol is not SLOWFAST:
            continue
        boxes = truth.box[(truth.video == key[0]) & (truth.frame == key[1]) & (truth.label == action)]
        mine = np.flatnonzero((detections.video == key[0]) & (detections.second == key[1]))
        mine = mine[~np.isnan(detections.score[mine, action])]
        if protocol is not SLOWFAST:
            mine = mine[np.argsort(-detections.score[mine, action], kind="stable")]
        taken = np.zeros(len(boxes), bool)
        for i in mine:
            hit = False
            if len(boxes):
                kind = np.float32 if protocol is MMACTION2 else np.float64
                overlap = iou(np.repeat(detections.box[i : i + 1], len(boxes), 0).astype(kind), boxes.astype(kind))
                best = overlap.argmax()
                hit = bool(overlap[best] >= 0.5 and not taken[best])
                taken[best] |= hit
            rows.append((detections.score[i, action], hit))
    hits = np.cumsum([hit for _, hit in sorted(rows, reverse=True)])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / (truth.label == action).sum()
    return sum((recall[i] - (recall[i - 1] if i else 0)) * precision[i:].max() for i in range(len(hits)))


def fifty_best(detections: ActionScores) -> ActionScores:
    score = detections.score.copy()
    for key in set(zip(detections.video, detections.second, strict=True)):
        mine = np.flatnonzero((detections.video == key[0]) & (detections.second == key[1]))
        values = np.sort(score[mine][~np.isnan(score[mine])])
        if len(values) > 50:
            score[mine] = np.where(score[mine] >= values[-50], score[mine], np.nan)
    return ActionScores(detections.video, detections.second, detections.box, score)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_plain_loop(name, seed):
    truth, detections = crowd(seed)
    result = ava_map(truth, detections, protocol=PROTOCOLS[name])
    expected = [plain(truth, detections, action, PROTOCOLS[name]) for action in range(5)]
    assert result.per_class[:5].tolist() == pytest.approx(expected, abs=1e-12)
    assert np.isnan(result.per_class[5])
    assert 0.05 < result.mean < 0.95


@pytest.mark.parametrize("name", ["activitynet", "mmaction2"])
def test_neither_order_nor_scale_of_scores_matters(name):
    truth, detections = crowd(7)
    first = ava_map(truth, detections, protocol=PROTOCOLS[name]).per_class
    shuffled = detections[np.random.default_rng(0).permutation(len(detections))]
    scaled = ActionScores(detections.video, detections.second, detections.box, np.log(detections.score) * 3)
    for other in (shuffled, scaled):
        np.testing.assert_array_equal(ava_map(truth, other, protocol=PROTOCOLS[name]).per_class, first)
