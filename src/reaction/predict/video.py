"""A video in and a video out, frame by frame: neither is ever held whole."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from reaction.data.decode import DecodeError, chunks
from reaction.files import atomic

READ = 8  # frames decoded at once
UNSAID = Fraction(25)  # frames a second, where the file does not say
ENCODERS = {  # the first that there is; browsers play H.264, and do not play MPEG-4
    "libx264": {"preset": "veryfast", "crf": "21"},
    "libopenh264": {"b": "4M"},
    "mpeg4": {"b": "6M"},
}
DENOMINATOR = 1001  # of frame rates: 30000/1001 is the finest there is, and MPEG-4 takes no fine ones


class Clock:
    """Seconds spent on each kind of work. Kinds do not nest: each second counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._started = time.monotonic()

    @contextmanager
    def __call__(self, kind: str) -> Iterator[None]:
        """Count what the block takes."""
        started = time.monotonic()
        yield
        self.seconds[kind] += time.monotonic() - started

    def report(self, frames: int) -> str:
        """Frames per second of each kind of work, and of all of it together."""
        rates = [f"{kind} {frames / seconds:.1f}" for kind, seconds in self.seconds.items() if seconds]
        return f"frames per second: {', '.join(rates)}; together {frames / (time.monotonic() - self._started):.1f}"


class Source:
    """The frames of a file that ffmpeg decodes, each once and in order.

    rate: frames per second, the container's average; `UNSAID` if it says none. count: frames read so far. ended:
    whether there are no more. warnings: what is odd about the file, as far as it is known by then.

    Raises DecodeError, which names the file, if there is no video in it.
    """

    def __init__(self, path: Path | str, clock: Clock) -> None:
        self.path, self._clock = Path(path), clock
        rate, self._announced = _header(self.path)
        self.rate, self.count, self.ended = rate or UNSAID, 0, False
        self.warnings = [] if rate else [f"its container says no frame rate; taken for {UNSAID} a second"]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames uint8 RGB (H, W, 3), all of the first one's size."""
        found: list[str] = []
        pieces = chunks(self.path, decoder="pyav", size=READ, damage=found)
        while True:
            with self._clock("decode"):
                piece = next(pieces, None)
            if piece is None:
                break
            for frame in piece:
                self.count += 1
                yield frame
        if not found and self._announced > self.count + 1:  # one more is the rule in AVI: see `reaction.data.decode`
            found = [f"its header announces {self._announced} frames"]
        self.warnings += [f"ends after {self.count} frames: {damage}" for damage in found[:1]]
        self.ended = True

    @property
    def seconds(self) -> float:
        """How long what was read so far lasts."""
        return float(self.count / self.rate)


def _header(path: Path) -> tuple[Fraction | None, int]:
    """Frames per second and number of frames as the container says; None and 0 if it does not."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DecodeError(f"{path} holds no pictures: give a video")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            return rate and Fraction(rate).limit_denominator(DENOMINATOR), stream.frames
    except av.FFmpegError as error:
        raise DecodeError(f"{path}: {error.strerror or error}: give a video that ffmpeg decodes") from error


def encoder() -> str:
    """The best of `ENCODERS` that this machine's PyAV has."""
    return next(name for name in ENCODERS if name in av.codecs_available)


@contextmanager
def written(path: Path, rate: Fraction, *, threads: int = 1) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yield a function that appends a frame, uint8 RGB (H, W, 3), to the MP4 `path`, which appears when all are there.

    Frames lose the last of an odd number of rows or columns: what browsers play has colours for two at a time.
    """
    name = encoder()
    with atomic(path) as partial, av.open(str(partial), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(name, rate=rate, options=ENCODERS[name])
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", threads
        stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601  # or players guess by the size
        frames = 0

        def write(frame: NDArray[np.uint8]) -> None:
            nonlocal frames
            height, width = (side // 2 * 2 for side in frame.shape[:2])
            if not frames:
                stream.width, stream.height = width, height
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), "rgb24")
            picture.pts, picture.time_base = frames, 1 / rate
            container.mux(stream.encode(picture))
            frames += 1

        yield write
        container.mux(stream.encode(None))
