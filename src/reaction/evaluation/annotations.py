"""A dataset's annotated boxes (`reaction.data.boxes`) as what detections are measured against."""

from collections.abc import Mapping, Sequence

import numpy as np

from reaction.data.boxes import Boxes
from reaction.evaluation.boxes import Truth
from reaction.evaluation.tubes import Tube, tube_of


def truth_of(boxes: Mapping[str, Boxes], videos: Sequence[str]) -> Truth:
    """All boxes of `videos`, which are numbered by their place there; those without annotation have none."""
    annotated = [(i, boxes[video]) for i, video in enumerate(videos) if video in boxes]
    video = np.repeat([i for i, _ in annotated], [len(one) for _, one in annotated]).astype(np.int64)
    nothing = Boxes(*(np.empty(shape, np.int64) for shape in (0, (0, 4), 0, 0)))
    columns = ("frame", "box", "label")
    joined = (np.concatenate([getattr(one, name) for _, one in [(0, nothing), *annotated]]) for name in columns)
    return Truth(video, *joined)


def true_tubes(boxes: Mapping[str, Boxes], videos: Sequence[str]) -> list[Tube]:
    """The tubes of `videos`, which are numbered by their place there. Raises ValueError where a tube has a gap."""
    tubes = []
    for i, one in ((i, boxes[video]) for i, video in enumerate(videos) if video in boxes):
        for number, label in np.unique(np.stack([one.tube, one.label], axis=1), axis=0):
            own = (one.tube == number) & (one.label == label)
            tubes.append(tube_of(i, int(label), one.frame[own], one.box[own]))
    return tubes
