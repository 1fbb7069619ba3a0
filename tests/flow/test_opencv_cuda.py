"""OpenCV's CUDA code behind the front, with a stand-in for an OpenCV that was built with CUDA."""

import types
from typing import ClassVar

import cv2
import numpy as np
import pytest

from reaction.flow import TVL1, choose, defaults, opencv_cuda, tvl1


class Mat:
    """GpuMat: pixels that only `upload` and `download` reach."""

    def upload(self, pixels):
        assert pixels.flags.c_contiguous
        self._pixels = pixels.copy()

    def download(self):
        return self._pixels


class Solver:
    """OpticalFlowDual_TVL1 whose flow is the mean of the first frame (x) and of the second (y)."""

    made: ClassVar = []

    @staticmethod
    def create(*parameters):
        Solver.made.append(parameters)
        return Solver()

    def calc(self, first, second, flow):
        assert flow is None
        means = [np.full(mat.download().shape, mat.download().mean(), np.float32) for mat in (first, second)]
        there = Mat()
        there.upload(np.dstack(means))
        return there


@pytest.fixture
def built_with_cuda(monkeypatch):
    Solver.made = []
    cuda = types.SimpleNamespace(OpticalFlowDual_TVL1=Solver, GpuMat=Mat, getCudaEnabledDeviceCount=lambda: 1)
    monkeypatch.setattr(cv2, "cuda", cuda)
    return cuda


def test_fields_come_back_pair_by_pair_with_x_first(built_with_cuda):
    frames = np.stack([np.full((16, 20), 10 * k, np.uint8) for k in range(4)])
    flow = tvl1(frames[:, ::-1], backend="opencv-cuda")
    assert flow.shape == (3, 2, 16, 20)
    assert flow.dtype == np.float32
    assert flow.flags.c_contiguous
    assert flow[:, :, 0, 0].tolist() == [[0, 10], [10, 20], [20, 30]]


def test_floats_stay_in_0_to_1_which_opencv_multiplies_itself(built_with_cuda):
    flow = tvl1(np.stack([np.full((16, 16), 0.5), np.full((16, 16), 1.0)]), backend="opencv-cuda")
    assert flow[0, :, 0, 0].tolist() == [0.5, 1.0]


def test_parameters_are_in_opencv_s_order(built_with_cuda):
    given = TVL1(0.2, 0.1, 0.4, 3, 2, 0.05, 11, 1, 0.6, 0.5, 1)
    for _ in range(2):
        tvl1(np.zeros((2, 16, 16), np.uint8), given, backend="opencv-cuda")
    assert Solver.made == [(0.2, 0.1, 0.4, 3, 2, 0.05, 11, 0.6, 0.5, False)] * 2, "a new object for every call"


def test_only_its_own_semantics(built_with_cuda):
    assert choose("opencv-cuda", backend="opencv-cuda") == ("opencv-cuda", None)
    with pytest.raises(ValueError, match="it has the semantics opencv-cuda, not opencv-cpu"):
        choose("opencv-cpu", backend="opencv-cuda")


def test_without_the_module_or_a_device_it_says_so(built_with_cuda, monkeypatch):
    built_with_cuda.getCudaEnabledDeviceCount = lambda: 0
    assert opencv_cuda.available() == "OpenCV finds no CUDA device"
    del built_with_cuda.OpticalFlowDual_TVL1
    assert opencv_cuda.available().endswith("was built without CUDA's cudaoptflow")


@pytest.mark.skipif(opencv_cuda.available() is not None, reason=str(opencv_cuda.available()))
def test_parity_with_the_oracle():
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(120, 160)), (0, 0), 3)
    texture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    frames = np.stack([texture[10:106, 10:138], texture[11:107, 8:136]])
    parameters = TVL1(epsilon=0.0, inner_iterations=30, outer_iterations=1, median=1)
    theirs, ours = (tvl1(frames, parameters, backend=backend) for backend in ("opencv-cuda", "torch"))
    assert np.linalg.norm(theirs - ours, axis=1).mean() < 1e-3
    theirs, ours = (tvl1(frames, defaults("opencv-cuda"), backend=backend) for backend in ("opencv-cuda", "torch"))
    assert np.linalg.norm(theirs - ours, axis=1).mean() < 1e-2
