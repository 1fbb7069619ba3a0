"""Flow in 8 bits, stored as TSN's tool does (`CAST` in yjxiong/dense_flow, src/common.cpp) and read without bias."""

import numpy as np


def quantise(flow: np.ndarray, bound: float) -> np.ndarray:
    """uint8 `round(255 (v + bound) / (2 bound))` of flow in pixels, clipped to +-`bound`: 0 px becomes 128."""
    levels = np.add(flow, bound, dtype=np.float64)
    levels *= 255 / (2 * bound)  # in place: this runs beside a kernel that takes a hundredth of a second a field
    levels += 0.5
    return np.clip(levels, 0, 255, out=levels).astype(np.uint8)  # which rounds down


def dequantise(levels: np.ndarray, bound: float) -> np.ndarray:
    """float32 pixels of quantised flow, at most `bound`/255 off inside the bound.

    The exact inverse, so 128 becomes `bound`/255 and not 0; mirrored flow, -v, is 255 - q.
    """
    return ((levels.astype(np.float32) - 127.5) * (2 * bound / 255)).astype(np.float32)
