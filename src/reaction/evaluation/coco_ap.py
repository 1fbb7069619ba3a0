"""COCO's average precision and recall of boxes, for person detectors: cocodataset/cocoapi `pycocotools/cocoeval.py`.

Ten thresholds from 0.5 to 0.95; precision is the largest at this or a higher recall, read at 101 recalls; the best 100
detections of an image count. A detection whose best truth was taken may take the next one. Small, medium and large are
areas up to 32^2, 96^2 and beyond in pixels of the image: truths of other sizes, what matches them, and unmatched
detections of other sizes are neither right nor wrong.

Detections of one score count together (`average_precision`), where cocoeval orders them by image. Crowds, boxes drawn
around many, are not part of AVA, J-HMDB or UCF101-24 and not known here. A mean over nothing is NaN, COCO's -1.
"""

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.average_precision import Curve, curve
from reaction.evaluation.boxes import (
    Detections,
    Pairs,
    Truth,
    area,
    check_labels,
    claim,
    frame_ids,
    overlapping,
    place_in_run,
    places,
)

THRESHOLDS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
RECALLS = 101
MOST = (1, 10, 100)  # detections of an image and class
SIZES = {"": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


def coco_ap(truth: Truth, detections: Detections, *, classes: int = 1) -> dict[str, float]:
    """COCO's twelve figures in [0, 1]: AP, AP50, AP75, APsmall, APmedium, APlarge, AR1, AR10, AR100, ARsmall, ...

    Labels are in [0, classes); boxes half-open, in pixels.
    """
    check_labels(classes, truth.label, detections.label)
    keys, true_keys = _images_and_classes(detections, truth, classes)
    order = np.lexsort((-detections.score, keys))
    ranked = place_in_run(keys[order])  # how many of its image and class are better
    figures: dict[str, float] = {}
    for most in MOST:
        best = order[ranked < most]
        boxes, best_keys = detections[best], keys[best]
        pairs = overlapping((best_keys, boxes.box), (true_keys, truth.box), least=THRESHOLDS[0])
        for size, limits in SIZES.items() if most == MOST[-1] else [("", SIZES[""])]:
            curves = [_curves(truth, boxes, best_keys, pairs, limits, threshold, classes) for threshold in THRESHOLDS]
            figures[f"AR{size or most}"] = _mean([one.recall() for each in curves for one in each])
            if most == MOST[-1]:
                figures[f"AP{size}"] = _mean([one.at_recalls(RECALLS) for each in curves for one in each])
            if most == MOST[-1] and not size:
                for name, threshold in (("AP50", 0), ("AP75", 5)):
                    figures[name] = _mean([one.at_recalls(RECALLS) for one in curves[threshold]])
    return figures


def _images_and_classes(detections: Detections, truth: Truth, classes: int) -> tuple[NDArray, NDArray]:
    images = places(*(frame_ids(one.video, one.frame) for one in (detections, truth)))
    return images[0] * classes + detections.label, images[1] * classes + truth.label


def _curves(
    truth: Truth,
    detections: Detections,
    keys: NDArray,
    pairs: Pairs,
    limits: tuple[float, float],
    threshold: float,
    classes: int,
) -> list[Curve]:
    """The curve of each class that has truths of this size."""
    ignored = _outside(truth.box, limits)
    pairs = pairs[pairs.overlap >= min(threshold, 1 - 1e-10)]
    rank = -detections.score[pairs.detection]
    matched, truths = claim(pairs, rank, keys[pairs.detection], second_choice=True, last=ignored[pairs.truth])
    hit, counts = np.zeros(len(detections), bool), ~_outside(detections.box, limits)
    hit[matched], counts[matched] = True, ~ignored[truths]
    curves = []
    for label in range(classes):
        positives = int((~ignored & (truth.label == label)).sum())
        own = counts & (detections.label == label)
        if positives:
            curves.append(curve(detections.score[own], detections.score[own & hit], positives))
    return curves


def _outside(box: NDArray, limits: tuple[float, float]) -> NDArray:
    areas = area(np.asarray(box, np.float64))
    return (areas < limits[0]) | (areas > limits[1])


def _mean(values: list) -> float:
    return float(np.mean(values)) if values else float("nan")
