"""Frame-mAP: cases known by hand, the sources' loops written out, and what must not matter."""

import numpy as np
import pytest

from reaction.evaluation.annotations import truth_of
from reaction.evaluation.boxes import Detections, Truth, as_counted, frame_ids, inclusive, iou
from reaction.evaluation.frame_map import ACT, GURKIRT, MULTISPORTS, PADILLA, PROTOCOLS, frame_map

A, B, FAR = [0, 0, 10, 10], [50, 50, 60, 60], [100, 100, 110, 110]
# What Object-Detection-Metrics, MOC's frameAP, 3D-RetinaNet's and MultiSports' conventions give, in this order.
CASES = {
    "hit, miss, hit on two": ([A, B], [A, FAR, B], [0.8333, 0.7917, 0.8333, 0.8333]),
    "a miss first": ([A], [FAR, A], [0.5, 0.25, 0.5, 0.5]),
    "both nearest to one of two": (
        [[0, 0, 20, 10], [4, 0, 24, 10]],
        [[0, 0, 20, 10], [1, 0, 21, 10]],
        [0.5, 1.0, 1.0, 0.5],
    ),
    "half only with a pixel more": ([[0, 0, 10, 9]], [[0, 0, 10, 4]], [1.0, 1.0, 0.0, 0.0]),
    "the same box twice": ([A, B], [A, A], [0.5, 0.5, 0.5, 0.5]),
    "everything": ([A, B, FAR], [B, FAR, A], [1.0, 1.0, 1.0, 1.0]),
    "nothing": ([A], [], [0.0, 0.0, 0.0, 0.0]),
}


def zeros(count: int) -> np.ndarray:
    return np.zeros(count, np.int64)


def one_frame(truths: list, found: list) -> tuple[Truth, Detections]:
    truth, box = (np.array(boxes, float).reshape(-1, 4) for boxes in (truths, found))
    score = 1 - np.arange(len(box)) / 10
    none = zeros(len(truth))
    return Truth(none, none, truth, none), Detections(zeros(len(box)), zeros(len(box)), box, zeros(len(box)), score)


@pytest.mark.parametrize("case", CASES)
def test_known_cases(case):
    truths, found, expected = CASES[case]
    truth, detections = one_frame(truths, found)
    values = [frame_map(truth, detections, classes=1, protocol=protocol).mean for protocol in PROTOCOLS.values()]
    assert values == pytest.approx(expected, abs=5e-5)


def test_false_alarms_on_frames_without_truth_cost_padilla_nothing():
    truth = Truth(zeros(1), zeros(1), np.array([A], float), zeros(1))
    frames = np.array([1, 0])
    detections = Detections(zeros(2), frames, np.array([A, A], float), zeros(2), np.array([0.9, 0.5]))
    assert frame_map(truth, detections, classes=1, protocol=PADILLA).mean == 1
    assert frame_map(truth, detections, classes=1, protocol=GURKIRT).mean == 0.5


def test_padilla_rounds_to_whole_pixels():
    truth, detections = one_frame([[0, 0, 9, 9]], [[0, 0, 4.4, 9]])  # 4.4 is 4: 50 of 100 pixels
    assert frame_map(truth, detections, classes=1, protocol=PADILLA).mean == 1
    truth, detections = one_frame([[0, 0, 9.6, 9]], [[0, 0, 4.2, 9]])  # 10 and 4: 50 of 110, unrounded 52 of 106
    assert frame_map(truth, detections, classes=1, protocol=PADILLA).mean == 0
    assert frame_map(truth, detections, classes=1, protocol=PADILLA, threshold=0.45).mean == 1


def test_classes_without_truth():
    truth, detections = one_frame([A], [A])
    for protocol, mean in ((PADILLA, 1.0), (ACT, 1.0), (GURKIRT, 0.25), (MULTISPORTS, 1.0)):
        result = frame_map(truth, detections, classes=4, protocol=protocol)
        assert result.mean == mean
        assert (result.protocol, result.threshold) == (protocol.name, 0.5)


def test_boxes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="box 1 is"):
        Truth(zeros(2), zeros(2), np.array([A, [5, 0, 4, 3]], float), zeros(2))
    with pytest.raises(ValueError, match="2 boxes but 1 values of `label`"):
        Truth(zeros(2), zeros(2), np.array([A, A], float), zeros(1))
    truth, detections = one_frame([A], [A])
    from_one = Truth(truth.video, truth.frame, truth.box, truth.label + 1)
    with pytest.raises(ValueError, match="labels go from 1 to 1; 1 classes are counted from 0"):
        frame_map(from_one, detections, classes=1, protocol=ACT)
    with pytest.raises(ValueError, match="box 0 has the score NaN"):
        Detections(zeros(1), zeros(1), np.array([A], float), zeros(1), np.array([np.nan]))


def crowd(seed: int, *, classes: int = 3, frames: int = 12) -> tuple[Truth, Detections]:
    """Truths close enough to be mistaken for one another, detections around them and elsewhere, no two scores equal."""
    rng = np.random.default_rng(seed)
    box = rng.integers(0, 40, (60, 4)).astype(float)
    box[:, 2:] = box[:, :2] + rng.integers(15, 40, (60, 2))
    truth = Truth(rng.integers(2, size=60), rng.integers(frames, size=60), box, rng.integers(classes, size=60))
    source = rng.integers(60, size=400)
    found = np.round(box[source] + rng.normal(0, 5, (400, 4)), 1)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    label = np.where(rng.random(400) < 0.8, truth.label[source], rng.integers(classes, size=400))
    frame = np.where(rng.random(400) < 0.8, truth.frame[source], rng.integers(frames, size=400))
    score = rng.permutation(400) / 400
    return truth, Detections(truth.video[source], frame, found, label, score)


def plain(truth: Truth, detections: Detections, label: int, protocol: str) -> float:
    """One class, detection after detection, as the sources' loops go."""
    edge, rounded = float(protocol in ("padilla", "act")), protocol == "padilla"
    truths: dict[tuple, list] = {}
    annotated = {(v, f) for v, f in zip(truth.video, truth.frame, strict=True)}
    for v, f, box, c in zip(truth.video, truth.frame, truth.box, truth.label, strict=True):
        if c == label:
            truths.setdefault((v, f), []).append(np.round(box) if rounded else box)
    total = sum(map(len, truths.values()))
    flagged = {key: [False] * len(boxes) for key, boxes in truths.items()}
    tp = fp = 0
    precision, recall = [1.0], [0.0]
    for i in np.argsort(-detections.score):
        key = detections.video[i], detections.frame[i]
        if detections.label[i] != label or (protocol == "padilla" and key not in annotated):
            continue
        box = np.round(detections.box[i]) if rounded else detections.box[i]
        hit = False
        if truths.get(key):
            overlaps = [float(iou(box[None], other[None], edge)[0]) for other in truths[key]]
            best = int(np.argmax(overlaps))
            if overlaps[best] >= 0.5 and not flagged[key][best]:
                hit = True
                if protocol in ("padilla", "multisports"):
                    flagged[key][best] = True
                else:
                    truths[key].pop(best)
                    flagged[key].pop()
        tp, fp = tp + hit, fp + (not hit)
        precision.append(tp / (tp + fp))
        recall.append(tp / total)
    if protocol == "act":
        return sum((recall[i] - recall[i - 1]) * (precision[i] + precision[i - 1]) / 2 for i in range(1, len(recall)))
    return sum((recall[i] - recall[i - 1]) * max(precision[i:]) for i in range(1, len(recall)))


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_loop(name, seed):
    truth, detections = crowd(seed)
    result = frame_map(truth, detections, classes=3, protocol=PROTOCOLS[name])
    expected = [plain(truth, detections, label, name) for label in range(3)]
    assert result.per_class.tolist() == pytest.approx(expected, abs=1e-12)
    assert 0.05 < result.mean < 0.95


@pytest.mark.parametrize("name", PROTOCOLS)
def test_neither_order_nor_scale_of_scores_matters(name):
    truth, detections = crowd(9)
    detections = Detections(*(getattr(detections, column) for column in ("video", "frame", "box", "label")),
                            np.round(detections.score, 1))  # fmt: skip
    first = frame_map(truth, detections, classes=3, protocol=PROTOCOLS[name]).per_class
    order = np.random.default_rng(1).permutation(len(detections))
    shuffled = frame_map(truth, detections[order], classes=3, protocol=PROTOCOLS[name]).per_class
    scaled = Detections(detections.video, detections.frame, detections.box, detections.label,
                        np.exp(5 * detections.score) - 7)  # fmt: skip
    assert shuffled.tolist() == first.tolist()
    assert frame_map(truth, scaled, classes=3, protocol=PROTOCOLS[name]).per_class.tolist() == first.tolist()


def test_numbers_as_act_writes_them():
    box = np.array([[3, 4, 10, 12]], np.float32)
    assert inclusive(box).tolist() == [[3, 4, 9, 11]]
    other = np.array([[5, 4, 12, 12]], np.float32)
    assert iou(inclusive(box), inclusive(other), edge=1) == pytest.approx(iou(box, other))


def test_numbers_as_a_protocol_means_them():
    """What adds a pixel gets the last column and row; a box thinner than a pixel then has one."""
    box = np.array([[3, 4, 10, 12], [3, 4, 3.5, 12]], np.float32)
    assert as_counted(box, 1.0).tolist() == [[3, 4, 9, 11], [3, 4, 3, 11]]
    assert as_counted(box, 0.0).tolist() == box.tolist()


def test_frames_have_numbers_of_their_own():
    video, frame = np.array([0, 0, 1]), np.array([1, 0, 0])
    assert len(set(frame_ids(video, frame).tolist())) == 3
    with pytest.raises(ValueError, match="counted from 0"):
        frame_ids(np.array([0]), np.array([-1]))


@pytest.mark.real_data
def test_perfect_detections_of_jhmdb(jhmdb_boxes):
    """All annotated boxes of J-HMDB-21 found, with scores that say nothing: every protocol gives 1."""
    truth = truth_of(jhmdb_boxes, list(jhmdb_boxes))
    score = np.random.default_rng(0).random(len(truth))
    detections = Detections(truth.video, truth.frame, truth.box, truth.label, score)
    for protocol in PROTOCOLS.values():
        result = frame_map(truth, detections, classes=21, protocol=protocol)
        assert result.per_class.tolist() == pytest.approx([1.0] * 21)
