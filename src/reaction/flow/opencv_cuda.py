"""TV-L1 by OpenCV's CUDA code (opencv_contrib, modules/cudaoptflow/src/tvl1flow.cpp), which no wheel on PyPI has.

docs/flow.md says how to build an OpenCV that has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from reaction.flow.front import TVL1


def available() -> str | None:
    """None where OpenCV has its CUDA TV-L1 and a device to run it, else why not."""
    if not hasattr(cv2.cuda, "OpticalFlowDual_TVL1"):
        return f"OpenCV {cv2.__version__} was built without CUDA's cudaoptflow"
    if not cv2.cuda.getCudaEnabledDeviceCount():
        return "OpenCV finds no CUDA device"
    return None


def opencv_cuda_tvl1(frames: np.ndarray, parameters: TVL1) -> np.ndarray:
    """float32 (n-1, 2, H, W) pixels for grey frames (n, H, W), uint8 or float32 in [0, 1], n >= 2."""
    solver = _solver(parameters)
    fields, before = [], _uploaded(frames[0])
    for frame in frames[1:]:
        after = _uploaded(frame)
        fields.append(solver.calc(before, after, None).download())  # (H, W, 2)
        before = after
    return np.ascontiguousarray(np.stack(fields).transpose(0, 3, 1, 2))  # (n-1, H, W, 2) -> (n-1, 2, H, W)


def _uploaded(frame: np.ndarray) -> cv2.cuda.GpuMat:
    there = cv2.cuda.GpuMat()
    there.upload(np.ascontiguousarray(frame))
    return there


def _solver(parameters: TVL1) -> cv2.cuda.OpticalFlowDual_TVL1:
    """A new object for every call: one small image lowers an object's number of scales for good."""
    return cv2.cuda.OpticalFlowDual_TVL1.create(
        parameters.tau,  # by position: the binding's name of the next one, a Python keyword, varies
        parameters.lambda_,
        parameters.theta,
        parameters.nscales,
        parameters.warps,
        parameters.epsilon,
        parameters.inner_iterations,  # `iterations` there, which has neither outer ones nor a median
        parameters.scale_step,
        parameters.gamma,
        False,  # useInitialFlow
    )
