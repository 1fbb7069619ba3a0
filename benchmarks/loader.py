"""What reading clips costs: CPU time an item of training, of a test and of whole frames, from stored features.

    python benchmarks/loader.py --index results/data/jhmdb21/index-... --features results/features/jhmdb21/flow-...
        [--split split1] [--input 112] [--stack 5] [--segments 3] [--videos 40] [--rounds 5]

One process and one thread, and of each item the best of the rounds: other load moves that least. The last column is a
digest of all that was read, by which two versions of the loader can be told to give the same bytes.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch

from reaction.clips.loader import Augmentation, Stream, TestClips, TrainClips, WholeFrames
from reaction.data.index import part_videos
from reaction.data.store import Shards


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name, clips in datasets(options):
        milliseconds, digest = measure(clips, options.rounds)
        print(f"{name:12} {milliseconds:7.2f} ms an item, {len(clips)} items  {digest}", flush=True)


def datasets(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """What there is to read, by the name of its row."""
    shards = Shards(options.features)
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
    parser.add_argument("--features", required=True)
    parser.add_argument("--split", default="split1")
    for name, default in (("input", 112), ("stack", 5), ("segments", 3), ("videos", 40), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
