"""Annotated boxes as truths and tubes."""

import numpy as np
import pytest

from reaction.data.boxes import Boxes
from reaction.evaluation.annotations import true_tubes, truth_of


def boxes(frame: list, label: list, tube: list) -> Boxes:
    box = np.arange(4 * len(frame), dtype=np.float32).reshape(-1, 4)
    return Boxes(np.array(frame), box, np.array(label), np.array(tube))


ANNOTATED = {"b": boxes([0, 1, 1, 2], [2, 2, 2, 2], [0, 0, 1, 1]), "a": boxes([5], [1], [0])}


def test_videos_are_numbered_by_their_place_and_may_have_nothing():
    truth = truth_of(ANNOTATED, ["a", "none", "b"])
    assert truth.video.tolist() == [0, 2, 2, 2, 2]
    assert truth.frame.tolist() == [5, 0, 1, 1, 2]
    assert truth.label.tolist() == [1, 2, 2, 2, 2]
    assert truth.box[1:].tolist() == ANNOTATED["b"].box.tolist()
    assert truth_of(ANNOTATED, ["none"]).box.shape == (0, 4)


def test_tubes_of_a_video():
    tubes = true_tubes(ANNOTATED, ["a", "none", "b"])
    assert [(one.video, one.label, one.start, one.end) for one in tubes] == [(0, 1, 5, 6), (2, 2, 0, 2), (2, 2, 1, 3)]
    assert tubes[2].box.tolist() == ANNOTATED["b"].box[2:].tolist()
    with pytest.raises(ValueError, match="video 0: a tube goes from frame 0 to 2"):
        true_tubes({"c": boxes([0, 2], [0, 0], [0, 0])}, ["c"])


@pytest.mark.real_data
def test_jhmdb_has_928_tubes_without_a_gap(jhmdb_boxes):
    tubes = true_tubes(jhmdb_boxes, list(jhmdb_boxes))
    assert len(tubes) == 928
    assert sum(len(one.box) for one in tubes) == len(truth_of(jhmdb_boxes, list(jhmdb_boxes))) == 31_852
