"""What clips of videos with several classes are labelled with: a 1 for each class, and a 0 for the others.

A video has the classes that it shows anywhere. A training clip may have those of its own seconds alone, where the
dataset says when they are shown: so the released code of SlowFast trains on Charades, of which its paper says nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reaction.data.index import Video

Spans = Mapping[str, Sequence[tuple[int, float, float]]]
"""Of a video the labels, and from which second to which it shows each of them."""


@dataclass(frozen=True)
class MultiHot:
    """Labels among so many `classes`; with `spans` a clip has its own, `rate` being its pictures per second.

    Without a `rate` it is the video's.
    """

    classes: int
    spans: Spans | None = None
    rate: float | None = None

    def __call__(self, video: Video, starts: np.ndarray, span: int) -> Tensor:
        """Zeros and ones, float32 (classes,), for the segments of `span` pictures that begin at `starts` (K,)."""
        return self._hot(video.labels if self.spans is None else self._shown(video, starts, span))

    def whole(self, video: Video) -> Tensor:
        """The same for all of the video."""
        return self._hot(video.labels)

    def _hot(self, labels: Sequence[int]) -> Tensor:
        hot = torch.zeros(self.classes)
        hot[list(labels)] = 1.0
        return hot

    def _shown(self, video: Video, starts: np.ndarray, span: int) -> list[int]:
        rate = self.rate or video.fps
        first, last = starts / rate, (starts + span - 1) / rate  # (K,), s
        spans = self.spans.get(video.video, ())
        return [label for label, start, end in spans if ((first <= end) & (start <= last)).any()]
