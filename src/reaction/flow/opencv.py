"""TV-L1 by OpenCV's CPU code (opencv_contrib, modules/optflow/src/tvl1flow.cpp).

Results differ between OpenCV 4.x and 5.0 (the warp's coordinates are rounded to 1/32 px in the former), hence the exact
pin. Threads are OpenCV's: `cv2.setNumThreads`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from reaction.flow.tvl1 import TVL1


def opencv_tvl1(frames: np.ndarray, parameters: TVL1) -> np.ndarray:
    """float32 (n-1, 2, H, W) pixels for grey uint8 frames (n, H, W), n >= 2."""
    # A new object for every call: one small image lowers an object's number of scales for good.
    solver = _solver(parameters)
    fields = [solver.calc(first, second, None) for first, second in pairwise(frames)]
    return np.ascontiguousarray(np.stack(fields).transpose(0, 3, 1, 2))  # (n-1, H, W, 2) -> (n-1, 2, H, W)


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
