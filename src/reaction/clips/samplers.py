"""Which frames of a video make a clip.

Positions are 0-based and count the items a shard stores for the video: frames for rgb, fields for flow. A segment that
starts at i covers the items i..i+span-1, so that `length - span + 1` starts are possible; a video shorter than the span
has the one start 0, and `stack_indices` repeats its last item.

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
    """
    starts = _possible_starts(length, segments, span)
    ticks = np.arange(segments)
    if rule == "tsn":
        return starts * (2 * ticks + 1) // (2 * segments)
    if rule == "ends":
        return ticks * ((starts - 1) // max(segments - 1, 1))
    raise ValueError(f"test sampler {rule!r}: allowed are 'tsn' and 'ends'")


test_segments.__test__ = False  # pytest would collect the name


def dense_clip(length: int, frames: int, stride: int, rng: np.random.Generator | None) -> np.ndarray:
    """Positions of one clip of every `stride`-th frame, int64 (frames,).

    The clip starts anywhere it fits, in the middle without `rng`; a video too short for it is played in a loop (I3D,
    Carreira & Zisserman, CVPR 2017, section 2.5).
    """
    starts = _possible_starts(length, frames, (frames - 1) * stride + 1)
    first = (starts - 1) // 2 if rng is None else rng.integers(starts)
    return (first + stride * np.arange(frames)) % length


def stack_indices(starts: np.ndarray, span: int, available: int) -> np.ndarray:
    """The items of each segment, int64 (segments, span); past the end the last item repeats (tsn-pytorch)."""
    return np.minimum(starts[:, None] + np.arange(span), available - 1)


def _possible_starts(length: int, segments: int, span: int) -> int:
    if min(length, segments, span) < 1:
        raise ValueError(f"length {length}, segments {segments}, span {span}: each must be at least 1")
    return max(length - span + 1, 1)
