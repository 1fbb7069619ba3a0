"""Attention maps as a network reads them: one (H, W) map in [0, 1] for any frame of a video.

Park, SNU 2019, section 3; what it leaves unsaid is settled here: a frame without a map of its own takes the last one
before it, Grad-CAM maps are normalised after up-sampling, and a map without contrast becomes a constant.
"""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np

if TYPE_CHECKING:
    from reaction.data.store import Maps

FLAT = 1e-8  # spread below which a map has no contrast
ROUNDING = 1e-6  # the same relative to its peak: normalising would blow rounding errors up to [0, 1]


class FrameMaps(Protocol):
    """Anything that has a map for each frame."""

    def at(self, video: str, frame: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width) in [0, 1] over the whole frame at 0-based position `frame`."""
        ...


@dataclass(frozen=True)
class ConstantMaps:
    """The same value everywhere: 0.1 in the thesis's first phase."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"constant map {self.value}: must lie in [0, 1]")

    def at(self, video: str, frame: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width), the value everywhere."""
        return np.full((height, width), self.value, np.float32)


@dataclass(frozen=True)
class StoredMaps:
    """Maps read from shards, bilinearly up-sampled (align_corners=False) to the frame.

    Where the shards' attribute `normalise` says so (Grad-CAM), minimum and maximum of the up-sampled map become 0 and
    1, and a map without contrast becomes the constant `dead`. Learned maps are only up-sampled.
    """

    maps: "Maps"
    _: KW_ONLY
    dead: float

    def at(self, video: str, frame: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width) in [0, 1]: the last stored map at or before `frame`."""
        every = int(self.maps.attributes["every"])
        stored = self.maps.read(video, min(frame // every, self.maps.length(video) - 1))
        if not np.isfinite(stored).all():
            raise ValueError(f"the attention map of {video} at frame {frame} is not finite: compute the maps again")
        normalised = bool(self.maps.attributes["normalise"])
        if normalised and _flat(stored):
            return np.full((height, width), self.dead, np.float32)
        map = cv2.resize(stored, (width, height), interpolation=cv2.INTER_LINEAR)  # (H, W)
        return _min_max(map) if normalised else map


def _flat(map: np.ndarray) -> bool:
    return np.ptp(map) < FLAT + ROUNDING * np.abs(map).max()


def _min_max(map: np.ndarray) -> np.ndarray:
    low, high = map.min(), map.max()
    return (map - low) / (high - low)
