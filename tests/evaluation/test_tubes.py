"""Linking on tracks whose right answer is known, and against all there is to choose from."""

import tracemalloc
from itertools import pairwise, product

import numpy as np
import pytest

from reaction.evaluation import link_viterbi
from reaction.evaluation.boxes import iou
from reaction.evaluation.link_online import ActorPath, OnlineLinker, smoothed_labels, trimmed_tubes
from reaction.evaluation.link_tubelets import Tubelets, link_tubelets
from reaction.evaluation.link_viterbi import viterbi_class_paths, viterbi_paths
from reaction.evaluation.tubes import Path, Tube, TubeOverlap, suppress_tubes, tube_of

FRAMES = 24


def walk(x: float, speed: float, y: float = 0) -> np.ndarray:
    """A box of 20 x 30 pixels that goes to the right: (FRAMES, 4)."""
    left = x + speed * np.arange(FRAMES)
    return np.stack([left, np.full(FRAMES, y), left + 20, np.full(FRAMES, y + 30)], axis=1)


CROSSING = (walk(0, 3), walk(69, -3))  # they meet in the middle
SCORES = (0.9, 0.6)


def flat(tracks: tuple, missing: dict[int, set[int]] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, boxes and scores of tracks, but for the frames that track i is `missing`."""
    rows = [
        (frame, *track[frame], score)
        for i, (track, score) in enumerate(zip(tracks, SCORES, strict=False))
        for frame in range(FRAMES)
        if frame not in (missing or {}).get(i, ())
    ]
    table = np.array(rows)
    return table[:, 0].astype(int), table[:, 1:5], table[:, 5]


def by_viterbi(frame, box, score):
    return viterbi_paths(frame, box, score, FRAMES)


def by_tubelets(frame, box, score):
    return link_tubelets(frame, box[:, None], score, FRAMES, edge=0)


def by_online(frame, box, score):
    linker = OnlineLinker()
    for place in range(FRAMES):
        own = frame == place
        linker.update(place, box[own], score[own], score[own, None])
    return [Path(one.start, one.box, float(one.score.mean())) for one in linker.paths()]


LINKERS = pytest.mark.parametrize("link", [by_viterbi, by_tubelets, by_online])


def sorted_boxes(paths: list[Path]) -> list:
    return [path.box.tolist() for path in sorted(paths, key=lambda one: -one.score)]


@LINKERS
def test_two_tracks_that_do_not_meet(link):
    tracks = (walk(0, 2), walk(0, 2, y=100))
    assert sorted_boxes(link(*flat(tracks))) == [track.tolist() for track in tracks]


@LINKERS
def test_neither_order_nor_a_monotone_scale_of_scores_matters(link):
    frame, box, score = flat(CROSSING)
    first = sorted_boxes(link(frame, box, score))
    assert len(first) == 2
    order = np.random.default_rng(0).permutation(len(frame))
    assert sorted_boxes(link(frame[order], box[order], score[order])) == first
    assert sorted_boxes(link(frame, box, score**3)) == first


@LINKERS
def test_tracks_that_cross(link):
    """The surer one takes what it wants where they meet, and leaves it on the way it went."""
    paths = sorted(link(*flat(CROSSING)), key=lambda one: -one.score)
    assert paths[0].box.tolist() == CROSSING[0].tolist()
    assert paths[1].box.tolist() == CROSSING[1].tolist()


def best_by_trying_all(boxes: list[np.ndarray], scores: list[np.ndarray]) -> tuple[float, tuple]:
    def value(choice: tuple) -> float:
        total = 0.0
        for i in range(len(choice) - 1):
            a, b, s, t = (
                boxes[i][choice[i]],
                boxes[i + 1][choice[i + 1]],
                scores[i][choice[i]],
                scores[i + 1][choice[i + 1]],
            )
            total += float(iou(a[None], b[None])[0]) + s + t + 0.5 * s * t
        return total

    return max((value(choice), choice) for choice in product(*(range(len(one)) for one in boxes)))


def test_viterbi_finds_the_best_of_all_paths_then_the_best_of_the_rest():
    rng = np.random.default_rng(2)
    corner = rng.random((5, 4, 2)) * 20
    boxes = np.concatenate([corner, corner + 15], axis=2)
    scores = rng.random((5, 4))
    frame = np.repeat(np.arange(5), 4)
    paths = viterbi_paths(frame, boxes.reshape(-1, 4), scores.ravel(), 5)
    assert len(paths) == 3
    left_boxes, left_scores = list(boxes), list(scores)
    for path in paths:
        _, choice = best_by_trying_all(left_boxes, left_scores)
        assert path.box.tolist() == [left_boxes[i][k].tolist() for i, k in enumerate(choice)]
        assert path.score == pytest.approx(np.mean([left_scores[i][k] for i, k in enumerate(choice)]))
        left_boxes = [np.delete(one, k, axis=0) for one, k in zip(left_boxes, choice, strict=True)]
        left_scores = [np.delete(one, k) for one, k in zip(left_scores, choice, strict=True)]


def test_viterbi_repeats_the_nearest_frame_where_there_is_none():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10]], float)
    (path,) = viterbi_paths([2, 5], boxes, [0.5, 0.7], 8)
    assert path.box[:, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert viterbi_paths([], np.empty((0, 4)), [], 8) == []
    (single,) = viterbi_paths([0, 0], boxes, [0.5, 0.7], 1, paths=1)
    assert single.box.tolist() == [[1, 0, 11, 10]]
    with pytest.raises(ValueError, match="frames 2 to 5 of a video of 4"):
        viterbi_paths([2, 5], boxes, [0.5, 0.7], 4)


def test_classes_that_share_their_boxes_are_linked_as_if_alone():
    """Frames have no, one or several boxes; scores have one digit, so that paths are often equally good."""
    rng = np.random.default_rng(4)
    frame = np.sort(rng.integers(0, 20, 60))
    corner = rng.integers(0, 15, (60, 2))
    box, score = np.concatenate([corner, corner + 20], axis=1).astype(float), np.round(rng.random((60, 3)), 1)
    together = viterbi_class_paths(frame, box, score, 20)
    shared = Tubelets(frame, box[:, None], 20)
    assert {len(paths) for paths in together} == {int(np.bincount(frame)[np.unique(frame)].min())}
    for label in range(3):
        alone = viterbi_paths(frame, box, score[:, label], 20)
        assert [one.box.tolist() for one in together[label]] == [one.box.tolist() for one in alone]
        assert [one.score for one in together[label]] == [one.score for one in alone]
        alone = link_tubelets(frame, box[:, None], score[:, label], 20, least_frames=2)
        again = shared.paths(score[:, label], least_frames=2)
        assert len(alone) > 3
        assert [(one.start, one.box.tolist(), one.score) for one in again] == [
            (one.start, one.box.tolist(), one.score) for one in alone
        ]


def test_overlaps_of_crowds_are_held_for_a_few_frames_at_a_time(monkeypatch):
    """120 boxes on each of 120 frames: overlaps of all at once, and what they are made of, took 190 MB."""
    rng = np.random.default_rng(5)
    corner = rng.random((120 * 120, 2)) * 200
    boxes, score = np.concatenate([corner, corner + 60], axis=1), rng.random((120 * 120, 1))
    frame = np.repeat(np.arange(120), 120)
    tracemalloc.start()
    (paths,) = viterbi_class_paths(frame, boxes, score, 120)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    monkeypatch.setattr(link_viterbi, "CHUNK", 1 << 40)
    (at_once,) = viterbi_class_paths(frame, boxes, score, 120)
    assert [(one.box.tolist(), one.score) for one in paths] == [(one.box.tolist(), one.score) for one in at_once]


def tubelets(track: np.ndarray, length: int, starts: range | list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(starts), np.stack([track[start : start + length] for start in starts])


def test_tubelets_of_one_actor_are_averaged():
    start, boxes = tubelets(walk(0, 2), 7, range(FRAMES - 6))
    boxes = boxes + np.arange(len(boxes))[:, None, None] % 2  # every second one is a pixel off
    (path,) = link_tubelets(start, boxes, np.linspace(0.2, 0.8, len(start)), FRAMES)
    assert (path.start, len(path.box)) == (0, FRAMES)
    assert path.score == pytest.approx(0.5)
    covering = [k % 2 for k in range(len(start)) if k <= 10 < k + 7]
    assert path.box[10].tolist() == pytest.approx((walk(0, 2)[10] + np.mean(covering)).tolist())


@pytest.mark.parametrize(("missed", "paths"), [(6, 1), (7, 2)])
def test_a_path_of_tubelets_bridges_fewer_misses_than_a_tubelet_is_long(missed, paths):
    """With K = 7, the seventh start after the last may still extend it: six in between are missing."""
    starts = [0, *range(missed + 1, FRAMES - 6)]
    start, boxes = tubelets(walk(0, 0.2), 7, starts)
    found = link_tubelets(start, boxes, np.full(len(start), 0.5), FRAMES, least_frames=1)
    assert len(found) == paths
    assert sum(len(path.box) for path in found) == (FRAMES if paths == 1 else FRAMES - 1)


def test_single_frames_bridge_no_miss_and_short_or_weak_paths_go():
    frame, box, score = flat((walk(0, 1),), {0: {16}})
    (path,) = link_tubelets(frame, box[:, None], score, FRAMES, edge=0)
    assert (path.start, len(path.box)) == (0, 16)  # the seven frames after the miss are too few
    assert link_tubelets(frame, box[:, None], score / 1000, FRAMES, edge=0) == []


def test_a_tubelet_that_hides_another_costs_it_more_than_its_score():
    """Two tubelets on one actor: K = 3 overlaps of 1 add up to 3, so that the second's score is times -2, once."""
    box = np.tile([0.0, 0, 19, 29], (2, 3, 1))
    found = link_tubelets(np.zeros(2, int), box, np.array([0.9, 0.5]), 3, least_frames=1, least_score=-9)
    assert sorted(path.score for path in found) == pytest.approx([-1.0, 0.9])


@pytest.mark.parametrize(("gap", "paths"), [(4, 1), (5, 2)])
def test_the_online_linker_bridges_a_gap_with_a_straight_line(gap, paths):
    missing = {0: set(range(10, 10 + gap))}
    frame, box, score = flat((walk(0, 1),), missing)
    linker = OnlineLinker(gap=5, overlap=0.1)
    for place in range(FRAMES):
        own = frame == place
        linker.update(place, box[own], score[own], score[own, None])
    found = linker.paths()
    assert len(found) == paths
    if paths == 1:
        np.testing.assert_allclose(found[0].box, walk(0, 1))


def test_paths_with_gaps_and_few_boxes_go():
    linker = OnlineLinker()
    for frame in (0, 2, 4):
        linker.update(frame, walk(0, 1)[frame : frame + 1], np.array([0.5]), np.array([[0.5]]))
    assert linker.paths() == []
    assert len(linker.paths(least_found=2)) == 1


def test_smoothed_labels_are_the_best_of_all():
    rng = np.random.default_rng(0)
    for alpha in (0.0, 0.2, 0.7, 3.0):
        value = rng.random((3, 6))

        def worth(labels: tuple, value=value, alpha=alpha) -> float:
            changes = sum(a != b for a, b in pairwise(labels))
            return sum(value[label, t] for t, label in enumerate(labels)) - alpha * changes

        best = max(product(range(3), repeat=6), key=worth)
        assert worth(tuple(smoothed_labels(value, alpha))) == pytest.approx(worth(best))


def test_trimming_finds_when_an_action_takes_place():
    actions = np.full((40, 5), 0.05)
    actions[10:25, 3] = 0.8
    actions[17, 3] = 0.1  # one frame of doubt
    path = ActorPath(100, np.tile([0.0, 0, 9, 9], (40, 1)), np.full(40, 0.9), actions)
    (tube,) = [one for one in trimmed_tubes(path, 7, alpha=1.0) if one.label == 3]
    assert (tube.video, tube.start, tube.end) == (7, 111, 126)  # a frame late, as the source
    assert tube.score == pytest.approx(0.8)
    restless = [one for one in trimmed_tubes(path, 7, alpha=0.1) if one.label == 3]
    assert [(one.start, one.end) for one in restless] == [(111, 118), (119, 126)]
    whole = trimmed_tubes(path, 7, alpha=None, top=1)
    assert [(one.label, one.start, one.end) for one in whole] == [(3, 100, 140)]
    assert trimmed_tubes(path, 7, alpha=[1.0] * 5, least_frames=40) == []
    by_actor = trimmed_tubes(path, 7, alpha=1.0, top=1, by_actor=True)
    assert [(one.start, one.end) for one in by_actor] == [(100, 140)]


def tube(start: int, length: int, box: list | None = None, score: float = 1.0) -> Tube:
    return Tube(0, 0, start, np.tile(np.array(box or [0.0, 0, 9, 9]), (length, 1)), score)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        (TubeOverlap(1.0), [10 / 20, 1 / 11, 50 / 100]),
        (TubeOverlap(1.0, least_frames=2), [10 / 20, 0.0, 50 / 100]),
        (TubeOverlap(0.0, counts_ends=False), [9 / 19, 0.0, 36 / 81]),
    ],
)
def test_overlaps_of_tubes_by_hand(overlap, expected):
    """The later half; one common frame of eleven; half of the box all the time, which a pixel more makes a half."""
    others = [tube(10, 10), tube(9, 2), tube(0, 10, [0, 0, 9, 4])]
    firsts = [tube(0, 20), tube(0, 10), tube(0, 10)]
    values = [overlap(first, other) for first, other in zip(firsts, others, strict=True)]
    assert values == pytest.approx(expected)
    assert overlap(tube(0, 5), tube(5, 5)) == 0


def test_suppression_keeps_the_best_and_what_is_at_the_threshold():
    tubes = [tube(0, 10, score=0.5), tube(0, 20, score=0.9), tube(15, 10, score=0.4)]
    kept = suppress_tubes(tubes, TubeOverlap(1.0), 0.2)
    assert [one.score for one in kept] == [0.9, 0.4]  # 10 of 20 go, 5 of 25 stay
    assert len(suppress_tubes(tubes, TubeOverlap(1.0), 0.5)) == 3


def test_tubes_have_no_gaps_and_some_boxes():
    assert tube_of(3, 1, np.array([6, 5]), np.array([[1, 1, 2, 2], [0, 0, 2, 2]])).start == 5
    with pytest.raises(ValueError, match="video 3: a tube goes from frame 5 to 7"):
        tube_of(3, 1, np.array([5, 7]), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"shape \(0, 4\)"):
        tube(0, 0)
