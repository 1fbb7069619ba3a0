"""Boxes of actors: boxes.h5, and the door through which annotations of other conventions come in."""

import csv
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from reaction.data.datasets import DatasetError
from reaction.files import atomic
from reaction.pickles import ArrayUnpickler, Refused


@dataclass(frozen=True)
class Boxes:
    """Annotated boxes of one video, tube after tube.

    frame: int64 (N,), from 0. box: float32 (N, 4), x1, y1, x2, y2 in pixels of the original frame, 0-based, half-open.
    label: int64 (N,), position in classes.txt. tube: int64 (N,), which actor of the video.
    """

    frame: np.ndarray
    box: np.ndarray
    label: np.ndarray
    tube: np.ndarray

    def __len__(self) -> int:
        return len(self.frame)

    def before(self, frames: int) -> "Boxes":
        """Without the boxes of frames that a video of `frames` frames does not have."""
        kept = self.frame < frames
        return Boxes(self.frame[kept], self.box[kept], self.label[kept], self.tube[kept])

    def resized(self, annotated: tuple[int, int], shown: tuple[int, int]) -> "Boxes":
        """For frames of another (width, height) than the annotated ones."""
        scale = np.array(shown, np.float32) / np.array(annotated, np.float32)
        return replace(self, box=self.box * np.tile(scale, 2))


def check(video: str, boxes: Boxes, *, width: int, height: int, classes: int) -> None:
    """Raise DatasetError naming the first of a video's boxes that cannot be one, and what the annotator has to do.

    What a network would learn nothing from, with no error: fractions for pixels, corners in another order, boxes beyond
    the frame of `width` x `height`, labels counted from 1.
    """
    if not len(boxes):
        return
    beyond = (boxes.box < -1).any(axis=1) | (boxes.box > np.array([width, height] * 2) + 1).any(axis=1)
    problems = (
        (~np.isfinite(boxes.box).all(axis=1), "is no box: remove it"),
        (np.full(len(boxes), boxes.box.max() <= 1), f"holds fractions: multiply by {width} and {height} pixels"),
        ((boxes.box[:, 2:] < boxes.box[:, :2]).any(axis=1), "has its corners swapped: the order is x1, y1, x2, y2"),
        (beyond, f"lies outside of its frame, {width} x {height}: was it drawn on frames of another size?"),
        ((boxes.label < 0) | (boxes.label >= classes), f"needs a label from 0 to {classes - 1}: count them from 0"),
    )
    for bad, fix in problems:
        if bad.any():
            n = int(bad.argmax())
            corners = ", ".join(f"{value:g}" for value in boxes.box[n])
            raise DatasetError(f"{video}, frame {boxes.frame[n]}: box {corners} with label {boxes.label[n]} {fix}")


def write_boxes(path: Path | str, boxes: Mapping[str, Boxes]) -> None:
    """Write boxes.h5: `first[i]:first[i + 1]` are the rows of `video[i]`; videos in the order of `boxes`."""
    first = np.cumsum([0, *(len(one) for one in boxes.values())], dtype=np.int64)
    with atomic(path) as partial, h5py.File(partial, "w", track_order=False) as file:
        file.create_dataset("video", data=list(boxes), dtype=h5py.string_dtype(), shape=(len(boxes),))
        file["first"] = first
        for name, dtype, width in (("frame", np.int64, ()), ("box", np.float32, (4,)), ("label", np.int64, ())):
            file[name] = _joined([getattr(one, name) for one in boxes.values()], dtype, width)
        file["tube"] = _joined([one.tube for one in boxes.values()], np.int64, ())


def _joined(arrays: Sequence[np.ndarray], dtype: type, width: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.empty((0, *width), dtype), *arrays]).astype(dtype, copy=False)


def read_boxes(path: Path | str) -> dict[str, Boxes]:
    """Boxes by video; a video without annotation has no key."""
    with h5py.File(path, "r") as file:
        videos, first = file["video"].asstr()[:], file["first"][:]
        columns = {name: file[name][:] for name in ("frame", "box", "label", "tube")}
    spans = {video: slice(first[i], first[i + 1]) for i, video in enumerate(videos)}
    return {video: Boxes(**{name: column[span] for name, column in columns.items()}) for video, span in spans.items()}


def read_boxes_csv(path: Path | str, labels: Mapping[str, int]) -> dict[str, Boxes]:
    """Boxes from `video,frame,x1,y1,x2,y2` in our own convention, one tube per video, for the videos in `labels`."""
    rows: dict[str, list[list[float]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["video"] in labels:
                rows.setdefault(row["video"], []).append([float(row[k]) for k in ("frame", "x1", "y1", "x2", "y2")])
    return {video: _one_tube(np.array(table), labels[video]) for video, table in rows.items()}


def _one_tube(table: np.ndarray, label: int) -> Boxes:
    frame, box = table[:, 0].astype(np.int64), table[:, 1:].astype(np.float32)
    return Boxes(frame, box, np.full_like(frame, label), np.zeros_like(frame))


def load_pickle(path: Path | str) -> Any:
    """Load numbers, text, containers and numpy arrays from a pickle of Python 2 or 3; nothing in it is executed.

    Raises DatasetError naming whatever else it asks for, and when it is cut short.
    """
    try:
        return ArrayUnpickler(io.BytesIO(Path(path).read_bytes()), _MORE).load()
    except Refused as error:
        raise DatasetError(f"{path}: {error}") from None
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise DatasetError(f"{path} is damaged or no pickle ({error}): delete it and fetch it again") from error


_SCALAR = np.int64(0).__reduce__()[0]
_MORE: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
