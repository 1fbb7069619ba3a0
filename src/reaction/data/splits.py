"""Training videos set aside to measure on: whole groups, so that no clip is judged by its twin."""

from collections.abc import Sequence

import numpy as np

from reaction.data.index import Video


class SplitError(ValueError):
    """Videos that cannot be divided as asked."""


def hold_out(videos: Sequence[Video], share: float, *, seed: int) -> tuple[list[Video], list[Video]]:
    """Split videos into those that train and those that measure: `share` of the groups, at least one, but none for 0.

    Clips of one source film resemble each other, so a network that has seen one has nearly seen the other. Equal
    videos, share and seed give equal groups, whoever asks. Raises SplitError for a single group.
    """
    if not 0 <= share < 1:
        raise SplitError(f"the share of the groups to hold out must be at least 0 and below 1, not {share}")
    if share == 0:
        return list(videos), []
    groups = sorted({video.group for video in videos})
    if len(groups) < 2:
        raise SplitError(f"holding groups out needs at least 2 groups, the training videos have {len(groups)}")
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    chosen = {groups[k] for k in np.random.default_rng(seed).permutation(len(groups))[:count]}
    return [v for v in videos if v.group not in chosen], [v for v in videos if v.group in chosen]
