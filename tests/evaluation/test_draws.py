"""Draws of videos: counted at once, they give what a set of videos gives in which some are there several times."""

from dataclasses import replace

import numpy as np
import pytest

from reaction.evaluation import ava, frame_map, video_map
from reaction.evaluation.average_precision import Draws, MeanAP
from reaction.evaluation.boxes import Detections, Truth
from reaction.evaluation.tubes import Tube

VIDEOS, CLASSES = 6, 4  # nobody does the last of the classes
UNIT = np.array([0, 1, 1, 2, 3, 3])
TIMES = np.random.default_rng(1).multinomial(4, np.full(4, 1 / 4), size=12).astype(np.float64)
DRAWS = Draws(UNIT, TIMES)
ONCE = Draws(UNIT, np.ones((1, 4)))


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner = rng.integers(0, 25, (count, 2))
    return np.concatenate([corner, corner + rng.integers(12, 30, (count, 2))], axis=1).astype(float)


def frames(seed: int) -> tuple[Truth, Detections]:
    """Scores have two digits, so that many are equal. Class 2 is in video 3 alone, and some draws are without it."""
    rng = np.random.default_rng(seed)
    video, label = rng.integers(VIDEOS, size=80), rng.integers(2, size=80)
    label[video == 3] = 2
    truth = Truth(video, rng.integers(4, size=80), boxes(rng, 80), label)
    source = rng.integers(80, size=300)
    found = truth.box[source] + rng.integers(-4, 5, (300, 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    label = np.where(rng.random(300) < 0.7, truth.label[source], rng.integers(CLASSES, size=300))
    return truth, Detections(video[source], truth.frame[source], found, label, np.round(rng.random(300), 2))


def repeated(times: np.ndarray, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and the new numbers of their videos, of a set that holds each video as often as its unit was drawn."""
    copies = [(v, k) for v in range(VIDEOS) for k in range(int(times[UNIT[v]]))]
    rows = [(row, number) for number, (v, _) in enumerate(copies) for row in np.flatnonzero(video == v)]
    row, number = np.array(rows, np.int64).reshape(-1, 2).T
    return row, number


def check(result: MeanAP, once: MeanAP, by_hand: list[MeanAP]) -> None:
    assert once.drawn[0].tolist() == pytest.approx(result.per_class.tolist(), abs=0, nan_ok=True)
    assert once.drawn_means[0] == result.mean
    lacking = 0
    for drawn, other in zip(result.drawn, by_hand, strict=True):
        known = result.positives > 0
        there = known & (other.positives > 0)
        lacking += (known & ~there).sum()
        assert drawn[there].tolist() == pytest.approx(other.per_class[there].tolist(), abs=1e-9, nan_ok=True)
        assert np.isnan(drawn[known & ~there]).all()  # left out, whatever is done with classes that nobody does
        assert drawn[~known].tolist() == pytest.approx(result.per_class[~known].tolist(), nan_ok=True)
    assert lacking
    assert result.drawn_means.tolist() == pytest.approx([np.nanmean(one) for one in result.drawn])
    assert len(np.unique(result.drawn_means)) > 6


@pytest.mark.parametrize("protocol", frame_map.PROTOCOLS.values(), ids=frame_map.PROTOCOLS)
def test_frames(protocol):
    truth, detections = frames(3)

    def measured(truth: Truth, detections: Detections, draws: Draws | None = None) -> MeanAP:
        return frame_map.frame_map(truth, detections, classes=CLASSES, protocol=protocol, draws=draws)

    def drawn(times: np.ndarray) -> MeanAP:
        (row, video), (own, number) = repeated(times, truth.video), repeated(times, detections.video)
        again = Truth(video, truth.frame[row], truth.box[row], truth.label[row])
        columns = (getattr(detections, name)[own] for name in ("frame", "box", "label", "score"))
        return measured(again, Detections(number, *columns))

    check(measured(truth, detections, DRAWS), measured(truth, detections, ONCE), [drawn(times) for times in TIMES])


def tubes(seed: int) -> tuple[list[Tube], list[Tube]]:
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for video in range(VIDEOS):
        for _ in range(4):
            label = 2 if video == 3 else int(rng.integers(2))
            start, length, x = int(rng.integers(6)), int(rng.integers(4, 12)), float(rng.integers(50))
            box = np.tile([x, 0.0, x + 30, 40], (length, 1))
            truth.append(Tube(video, label, start, box))
            for _ in range(3):
                shift, score = rng.integers(-12, 13), round(float(rng.random()), 1)
                other = label if rng.random() < 0.8 else int(rng.integers(CLASSES))
                found.append(
                    Tube(video, other, start + int(rng.integers(2)), box + np.array([shift, 0, shift, 0]), score)
                )
    return truth, found


@pytest.mark.parametrize("protocol", video_map.PROTOCOLS.values(), ids=video_map.PROTOCOLS)
def test_tubes(protocol):
    truth, found = tubes(0)

    def measured(truth: list[Tube], found: list[Tube], draws: Draws | None = None) -> MeanAP:
        how = {"classes": CLASSES, "protocol": protocol, "thresholds": [0.3], "draws": draws}
        return video_map.video_map(truth, found, **how)[0]

    def again(times: np.ndarray, some: list[Tube]) -> list[Tube]:
        rows, videos = repeated(times, np.array([one.video for one in some]))
        return [replace(some[row], video=video) for row, video in zip(rows, videos, strict=True)]

    by_hand = [measured(again(times, truth), again(times, found)) for times in TIMES]
    check(measured(truth, found, DRAWS), measured(truth, found, ONCE), by_hand)


@pytest.mark.parametrize("protocol", ava.PROTOCOLS.values(), ids=ava.PROTOCOLS)
def test_actions(protocol):
    """An action that a draw has, and that none of its detections scores, is what the protocol makes of such ones."""
    truth, detections = frames(5)
    truth = Truth(truth.video, truth.frame, truth.box / 100, truth.label)
    score = np.round(np.random.default_rng(2).random((300, CLASSES)), 2)
    score[np.isin(detections.video, [0, 1, 2]), 0] = np.nan
    found = ava.ActionScores(detections.video, detections.frame, detections.box / 100, score)

    def drawn(times: np.ndarray) -> MeanAP:
        (row, video), (own, number) = repeated(times, truth.video), repeated(times, found.video)
        again = Truth(video, truth.frame[row], truth.box[row], truth.label[row])
        copies = ava.ActionScores(number, found.second[own], found.box[own], score[own])
        return ava.ava_map(again, copies, protocol=protocol)

    results = (ava.ava_map(truth, found, protocol=protocol, draws=draws) for draws in (DRAWS, ONCE))
    check(*results, [drawn(times) for times in TIMES])
