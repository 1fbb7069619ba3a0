"""Attention maps as a network reads them: one (H, W) map in [0, 1] for any frame of a video.

Park, SNU 2019, section 3: the maps of one or more layers are up-sampled bilinearly to the picture, combined, and
normalised to [0, 1]. What it leaves unsaid and what was chosen:
- the normalisation: minimum to 0 and maximum to 1, of each map on its own, after up-sampling and combining;
- how layers combine: the mean of their maps as they are, so that a layer with larger values counts for more;
- a map without contrast (zero everywhere after the ReLU, as a rule): a constant, the method's `map.constant`. Layers
  that combine are judged together: one dead layer leaves the map to the others;
- a frame without a map of its own: the last map before it.
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

    A map stored in parts is the sum of its up-sampled parts. Where the shards' attribute `normalise` says so
    (Grad-CAM), minimum and maximum of the up-sampled map become 0 and 1, and a map without contrast becomes the
    constant `dead`. Learned maps are only up-sampled.
    """

    maps: "Maps"
    _: KW_ONLY
    dead: float

    def at(self, video: str, frame: int, height: int, width: int) -> np.ndarray:
        """float32 (height, width) in [0, 1]: the last stored map at or before `frame`."""
        parts = self._parts(video, frame)
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError(f"the attention map of {video} at frame {frame} is not finite: compute the maps again")
        map = sum(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR) for part in parts)  # (H, W)
        if not self.maps.attributes["normalise"]:
            return map
        # One map is judged as it is stored; parts may be alive and cancel each other out.
        dead = _flat(parts[0] if len(parts) == 1 else map)
        return np.full((height, width), self.dead, np.float32) if dead else _min_max(map)

    def _parts(self, video: str, frame: int) -> list[np.ndarray]:
        """What is stored of the last map at or before `frame`: several addends only where layers were combined."""
        k = min(frame // int(self.maps.attributes["every"]), self.maps.length(video) - 1)
        return self.maps.parts(video, k) if "layers" in self.maps.attributes else [self.maps.read(video, k)]


def _flat(map: np.ndarray) -> bool:
    return np.ptp(map) < FLAT + ROUNDING * np.abs(map).max()


def _min_max(map: np.ndarray) -> np.ndarray:
    low, high = map.min(), map.max()
    return (map - low) / (high - low)
