"""Features that are stored nowhere: frames decoded from the videos themselves, when a clip asks for them.

Only H.264 in MP4 can be entered in the middle with certainty. Its packets say which time each frame has and where
decoding can begin; frames are then known by their times, so that none is ever taken for another. Edit lists and open
groups of pictures are understood; frames that nothing refers to and nobody wants are not decoded. The MPEG-4 AVIs of
UCF-101 and HMDB-51 have no such times: their frames have to be stored.

The pictures are those that `reaction frames` would store, but for JPEG's losses.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from reaction.data.decode import RGB, Packets, not_h264_mp4, read_packets
from reaction.data.extract import resized, target_size
from reaction.data.index import Video, read_index
from reaction.data.rate import kept
from reaction.data.store import Shards
from reaction.files import read_json

WAY_OUT = "use a feature that is stored, or convert the video to H.264 in MP4 and index it again"


class VideoError(ValueError):
    """A video whose frames cannot be read one by one."""


class Videos:
    """Reads pictures from videos, as `reaction.data.store.Shards` reads stored ones, by the config.json in `folder`.

    Raises VideoError, which names the file, for a video that is no H.264 in MP4 or is not as it was indexed.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        frozen = read_json(self.folder / "config.json")
        self.attributes: dict[str, Any] = frozen["config"]
        self._index, self._source = frozen["inputs"]["index"], Path(frozen["inputs"]["videos"]) / "videos"

    @cached_property
    def _rows(self) -> dict[str, Video]:
        return {video.video: video for video in read_index(self._index)}

    @property
    def videos(self) -> list[str]:
        """Names of the videos, sorted."""
        return sorted(self._rows)

    def length(self, video: str) -> int:
        """How many frames there are of a video, at the features' frame rate."""
        return len(self._kept(video))

    def pictures(self, video: str, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """A video's frames `indices`, 0-based, in that order: uint8 RGB (H, W, 3), resized by the features' rule."""
        positions, wanted = self._kept(video), np.asarray(indices, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(positions):
            raise IndexError(f"{video} has {len(positions)} frames, not those asked for: {wanted.tolist()}")
        path = self._source / self._rows[video].path
        found = dict(read_frames(path, sorted(set(positions[wanted].tolist())), self._rows[video].frames))
        size = target_size(self._rows[video].width, self._rows[video].height, self.attributes["resize"])
        small = {position: resized(picture, size) for position, picture in found.items()}
        return [small[position] for position in positions[wanted].tolist()]

    def _kept(self, video: str) -> np.ndarray:
        if video not in self._rows:
            raise VideoError(f"{video} is not in {self._index}")
        row = self._rows[video]
        return kept(row.frames, row.fps, self.attributes.get("fps"))


def open_features(folder: Path | str) -> Shards | Videos:
    """What reads a folder of features, stored ones or not; stored ones are checked against the folder's own config."""
    config = read_json(Path(folder) / "config.json")["config"]
    return Shards(folder, expect=config) if config.get("stored", True) else Videos(folder)


def read_frames(path: Path | str, positions: Sequence[int], frames: int) -> Iterator[tuple[int, np.ndarray]]:
    """The frames at `positions`, ascending, of a video of `frames` frames: each with its uint8 RGB (H, W, 3).

    Raises VideoError, which names the file, unless it is H.264 in MP4, has as many frames and they can be decoded.
    """
    with _opened(path) as (container, stream):
        packets = read_packets(container, stream)
        if len(packets.times) != frames:
            raise VideoError(f"{path} has {len(packets.times)} frames and {frames} were indexed: index it again")
        if not packets.starts:
            raise VideoError(f"{path} has no frame at which decoding can begin: replace the file, or remove it")
        at = {packets.times[position]: position for position in positions}
        to_rgb = RGB(stream.width, stream.height)
        for frame in _decoded(container, stream, packets, at):
            yield at.pop(frame.pts), to_rgb(frame)
        if at:
            raise VideoError(f"{path}: frame {min(at.values())} cannot be decoded: replace the file, or remove it")


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if strange := not_h264_mp4(container):
                raise VideoError(f"{path} is {strange}; single frames can be had of H.264 in MP4 alone: {WAY_OUT}")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # the loader's workers are the parallelism
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"{path}: {error.strerror or error}: replace the file, or remove it") from error


def _decoded(
    container: InputContainer, stream: VideoStream, packets: Packets, wanted: Collection[int]
) -> Iterator[av.VideoFrame]:
    """The frames of the `wanted` times; those that cannot be decoded are left out."""
    run: list[int] = []
    for time in sorted(wanted):
        if run and packets.start(time) > packets.start(run[-1]) + 1:  # frames between that are better jumped over
            yield from _run(container, stream, packets, run)
            run = []
        run.append(time)
    if run:
        yield from _run(container, stream, packets, run)


def _run(
    container: InputContainer, stream: VideoStream, packets: Packets, times: Sequence[int]
) -> Iterator[av.VideoFrame]:
    """The frames of `times`, ascending, decoded in one go from the last start before the first of them.

    Where that start repairs the picture bit by bit (intra refresh), its first frames need the video from its beginning.
    """
    left = set(times)
    for start in dict.fromkeys((packets.start(times[0]), 0)):
        container.seek(packets.seek[start], stream=stream)
        for packet in container.demux(stream):
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in left else "NONREF"
            for frame in packet.decode():
                if frame.pts in left:
                    left.remove(frame.pts)
                    yield frame
            if not left:
                return
