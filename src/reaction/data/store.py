"""HDF5 shards: the frames, flow fields or maps of many videos in a few files instead of millions.

A shard of pictures holds
    video          (n,)      official names
    first          (n+1,)    int64; items first[i] to first[i+1] belong to video i
    offset         (items+1,) int64; bytes offset[j] to offset[j+1] of blob are item j
    blob           (bytes,)  uint8; JPEG files one after the other
    source_sha256  (n,)      of the video file
and a shard of maps holds `video`, `first` and `map`, float32 (items, h, w). A map that is a sum of maps of several
resolutions has the others beside it: `map_1` (items, h', w'), ... Attributes are the frozen config the shard was made
by and the versions of the libraries that made it; a value that HDF5 has no type for is JSON.

Flow is one grey JPEG per field, x over y: 7.4 KiB a field at 320x240 and quality 95, and one decode.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import cv2
import h5py
import numpy as np

from reaction.files import atomic, canonical_json

CHUNK = 1 << 17  # bytes of blob that HDF5 reads at once
LIBRARIES = {"opencv": cv2.__version__, "h5py": h5py.__version__, "numpy": np.__version__}


class StoreError(ValueError):
    """A shard is missing, broken, or was made with other parameters than its reader expects."""


def shard_of(video: str, shards: int) -> int:
    """The shard a video belongs to. It follows from the official name alone, so a missing video moves no other."""
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "big") % shards


def shard_name(shard: int) -> str:
    return f"shard-{shard:03d}.h5"


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """JPEG of a uint8 picture, RGB (H, W, 3) or grey (H, W); `quality` from 0 to 100."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def encode_flow(field: np.ndarray, quality: int) -> bytes:
    """Grey JPEG, x over y, of a quantised uint8 field (2, H, W)."""
    return encode_jpeg(field.reshape(-1, field.shape[-1]), quality)


def decode_rgb(jpeg: bytes) -> np.ndarray:
    """uint8 RGB (H, W, 3)."""
    return _decode(jpeg, cv2.IMREAD_COLOR_RGB)


def decode_flow(jpeg: bytes) -> np.ndarray:
    """Quantised flow, uint8 (2, H, W)."""
    grey = _decode(jpeg, cv2.IMREAD_GRAYSCALE)
    return grey.reshape(2, -1, grey.shape[1])  # (2H, W) -> (2, H, W)


def _decode(jpeg: bytes, flag: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag)
    if image is None:
        raise StoreError(
            f"{len(jpeg)} stored bytes are not a JPEG picture: delete the shard they come from and run again"
        )
    return image


class _Writer:
    """A shard in the making: it appears under its name when the block ends, and not at all when the block raises."""

    def __init__(self, path: Path | str, attributes: Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._attributes = {**attributes, "libraries": LIBRARIES}
        self._videos: list[str] = []
        self._first = [0]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file = stack.enter_context(h5py.File(stack.enter_context(atomic(self._path)), "w"))
            for key, value in sorted(self._attributes.items()):
                self._file.attrs[key] = value if isinstance(value, str | int | float) else canonical_json(value)
            self._begin()
            stack.push(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised) -> None:
        self._stack.__exit__(*raised)

    def _end(self, kind, error, traceback) -> None:
        if kind is None:
            self._finish()

    def _begin(self) -> None:
        """Makes the datasets that grow."""

    def _finish(self) -> None:
        """Writes those that are known at the end."""
        self._write_strings("video", self._videos)
        self._file["first"] = np.array(self._first, np.int64)

    def _write_strings(self, name: str, values: list[str]) -> None:
        self._file.create_dataset(name, data=values, shape=(len(values),), dtype=h5py.string_dtype())

    def _append(self, name: str, values: np.ndarray) -> None:
        dataset = self._file[name]
        end = len(dataset)
        dataset.resize(end + len(values), axis=0)
        dataset[end:] = values


class ShardWriter(_Writer):
    """Writes a shard of pictures; `attributes` are the frozen config."""

    def _begin(self) -> None:
        self._file.create_dataset("blob", (0,), np.uint8, maxshape=(None,), chunks=(CHUNK,))
        self._offset = [0]
        self._sources: list[str] = []

    def add(self, video: str, blobs: Iterable[bytes], *, source_sha256: str) -> None:
        """Append a video's items, taken from `blobs` one by one."""
        for blob in blobs:
            self._append("blob", np.frombuffer(blob, np.uint8))
            self._offset.append(self._offset[-1] + len(blob))
        self._videos.append(video)
        self._first.append(len(self._offset) - 1)
        self._sources.append(source_sha256)

    def _finish(self) -> None:
        super()._finish()
        self._file["offset"] = np.array(self._offset, np.int64)
        self._write_strings("source_sha256", self._sources)


class MapWriter(_Writer):
    """Writes a shard of maps; `attributes` say, beside the frozen config, `every` (frames a map) and `normalise`."""

    def add(self, video: str, *parts: np.ndarray) -> None:
        """Append a video's maps (n, h, w), of the same h and w for every video; several `parts` are addends of each."""
        for k, part in enumerate(parts):
            self._append_part(f"map_{k}" if k else "map", np.asarray(part, np.float32))
        self._videos.append(video)
        self._first.append(self._first[-1] + len(parts[0]))

    def _append_part(self, name: str, maps: np.ndarray) -> None:
        if name not in self._file:
            self._file.create_dataset(name, (0, *maps.shape[1:]), np.float32, maxshape=(None, *maps.shape[1:]))
        self._append(name, maps)


class _Shard:
    """An open shard. Its datasets are opened once: that takes HDF5 longer than to read a picture."""

    def __init__(self, file: h5py.File) -> None:
        self.filename: str = file.filename
        self._file = file
        self._datasets: dict[str, h5py.Dataset] = {}

    def __getitem__(self, name: str) -> h5py.Dataset:
        if name not in self._datasets:
            self._datasets[name] = self._file[name]
        return self._datasets[name]

    @cached_property
    def maps(self) -> list[str]:
        """The datasets that hold maps, addend by addend."""
        return sorted(name for name in self._file if name.startswith("map"))


class _Folder:
    """The shards of one folder, opened at the first use and again after a fork: HDF5 handles do not survive one."""

    def __init__(self, folder: Path | str, expect: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self._expect = dict(expect or {})
        self._process: int | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """What the shards were made by: the same for all of them."""
        return self._opened()._attributes

    @property
    def videos(self) -> list[str]:
        """Names of the stored videos, sorted."""
        return sorted(self._opened()._where)

    def length(self, video: str) -> int:
        """How many items are stored of a video."""
        _, start, stop = self._find(video)
        return stop - start

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_expect": self._expect, "_process": None}

    def _opened(self) -> Self:
        if self._process != os.getpid():
            self._open()
            self._process = os.getpid()
        return self

    def _open(self) -> None:
        paths = sorted(self.folder.glob("shard-*.h5"))
        if not paths:
            raise StoreError(f"{self.folder} holds no shards: run the rule that makes it")
        self._where: dict[str, tuple[_Shard, int, int]] = {}
        self._attributes: dict[str, Any] = {}
        for path in paths:
            self._open_shard(path)

    def _open_shard(self, path: Path) -> None:
        with _blame(path):
            file = h5py.File(path, "r", locking=False)
            attributes = {key: _plain(value) for key, value in file.attrs.items()}
            names, first = file["video"].asstr()[:], file["first"][:].tolist()
        _require(path, attributes, self._expect)
        _require(
            path,
            attributes,
            {key: value for key, value in self._attributes.items() if key not in ("libraries", "backend")},
        )
        self._attributes = attributes
        shard = _Shard(file)
        self._where |= {name: (shard, *span) for name, span in zip(names, pairwise(first), strict=True)}

    def _find(self, video: str) -> tuple[_Shard, int, int]:
        self._opened()
        if video not in self._where:
            shards = self._attributes.get("shards")
            wanted = f": {shard_name(shard_of(video, shards))} is missing or was made without it" if shards else ""
            raise StoreError(f"{video} is not in {self.folder}{wanted}")
        return self._where[video]


class Shards(_Folder):
    """Reads the pictures of a folder of shards; may be handed to worker processes before or after its first use.

    Raises StoreError, at the first use, where a shard is broken or an attribute is not what `expect` says.
    """

    def read(self, video: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The stored JPEG of each of a video's items `indices`, 0-based, in that order; neighbours cost one read."""
        shard, start, stop = self._find(video)
        wanted = np.asarray(indices, np.int64).tolist()
        if wanted and not 0 <= min(wanted) <= max(wanted) < stop - start:
            raise IndexError(f"{video} has {stop - start} items in {shard.filename}, not those asked for: {wanted}")
        blobs: dict[int, bytes] = {}
        with _blame(shard.filename):
            for first, last in _runs(wanted):
                blobs |= _read_run(shard, start, first, last)
        return [blobs[index] for index in wanted]

    def pictures(self, video: str, indices: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """The same items decoded, uint8 (H, W, c): 3 colours, or 2 components of flow, plane by plane in memory."""
        blobs = self.read(video, indices)
        if self.attributes["modality"] == "rgb":
            return [decode_rgb(blob) for blob in blobs]
        return [decode_flow(blob).transpose(1, 2, 0) for blob in blobs]  # (2, H, W) -> (H, W, 2)


class Maps(_Folder):
    """Reads the maps of a folder of shards; otherwise like `Shards`."""

    def read(self, video: str, k: int) -> np.ndarray:
        """The video's k-th stored map, float32 (h, w); of a sum, the first addend."""
        shard, place = self._place(video, k)
        with _blame(shard.filename):
            return shard["map"][place]

    def parts(self, video: str, k: int) -> list[np.ndarray]:
        """The addends of the video's k-th stored map, float32 (h, w) each, of one resolution each."""
        shard, place = self._place(video, k)
        with _blame(shard.filename):
            return [shard[name][place] for name in shard.maps]

    def _place(self, video: str, k: int) -> tuple[_Shard, int]:
        shard, start, stop = self._find(video)
        if not 0 <= k < stop - start:
            raise IndexError(f"{video} has {stop - start} maps in {shard.filename}; there is no map {k}")
        return shard, start + k


def _runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """First and last of each stretch of neighbours among `indices`, in ascending order."""
    runs: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][1] + 1:
            runs[-1] = runs[-1][0], index
        else:
            runs.append((index, index))
    return runs


def _read_run(shard: _Shard, start: int, first: int, last: int) -> dict[int, bytes]:
    """The JPEGs of a video's items `first` to `last`; its items begin at `start`. Two reads, however many they are."""
    ends = shard["offset"][start + first : start + last + 2].tolist()
    data = shard["blob"][ends[0] : ends[-1]].tobytes()
    return {first + i: data[a - ends[0] : b - ends[0]] for i, (a, b) in enumerate(pairwise(ends))}


@contextmanager
def _blame(path: Path | str) -> Iterator[None]:
    """Turns HDF5's errors in the block into one that names the file and what to do."""
    try:
        yield
    except (OSError, KeyError) as error:
        raise StoreError(f"{path} is not a whole shard ({error}): delete it and run again") from error


def _plain(value: Any) -> Any:
    """An attribute as Python has it: HDF5 returns numpy scalars, and text for what was stored as JSON."""
    if isinstance(value, np.generic):
        return value.item()
    return json.loads(value) if value[:1] in ("{", "[") or value == "null" else value


def _require(path: Path, attributes: Mapping[str, Any], expect: Mapping[str, Any]) -> None:
    for key, value in expect.items():
        if attributes.get(key) != json.loads(canonical_json(value)):
            raise StoreError(f"{path} was made with {key} = {attributes.get(key)!r}, and {value!r} is expected")
