"""Clips around a key frame with the boxes of that frame, as PyTorch datasets: what detectors train on and are asked.

Boxes are fractions of what the network sees, so that stored frames may have another size than the original ones. Clips
lie in [-1, 1], as those of `reaction.clips.loader`, and like there an item for training depends on (seed, epoch,
index) alone. Beyond the ends of a video its first or last frame repeats.

The augmentation is YOLOv2's (Redmon & Farhadi, CVPR 2017) with the numbers of wei-tim/YOWO `datasets/clip.py`: each
edge of the crop moves in or out, black where it leaves the frame, the view is mirrored, hue, saturation and brightness
change, all frames alike; every frame or every second one is taken. Deviations:
- boxes move by exactly what the pixels do; there crops are a pixel smaller than what boxes are computed with, and a
  mirrored box lands a thousandth of the picture too far to the left;
- resizing does not anti-alias, as everywhere here;
- with `every`, which that code does not have, frames are drawn anew each epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from reaction.clips.transforms import Crop, normalise
from reaction.data.boxes import Boxes
from reaction.data.index import Video
from reaction.data.store import Shards

BANK_LENGTH, BANK_CLIPS = 8, 8  # frames of a clip of the bank, and how many clips stand for one
LEAST_SIDE = 0.001  # of the input: what is left of a smaller box is none (wei-tim/YOWO)

Item = dict[str, Tensor]


@dataclass(frozen=True)
class Around:
    """How many `frames` a clip has, and which is its key frame: the `last` (YOWO) or the `middle` one (SlowFast)."""

    frames: int = 16
    key: Literal["last", "middle"] = "last"

    def indices(self, key_frames: np.ndarray, length: int, stride: int = 1) -> np.ndarray:
        """The frames of the clips around key frames (K,) of a video of `length` frames, int64 (K, frames)."""
        place = self.frames - 1 if self.key == "last" else self.frames // 2
        steps = stride * (np.arange(self.frames) - place)
        return np.clip(np.asarray(key_frames)[:, None] + steps, 0, length - 1)


@dataclass(frozen=True)
class Bank:
    """Which clips of 8 frames, into which a video is cut, stand for the clip of a key frame: YOWO's long-term bank.

    `around` takes eight of them, four from before the key frame's own; `causal` the last eight that have ended by it,
    or, when none has, the 8 frames up to it.
    """

    kind: Literal["around", "causal"]

    def starts(self, key_frame: int, length: int) -> list[int]:
        """The first frames of these clips in a video of `length` frames, the earliest first."""
        end = (key_frame + 1) // BANK_LENGTH
        if self.kind == "around":
            end = min(key_frame // BANK_LENGTH + BANK_CLIPS // 2, -(-length // BANK_LENGTH))
            first = max(0, key_frame // BANK_LENGTH - BANK_CLIPS // 2)
        else:
            first = max(0, end - BANK_CLIPS)
        return [BANK_LENGTH * place for place in range(first, end)] or [key_frame + 1 - BANK_LENGTH]

    def read(self, key_frames: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames of all clips that key frames (K,) need, int64 (E, 8), and each one's mean of them, (K, E).

        Beyond the ends of the video its first or last frame repeats.
        """
        needed = [self.starts(int(key), length) for key in key_frames]
        entries = sorted({start for starts in needed for start in starts})
        weights = np.array([[(entry in starts) / len(starts) for entry in entries] for starts in needed], np.float32)
        return np.clip(np.array(entries)[:, None] + np.arange(BANK_LENGTH), 0, length - 1), weights


@dataclass(frozen=True)
class Distortion:
    """YOLOv2's augmentation: `jitter` of a side by which its ends move, `hue` of the circle of colours to turn by.

    `saturation` and `exposure` are the largest factors; a factor and its inverse are as likely.
    """

    jitter: float = 0.2
    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 0.5 or min(self.saturation, self.exposure) < 1:
            raise ValueError(f"{self}: jitter lies in [0, 0.5), saturation and exposure are 1 or more")

    def draw(self, width: int, height: int, rng: np.random.Generator) -> "View":
        """A view of frames of `width` x `height`."""
        dx, dy = int(width * self.jitter), int(height * self.jitter)
        left, right = rng.integers(-dx, dx + 1, size=2).tolist()
        top, bottom = rng.integers(-dy, dy + 1, size=2).tolist()
        return View(
            crop=Crop(left, top, width - left - right, height - top - bottom),
            flipped=bool(self.flip and rng.random() < 0.5),
            hue=rng.uniform(-self.hue, self.hue),
            saturation=_factor(self.saturation, rng),
            exposure=_factor(self.exposure, rng),
        )


def _factor(most: float, rng: np.random.Generator) -> float:
    factor = rng.uniform(1, most)
    return factor if rng.random() < 0.5 else 1 / factor


class View(NamedTuple):
    """How the frames of a clip are seen: through a crop, which may reach beyond them, and in which colours."""

    crop: Crop
    flipped: bool = False
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0

    def pictures(self, frames: Sequence[np.ndarray], input: int) -> np.ndarray:
        """Frames (H, W, 3), uint8, as they are seen: (n, input, input, 3)."""
        seen = [self._colours(_cut(frame, self.crop, input)) for frame in frames]
        return np.stack([frame[:, ::-1] for frame in seen] if self.flipped else seen)

    def boxes(self, box: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (N, 4), fractions of frames of `width` x `height`, as fractions of the view, and which of them it has.

        They are cut at its edges: float32 (K, 4), and positions int64 (K,).
        """
        crop = self.crop
        moved = (box * ([width, height] * 2) - [crop.x, crop.y] * 2) / ([crop.w, crop.h] * 2)
        if self.flipped:
            moved = np.stack((1 - moved[:, 2], moved[:, 1], 1 - moved[:, 0], moved[:, 3]), axis=1)
        moved = moved.clip(0, 1)
        kept = np.flatnonzero((moved[:, 2:] - moved[:, :2] >= LEAST_SIDE).all(axis=1))
        return moved[kept].astype(np.float32), kept

    def _colours(self, picture: np.ndarray) -> np.ndarray:
        if (self.hue, self.saturation, self.exposure) == (0, 1, 1):
            return picture
        table = np.arange(256.0)
        turned = (table + 256 * self.hue) % 256
        stretched = [np.minimum(table * factor, 255) for factor in (self.saturation, self.exposure)]
        table = np.stack([turned, *stretched], axis=1).astype(np.uint8)[:, None]  # (256, 1, 3)
        return cv2.cvtColor(cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL), table), cv2.COLOR_HSV2RGB_FULL)


def _cut(frame: np.ndarray, crop: Crop, input: int) -> np.ndarray:
    """The crop of a frame (H, W, 3), black beyond it, resized: (input, input, 3)."""
    height, width = frame.shape[:2]
    x, y, right, bottom = crop.x, crop.y, crop.x + crop.w, crop.y + crop.h
    patch = frame[max(y, 0) : bottom, max(x, 0) : right]
    beyond = [max(side, 0) for side in (-y, bottom - height, -x, right - width)]
    if any(beyond):
        patch = cv2.copyMakeBorder(patch, *beyond, cv2.BORDER_CONSTANT)
    return cv2.resize(patch, (input, input), interpolation=cv2.INTER_LINEAR)


class _KeyFrames(Dataset):
    def __init__(
        self, videos: Sequence[Video], frames: Shards, *, around: Around, input: int, bank: Bank | None = None
    ) -> None:
        self.videos, self.frames, self.around, self.input, self.bank = videos, frames, around, input, bank
        for video in videos:
            if (stored := frames.length(video.video)) != video.frames:
                raise ValueError(
                    f"{video.video} has {video.frames} frames and {stored} are stored: boxes are drawn on its own "
                    "frames; take features without `fps`"
                )

    def _read(
        self, video: Video, key_frames: Sequence[int], stride: int
    ) -> tuple[list[np.ndarray], np.ndarray, "_BankPlaces | None"]:
        """The different frames that the clips of key frames (K,) need, each decoded once, and their places (K, T)."""
        if get_worker_info() is not None:
            cv2.setNumThreads(0)  # the workers are the parallelism: see `reaction.clips.loader`
        wanted = self.around.indices(np.asarray(key_frames), video.frames, stride)
        entries, weight = self.bank.read(key_frames, video.frames) if self.bank else (np.empty((0, 1), int), None)
        needed, inverse = np.unique(np.concatenate((wanted.ravel(), entries.ravel())), return_inverse=True)
        places, others = inverse[: wanted.size].reshape(wanted.shape), inverse[wanted.size :].reshape(entries.shape)
        bank = None if weight is None else _BankPlaces(others, weight)
        return self.frames.pictures(video.video, needed), places, bank


class _BankPlaces(NamedTuple):
    """The places (E, 8) of the frames of a bank's clips, and each key frame's mean of the clips, (K, E)."""

    places: np.ndarray
    weight: np.ndarray


class TrainKeyFrames(_KeyFrames):
    """A clip for every annotated frame, or with `every` for one of each so many, another one each epoch.

    Items: `clip` float32 (3, T, h, w), `box` float32 (N, 4), x1, y1, x2, y2 as fractions of the input, `label` int64
    (N,), `index` int64. With `classes` an actor may do several things (AVA): the rows of a tube in a frame are one
    box, and `label` is float32 (N, classes), ones and zeros. N may be 0, where the crop lost the boxes.

    Every `strides[k]`-th frame of the video is taken, k drawn for each clip. With a `bank` items have those clips as
    well: `bank` float32 (E, 3, 8, h, w), seen as the clip is.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        frames: Shards,
        boxes: Mapping[str, Boxes],
        *,
        around: Around,
        input: int,
        distortion: Distortion,
        seed: int,
        every: int = 1,
        strides: Sequence[int] = (1, 2),
        classes: int | None = None,
        bank: Bank | None = None,
    ) -> None:
        annotated = [video for video in videos if len(boxes.get(video.video, ()))]
        super().__init__(annotated, frames, around=around, input=input, bank=bank)
        self.boxes, self.distortion, self.strides, self.classes = boxes, distortion, strides, classes
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change
        self._drawn_from = [  # (video, annotated frames of which one is drawn)
            (index, some)
            for index, video in enumerate(annotated)
            for some in _in_groups(np.unique(boxes[video.video].frame), every)
        ]

    def __len__(self) -> int:
        return len(self._drawn_from)

    def set_epoch(self, epoch: int) -> None:
        """Draw the clips of `epoch` from now on; before the loader's iteration starts."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        place, some = self._drawn_from[index]
        video, key = self.videos[place], rng.choice(some)
        stride = int(rng.choice(self.strides))
        pictures, places, bank = self._read(video, [key], stride)
        height, width = pictures[0].shape[:2]
        view = self.distortion.draw(width, height, rng)
        seen = view.pictures(pictures, self.input)
        box, label = self._actors(video, int(key))
        box, kept = view.boxes(box, width, height)
        item = {"clip": _clip(seen[places[0]]), "box": box, "label": label[kept]}
        item |= {"bank": _clip(seen[bank.places])} if bank else {}
        return {name: torch.from_numpy(array) for name, array in item.items()} | {"index": torch.tensor(index)}

    def _actors(self, video: Video, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes (N, 4) of a frame as fractions of it, and their labels (N,) or (N, classes)."""
        boxes = self.boxes[video.video]
        here = np.flatnonzero(boxes.frame == frame)
        box = boxes.box[here] / ([video.width, video.height] * 2)
        if self.classes is None:
            return box, boxes.label[here]
        _, first, actor = np.unique(boxes.tube[here], return_index=True, return_inverse=True)
        label = np.zeros((len(first), self.classes), np.float32)
        label[actor, boxes.label[here]] = 1
        return box[first], label


def _in_groups(frames: np.ndarray, every: int) -> list[np.ndarray]:
    return [frames[first : first + every] for first in range(0, len(frames), every)]


class TestKeyFrames(_KeyFrames):
    """The clips of every frame of each video, or of those that `at` names, whole frames resized to the input.

    An item is up to `batch` key frames of one video that follow each other, whose clips share most frames: `clip`
    float32 (K, 3, T, h, w), `frame` int64 (K,), `index` int64, the video's place in `videos`. Every `stride`-th frame
    is taken. With a `bank` there are `bank` float32 (E, 3, 8, h, w) and `weight` float32 (K, E) as well.
    """

    __test__ = False  # pytest would collect the name

    def __init__(
        self,
        videos: Sequence[Video],
        frames: Shards,
        *,
        around: Around,
        input: int,
        batch: int,
        stride: int = 1,
        at: Mapping[str, Sequence[int]] | None = None,
        bank: Bank | None = None,
    ) -> None:
        super().__init__(videos, frames, around=around, input=input, bank=bank)
        self.stride = stride
        self.pieces = [
            (index, some)
            for index, video in enumerate(videos)
            for some in _in_groups(
                np.asarray(range(video.frames) if at is None else at.get(video.video, ()), np.int64), batch
            )
        ]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> Item:
        place, keys = self.pieces[index]
        video = self.videos[place]
        pictures, places, bank = self._read(video, keys, self.stride)
        height, width = pictures[0].shape[:2]
        whole = View(Crop(0, 0, width, height)).pictures(pictures, self.input)  # (U, h, w, 3)
        found = {"clip": _clip(whole[places]), "frame": keys}
        found |= {"bank": _clip(whole[bank.places]), "weight": bank.weight} if bank else {}
        return {name: torch.from_numpy(array) for name, array in found.items()} | {"index": torch.tensor(place)}


def _clip(pictures: np.ndarray) -> np.ndarray:
    """Bytes (..., T, h, w, 3) to float32 (..., 3, T, h, w) in [-1, 1]."""
    return normalise(np.ascontiguousarray(np.moveaxis(pictures, -1, -4)))


class Batch(NamedTuple):
    """Clips (B, 3, T, h, w) and the N boxes of all of them; `image`, `box` and `label` are the fields of `Targets`.

    image: int64 (N,), whose clip's. box: float32 (N, 4). label: (N,) or (N, classes). index: int64 (B,). bank: clips
    (E, 3, 8, h, w) of all items, and each one's mean of its own by weight (B, E); None without a bank.
    """

    clip: Tensor
    image: Tensor
    box: Tensor
    label: Tensor
    index: Tensor
    bank: Tensor | None = None
    weight: Tensor | None = None


def collate(items: Sequence[Item]) -> Batch:
    """Items of TrainKeyFrames as one batch, for a DataLoader's `collate_fn`."""
    counts = torch.tensor([len(item["box"]) for item in items])
    return Batch(
        clip=torch.stack([item["clip"] for item in items]),
        image=torch.arange(len(items)).repeat_interleave(counts),
        box=torch.cat([item["box"] for item in items]),
        label=torch.cat([item["label"] for item in items]),
        index=torch.stack([item["index"] for item in items]),
        **(_banks(items) if "bank" in items[0] else {}),
    )


def _banks(items: Sequence[Item]) -> dict[str, Tensor]:
    own = [torch.full((1, len(item["bank"])), 1 / len(item["bank"])) for item in items]
    return {"bank": torch.cat([item["bank"] for item in items]), "weight": torch.block_diag(*own)}
