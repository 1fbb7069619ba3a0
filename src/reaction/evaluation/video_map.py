"""Mean average precision over tubes, in four ways.

All take a tube for a hit when its overlap with a truth of its class and video, in space times in time, reaches the
threshold; the best truth is asked for first.

- `yowo`: wei-tim/YOWO, `core/eval_results.py`. Tubes are suppressed at 0.3; a pixel is added to boxes; tubes with a
  single frame in common do not overlap; a tube whose best truth was taken may take the next one; area under the
  largest precision at each recall, where the number of truths has 0.00001 added: perfect is 0.99999 for one truth. Its
  tubes (`link_viterbi`) span the whole video and lose by that on untrimmed ones.
- `act`: ACT-detector and MOC-Detector, `ACT.py`, videoAP. Tubes are suppressed at 0.3; a pixel is added; next truth;
  area under the raw curve, by trapezoids. Tubes from `link_tubelets`.
- `road`: gurkirt/3D-RetinaNet, `modules/evaluation.py`, evaluate_tubes. As `act`, but nothing is suppressed. Tubes
  from `link_online`.
- `multisports`: MCG-NJU/MultiSports, here mmaction2's `multisports_utils.py`, videoAP. Nothing suppressed, nothing
  added to boxes; durations are last minus first frame; a tube whose best truth was taken misses; largest precision.
  Tubes from `link_tubelets` with tubelets of one frame.

A class without truth has AP 0 for `yowo` and `road`, and is left out by `multisports`, and here by `act`, whose source
fails on it. Tubes of one score count together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from reaction.evaluation.average_precision import Draws, MeanAP, PerClass, Ranked
from reaction.evaluation.boxes import Pairs, check_labels, claim
from reaction.evaluation.frame_map import area_of
from reaction.evaluation.tubes import Tube, TubeOverlap, suppress_tubes

YOWO_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
HIGH_THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))  # ACT's 0.5:0.95


@dataclass(frozen=True)
class VideoProtocol:
    """One way to count; see the header. `extra` is added to the number of truths, `no_truth` is the AP without any."""

    name: str
    overlap: TubeOverlap
    second_choice: bool
    area: Literal["every_point", "trapezoid"]
    suppression: float | None = None
    extra: float = 0.0
    no_truth: float = float("nan")


YOWO = VideoProtocol("yowo", TubeOverlap(1.0, least_frames=2), True, "every_point", 0.3, extra=1e-5, no_truth=0.0)
ACT = VideoProtocol("act", TubeOverlap(1.0), True, "trapezoid", 0.3)
ROAD = VideoProtocol("road", TubeOverlap(1.0), True, "trapezoid", no_truth=0.0)
MULTISPORTS = VideoProtocol("multisports", TubeOverlap(0.0, counts_ends=False), False, "every_point")
PROTOCOLS = {protocol.name: protocol for protocol in (YOWO, ACT, ROAD, MULTISPORTS)}


def video_map(
    truth: Sequence[Tube],
    tubes: Sequence[Tube],
    *,
    classes: int,
    protocol: VideoProtocol,
    thresholds: Sequence[float],
    draws: Draws | None = None,
) -> list[MeanAP]:
    """Average precision of each class at each threshold, and of `draws` of the videos; labels are in [0, classes)."""
    check_labels(classes, *(np.array([tube.label for tube in some]) for some in (truth, tubes)))
    if protocol.suppression is not None:
        tubes = _suppressed(tubes, protocol.overlap, protocol.suppression)
    found, true = _Tubes.of(tubes), _Tubes.of(truth)
    if np.isnan(found.score).any():
        raise ValueError(f"a tube of video {tubes[int(np.isnan(found.score).argmax())].video} has the score NaN")
    pairs, group = _overlapping(truth, tubes, protocol.overlap)
    return [
        _at(threshold, pairs, group, found, true, PerClass(classes, protocol.no_truth, draws), protocol)
        for threshold in thresholds
    ]


def mean_over(results: Sequence[MeanAP]) -> float:
    """The mean of mean APs at several thresholds, such as `HIGH_THRESHOLDS`."""
    return float(np.mean([one.mean for one in results]))


@dataclass(frozen=True)
class _Tubes:
    """What is asked of tubes beside their boxes, as columns (N,)."""

    video: np.ndarray
    label: np.ndarray
    score: np.ndarray

    @classmethod
    def of(cls, tubes: Sequence[Tube]) -> Self:
        video, label = (np.array([getattr(tube, name) for tube in tubes], np.int64) for name in ("video", "label"))
        return cls(video, label, np.array([tube.score for tube in tubes], np.float64))


def _at(
    threshold: float,
    pairs: Pairs,
    group: np.ndarray,
    found: _Tubes,
    truth: _Tubes,
    measured: PerClass,
    protocol: VideoProtocol,
) -> MeanAP:
    chosen = pairs.overlap >= threshold
    pairs, group = pairs[chosen], group[chosen]
    hitting, _ = claim(pairs, -found.score[pairs.detection], group, second_choice=protocol.second_choice)
    hits = np.zeros(len(found.label), bool)
    hits[hitting] = True
    for label in np.unique(truth.label):
        own = found.label == label
        true_video = truth.video[truth.label == label]
        ranked = Ranked(found.score[own], found.video[own], np.flatnonzero(hits[own]), true_video)
        measured.add(label, ranked, area_of(protocol.area), extra=protocol.extra)
    return measured.result(protocol.name, threshold)


def _by_class(tubes: Sequence[Tube]) -> dict[tuple[int, int], list[int]]:
    """Positions of tubes by video and class."""
    places: dict[tuple[int, int], list[int]] = {}
    for i, tube in enumerate(tubes):
        places.setdefault((tube.video, tube.label), []).append(i)
    return places


def _suppressed(tubes: Sequence[Tube], overlap: TubeOverlap, threshold: float) -> list[Tube]:
    groups = ([tubes[i] for i in own] for own in _by_class(tubes).values())
    return [tube for group in groups for tube in suppress_tubes(group, overlap, threshold)]


def _overlapping(truth: Sequence[Tube], tubes: Sequence[Tube], overlap: TubeOverlap) -> tuple[Pairs, np.ndarray]:
    """All tubes and truths of one video and class, how much they overlap, and a number for video and class, (P,)."""
    found, truths = _by_class(tubes), _by_class(truth)
    rows = [
        (i, j, overlap(tubes[i], truth[j]), group)
        for group, key in enumerate(found)
        for i in found[key]
        for j in truths.get(key, ())
    ]
    table = np.array(rows, np.float64).reshape(-1, 4)
    detection, position, group = (table[:, column].astype(np.int64) for column in (0, 1, 3))
    return Pairs(detection, position, table[:, 2]), group
