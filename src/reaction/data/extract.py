"""Frames and flow of a dataset, one shard at a time: each video is decoded once, from its first frame to its last.

Sizes: TSN's tools (Wang et al., ECCV 2016; yjxiong/dense_flow) resize every frame to 340x256, whatever its aspect, then
take the grey picture, then the flow. A short side of 256 that keeps the aspect is the other usage (Kinetics-I3D). With
`fps` a video is brought to that rate first (`reaction.data.rate`), and flow is between the frames that are kept.

Flow goes from thread to thread: one decodes, resizes and takes the grey picture, the main one solves, a third one
quantises and encodes, and the main one writes. Each is at most `AHEAD` chunks ahead of the next, however long a video.
"""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from reaction.data.decode import DecodeError, chunks
from reaction.data.index import Video, read_index
from reaction.data.rate import kept
from reaction.data.store import ShardWriter, encode_flow, encode_jpeg, shard_name, shard_of
from reaction.files import read_json, sha256
from reaction.flow import TVL1, choose, quantise, tvl1
from reaction.flow.front import version

AHEAD = 2
PAIRS = {"gpu": 128, "native": 64}  # in a chunk of flow; 10 for the others, which take seconds for them
T = TypeVar("T")


class ExtractionError(ValueError):
    """A video is not what the index says, or can no longer be decoded."""


def target_size(width: int, height: int, rule: str) -> tuple[int, int]:
    """Width and height to which `rule` resizes a frame: "340x256", or "short_side:256" with the long side made even."""
    if match := re.fullmatch(r"(\d+)x(\d+)", rule):
        return int(match[1]), int(match[2])
    if match := re.fullmatch(r"short_side:(\d+)", rule):
        short = int(match[1])
        long = 2 * round(max(width, height) * short / min(width, height) / 2) if width != height else short
        return (long, short) if width >= height else (short, long)
    raise ValueError(f"resize rule {rule!r} is neither like 340x256 (width x height) nor like short_side:256")


def frames_shard(folder: Path | str, shard: int) -> None:
    """Write shard `shard` of the RGB features in `folder`: every frame of its videos, resized, as JPEG.

    `folder`/config.json says which index, videos, size and quality; its paths are relative to the current folder.

    Raises ExtractionError, which names the video, where it differs from its row in the index.
    """
    job = _job(Path(folder), shard)
    progress = Progress("frames", shard, len(job.videos), sum(len(job.kept(video)) for video in job.videos))
    with ShardWriter(job.path, job.attributes) as writer:
        for video in job.videos:
            blobs = (encode_jpeg(frame, job.config["jpeg_quality"]) for frame in job.frames(video))
            with _blaming(video):
                writer.add(video.video, progress.counted(blobs), source_sha256=video.sha256)
            progress.video_done()


def flow_shard(folder: Path | str, shard: int, threads: int = 1, backend: str = "auto") -> None:
    """Write shard `shard` of the flow features in `folder`: n-1 TV-L1 fields of n kept frames, one of a still.

    Otherwise like `frames_shard`. `threads` are the solver's and change no result; `backend` is one of
    `reaction.flow.BACKENDS`, and the shard says which one it was.
    """
    job = _job(Path(folder), shard)
    parameters, semantics = TVL1(**job.config["parameters"]), job.config["semantics"]
    name, note = choose(semantics, parameters, backend)
    _say(f"flow shard {shard}: {semantics} TV-L1 by {version(name)}, threads: {threads}")
    if note:
        _say(note)
    solve = partial(tvl1, parameters=parameters, semantics=semantics, backend=name, threads=threads)
    fields = sum(max(len(job.kept(video)) - 1, 1) for video in job.videos)
    progress = Progress("flow", shard, len(job.videos), fields, unit="pairs")
    with (
        ShardWriter(job.path, job.attributes | {"backend": version(name)}) as writer,
        ThreadPoolExecutor(1, "decode") as decoder,
        ThreadPoolExecutor(1, "encode") as encoder,
    ):
        grey = _ahead(decoder, _grey_chunks(job, PAIRS.get(name, 10)))
        encoded = _behind(encoder, partial(_encoded, config=job.config), _solved(grey, solve, progress))
        for video, parts in groupby(encoded, itemgetter(0)):
            blobs = chain.from_iterable(blobs for _, blobs in parts)
            writer.add(video.video, blobs, source_sha256=video.sha256)
            progress.video_done()


@dataclass(frozen=True)
class _Job:
    """What a frozen config and the index say of one shard."""

    path: Path
    attributes: dict[str, Any]
    config: dict[str, Any]
    source: Path
    videos: list[Video]

    def kept(self, video: Video) -> np.ndarray:
        """Positions of the video's frames that are taken, some perhaps twice, int64 (n,)."""
        with _blaming(video):
            return kept(video.frames, video.fps, self.config.get("fps"))

    def frames(self, video: Video) -> Iterator[np.ndarray]:
        """The kept frames, uint8 RGB (H, W, 3), resized by the rule; the video is checked against the index."""
        path, count = self.source / "videos" / video.path, 0
        times = np.bincount(self.kept(video), minlength=video.frames)  # how often each frame is taken
        for frames in _decoded(video, path):
            size = target_size(frames.shape[2], frames.shape[1], self.config["resize"])
            for frame, repeat in zip(frames, times[count:], strict=False):  # more frames than indexed: refused below
                if repeat:
                    yield from [resized(frame, size)] * repeat
            count += len(frames)
        if count != video.frames:
            raise ExtractionError(
                f"{path}: {count} frames were decoded and the index counts {video.frames}: re-run `reaction index`, "
                "or remove the file if it is damaged"
            )


def _job(folder: Path, shard: int) -> _Job:
    cv2.setNumThreads(0)  # the stages are the threads
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    if not 0 <= shard < config["shards"]:
        raise ValueError(f"{folder} has shards 0 to {config['shards'] - 1}, and no shard {shard}")
    videos = [video for video in read_index(inputs["index"]) if shard_of(video.video, config["shards"]) == shard]
    attributes = {**config, **{key: value for key, value in frozen.items() if key != "config"}}
    return _Job(folder / shard_name(shard), attributes, config, Path(inputs["videos"]), videos)


def _decoded(video: Video, path: Path) -> Iterator[np.ndarray]:
    """The video's frames in chunks (n, H, W, 3), if its file is the one that was indexed."""
    if not path.is_file():
        raise ExtractionError(f"{path} of video {video.video} is missing: run `reaction fetch` again")
    if sha256(path) != video.sha256:
        raise ExtractionError(f"{path} has changed since it was indexed: run `reaction index` again")
    try:
        yield from chunks(path, decoder=video.decoder)
    except DecodeError as error:
        raise ExtractionError(f"{error}, although the index counts {video.frames} frames") from error


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame (H, W, 3) at that width and height."""
    same = size == (frame.shape[1], frame.shape[0])
    return frame if same else cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)


@contextmanager
def _blaming(video: Video) -> Iterator[None]:
    """Names the video in whatever goes wrong with it."""
    try:
        yield
    except ExtractionError:
        raise
    except (ValueError, OSError, cv2.error) as error:
        raise ExtractionError(f"{video.path} of video {video.video}: {error}") from error
    except Exception as error:
        error.add_note(f"(video {video.video})")
        raise


def _grey_chunks(job: _Job, pairs: int) -> Iterator[tuple[Video, np.ndarray]]:
    """Grey frames (n, H, W) of each video in turn; its chunks are about as long and overlap by one frame."""
    for video in job.videos:
        count = max(len(job.kept(video)) - 1, 1)
        parts = math.ceil(count / pairs)
        with _blaming(video):
            grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in job.frames(video))
            for chunk in overlapping(grey, math.ceil(count / parts)):
                yield video, chunk


def overlapping(frames: Iterable[np.ndarray], step: int) -> Iterator[np.ndarray]:
    """Stacks of `step` + 1 frames, each starting with the last frame of the one before; the last one may be shorter."""
    waiting: list[np.ndarray] = []
    for frame in frames:
        if len(waiting) == step + 1:
            yield np.stack(waiting)
            del waiting[:-1]
        waiting.append(frame)
    yield np.stack(waiting)


def _solved(
    chunks: Iterable[tuple[Video, np.ndarray]], solve: Callable[[np.ndarray], np.ndarray], progress: "Progress"
) -> Iterator[tuple[Video, np.ndarray]]:
    """Flow (n-1, 2, H, W) of chunks of n frames; of a video of one frame a field of zeros."""
    for video, grey in chunks:
        with _blaming(video):
            flow = solve(grey) if len(grey) > 1 else np.zeros((1, 2, *grey.shape[1:]), np.float32)
        progress.done(len(flow))
        yield video, flow


def _encoded(item: tuple[Video, np.ndarray], config: dict[str, Any]) -> tuple[Video, list[bytes]]:
    video, flow = item
    with _blaming(video):
        return video, [encode_flow(quantise(field, config["bound"]), config["jpeg_quality"]) for field in flow]


def _ahead(thread: Executor, items: Iterable[T]) -> Iterator[T]:
    """The items, made in the thread before they are asked for."""
    source, end = iter(items), object()
    waiting = deque(thread.submit(next, source, end) for _ in range(AHEAD))
    while (item := waiting.popleft().result()) is not end:
        waiting.append(thread.submit(next, source, end))
        yield item


def _behind(thread: Executor, function: Callable[[T], Any], items: Iterable[T]) -> Iterator[Any]:
    """`function` of every item, in order, computed in the thread while the next items are made."""
    waiting = deque()
    for item in items:
        waiting.append(thread.submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _say(line: str) -> None:
    print(line, flush=True)  # a log file shows it at once


@dataclass
class Progress:
    """A line every `interval` seconds: videos done, frames or pairs a second, time left."""

    rule: str
    shard: int
    videos: int
    items: int
    unit: str = "frames"
    interval: float = 5.0
    report: Callable[[str], None] = _say

    def __post_init__(self) -> None:
        self._videos = self._items = 0
        self._started = self._reported = time.monotonic()

    def counted(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            yield item
            self.done(1)

    def done(self, count: int) -> None:
        self._items += count
        if time.monotonic() - self._reported >= self.interval:
            self._report()

    def video_done(self) -> None:
        self._videos += 1
        if self._videos == self.videos:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        rate = self._items / max(self._reported - self._started, 1e-9)
        left = round((self.items - self._items) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        self.report(
            f"{self.rule} shard {self.shard}: {self._videos}/{self.videos} videos, "
            f"{self._items}/{self.items} {self.unit}, {rate:.1f} {self.unit}/s, {clock} left"
        )
