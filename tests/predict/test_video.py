import time
from fractions import Fraction

import av
import numpy as np
import pytest

from reaction.data.decode import DecodeError, chunks
from reaction.predict.video import READ, UNSAID, Clock, Source, encoder, written


def test_frames_come_once_and_in_order_with_the_files_rate(filmed, moving):
    frames = moving(2 * READ + 3)
    source = Source(filmed(frames, rate=Fraction(30000, 1001)), Clock())
    assert source.rate == Fraction(30000, 1001)
    read = np.stack(list(source))
    assert np.abs(read.astype(int) - frames).mean() < 3
    assert (source.count, source.ended, source.warnings) == (len(frames), True, [])
    assert source.seconds == pytest.approx(len(frames) * 1001 / 30000)


def test_a_broken_end_gives_what_was_decoded_and_says_so(filmed, moving):
    whole = filmed(moving(60))
    broken = whole.with_name("broken.mp4")
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    source = Source(broken, Clock())
    count = sum(1 for _ in source)
    assert 5 < count < 60
    (warning,) = source.warnings
    assert warning.startswith(f"ends after {count} frames: ")


def test_a_file_that_ends_early_without_an_error_is_told_by_its_header(filmed, moving):
    whole = filmed(moving(60), "film.avi", codec="mpeg4")
    short = whole.with_name("short.avi")
    short.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    source = Source(short, Clock())
    count = sum(1 for _ in source)
    assert 0 < count < 59
    assert len(source.warnings) == 1
    assert source.warnings[0].startswith(f"ends after {count} frames")


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no video")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    for name in ("notes.txt", "sound.wav", "nowhere.mp4"):
        with pytest.raises(DecodeError, match=name):
            Source(tmp_path / name, Clock())


def test_a_file_without_a_rate_is_taken_for_25_frames_a_second(filmed, moving, monkeypatch):
    path = filmed(moving(5))
    monkeypatch.setattr("reaction.predict.video._header", lambda path: (None, 0))
    source = Source(path, Clock())
    assert (source.rate, len(source.warnings)) == (UNSAID, 1)
    assert "no frame rate" in source.warnings[0]


def test_the_copy_is_what_browsers_play_at_the_same_rate(tmp_path, moving):
    frames, path = moving(7, 97, 105), tmp_path / "new" / "copy.mp4"
    assert encoder() == "libx264", "PyAV's wheels bring it"
    with written(path, Fraction(24000, 1001)) as write:
        for frame in frames:
            write(frame)
        assert not path.exists(), "absent or whole"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        facts = (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate, stream.frames)
    assert facts == ("h264", "yuv420p", Fraction(24000, 1001), 7)
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat"), "playing may begin before all is there"
    read = np.concatenate(list(chunks(path, decoder="pyav")))
    assert read.shape == (7, 96, 104, 3)
    assert np.abs(read.astype(int) - frames[:, :96, :104]).mean() < 6


def test_nothing_is_left_of_a_copy_that_failed(tmp_path, moving):
    for frames in (moving(1), []):
        with pytest.raises(KeyError), written(tmp_path / "copy.mp4", Fraction(25)) as write:
            raise KeyError([write(frame) for frame in frames])
    assert list(tmp_path.iterdir()) == []


def test_a_clock_keeps_kinds_of_work_apart():
    clock = Clock()
    for _ in range(2):
        with clock("decode"):
            time.sleep(0.02)
        with clock("network"):
            time.sleep(0.05)
    assert clock.seconds["decode"] == pytest.approx(0.04, abs=0.03)
    assert clock.seconds["network"] >= 0.1
    assert clock.report(100).startswith("frames per second: decode ")
    rates = [float(word.strip(",;")) for word in clock.report(100).split() if word[0].isdigit()]
    assert rates[0] > rates[1] > rates[2], "together is slowest"
