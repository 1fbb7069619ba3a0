"""Anchors: k-means by overlap against known clusters, plain loops, and the published anchors on the real boxes."""

import os
from pathlib import Path

import numpy as np
import pytest

from reaction.data.anchors import cluster, mean_overlap, overlaps, sides_in_cells
from reaction.data.boxes import Boxes
from reaction.data.datasets import jhmdb21, ucf101_24
from reaction.models.yowo import ANCHORS


def test_overlap_of_boxes_with_one_corner_in_common():
    sides, anchors = np.array([[2.0, 1.0], [1.0, 1.0]]), np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])
    expected = [[1 / 3, 1.0, 2 / 9], [1 / 2, 1 / 2, 1 / 9]]
    np.testing.assert_allclose(overlaps(sides, anchors), expected)
    assert mean_overlap(sides, anchors) == pytest.approx(0.75)


def test_separate_shapes_are_found_in_whatever_order_they_come():
    rng = np.random.default_rng(0)
    shapes = np.array([[0.5, 1.0], [1.0, 3.0], [2.0, 2.0], [3.0, 6.0], [6.0, 5.0]])
    sides = np.repeat(shapes, 40, axis=0) * rng.uniform(0.97, 1.03, (200, 2))
    found = cluster(sides)
    np.testing.assert_allclose(found, shapes, rtol=0.02)
    np.testing.assert_allclose(cluster(rng.permutation(sides)), found)


def test_the_result_is_a_fixed_point_of_plain_k_means():
    sides = np.random.default_rng(1).gamma(2.0, 1.0, (300, 2))
    found = cluster(sides, 4)
    groups: list[list] = [[] for _ in found]
    for w, h in sides:
        ious = []
        for aw, ah in found:
            shared = min(w, aw) * min(h, ah)
            ious.append(shared / (w * h + aw * ah - shared))
        groups[int(np.argmax(ious))].append((w, h))
    np.testing.assert_allclose(found, [np.mean(group, axis=0) for group in groups])


def test_sides_are_counted_in_sevenths_of_the_frame():
    boxes = Boxes(np.zeros(1, int), np.array([[10, 20, 170, 140]], np.float32), np.zeros(1, int), np.zeros(1, int))
    np.testing.assert_allclose(sides_in_cells([(boxes, 320, 240), (boxes, 160, 120)]), [[3.5, 3.5], [7, 7]])
    assert sides_in_cells([]).shape == (0, 2)


def test_too_few_boxes_are_refused():
    with pytest.raises(ValueError, match="4 boxes are too few for 5 anchors"):
        cluster(np.ones((4, 2)))


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "module", "every"), [("jhmdb21", jhmdb21, 1), ("ucf101_24", ucf101_24, 10)])
def test_real_boxes_give_anchors_like_the_published_ones(name, module, every):
    """YOWO's started from random boxes: ours differ a little and fit a little better."""
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR names no folder with real data")
    folder = Path(os.environ["REACTION_MIRROR"]) / name
    official = module.read_official(folder, ["split1"])
    boxes = module.read_boxes(folder, official.classes)
    train = [one for video, one in boxes.items() if official.splits["split1"][video] == "train"]
    sides = sides_in_cells((one, 320, 240) for one in train)[::every]
    found, published = cluster(sides), np.array(ANCHORS[name])
    assert 0.75 < mean_overlap(sides, published) < mean_overlap(sides, found) < mean_overlap(sides, published) + 0.01
    shared = np.minimum(found, published).prod(axis=1)
    assert (shared / (found.prod(axis=1) + published.prod(axis=1) - shared)).min() > 0.7
