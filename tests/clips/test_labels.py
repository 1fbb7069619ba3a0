"""Labels of videos with several classes."""

import numpy as np
import pytest

from reaction.clips.labels import MultiHot
from reaction.data.index import Video

VIDEO = Video("v", "v.mp4", (1, 3), "g", 100, 25.0, 64, 48, "0", "pyav")
SPANS = {"v": [(3, 0.0, 1.0), (1, 0.9, 2.0), (1, 3.5, 4.0)]}


def shown(labels, starts, span):
    return np.flatnonzero(labels(VIDEO, np.array(starts), span)).tolist()


def test_a_video_has_all_its_classes_wherever_the_clip_is():
    assert MultiHot(5)(VIDEO, np.array([60]), 8).tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("starts", "span", "found"),
    [
        ([0], 10, [3]),  # until 0.36 s
        ([15], 11, [1, 3]),  # 0.6 to 1.0 s
        ([25], 1, [1, 3]),  # 1.0 s is the end of one, which counts
        ([26], 20, [1]),
        ([51], 30, []),  # between the two of class 1
        ([51], 100, [1]),
        ([0, 60], 5, [3]),  # two segments, and nothing of what lies between
    ],
)
def test_a_clip_has_what_its_seconds_show(starts, span, found):
    assert shown(MultiHot(5, SPANS), starts, span) == found


def test_pictures_at_another_rate_are_other_seconds():
    assert shown(MultiHot(5, SPANS, rate=5.0), [5], 1) == [1, 3]
    assert shown(MultiHot(5, SPANS, rate=5.0), [6], 11) == [1]


def test_a_video_without_known_times_shows_nothing_in_a_clip_and_all_in_whole():
    other = MultiHot(5, {})
    assert shown(other, [0], 100) == []
    assert other.whole(VIDEO).tolist() == [0, 1, 0, 1, 0]
