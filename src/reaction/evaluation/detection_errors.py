"""What a detector's mistakes are: Kalogeiton et al. (ACT), ICCV 2017, section 4.4; `ACT.py`, frameAP_error.

https://arxiv.org/abs/1705.01861. Each detection that misses is one of

- localisation: its class is annotated on this frame, but not here, or found already;
- classification: its class is not on this frame, and another class's box is where it is;
- time: its class is in this video and not on this frame;
- other: none of these.

A kind's figure is the area under its share of all that is found, over recall; `missed` is the share of annotated boxes
that nothing finds. With the average precision they add up to 1. Matching, the area and the extra pixel are those of
`frame_map.ACT`, as in the source.

As in the source an overlap with other classes is asked for only where the frame has boxes of other classes, and a frame
that has them is never a mistake in time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.average_precision import curve
from reaction.evaluation.boxes import Detections, Truth, frame_ids, overlapping
from reaction.evaluation.frame_map import ACT, ByClass, frame_hits

KINDS = ("localisation", "classification", "time", "other")


@dataclass(frozen=True)
class ErrorAnalysis:
    """Figures in [0, 1] of each class (C,), NaN without truth: `precision` (the AP), each of `KINDS`, and `missed`."""

    threshold: float
    per_class: dict[str, NDArray]

    @property
    def mean(self) -> dict[str, float]:
        return {name: float(np.nanmean(values)) for name, values in self.per_class.items()}


def detection_errors(truth: Truth, detections: ByClass, *, classes: int, threshold: float = 0.5) -> ErrorAnalysis:
    """Average precision, and what keeps it from 1, for each class; labels are in [0, classes)."""
    figures = {name: np.full(classes, np.nan) for name in ("precision", *KINDS, "missed")}
    for label in np.unique(truth.label):
        own, own_truth = detections.of_class(label), truth[truth.label == label]
        hits = frame_hits(own_truth, own, ACT, threshold)
        kinds = error_kinds(truth, own, threshold)
        points = curve(own.score, own.score[hits], len(own_truth))
        figures["precision"][label] = points.trapezoid()
        figures["missed"][label] = 1 - points.recall()
        for number, name in enumerate(KINDS):
            figures[name][label] = points.share(own.score[~hits & (kinds == number)])
    return ErrorAnalysis(threshold, figures)


def error_kinds(truth: Truth, detections: Detections, threshold: float) -> NDArray[np.int64]:
    """Which of `KINDS` each detection (N,) is a mistake of, should it miss."""
    frames, true_frames = frame_ids(detections.video, detections.frame), frame_ids(truth.video, truth.frame)
    on_frame = _has(true_frames, truth.label, frames, detections.label)
    in_video = _has(np.asarray(truth.video), truth.label, np.asarray(detections.video), detections.label)
    boxes, true_boxes = (np.asarray(one.box, np.float64) for one in (detections, truth))
    pairs = overlapping((frames, boxes), (true_frames, true_boxes), least=threshold, edge=ACT.edge)
    hidden = np.zeros(len(detections), bool)
    hidden[pairs.detection[detections.label[pairs.detection] != truth.label[pairs.truth]]] = True
    others = np.isin(frames, true_frames)  # where the class itself is not, these are other classes
    order = [on_frame, hidden, ~others & in_video]
    return np.select(order, [0, 1, 2], default=3)


def _has(places: NDArray, labels: NDArray, asked: NDArray, asked_labels: NDArray) -> NDArray[np.bool_]:
    """Whether a place has a label, for each place and label asked for."""
    _, number = np.unique(np.concatenate([places, asked]), return_inverse=True)
    classes = 1 + max(int(labels.max(initial=0)), int(asked_labels.max(initial=0)))
    keys = number * classes + np.concatenate([labels, asked_labels])
    return np.isin(keys[len(places) :], keys[: len(places)])
