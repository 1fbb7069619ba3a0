"""What a classification run sees in a video, second by second, while the video is read.

A second is judged by `CLIPS` clips with their middles spread evenly over it, the centre crop of each, as the tests
see it; its probabilities are the mean of theirs. Clips that would begin before the video or end after it are moved
inside. Pictures are those that the run was trained on but for JPEG's losses; flow is computed as its features were.

A network that reads attention maps gets the constant map, as by the protocol `constant`: the maps of a video that
nobody has scored would need the other stream, and its network.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from reaction.clips.loader import TestClips
from reaction.clips.maps import ConstantMaps
from reaction.data.extract import overlapping, resized, target_size
from reaction.data.index import Video
from reaction.data.rate import resampled
from reaction.evaluation.classification import sigmoid, softmax
from reaction.files import read_json
from reaction.flow import TVL1, quantise, tvl1
from reaction.models.weights import last_layers
from reaction.predict.video import Clock, Source
from reaction.training.job import device
from reaction.training.networks import RunError, load_run, stream_of

CLIPS = 2  # a second
PAIRS = 16  # of frames whose flow is computed at once

Item = Mapping[str, NDArray[np.uint8]]
"""What a position of a video shows: `rgb` (H, W, 3), `flow` (H, W, 2) as it is stored, or both."""


class Recogniser:
    """A trained classification run that looks at any video. Raises RunError where its folders are incomplete."""

    def __init__(self, run: Path | str, clock: Clock, threads: int = 1) -> None:
        self._model, config = load_run(run)
        self._model.to(device())
        self._stream, self._input = stream_of(config), config["network"]["input"]
        self._likelihoods = sigmoid if "labels" in config else softmax
        self._maps = _constant(config["maps"])
        joint = self._stream.name == "joint"
        self._features = features_of(run)
        self._flow = features_of(run, "flow_features") if joint else self._features
        self._with_flow = joint or self._stream.name == "flow"
        self._clock, self._threads = clock, threads

    @property
    def classes(self) -> int:
        """How many the network tells apart."""
        return self._model.get_parameter(f"backbone.{last_layers(self._model.backbone)[0]}.weight").shape[0]

    def seconds(self, source: Source) -> Iterator[tuple[list[NDArray[np.uint8]], NDArray[np.float64]]]:
        """The frames of each second, of the last as many as there are, and the probabilities (classes,) of it."""
        rate, span = self._features.get("fps") or float(source.rate), self._stream.span
        waiting: deque[NDArray] = deque()
        held: deque[Item] = deque(maxlen=span + ceil(rate) + 2)
        length, second = 0, 1
        for length, item in enumerate(self._items(source, waiting), start=1):
            held.append(item)
            while length > second * rate + span / 2:
                yield _taken(waiting, second, source.rate), self._judged(held, length, second, rate)
                second += 1
        while waiting:
            yield _taken(waiting, second, source.rate), self._judged(held, length, second, rate)
            second += 1

    def _items(self, source: Source, waiting: deque[NDArray]) -> Iterator[Item]:
        """What the network may see, in order; the frames themselves are put aside."""
        aside = (waiting.append(frame) or frame for frame in source)
        frames = resampled(aside, float(source.rate), self._features.get("fps"))
        small = (self._resized(frame) for frame in frames)
        return self._pairs(small) if self._with_flow else ({"rgb": frame} for frame in small)

    def _resized(self, frame: NDArray) -> NDArray:
        with self._clock("network"):
            return resized(frame, target_size(frame.shape[1], frame.shape[0], self._features["resize"]))

    def _pairs(self, frames: Iterable[NDArray]) -> Iterator[Item]:
        """Each frame but the last with the flow to the next one; a video of one frame has none that moves."""
        given = {"parameters": TVL1(**self._flow["parameters"]), "semantics": self._flow["semantics"]}
        for stack in overlapping(frames, PAIRS):
            with self._clock("flow"):
                grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in stack])
                still = np.zeros((1, 2, *grey.shape[1:]), np.float32)
                flow = tvl1(grey, threads=self._threads, **given) if len(grey) > 1 else still  # (n - 1, 2, H, W)
                fields = quantise(flow, self._flow["bound"]).transpose(0, 2, 3, 1)
            for frame, field in zip(stack, fields, strict=False):
                yield {"rgb": frame, "flow": field}

    def _judged(self, held: deque[Item], length: int, second: int, rate: float) -> NDArray[np.float64]:
        """The probabilities (classes,) of a second, from 1, of `length` items read so far the last are held."""
        span, first = self._stream.span, length - len(held)
        middles = [(second - 1 + (clip + 0.5) / CLIPS) * rate for clip in range(CLIPS)]
        starts = {max(0, min(int(middle - span / 2), length - span)) - first for middle in middles}
        logits = [self._logits(list(islice(held, start, start + span))) for start in sorted(starts)]
        return self._likelihoods(np.stack(logits)).mean(axis=0)

    @torch.no_grad()
    def _logits(self, items: Sequence[Item]) -> NDArray[np.float32]:
        """What the network says of one clip (classes,)."""
        with self._clock("network"):
            pictures = {kind: _Pictures([item[kind] for item in items]) for kind in items[0]}
            flow = pictures["flow"] if self._stream.name == "joint" else None
            frames = pictures["flow" if self._stream.name == "flow" else "rgb"]
            views = {"segments": 1, "crops": 1, "sampler": "tsn", "input": self._input, "maps": self._maps}
            item = TestClips([_ONE], frames, stream=self._stream, flow=flow, **views)[0]
            given = [item[key][None].to(device()) for key in ("clip", "map") if key in item]  # (1, 1, C, H, W)
            return self._model(*given)[0].float().cpu().numpy()


def _taken(waiting: deque[NDArray], second: int, rate: Fraction) -> list[NDArray]:
    """The frames of a second, from 1, or what there is of them."""
    frames = ceil(second * rate) - ceil((second - 1) * rate)
    return [waiting.popleft() for _ in range(min(frames, len(waiting)))]


class _Pictures:
    """The pictures of one clip, read as stored ones are."""

    def __init__(self, pictures: Sequence[NDArray]) -> None:
        self._pictures = pictures

    def length(self, video: str) -> int:
        return len(self._pictures)

    def pictures(self, video: str, indices: NDArray) -> list[NDArray]:
        return [self._pictures[index] for index in indices]


_ONE = Video("", "", (0,), "", 0, 0.0, 0, 0, "", "pyav")  # a clip has no name and no label


def _constant(maps: Mapping[str, Any] | None) -> ConstantMaps | None:
    """The constant that a run with such `maps` has for frames without one."""
    return None if maps is None else ConstantMaps(maps["value" if maps["source"] == "constant" else "dead"])


def features_of(run: Path | str, role: str = "features") -> dict[str, Any]:
    """How the pictures that a run was trained on were made."""
    path = Path(read_json(Path(run) / "config.json")["inputs"][role]) / "config.json"
    if not path.is_file():
        raise RunError(f"{path} is missing: it says how the pictures that the run knows were made; bring it back")
    return read_json(path)["config"]
