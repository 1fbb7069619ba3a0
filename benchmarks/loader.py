"""What reading clips costs: CPU time an item of training, of a test and of whole frames, from stored features.

    python benchmarks/loader.py --index results/data/jhmdb21/index-... --features results/features/jhmdb21/flow-...
        [--split split1] [--input 112] [--stack 5] [--segments 3] [--videos 40] [--rounds 5]

One process and one thread, and of each item the best of the rounds: other load moves that least. The last column is a
digest of all that was read, by which two versions of the loader can be told to give the same bytes.

    python benchmarks/loader.py --against decord --stack 64 --input 224 --index ... --features ... ...

sets training clips of `--stack` frames or fields against the same clips of frames that decord decodes from the
dataset's own videos: the same positions, size, crops and flips. decord takes wrong frames of MPEG-4 in AVI where it
seeks (`reaction.data.decode`), so there it also reads from the first frame on; `reaction.data.videos` reads H.264.
"""

import argparse
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from reaction.clips.loader import Augmentation, Stream, TestClips, TrainClips, WholeFrames
from reaction.data.decode import not_h264_mp4
from reaction.data.extract import target_size
from reaction.data.index import Video, part_videos, read_index
from reaction.data.rate import kept
from reaction.data.store import Shards
from reaction.data.videos import Videos
from reaction.files import read_json


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for folder in options.features:
        print(folder, flush=True)
        if options.against:
            compare(options, folder)
            continue
        for name, clips in datasets(options, folder):
            milliseconds, digest = measure(clips, options.rounds)
            print(f"{name:12} {milliseconds:7.2f} ms an item, {len(clips)} items  {digest}", flush=True)


class Decord:
    """The original videos through decord, read as stored features are: `seeking`, or from the first frame on."""

    def __init__(self, folder: str, *, seeking: bool) -> None:
        frozen = read_json(Path(folder) / "config.json")
        self.attributes, self.seeking = frozen["config"], seeking
        self._source = Path(frozen["inputs"]["videos"]) / "videos"
        self._rows = {video.video: video for video in read_index(frozen["inputs"]["index"])}

    def length(self, video: str) -> int:
        return len(self._kept(video))

    def pictures(self, video: str, indices: np.ndarray) -> list[np.ndarray]:
        """uint8 (H, W, 3) of the features' size; decord resizes while it decodes."""
        import decord

        row, positions = self._rows[video], self._kept(video)[indices]
        width, height = target_size(row.width, row.height, self.attributes["resize"])
        reader = decord.VideoReader(str(self._source / row.path), width=width, height=height, num_threads=1)
        if self.seeking:
            return list(reader.get_batch(positions).asnumpy())
        found = {k: reader.next() for k in range(max(positions) + 1)}
        return [found[k].asnumpy() for k in positions.tolist()]

    def _kept(self, video: str) -> np.ndarray:
        row = self._rows[video]
        return kept(row.frames, row.fps, self.attributes.get("fps"))


def compare(options: argparse.Namespace, folder: str) -> None:
    """Print, for the videos of each kind, what clips cost from shards and from the videos."""
    stored = Shards(folder)
    stream = Stream(stored.attributes["modality"], options.stack, loop=True)
    frames = Stream("rgb", options.stack, loop=True)
    for kind, videos in _by_kind(folder, part_videos(options.index, options.split, "train")[: options.videos]).items():
        ways = {"shards": (stored, stream), "decord": (Decord(folder, seeking=True), frames)}
        if kind == "H.264 in MP4":
            ways["our own"] = (Videos(folder), frames)
        else:
            ways["decord, from the first frame on"] = (Decord(folder, seeking=False), frames)
        print(f"  {kind}, {len(videos)} videos", flush=True)
        _compare(options, videos, ways)


def _compare(options: argparse.Namespace, videos: Sequence[Video], ways: dict[str, tuple[Any, Stream]]) -> None:
    augmentation = Augmentation(scales=(0.875,), fixed_offsets=False)
    usual = {"segments": 1, "input": options.input, "augmentation": augmentation, "seed": 0}
    first = None
    for name, (source, stream) in ways.items():
        milliseconds, _ = measure(TrainClips(videos, source, stream=stream, **usual), options.rounds)
        first = first or milliseconds
        rate = f"{milliseconds:7.2f} ms a clip, {1e3 / milliseconds:5.1f} clips a CPU-second"
        print(f"    {name:32} {rate}, {milliseconds / first:4.2f} times the shards' time", flush=True)


def _by_kind(folder: str, videos: Sequence[Video]) -> dict[str, list[Video]]:
    source, kinds = Path(read_json(Path(folder) / "config.json")["inputs"]["videos"]) / "videos", defaultdict(list)
    for video in videos:
        with av.open(str(source / video.path)) as container:
            kinds[not_h264_mp4(container) or "H.264 in MP4"].append(video)
    return kinds


def datasets(options: argparse.Namespace, folder: str) -> Iterator[tuple[str, Any]]:
    """What there is to read, by the name of its row."""
    shards = Shards(folder)
    stream = Stream(shards.attributes["modality"], options.stack)
    videos = part_videos(options.index, options.split, "train")[: options.videos]
    usual = {"stream": stream, "input": options.input}
    yield "train", TrainClips(videos, shards, segments=1, augmentation=Augmentation(), seed=0, **usual)
    segments = options.segments
    yield (
        f"train x {segments}",
        TrainClips(videos, shards, segments=segments, augmentation=Augmentation(), seed=0, **usual),
    )
    yield "25 views", TestClips(videos, shards, segments=25, crops=1, sampler="tsn", **usual)
    yield "25 x 10", TestClips(videos[:4], shards, segments=25, crops=10, sampler="tsn", **usual)
    yield "whole frames", WholeFrames(videos, shards, every=1, **usual)


def measure(clips: Any, rounds: int) -> tuple[float, str]:
    """Mean over the items of each one's least CPU time, in milliseconds, and a digest of their bytes."""
    best, digest = np.full((rounds, len(clips)), np.inf), hashlib.sha256()
    for k in range(rounds):
        for index in range(len(clips)):
            started = time.process_time()
            item = clips[index]
            best[k, index] = time.process_time() - started
            if k == 0:
                digest.update(item["clip"].numpy().tobytes())
    return 1e3 * best.min(axis=0).mean(), digest.hexdigest()[:12]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--features", required=True, nargs="+")
    parser.add_argument("--against", choices=("decord",))
    parser.add_argument("--split", default="split1")
    for name, default in (("input", 112), ("stack", 5), ("segments", 3), ("videos", 40), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
