"""COCO's figures: pycocotools' own on a made-up set, cases known by hand, and what must not matter."""

import numpy as np
import pytest

from reaction.evaluation.boxes import Detections, Truth
from reaction.evaluation.coco_ap import coco_ap

# COCOeval of pycocotools 2.0.11 on `crowd(0)`, three categories.
PYCOCOTOOLS = {
    "AP": 0.376432784338,
    "AP50": 0.663903380715,
    "AP75": 0.364856088413,
    "APsmall": 0.162751146031,
    "APmedium": 0.492260234006,
    "APlarge": 0.692410679415,
    "AR1": 0.182859416446,
    "AR10": 0.62084173298,
    "AR100": 0.748544650752,
    "ARsmall": 0.463571428571,
    "ARmedium": 0.770476190476,
    "ARlarge": 0.987575757576,
}


def crowd(seed: int) -> tuple[Truth, Detections]:
    """80 boxes of three sizes and classes in 8 images, 700 detections around them; no two scores are equal."""
    rng = np.random.RandomState(seed)  # its numbers never change
    box = rng.random_sample((80, 4)) * 200
    box[:, 2:] = box[:, :2] + rng.choice([15, 40, 150], (80, 1)) * (0.7 + rng.random_sample((80, 2)))
    image, label, source = rng.randint(8, size=80), rng.randint(3, size=80), rng.randint(80, size=700)
    found = box[source] + rng.standard_normal((700, 4)) * 4
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    none = np.zeros(700, np.int64)
    score = rng.permutation(700) / 700
    return Truth(none[:80], image, box, label), Detections(none, image[source], found, label[source], score)


def test_equals_pycocotools():
    figures = coco_ap(*crowd(0), classes=3)
    assert set(figures) == set(PYCOCOTOOLS)
    assert figures == pytest.approx(PYCOCOTOOLS, abs=1e-9)


def people(truths: list, found: list) -> tuple[Truth, Detections]:
    truth, box = (np.array(boxes, float).reshape(-1, 4) for boxes in (truths, found))
    none, other = np.zeros(len(truth), np.int64), np.zeros(len(box), np.int64)
    return Truth(none, none, truth, none), Detections(other, other, box, other, 1 - np.arange(len(box)) / 10)


def test_an_overlap_of_0_62_counts_at_three_thresholds():
    figures = coco_ap(*people([[0, 0, 100, 100]], [[0, 0, 100, 62]]))
    assert (figures["AP50"], figures["AP75"], figures["AR100"]) == (1, 0, pytest.approx(0.3))
    assert figures["AP"] == pytest.approx(0.3)
    assert figures["APlarge"] == figures["AP"]
    assert np.isnan(figures["APsmall"])


def test_one_of_two_found_reaches_51_of_101_recalls():
    figures = coco_ap(*people([[0, 0, 50, 50], [60, 60, 99, 99]], [[0, 0, 50, 50], [200, 200, 240, 240]]))
    assert figures["AP"] == pytest.approx(51 / 101)
    assert (figures["AR1"], figures["AR100"], figures["ARmedium"]) == (0.5, 0.5, 0.5)


def test_other_sizes_are_neither_right_nor_wrong():
    small, large = [0, 0, 20, 20], [50, 50, 250, 250]
    figures = coco_ap(*people([small, large], [[300, 300, 320, 320], large, small]))
    assert figures["APlarge"] == 1  # the small false alarm does not count
    assert figures["APsmall"] == pytest.approx(0.5)
    assert figures["AP"] == pytest.approx(2 / 3)


def test_a_detection_takes_the_next_truth_and_only_a_hundred_count():
    truths = [[0, 0, 100, 100], [0, 10, 100, 110]]
    assert coco_ap(*people(truths, [[0, 0, 100, 100], [0, 1, 100, 101]]))["AP50"] == 1
    crowded = people([[0, 0, 100, 100]], [[500, 500, 600, 600]] * 100 + [[0, 0, 100, 100]])
    assert coco_ap(*crowded)["AR100"] == 0


def test_neither_order_nor_scale_of_scores_matters():
    truth, detections = crowd(1)
    first = coco_ap(truth, detections, classes=3)
    order = np.random.default_rng(0).permutation(len(detections))
    columns = (detections.video, detections.frame, detections.box, detections.label, 9 - 1 / (detections.score + 1))
    assert coco_ap(truth, detections[order], classes=3) == first
    assert coco_ap(truth, Detections(*columns), classes=3) == first
