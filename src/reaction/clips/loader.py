"""Clips of stored frames or flow, with their attention maps, as PyTorch datasets.

An item depends on (seed, epoch, index) alone: not on workers, world size or the order of reading. Every stored JPEG is
decoded once per item, and cut before it is resized. Clips lie in [-1, 1], but in [-2, 2] where something is subtracted:
one frame from the next (`rgbdiff`), or a field's mean (`mean_flow`). A `label` is a number, int64, or with `several` a
0 or 1 for each class, float32 (classes,).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from reaction.clips.labels import MultiHot
from reaction.clips.maps import FrameMaps
from reaction.clips.rgbdiff import frame_differences, frames_needed
from reaction.clips.samplers import stack_indices, test_segments, train_segments
from reaction.clips.transforms import (
    Crop,
    colour_shift,
    cut,
    flip,
    mean_flow,
    multi_scale_crop,
    normalise,
    short_side_crop,
    subtract_mean_flow,
    test_crops,
)
from reaction.data.index import Video
from reaction.data.store import Shards

STREAMS = ("rgb", "flow", "rgbdiff", "joint")
TEST_CROP = 0.875  # of the short side: 224 of 256; Inception's 299 of 341 is the same to 0.2 %

Item = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Stream:
    """What a network sees of a position: `stack` frames (`rgb`), fields (`flow`) or differences (`rgbdiff`) from there.

    `joint` is two streams in one: `frames` frames, and the `stack` fields after each. `mean_flow` takes each field's
    mean vector off it. Every `stride`-th frame or field is taken. A video that is too short is played again with
    `loop`, and else repeats its last picture.
    """

    name: str
    stack: int = 1
    mean_flow: bool = False
    stride: int = 1
    frames: int = 1
    loop: bool = False

    def __post_init__(self) -> None:
        if self.name not in STREAMS or min(self.stack, self.stride, self.frames) < 1:
            raise ValueError(f"stream {self.name!r} x {self.stack}: allowed are {', '.join(STREAMS)}, 1 or more")
        if self.mean_flow and self.name != "flow":
            raise ValueError(f"mean_flow: stream {self.name!r} has no fields to take the mean of")
        if self.stride > 1 and (self.name == "rgbdiff" or (self.name == "joint" and self.stack > 1)):
            raise ValueError(f"stride: stream {self.name!r} takes consecutive frames; set it to 1")

    @property
    def parts(self) -> tuple["Stream", ...]:
        """The streams of one modality that this is made of, `rgb` before `flow`."""
        if self.name != "joint":
            return (self,)
        frames = Stream("rgb", self.frames, stride=self.stack * self.stride, loop=self.loop)
        return frames, Stream("flow", self.frames * self.stack, stride=self.stride, loop=self.loop)

    @property
    def modality(self) -> str:
        """What the stored pictures of a part show: `rgb` or `flow`."""
        return "flow" if self.name == "flow" else "rgb"

    @property
    def items(self) -> int:
        """How many stored pictures of a part make one input."""
        return frames_needed(self.stack) if self.name == "rgbdiff" else self.stack

    @property
    def span(self) -> int:
        """How many consecutive stored items an input reaches over."""
        last = self.parts[-1]
        return last.stride * (last.items - 1) + 1

    @property
    def channels(self) -> int:
        """3 per frame or difference, 2 per field, ordered x_i, y_i, x_i+1, y_i+1, ..."""
        if self.name == "joint":
            return sum(part.channels for part in self.parts)
        return self.stack * (2 if self.name == "flow" else 3)


@dataclass(frozen=True)
class Augmentation:
    """TSN's augmentation; its flow networks leave the last scale out. `jitter` is of colour, which TSN has none of.

    `short_sides` is SlowFast's way to jitter scales, instead of `scales`: see `short_side_crop`.
    """

    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)
    fixed_offsets: bool = True
    flip: bool = True
    jitter: float = 0.0
    short_sides: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"crop scales {list(self.scales)}: one or more, above 0 and at most 1")


class _Pictures(NamedTuple):
    """What segments need of a video: U images (H, W, c), and the places (K, span) of each segment's among them.

    `means` (U, 2) are the images' mean vectors, where the stream takes them off.
    """

    images: list[np.ndarray]
    places: np.ndarray
    means: np.ndarray | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images[0].shape[:2]

    def spread(self, planes: np.ndarray) -> np.ndarray:
        """What (U, ...) holds of each image, segment by segment: (K, span, ...)."""
        if np.array_equal(self.places.ravel(), np.arange(len(planes))):  # as mostly in training: nothing to copy
            return planes.reshape(*self.places.shape, *planes.shape[1:])
        return planes[self.places]


class _Clips(Dataset):
    def __init__(
        self,
        videos: Sequence[Video],
        frames: Shards,
        *,
        stream: Stream,
        input: int,
        maps: FrameMaps | None,
        flow: Shards | None = None,
        several: MultiHot | None = None,
    ) -> None:
        for video in videos:
            if len(video.labels) != 1 and several is None:
                raise ValueError(f"{video.video} has labels {video.labels}: clips carry exactly one without `several`")
        if (flow is None) == (stream.name == "joint"):
            raise ValueError(f"stream {stream.name!r}: flow beside the frames goes with 'joint' and nothing else")
        self.videos, self.frames, self.maps = videos, frames, maps
        self.stream, self.input, self.several = stream, input, several
        self._read_from = frames if flow is None else flow  # whose items positions count
        self._parts = [(part, frames if part.modality == stream.modality else flow) for part in stream.parts]

    def __len__(self) -> int:
        return len(self.videos)

    def _length(self, index: int) -> int:
        return self._read_from.length(self.videos[index].video)

    def _read(self, index: int, starts: np.ndarray) -> list[_Pictures]:
        """The pictures of the segments that begin at `starts` (K,), part by part."""
        if get_worker_info() is not None:
            # The workers are the parallelism. Not 1: that joins the threads of OpenCV's pool, which a fork left behind.
            cv2.setNumThreads(0)
        read = [self._read_part(index, starts, *part) for part in self._parts]
        if len({pictures.size for pictures in read}) > 1:
            sizes = " and ".join(f"{width}x{height}" for height, width in (pictures.size for pictures in read))
            raise ValueError(f"{self.videos[index].video}: frames and flow are {sizes}; give their features one size")
        return read

    def _read_part(self, index: int, starts: np.ndarray, part: Stream, source: Shards) -> _Pictures:
        reached = {"stride": part.stride, "loop": part.loop}
        indices = stack_indices(starts, part.items, self._length(index), **reached)  # (K, items)
        needed, places = np.unique(indices, return_inverse=True)
        images = source.pictures(self.videos[index].video, needed)
        means = mean_flow(images) if part.mean_flow else None
        return _Pictures(images, places.reshape(indices.shape), means)

    def _view(self, read: Sequence[_Pictures], crop: Crop, flipped: bool) -> np.ndarray:
        """The segments seen through one crop, float32 (K, C, h, w)."""
        views = [
            self._view_part(pictures, part, crop, flipped)
            for pictures, (part, _) in zip(read, self._parts, strict=True)
        ]
        return views[0] if len(views) == 1 else np.concatenate(views, axis=1)

    def _view_part(self, pictures: _Pictures, part: Stream, crop: Crop, flipped: bool) -> np.ndarray:
        planes = cut(pictures.images, crop, self.input)  # (U, c, h, w)
        if flipped:
            planes = flip(planes, part.modality)
        if part.name == "rgbdiff":
            return frame_differences(pictures.spread(planes))
        stacks = pictures.spread(normalise(planes))  # each picture once, however many segments it is in
        clip = stacks.reshape(len(stacks), part.channels, self.input, self.input)
        if pictures.means is None:
            return clip
        return subtract_mean_flow(clip, pictures.means[pictures.places], flipped)

    def _whole_maps(self, index: int, positions: np.ndarray, height: int, width: int) -> list[np.ndarray]:
        video = self.videos[index].video
        return [self.maps.at(video, int(position), height, width) for position in positions]

    def _map_view(self, maps: Sequence[np.ndarray], crop: Crop, flipped: bool) -> np.ndarray:
        """The maps of the segments seen through the same crop, float32 (K, 1, h, w)."""
        patches = cut(maps, crop, self.input)
        return flip(patches, "rgb") if flipped else patches

    def _item(self, index: int, starts: np.ndarray, **arrays: np.ndarray) -> Item:
        """What the arrays of segments that begin at `starts` (K,) make."""
        item = {name: torch.from_numpy(array) for name, array in arrays.items()}
        video = self.videos[index]
        one = self.several is None
        label = torch.tensor(video.labels[0]) if one else self.several(video, starts, self.stream.span)
        return item | {"label": label, "index": torch.tensor(index)}


class TrainClips(_Clips):
    """One augmented clip per video: all segments, and their maps, share crop and flip.

    Items: `clip` float32 (K, C, h, w), `map` float32 (K, 1, h, w) in [0, 1] if there are maps, `label` and
    `index` int64.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        frames: Shards,
        *,
        stream: Stream,
        segments: int,
        input: int,
        augmentation: Augmentation,
        seed: int,
        maps: FrameMaps | None = None,
        flow: Shards | None = None,
        several: MultiHot | None = None,
    ) -> None:
        super().__init__(videos, frames, stream=stream, input=input, maps=maps, flow=flow, several=several)
        self.segments, self.augmentation, self.seed = segments, augmentation, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    def set_epoch(self, epoch: int) -> None:
        """Draw the clips of `epoch` from now on; before the loader's iteration starts."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        starts = train_segments(self._length(index), self.segments, self.stream.span, rng)  # (K,)
        pictures = self._read(index, starts)
        height, width = pictures[0].size
        crop, flipped = self._augment(width, height, rng)
        arrays = {"clip": self._view(pictures, crop, flipped)}
        if self.maps is not None:
            arrays["map"] = self._map_view(self._whole_maps(index, starts, height, width), crop, flipped)
        if self.augmentation.jitter:
            pixels = arrays["clip"].reshape(-1, 3, self.input, self.input)  # (K * span, 3, h, w), the clip's own memory
            pixels += colour_shift(self.augmentation.jitter, rng)[:, None, None]
        return self._item(index, starts, **arrays)

    def _augment(self, width: int, height: int, rng: np.random.Generator) -> tuple[Crop, bool]:
        how = self.augmentation
        if how.short_sides is not None:
            crop = short_side_crop(width, height, input=self.input, short_sides=how.short_sides, rng=rng)
        else:
            drawn = {"scales": how.scales, "fixed_offsets": how.fixed_offsets}
            crop = multi_scale_crop(width, height, input=self.input, rng=rng, **drawn)
        return crop, how.flip and rng.random() < 0.5


class JoinedClips(Dataset):
    """The training clips of several datasets as one: those of the first, then those of the second, ...

    Items are those of the datasets with `task`, int64, the dataset's place among them, and `index` among all clips.
    """

    def __init__(self, *tasks: TrainClips) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return sum(len(clips) for clips in self.tasks)

    def set_epoch(self, epoch: int) -> None:
        """As `TrainClips.set_epoch`, for all of them."""
        for clips in self.tasks:
            clips.set_epoch(epoch)

    def __getitem__(self, index: int) -> Item:
        task, place = 0, index
        while place >= len(self.tasks[task]):
            place -= len(self.tasks[task])
            task += 1
        return self.tasks[task][place] | {"task": torch.tensor(task), "index": torch.tensor(index)}


class TestClips(_Clips):
    """All views of the test protocol of one video: V = segments * crops, the crops of a segment side by side.

    Items: `clip` float32 (V, C, h, w), `map` float32 (V, 1, h, w) in [0, 1] if there are maps, `label` and
    `index` int64. Crops are squares of `crop` times the short side.
    """

    __test__ = False  # pytest would collect the name

    def __init__(
        self,
        videos: Sequence[Video],
        frames: Shards,
        *,
        stream: Stream,
        segments: int,
        crops: int,
        input: int,
        sampler: str,
        crop: float = TEST_CROP,
        maps: FrameMaps | None = None,
        flow: Shards | None = None,
        several: MultiHot | None = None,
    ) -> None:
        super().__init__(videos, frames, stream=stream, input=input, maps=maps, flow=flow, several=several)
        self.segments, self.crops, self.sampler, self.crop = segments, crops, sampler, crop

    def __getitem__(self, index: int) -> Item:
        starts = test_segments(self._length(index), self.segments, self.stream.span, self.sampler)  # (K,)
        pictures = self._read(index, starts)
        height, width = pictures[0].size
        views = test_crops(width, height, round(min(width, height) * self.crop), self.crops)
        arrays = {"clip": _side_by_side((self._view(pictures, *view) for view in views), self.crops)}
        if self.maps is not None:
            maps = self._whole_maps(index, starts, height, width)
            arrays["map"] = _side_by_side((self._map_view(maps, *view) for view in views), self.crops)
        return self._item(index, starts, **arrays)


class WholeFrames(_Clips):
    """Every `every`-th position of one video, the whole frame resized to the input: what attention maps are made of.

    Items: `clip` float32 (M, C, h, w) with M = ceil(items / every), `map` float32 (M, 1, h, w) in [0, 1] if
    there are maps, `label` and `index` int64. Stacks near the end repeat the last item, so that the last frame of
    `rgbdiff` shows no difference at all.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        frames: Shards,
        *,
        stream: Stream,
        input: int,
        every: int,
        maps: FrameMaps | None = None,
    ) -> None:
        super().__init__(videos, frames, stream=stream, input=input, maps=maps)
        self.every = every

    def __getitem__(self, index: int) -> Item:
        return self._at(index, self._positions(index))

    def chunks(self, index: int, batch: int) -> Iterator[Item]:
        """The item of one video in pieces of at most `batch` positions: a long video's stacks fill gigabytes."""
        positions = self._positions(index)
        for first in range(0, len(positions), batch):
            yield self._at(index, positions[first : first + batch])

    def _positions(self, index: int) -> np.ndarray:
        return np.arange(0, self._length(index), self.every)

    def _at(self, index: int, positions: np.ndarray) -> Item:
        pictures = self._read(index, positions)
        height, width = pictures[0].size
        arrays = {"clip": self._view(pictures, Crop(0, 0, width, height), flipped=False)}
        if self.maps is not None:
            arrays["map"] = np.stack(self._whole_maps(index, positions, self.input, self.input))[:, None]
        return self._item(index, positions, **arrays)


def _side_by_side(views: Iterator[np.ndarray], count: int) -> np.ndarray:
    """Per-crop arrays (K, C, h, w) to (K * count, C, h, w), segment-major; they are taken, and freed, one by one."""
    first = next(views)
    if count == 1:
        return first
    whole = np.empty((len(first), count, *first.shape[1:]), first.dtype)  # (K, crops, C, h, w)
    for place, view in enumerate(chain([first], views)):
        whole[:, place] = view
    return whole.reshape(-1, *first.shape[1:])
