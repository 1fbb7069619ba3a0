"""Mean average precision over frames, in four ways that differ by several points on the same boxes.

- `padilla`: rafaelpadilla/Object-Detection-Metrics, `lib/Evaluator.py`, as wei-tim/YOWO calls it. A detection whose
  best truth was taken by a better one misses; area under the largest precision at each recall; one pixel is added to
  widths and heights; boxes are rounded to whole pixels, as YOWO writes them; frames without an annotated box are not
  read, so false alarms there cost nothing.
- `act`: ACT-detector and MOC-Detector, `ACT.py`, frameAP. A detection whose best truth was taken may take the next one;
  area under the raw curve, by trapezoids; one pixel is added, since the files count the last pixel of a box
  (`boxes.inclusive`); all frames. The source fails on a class without truth, which is left out here.
- `gurkirt`: gurkirt/3D-RetinaNet, `modules/evaluation.py`, evaluate_detections. Next truth as `act`; largest precision;
  nothing added; all frames; a class without truth has AP 0.
- `multisports`: MCG-NJU/MultiSports, here mmaction2's `multisports_utils.py`, frameAP. Misses as `padilla`; largest
  precision; nothing added; all frames. The six classes it names to be left out have no truth.

All take an overlap at the threshold for a hit and, but for `gurkirt`, leave out a class without truth.
None orders detections of one score in a defined way; here they count together (`average_precision`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.average_precision import Curve, Draws, MeanAP, PerClass, Ranked
from reaction.evaluation.boxes import Detections, Truth, check_labels, claim, frame_ids, overlapping, places


@dataclass(frozen=True)
class FrameProtocol:
    """One way to count. `edge` is added to widths and heights, `no_truth` is the AP of a class without truth."""

    name: str
    second_choice: bool
    area: Literal["every_point", "trapezoid"]
    edge: float
    whole_pixels: bool = False
    annotated_frames: bool = False
    no_truth: float = float("nan")


PADILLA = FrameProtocol("padilla", False, "every_point", edge=1, whole_pixels=True, annotated_frames=True)
ACT = FrameProtocol("act", True, "trapezoid", edge=1)
GURKIRT = FrameProtocol("gurkirt", True, "every_point", edge=0, no_truth=0.0)
MULTISPORTS = FrameProtocol("multisports", False, "every_point", edge=0)
PROTOCOLS = {protocol.name: protocol for protocol in (PADILLA, ACT, GURKIRT, MULTISPORTS)}


class ByClass(Protocol):
    """Detections, the boxes of one class at a time: a score for each of many classes makes them too many at once."""

    def of_class(self, label: int) -> Detections: ...


def frame_map(
    truth: Truth,
    detections: ByClass,
    *,
    classes: int,
    protocol: FrameProtocol,
    threshold: float = 0.5,
    draws: Draws | None = None,
) -> MeanAP:
    """Average precision of each class over all frames, and of `draws` of the videos; labels are in [0, classes)."""
    check_labels(classes, truth.label, *([detections.label] if isinstance(detections, Detections) else []))
    measured = PerClass(classes, protocol.no_truth, draws)
    for label in np.unique(truth.label):
        own, own_truth = detections.of_class(label), truth[truth.label == label]
        if protocol.annotated_frames:
            own = own[_annotated(truth, own)]
        hits = np.flatnonzero(frame_hits(own_truth, own, protocol, threshold))
        measured.add(label, Ranked(own.score, own.video, hits, own_truth.video), area_of(protocol.area))
    return measured.result(protocol.name, threshold)


def area_of(area: Literal["every_point", "trapezoid"]) -> Callable[[Curve], NDArray]:
    return Curve.every_point if area == "every_point" else Curve.trapezoid


def frame_hits(truth: Truth, detections: Detections, protocol: FrameProtocol, threshold: float) -> NDArray[np.bool_]:
    """Which detections (N,) hit an annotated box of their class."""
    keys, true_keys = _frames_and_classes(detections, truth)
    boxes, true_boxes = (np.asarray(one.box, np.float64) for one in (detections, truth))
    if protocol.whole_pixels:
        boxes, true_boxes = np.rint(boxes), np.rint(true_boxes)
    pairs = overlapping((keys, boxes), (true_keys, true_boxes), least=threshold, edge=protocol.edge)
    rank = -detections.score[pairs.detection]
    hitting, _ = claim(pairs, rank, keys[pairs.detection], second_choice=protocol.second_choice)
    hits = np.zeros(len(detections), bool)
    hits[hitting] = True
    return hits


def _frames_and_classes(detections: Detections, truth: Truth) -> tuple[NDArray, NDArray]:
    """One number for each class of each frame, for both."""
    frames = places(*(frame_ids(one.video, one.frame) for one in (detections, truth)))
    classes = 1 + max(int(one.label.max(initial=0)) for one in (detections, truth))
    return frames[0] * classes + detections.label, frames[1] * classes + truth.label


def _annotated(truth: Truth, detections: Detections) -> NDArray:
    return np.isin(frame_ids(detections.video, detections.frame), frame_ids(truth.video, truth.frame))
