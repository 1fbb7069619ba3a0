"""The actors that a detection run finds in a video, frame by frame, while the video is read.

Every frame is the key frame of a clip that ends with it; before the beginning the first frame repeats.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reaction.clips.keyframes import View
from reaction.clips.transforms import Crop, normalise
from reaction.data.extract import resized, target_size
from reaction.models.yowo import Detections
from reaction.predict.classes import features_of
from reaction.predict.video import Clock, Source
from reaction.training.detecting import load_detector
from reaction.training.job import device
from reaction.training.networks import RunError

CLIPS_AT_ONCE = 8  # most of their frames are the same
SUPPRESSION, OF_SEVERAL = 0.4, 0.5  # overlaps, the latter where an actor may do several things: as protocols have them


class Finder:
    """A trained detection run that looks at any video. Raises RunError where its folders are incomplete."""

    def __init__(self, run: Path | str, clock: Clock, threshold: float) -> None:
        self._detector = load_detector(run)
        if self._detector.bank is not None:
            raise RunError(f"{run} reads clips of the whole video (`bank:`), and this streams: take another run")
        self._detector.network.to(device())
        self._resize = features_of(run)["resize"]
        self._clock, self._threshold = clock, threshold

    @property
    def classes(self) -> int:
        """How many the network tells apart."""
        return self._detector.classes

    def told(self, score: NDArray) -> list[int]:
        """Which classes of an actor with scores (C,) are told, best first.

        Of classes that exclude each other that is the best one, else all with more than the threshold's score.
        """
        count = 1 if self._detector.poses is None else np.count_nonzero(score > self._threshold)
        return np.argsort(-score, kind="stable")[:count].tolist()

    def frames(self, source: Source) -> Iterator[tuple[NDArray[np.uint8], Detections]]:
        """Each frame with its actors whose best class has at least the threshold's score, in the frame's pixels."""
        around, frames = self._detector.around, iter(source)
        before = np.empty((0, self._detector.input, self._detector.input, 3), np.uint8)
        while batch := list(islice(frames, CLIPS_AT_ONCE)):
            with self._clock("network"):
                seen = np.concatenate([before, self._seen(batch)])  # (n, h, w, 3)
                keys = np.arange(len(before), len(seen))
                clips = np.moveaxis(seen[around.indices(keys, len(seen))], -1, 1)  # (K, 3, T, h, w)
                found = self._found(clips, *batch[0].shape[:2])
                before = seen[max(0, len(seen) - around.frames + 1) :]
            yield from zip(batch, found, strict=True)

    def _seen(self, frames: list[NDArray]) -> NDArray[np.uint8]:
        """Frames as the network sees them, (n, input, input, 3), resized twice as those it was trained on."""
        height, width = frames[0].shape[:2]
        size = target_size(width, height, self._resize)
        return View(Crop(0, 0, *size)).pictures([resized(frame, size) for frame in frames], self._detector.input)

    def _found(self, clips: NDArray[np.uint8], height: int, width: int) -> list[Detections]:
        seen = torch.from_numpy(normalise(np.ascontiguousarray(clips)))
        limits = {"least_score": self._threshold}
        limits["suppression"] = SUPPRESSION if self._detector.poses is None else OF_SEVERAL
        return self._detector.detect(seen, width=width, height=height, **limits)
