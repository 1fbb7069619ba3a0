"""Videos, decoded sequentially from the first frame: decord, and PyAV where decord is wrong or absent.

decord's random access is whole GOPs off on MPEG-4 AVI with B-frames (dmlc/decord#195), the kind UCF-101 and HMDB-51
are, so nothing here seeks but to the beginning. Read from the start it still pads: where a file has more packets than
pictures (the placeholders of XviD's packed B-frames, the cut-away lead of an edited MP4) it repeats the last picture
until the counts agree. PyAV gives every picture once, so its count decides whether decord is believed.

Rotation flags of phone videos are ignored, as the published pipelines ignore them.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

av.logging.set_level(av.logging.PANIC)

DECODERS = ("auto", "decord", "pyav")
CHUNK = 16  # frames in memory at once: 100 MB of full HD, which a job and its decoder hold about three times
CHECKED = 100  # one file in so many is decoded whole where the others are only counted


class DecodeError(ValueError):
    """A video of which no frame can be decoded, or not with the decoder asked for."""


@dataclass(frozen=True)
class VideoFacts:
    """What decoding a video showed.

    `frames` are counted, not read from the header; `fps` is the container's average rate, 0 where it says none;
    `decoder` is "decord" or "pyav", the one `chunks` should use; `warning` says what was wrong with a file that could
    be read nevertheless, and is empty for a clean one.
    """

    frames: int
    fps: float
    width: int
    height: int
    decoder: str
    warning: str = ""


def chunks(
    path: Path | str, *, decoder: str = "auto", size: int = CHUNK, damage: list[str] | None = None
) -> Iterator[np.ndarray]:
    """Yield every frame of the video once and in order, as uint8 RGB (n, H, W, 3) with n <= `size`.

    "auto" decodes the video once beforehand to find out which decoder is right; whoever knows it from the index names
    it. A file damaged half way gives its frames up to the damage; "pyav" appends what it was to `damage`.

    Raises DecodeError, which names the file, where no frame can be decoded.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder is {decoder!r}, not one of {', '.join(DECODERS)}")
    if decoder == "auto":
        decoder = inspect(path).decoder
    return _decord_chunks(path, size) if decoder == "decord" else _pyav_chunks(path, size, damage)


def inspect(path: Path | str) -> VideoFacts:
    """Decode the whole video and say what is in it, and which decoder gets it right.

    decord is chosen where it delivers as many frames as PyAV decodes from an undamaged file. A file that breaks off is
    counted up to the break, with a warning.

    Raises DecodeError, which names the file, where no frame can be decoded.
    """
    frames, shape, damage = 0, (0, 0), []
    for frame in _pyav_frames(path, damage):
        if not frames:
            shape = (frame.width, frame.height)
        frames += 1
    if not frames:
        raise _no_frame(path, damage)
    fps, announced = _header(path)
    decoder = "pyav" if damage or _decord_count(path) != frames else "decord"
    return VideoFacts(frames, fps, *shape, decoder, _warning(frames, announced, damage))


@dataclass(frozen=True)
class Packets:
    """What a video's packets say without being decoded, in the stream's own units of time.

    `times` are those of its frames, ascending, so that frame k has the k-th; those that an edit list hides, and no
    player shows, are only counted. `starts` are times at which decoding can begin, and `seek` where to seek then.
    """

    times: list[int]
    hidden: int
    starts: list[int]
    seek: list[int]

    def start(self, time: int) -> int:
        """Where among `starts` decoding has to begin for the frame of that time."""
        return max(0, bisect_right(self.starts, time) - 1)


def read_packets(container: InputContainer, stream: VideoStream) -> Packets:
    """The table of a video's packets; the container is read to its end, and nothing decoded."""
    times, hidden, keys = [], 0, []
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size:
            continue  # the end
        if packet.is_discard:
            hidden += 1
        else:
            times.append(packet.pts)
        if packet.is_keyframe:
            keys.append((packet.pts, packet.dts))
    starts, seek = zip(*sorted(keys), strict=True) if keys else ((), ())
    return Packets(sorted(times), hidden, list(starts), list(seek))


def not_h264_mp4(container: InputContainer) -> str:
    """What the container holds instead of H.264 in MP4; empty if it holds that."""
    codecs = [stream.codec_context.name for stream in container.streams.video[:1]]
    if codecs == ["h264"] and "mp4" in container.format.name.split(","):
        return ""
    return f"{codecs[0] if codecs else 'no video'} in {container.format.name}"


def count(path: Path | str) -> VideoFacts:
    """As `inspect`, from the packets of H.264 in MP4, of which one frame is decoded: a fiftieth of the time.

    Each packet is a frame, or hidden by an edit list. Whatever is odd about a file, its kind included, has it decoded
    whole; so is every hundredth by its name, and where that tells another number a warning says so.

    Raises DecodeError, which names the file, where no frame can be decoded.
    """
    facts = _counted(path)
    if facts is not None and crc32(Path(path).name.encode()) % CHECKED:
        return facts
    decoded = inspect(path)
    if facts is None or facts.frames == decoded.frames:
        return decoded
    return replace(decoded, warning=f"{facts.frames} packets, of which {decoded.frames} frames can be decoded")


def _counted(path: Path | str) -> VideoFacts | None:
    """The facts of a file about which nothing is odd."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not_h264_mp4(container):
                return None
            stream = container.streams.video[0]
            announced, stream.codec_context.thread_count = stream.frames, 1
            packets = read_packets(container, stream)
            if not packets.starts or len(packets.times) + packets.hidden != announced:
                return None
            container.seek(packets.seek[0], stream=stream)
            first = next(container.decode(stream))
            rate = float(stream.average_rate or 0)
            return VideoFacts(len(packets.times), rate, first.width, first.height, "pyav")
    except (av.FFmpegError, StopIteration):
        return None


def _warning(frames: int, announced: int, damage: list[str]) -> str:
    if damage:
        return f"breaks off after {frames} frames: {damage[0]}"
    # One frame more is the rule in AVI with packed B-frames: the header counts the encoder's placeholder.
    if announced > frames + 1:
        return f"the header announces {announced} frames, {frames} can be decoded"
    return ""


def _no_frame(path: Path | str, damage: list[str]) -> DecodeError:
    reason = damage[0] if damage else "it holds no pictures"
    return DecodeError(f"{path}: no frame can be decoded ({reason}); replace the file or leave the video out")


def _header(path: Path | str) -> tuple[float, int]:
    """Average frames per second and number of frames according to the container, 0 for what it does not say."""
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        return float(stream.average_rate or 0), stream.frames


def _pyav_frames(path: Path | str, damage: list[str]) -> Iterator[av.VideoFrame]:
    """Yield frames up to the end or to the first error, whose text is appended to `damage`."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                damage.append("it has no video stream")
                return
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield from container.decode(stream)
    except av.FFmpegError as error:
        damage.append(str(error.strerror or error))


def _pyav_chunks(path: Path | str, size: int, damage: list[str] | None) -> Iterator[np.ndarray]:
    damage = [] if damage is None else damage
    empty = True
    for chunk in _stacked(_pyav_frames(path, damage), size):
        empty = False
        yield chunk
    if empty:
        raise _no_frame(path, damage)


def _stacked(frames: Iterable[av.VideoFrame], size: int) -> Iterator[np.ndarray]:
    """Frames as arrays of up to `size`, all of the first one's width and height: a stream may change in the middle."""
    pending: list[np.ndarray] = []
    to_rgb = None
    for frame in frames:
        to_rgb = to_rgb or RGB(frame.width, frame.height)
        pending.append(to_rgb(frame))
        if len(pending) == size:
            yield np.stack(pending)  # (n, H, W, 3)
            pending = []
    if pending:
        yield np.stack(pending)


class RGB:
    """Turns frames into uint8 RGB (height, width, 3): one converter and thread take a third of PyAV's usual time."""

    def __init__(self, width: int, height: int) -> None:
        self._reformatter = VideoReformatter()
        self._target = {"width": width, "height": height, "format": "rgb24", "threads": 1}

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        return self._reformatter.reformat(frame, **self._target).to_ndarray()


def _decord_chunks(path: Path | str, size: int) -> Iterator[np.ndarray]:
    decord = _import_decord()
    if decord is None:
        raise DecodeError(
            f"{path} was indexed with decord, which cannot be imported: install it or run `reaction index` again"
        )
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        for start in range(0, len(reader), size):
            yield reader.get_batch(range(start, min(start + size, len(reader)))).asnumpy()  # (n, H, W, 3)
    except (decord.DECORDError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DecodeError(f"{path}: decord cannot decode it ({reason}); run `reaction index` again") from error


def _decord_count(path: Path | str) -> int:
    """How many frames decord delivers; 0 where it is missing or gives up."""
    if _import_decord() is None:
        return 0
    try:
        return sum(len(chunk) for chunk in _decord_chunks(path, CHUNK))
    except DecodeError:
        return 0


def _import_decord():
    """decord, silenced, or None: it has no wheels for some platforms."""
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord
