"""TV-L1 optical flow of a chunk of frames: the one door to every implementation.

Zach, Pock, Bischof: A Duality Based Approach for Realtime TV-L1 Optical Flow, DAGM 2007. Several algorithms go by
OpenCV's name for it (CPU 4.x, CPU 5.0, CUDA) and differ by hundredths of a pixel: `semantics` says which one is meant,
`backend` who computes it, and only the first may change results.
"""

from dataclasses import dataclass

import numpy as np

from reaction.flow.opencv import opencv_tvl1

SEMANTICS = ("opencv-cpu",)
BACKENDS = ("auto", "opencv")
MIN_SIDE = 16  # the pyramid's smallest level in OpenCV


@dataclass(frozen=True)
class TVL1:
    """Parameters by OpenCV's names, with the defaults of `cv2.optflow.DualTVL1OpticalFlow_create`.

    `tau` time step, `lambda_` weight of the data term (smaller is smoother), `theta` tightness of the coupling,
    `nscales` and `scale_step` the pyramid, `warps` per scale, `epsilon` the change in pixels that stops the iterations,
    `inner_iterations` between two median filters and `outer_iterations` of those, `gamma` weight of an illumination
    term, `median` the filter's width: 1 (off), 3 or 5.
    """

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    nscales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner_iterations: int = 30
    outer_iterations: int = 10
    scale_step: float = 0.8
    gamma: float = 0.0
    median: int = 5

    def __post_init__(self) -> None:
        positive = ("tau", "lambda_", "theta", "nscales", "warps", "inner_iterations", "outer_iterations")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"TV-L1: {name} is {getattr(self, name)}; it must be positive")
        if self.epsilon < 0 or self.gamma < 0:
            raise ValueError(f"TV-L1: epsilon ({self.epsilon}) and gamma ({self.gamma}) must not be negative")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"TV-L1: scale_step is {self.scale_step}; it must lie between 0 and 1")
        if self.median not in (1, 3, 5):
            raise ValueError(f"TV-L1: median is {self.median}; OpenCV filters with 3 or 5, and 1 switches it off")


def tvl1(
    frames: np.ndarray, parameters: TVL1 = TVL1(), *, semantics: str = "opencv-cpu", backend: str = "auto"
) -> np.ndarray:
    """Flow from each frame to the next: grey uint8 (n, H, W) to float32 (n-1, 2, H, W), x before y, in pixels.

    Point (x, y) of frame i is at (x + flow[i, 0, y, x], y + flow[i, 1, y, x]) in frame i+1. Pairs are independent, so
    a video may come in chunks that overlap by one frame.

    Raises ValueError for frames of another type or shape, or smaller than 16 pixels, and for unknown semantics.
    """
    _check(frames, semantics, backend)
    if len(frames) == 1:
        return np.empty((0, 2, *frames.shape[1:]), np.float32)
    return opencv_tvl1(frames, parameters)


def _check(frames: np.ndarray, semantics: str, backend: str) -> None:
    if semantics not in SEMANTICS:
        raise ValueError(f"TV-L1 semantics {semantics!r} are not implemented, only {', '.join(SEMANTICS)}")
    if backend not in BACKENDS:
        raise ValueError(f"TV-L1 backend is {backend!r}, not one of {', '.join(BACKENDS)}")
    if frames.dtype != np.uint8 or frames.ndim != 3 or not len(frames):
        raise ValueError(f"TV-L1 takes grey uint8 frames (n, H, W) with n >= 1, not {frames.dtype} {frames.shape}")
    if min(frames.shape[1:]) < MIN_SIDE:
        raise ValueError(
            f"TV-L1 needs frames of at least {MIN_SIDE} pixels a side, not {frames.shape[2]}x{frames.shape[1]}"
        )
