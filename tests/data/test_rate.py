"""Which frames are kept is checked against ffmpeg's own filter."""

from fractions import Fraction

import av
import numpy as np
import pytest

from reaction.data.rate import RateError, kept, resampled

RATES = ["30000/1001", "30", "29.97", "24", "24000/1001", "25", "15", "12.5", "10", "50", "60000/1001", "7", "359/12"]


def by_ffmpeg(frames, native, rate):
    """Numbers of the frames that come out of the filter, each frame's number being its brightness."""
    graph = av.filter.Graph()
    base = 1 / native
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=base)
    filters = [graph.add("fps", f"fps={rate}"), graph.add("buffersink")]
    source.link_to(filters[0])
    filters[0].link_to(filters[1])
    graph.configure()
    shown = []
    for number in range(frames + 1):
        if number < frames:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16), number, np.uint8), format="gray")
            frame.pts, frame.time_base, frame.duration = number, base, 1
        source.push(frame if number < frames else None)
        try:
            while True:
                shown.append(int(filters[1].pull().to_ndarray()[0, 0]))
        except (av.BlockingIOError, av.EOFError):
            pass
    return shown


@pytest.mark.parametrize("native", RATES)
@pytest.mark.parametrize("rate", [25, 10])
def test_frames_are_those_of_ffmpegs_filter(native, rate):
    fraction = Fraction(native)
    for frames in (1, 2, 3, 7, 30, 100, 250):
        chosen, theirs = kept(frames, float(fraction), rate).tolist(), by_ffmpeg(frames, fraction, rate)
        assert chosen == theirs or (not theirs and len(chosen) == 1), frames  # nothing is left of half a tick


def test_ten_seconds_are_250_frames_at_25():
    for native in (24, 25, 30, 50, 30000 / 1001):
        assert abs(len(kept(round(10 * native), native, 25.0)) - 250) <= 1


def test_no_rate_and_the_own_rate_change_nothing():
    assert kept(7, 30.0, None).tolist() == kept(7, 25.0, 25.0).tolist() == list(range(7))
    assert kept(7, 0.0, None).tolist() == list(range(7))


def test_times_are_off_by_half_a_tick_at_most():
    for native in map(float, map(Fraction, RATES)):
        chosen = kept(1000, native, 25.0)
        late = chosen / native - np.arange(len(chosen)) / 25
        assert late.max() <= 0.5 / 25 + 1e-9
        assert late.min() >= -max(0.5 / 25, 1 / native) - 1e-9


def test_a_video_without_a_rate_is_refused():
    with pytest.raises(RateError, match="no frame rate, and 25 frames a second are wanted"):
        kept(7, 0.0, 25.0)


@pytest.mark.parametrize("native", map(float, map(Fraction, RATES)))
@pytest.mark.parametrize("rate", [None, 25, 10])
def test_frame_by_frame_the_same_frames_are_kept(native, rate):
    assert list(resampled(iter([]), native, rate)) == []
    for frames in (*range(1, 12), 100, 251):
        assert list(resampled(iter(range(frames)), native, rate)) == kept(frames, native, rate).tolist(), frames
