"""Which frames of a video make a clip.

Positions are 0-based and count the items a shard stores for the video: frames for rgb, fields for flow. A segment that
starts at i covers the items i..i+span-1, so that `length - span + 1` starts are possible; a video shorter than the span
has the one start 0, and `stack_indices` makes up for what it lacks.

TSN: Wang et al., Temporal Segment Networks, ECCV 2016; tsn-pytorch dataset.py (1-based there).
"""

import numpy as np


def train_segments(length: int, segments: int, span: int, rng: np.random.Generator) -> np.ndarray:
    """Random start in each of `segments` equal parts of the video, int64 (segments,).

    The parts are `(length - span + 1) // segments` starts long and the remainder at the end is never drawn, as in TSN.
    With fewer starts than segments, sorted draws with repetition, which is what tsn-pytorch means and, for want of
    `size=`, does not do.
    """
    starts = _possible_starts(length, segments, span)
    part = starts // segments
    if part > 0:
        return np.arange(segments) * part + rng.integers(part, size=segments)
    return np.sort(rng.integers(starts, size=segments))


def test_segments(length: int, segments: int, span: int, rule: str = "tsn") -> np.ndarray:  # noqa: PT028
    """Evenly spaced starts of the test protocol, int64 (segments,).

    `tsn`: the middles of equal parts, floor(tick / 2 + tick x) with tick = (length - span + 1) / segments, in integers;
    tsn-pytorch's floats land one item earlier on 0.6 % of the positions, only where the middle is a whole number.
    Played backwards, a video gives the same segments, but for whole middles, which come out one item later.
    `ends`: from the first item on with step (length - span) // (segments - 1), so that the last segment lies near the
    end (Two-Stream's 25 frames; temporal-segment-networks tools/eval_net.py).
    `uniform`: from the first item on with step (length - span) / segments, so that the last segment stays that far from
    the end (facebookresearch/SlowFast `datasets/decoder.py`).
    `consecutive`: each segment begins where the one before it ends, the first with the video; after the video's end
    they begin again at its start (the ten seconds that Carreira & Zisserman test on, CVPR 2017, table 1).
    """
    starts = _possible_starts(length, segments, span)
    ticks = np.arange(segments)
    if rule == "tsn":
        return starts * (2 * ticks + 1) // (2 * segments)
    if rule == "ends":
        return ticks * ((starts - 1) // max(segments - 1, 1))
    if rule == "uniform":
        return (starts - 1) * ticks // segments
    if rule == "consecutive":
        return ticks * span % length
    raise ValueError(f"test sampler {rule!r}: allowed are 'tsn', 'ends', 'uniform' and 'consecutive'")


test_segments.__test__ = False  # pytest would collect the name


def stack_indices(starts: np.ndarray, items: int, available: int, *, stride: int = 1, loop: bool = False) -> np.ndarray:
    """Every `stride`-th item from each start on, int64 (segments, items).

    Past the end the last item repeats (tsn-pytorch), or with `loop` the video is played again, as often as it takes
    (Carreira & Zisserman, CVPR 2017, section 2.6).
    """
    indices = starts[:, None] + stride * np.arange(items)
    return indices % available if loop else np.minimum(indices, available - 1)


def _possible_starts(length: int, segments: int, span: int) -> int:
    if min(length, segments, span) < 1:
        raise ValueError(f"length {length}, segments {segments}, span {span}: each must be at least 1")
    return max(length - span + 1, 1)
