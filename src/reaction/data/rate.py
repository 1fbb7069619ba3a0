"""A video at another frame rate: which of its frames are kept, and which are shown twice.

As ffmpeg's `fps` filter has it (libavfilter/vf_fps.c, rounding "near"), by which the published pipelines went from
Kinetics' rates to 25 a second (Carreira & Zisserman, CVPR 2017, section 2.5, do not say how; this is our choice): a
frame belongs to the tick of the new rate that is nearest to its time, half way to the later one, the last of a tick's
frames is shown, and a tick without any shows the frame before. The number of ticks is the video's length, rounded.

Times are counted from the index's frame rate, which is the container's average: of the rare video whose rate varies,
frames may be off by what it varies.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import numpy as np

T = TypeVar("T")
DENOMINATOR = 100_000  # rates are quotients such as 30000/1001, which the index holds as floats


class RateError(ValueError):
    """A video that says no frame rate cannot be brought to another."""


def kept(frames: int, native: float, rate: float | None) -> np.ndarray:
    """The positions, 0-based, of a video's frames that make it one of `rate` frames a second, int64 (n,), n >= 1.

    The video has `frames` frames at `native` a second; None keeps it as it is. Raises RateError where `native` is 0.
    """
    if rate is None:
        return np.arange(frames)
    a, b = _frames_per_tick(native, rate)
    count = max(1, (2 * frames * b + a) // (2 * a))
    odd = 2 * np.arange(count, dtype=np.int64) + 1
    # Frame i belongs to tick floor(i / ratio + 1/2): the last one up to tick k is the last i < (k + 1/2) ratio.
    return np.minimum((odd * a + 2 * b - 1) // (2 * b) - 1, frames - 1)


def resampled(frames: Iterable[T], native: float, rate: float | None) -> Iterator[T]:
    """The frames that `kept` keeps, of a video that comes frame by frame and nobody knows the length of."""
    if rate is None:
        yield from frames
        return
    a, b = _frames_per_tick(native, rate)
    ticks = count = 0
    for count, frame in enumerate(frames, start=1):
        while ((2 * ticks + 1) * a + 2 * b - 1) // (2 * b) == count:
            yield frame
            ticks += 1
    for _ in range(ticks, max(1, (2 * count * b + a) // (2 * a)) if count else 0):
        yield frame


def _frames_per_tick(native: float, rate: float) -> tuple[int, int]:
    """How many frames of the video there are to a tick of the new rate, as a fraction."""
    if native <= 0:
        raise RateError(f"its container says no frame rate, and {rate:g} frames a second are wanted: remux it")
    ratio = Fraction(native).limit_denominator(DENOMINATOR) / Fraction(rate).limit_denominator(DENOMINATOR)
    return ratio.as_integer_ratio()
