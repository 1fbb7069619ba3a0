"""Frames and flow of a dataset, one shard at a time: each video is decoded once, from its first frame to its last.

Sizes: TSN's tools (Wang et al., ECCV 2016; yjxiong/dense_flow) resize every frame to 340x256, whatever its aspect, then
take the grey picture, then the flow. A short side of 256 that keeps the aspect is the other usage (Kinetics-I3D).
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from reaction.data.decode import CHUNK, DecodeError, chunks
from reaction.data.index import Video, read_index
from reaction.data.store import ShardWriter, encode_flow, encode_jpeg, shard_name, shard_of
from reaction.files import read_json, sha256
from reaction.flow import TVL1, quantise, tvl1

FLOW_CHUNK = 8  # frames between two signs of life: OpenCV's TV-L1 takes up to a second a pair
STILL = 128  # quantised 0 px


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
    _extract(Path(folder), shard, _rgb_items, chunk=CHUNK, threads=1)


def flow_shard(folder: Path | str, shard: int, threads: int = 1) -> None:
    """Write shard `shard` of the flow features in `folder`: n-1 TV-L1 fields of a video of n frames, one of a still.

    Otherwise like `frames_shard`. `threads` are OpenCV's and change no result.
    """
    _extract(Path(folder), shard, _flow_items, chunk=FLOW_CHUNK, threads=threads)


Items = Callable[[Iterable[np.ndarray], dict[str, Any]], Iterator[bytes]]


def _extract(folder: Path, shard: int, items: Items, *, chunk: int, threads: int) -> None:
    cv2.setNumThreads(threads)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    if not 0 <= shard < config["shards"]:
        raise ValueError(f"{folder} has shards 0 to {config['shards'] - 1}, and no shard {shard}")
    videos = [video for video in read_index(inputs["index"]) if shard_of(video.video, config["shards"]) == shard]
    progress = Progress(frozen["rule"], shard, len(videos), sum(video.frames for video in videos))
    attributes = {**config, **{key: value for key, value in frozen.items() if key != "config"}}
    with ShardWriter(folder / shard_name(shard), attributes) as writer:
        for video in videos:
            path = Path(inputs["videos"]) / "videos" / video.path
            frames = _decoded(video, path, chunk, progress)
            writer.add(video.video, items(_resized(frames, config["resize"]), config), source_sha256=video.sha256)
            progress.video_done()


def _decoded(video: Video, path: Path, chunk: int, progress: "Progress") -> Iterator[np.ndarray]:
    """The video's frames in chunks (n, H, W, 3), checked against the index."""
    if not path.is_file():
        raise ExtractionError(f"{path} of video {video.video} is missing: run `reaction fetch` again")
    if sha256(path) != video.sha256:
        raise ExtractionError(f"{path} has changed since it was indexed: run `reaction index` again")
    count = 0
    try:
        for frames in chunks(path, decoder=video.decoder, size=chunk):
            yield frames
            count += len(frames)
            progress.frames_done(len(frames))
    except DecodeError as error:
        raise ExtractionError(f"{error}, although the index counts {video.frames} frames") from error
    if count != video.frames:
        raise ExtractionError(
            f"{path}: {count} frames were decoded and the index counts {video.frames}: re-run `reaction index`"
        )


def _resized(batches: Iterable[np.ndarray], rule: str) -> Iterator[np.ndarray]:
    for frames in batches:
        height, width = frames.shape[1:3]
        size = target_size(width, height, rule)
        if size == (width, height):
            yield frames
        else:
            yield np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames])


def _rgb_items(batches: Iterable[np.ndarray], config: dict[str, Any]) -> Iterator[bytes]:
    for frames in batches:
        for frame in frames:
            yield encode_jpeg(frame, config["jpeg_quality"])


def _flow_items(batches: Iterable[np.ndarray], config: dict[str, Any]) -> Iterator[bytes]:
    for levels in _fields(batches, config):
        yield encode_flow(levels, config["jpeg_quality"])


def _fields(batches: Iterable[np.ndarray], config: dict[str, Any]) -> Iterator[np.ndarray]:
    """Quantised fields (2, H, W) of a video's frames; chunks overlap by the one frame that two pairs share."""
    parameters, seen, last = TVL1(**config["parameters"]), 0, None
    for frames in batches:
        grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])  # (n, H, W)
        chunk = grey if last is None else np.concatenate([last, grey])
        for flow in tvl1(chunk, parameters, semantics=config["semantics"]):
            yield quantise(flow, config["bound"])
        seen, last = seen + len(frames), grey[-1:]
    if seen == 1:
        yield np.full((2, *last.shape[1:]), STILL, np.uint8)


def _say(line: str) -> None:
    print(line, flush=True)  # a log file shows it at once


@dataclass
class Progress:
    """A line every `interval` seconds: videos done, frames a second, time left."""

    rule: str
    shard: int
    videos: int
    frames: int
    interval: float = 5.0
    report: Callable[[str], None] = _say

    def __post_init__(self) -> None:
        self._videos = self._frames = 0
        self._started = self._reported = time.monotonic()

    def frames_done(self, count: int) -> None:
        self._frames += count
        if time.monotonic() - self._reported >= self.interval:
            self._report()

    def video_done(self) -> None:
        self._videos += 1
        if self._videos == self.videos:
            self._report()

    def _report(self) -> None:
        self._reported = time.monotonic()
        rate = self._frames / max(self._reported - self._started, 1e-9)
        left = round((self.frames - self._frames) / rate)
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        self.report(
            f"{self.rule} shard {self.shard}: {self._videos}/{self.videos} videos, "
            f"{self._frames}/{self.frames} frames, {rate:.1f} frames/s, {clock} left"
        )
