"""What a detector found in videos, and the tubes linked of it, as files: boxes.h5 and tubes.h5."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.tubes import Tube
from reaction.files import atomic


@dataclass(frozen=True)
class Detected:
    """Detected actors, video after video, frame after frame, the best first in a frame.

    first: int64 (V + 1,), where the rows of each video begin and end. frame: int64 (N,), from 0. box: float32 (N, 4),
    x1, y1, x2, y2 in pixels of the original frame, 0-based, half-open. confidence: float32 (N,), that somebody is
    there. score: float32 (N, C), of each class, times the confidence where the detector has one, else that is 1.
    """

    videos: tuple[str, ...]
    first: NDArray
    frame: NDArray
    box: NDArray
    confidence: NDArray
    score: NDArray

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def video(self) -> NDArray[np.int64]:
        """The place of each row's video in `videos`, (N,)."""
        return np.repeat(np.arange(len(self.videos)), np.diff(self.first))

    def rows(self, video: int) -> slice:
        """The rows of the video at this place."""
        return slice(int(self.first[video]), int(self.first[video + 1]))


def write_detected(
    path: Path | str, found: Iterator[tuple[str, NDArray, NDArray, NDArray, NDArray]], classes: int
) -> int:
    """Write boxes.h5 from video, frame (n,), box (n, 4), confidence (n,), score (n, `classes`) of videos as they come.

    One video is held in memory at a time. Returns how many boxes there are.
    """
    videos, first = [], [0]
    with atomic(Path(path)) as partial, h5py.File(partial, "w", track_order=False) as file:
        kinds = {"frame": (np.int64, ()), "box": (np.float32, (4,)), "confidence": (np.float32, ())}
        kinds |= {"score": (np.float32, (classes,))}
        for name, (dtype, width) in kinds.items():
            stored = {"maxshape": (None, *width), "chunks": (4096, *width), "compression": "lzf"}
            file.create_dataset(name, (0, *width), dtype, **stored)
        for video, *columns in found:
            videos.append(video)
            first.append(first[-1] + len(columns[0]))
            for name, column in zip(kinds, columns, strict=True):
                file[name].resize(first[-1], axis=0)
                file[name][first[-2] :] = column
        file.create_dataset("video", data=videos, dtype=h5py.string_dtype(), shape=(len(videos),))
        file["first"] = np.array(first, np.int64)
    return first[-1]


def read_detected(path: Path | str) -> Detected:
    """Read boxes.h5."""
    with h5py.File(path, "r") as file:
        columns = (file[name][:] for name in ("first", "frame", "box", "confidence", "score"))
        return Detected(tuple(file["video"].asstr()[:]), *columns)


def write_tubes(path: Path | str, videos: Sequence[str], tubes: Sequence[Tube]) -> None:
    """Write tubes.h5: of each tube its video's place in `videos`, label, start and score; all boxes, tube by tube."""
    lengths = [len(tube.box) for tube in tubes]
    with atomic(Path(path)) as partial, h5py.File(partial, "w", track_order=False) as file:
        file.create_dataset("videos", data=list(videos), dtype=h5py.string_dtype(), shape=(len(videos),))
        for name in ("video", "label", "start"):
            file[name] = np.array([getattr(tube, name) for tube in tubes], np.int64)
        file["score"] = np.array([tube.score for tube in tubes], np.float64)
        file["first"] = np.cumsum([0, *lengths], dtype=np.int64)
        file["box"] = np.concatenate([np.empty((0, 4)), *(tube.box for tube in tubes)]).astype(np.float32)


def read_tubes(path: Path | str) -> tuple[tuple[str, ...], list[Tube]]:
    """The videos and the tubes of tubes.h5."""
    with h5py.File(path, "r") as file:
        videos, first, box = tuple(file["videos"].asstr()[:]), file["first"][:], file["box"][:]
        columns = [file[name][:].tolist() for name in ("video", "label", "start", "score")]
    spans = pairwise(first)
    rows = zip(*columns, spans, strict=True)
    return videos, [Tube(v, label, start, box[a:b], score) for v, label, start, score, (a, b) in rows]
