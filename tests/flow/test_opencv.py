"""OpenCV's CPU code behind the front."""

import cv2
import numpy as np
import pytest

from reaction.flow import TVL1, opencv


def test_parameters_reach_opencv():
    given = TVL1(0.2, 0.1, 0.4, 3, 2, 0.05, 11, 7, 0.6, 0.5, 3)
    solver = opencv._solver(given)
    got = (
        solver.getTau(),
        solver.getLambda(),
        solver.getTheta(),
        solver.getScalesNumber(),
        solver.getWarpingsNumber(),
        solver.getEpsilon(),
        solver.getInnerIterations(),
        solver.getOuterIterations(),
        solver.getScaleStep(),
        solver.getGamma(),
        solver.getMedianFiltering(),
    )
    assert TVL1(*got) == given
    assert not solver.getUseInitialFlow()


def test_defaults_are_opencv_s():
    ours, theirs = opencv._solver(TVL1()), cv2.optflow.DualTVL1OpticalFlow_create()
    getters = [name for name in dir(theirs) if name.startswith("get") and name != "getDefaultName"]
    assert len(getters) >= 12
    assert {name: getattr(ours, name)() for name in getters} == {name: getattr(theirs, name)() for name in getters}


def test_fields_are_opencv_s_with_x_first():
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 32), np.uint8)
    parameters = TVL1(nscales=1, warps=1)
    flow = opencv.opencv_tvl1(frames, parameters, threads=2)
    for k in range(2):
        theirs = opencv._solver(parameters).calc(frames[k], frames[k + 1], None)  # (H, W, 2)
        np.testing.assert_array_equal(flow[k], theirs.transpose(2, 0, 1))


@pytest.mark.parametrize(("version", "expected"), [("4.14.0", "opencv-cpu"), ("5.0.0", "opencv5-cpu"), ("6.0.0", None)])
def test_semantics_follow_from_the_version(monkeypatch, version, expected):
    monkeypatch.setattr(opencv, "VERSION", version)
    assert opencv.semantics() == expected


def test_an_opencv_without_contrib_is_named(monkeypatch):
    assert opencv.available() is None
    monkeypatch.delattr(cv2, "optflow")
    assert opencv.available().endswith("was built without contrib's optflow")
