"""TV-L1 by OpenCV's CPU code (opencv_contrib, modules/optflow/src/tvl1flow.cpp).

OpenCV 4.x rounds the warp's coordinates to 1/32 px and 5.0 does not: which semantics there are follows from the version
installed, hence the exact pin.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from reaction.flow.front import TVL1

VERSION = cv2.__version__


def semantics() -> str | None:
    """Whose TV-L1 the installed OpenCV is; None for a version nobody compared."""
    return {"4": "opencv-cpu", "5": "opencv5-cpu"}.get(VERSION.partition(".")[0])


def available() -> str | None:
    """None where OpenCV has TV-L1, else why not."""
    # In opencv_contrib alone; the other wheels import as cv2 as well.
    return None if hasattr(cv2, "optflow") else f"OpenCV {VERSION} was built without contrib's optflow"


def opencv_tvl1(frames: np.ndarray, parameters: TVL1, threads: int = 1) -> np.ndarray:
    """float32 (n-1, 2, H, W) pixels for grey frames (n, H, W), uint8 or float32 in [0, 1], n >= 2.

    `threads` share the pairs; OpenCV's own threads are as `cv2.setNumThreads` says.
    """
    with ThreadPoolExecutor(threads) as pool:
        fields = list(pool.map(lambda first, second: _field(first, second, parameters), frames[:-1], frames[1:]))
    return np.ascontiguousarray(np.stack(fields).transpose(0, 3, 1, 2))  # (n-1, H, W, 2) -> (n-1, 2, H, W)


def _field(first: np.ndarray, second: np.ndarray, parameters: TVL1) -> np.ndarray:
    # An object for every pair: one works for one thread, and a small image lowers its number of scales for good.
    return _solver(parameters).calc(first, second, None)


def _solver(parameters: TVL1) -> cv2.optflow.DualTVL1OpticalFlow:
    return cv2.optflow.DualTVL1OpticalFlow_create(
        tau=parameters.tau,
        lambda_=parameters.lambda_,
        theta=parameters.theta,
        nscales=parameters.nscales,
        warps=parameters.warps,
        epsilon=parameters.epsilon,
        innnerIterations=parameters.inner_iterations,  # OpenCV's spelling
        outerIterations=parameters.outer_iterations,
        scaleStep=parameters.scale_step,
        gamma=parameters.gamma,
        medianFiltering=parameters.median,
        useInitialFlow=False,
    )
