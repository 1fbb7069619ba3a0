import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from reaction.flow import TVL1, quantise, tvl1


@pytest.fixture(autouse=True)
def one_thread():
    cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def texture():
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(120, 160)), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def shifted(texture, x, y, height=64, width=80):
    """The window of `texture` in which everything has moved by (x, y) pixels."""
    return texture[20 - y : 20 - y + height, 20 - x : 20 - x + width]


def test_translation_is_recovered(texture):
    frames = np.stack([shifted(texture, 0, 0), shifted(texture, 3, -2)])
    x, y = np.median(tvl1(frames), axis=(0, 2, 3))
    assert abs(x - 3) < 0.1
    assert abs(y + 2) < 0.1


def test_identical_frames_are_128_everywhere(texture):
    flow = tvl1(np.stack([shifted(texture, 0, 0)] * 2))
    assert (quantise(flow, 20) == 128).all()


def test_n_frames_give_n_minus_1_fields(texture):
    frames = np.stack([shifted(texture, i, 0) for i in range(4)])
    fast = TVL1(nscales=1, warps=1)
    for n in range(1, 5):
        flow = tvl1(frames[:n], fast)
        assert flow.dtype == np.float32
        assert flow.shape == (n - 1, 2, 64, 80)


def test_chunks_that_overlap_by_one_frame_change_nothing(texture):
    frames = np.stack([shifted(texture, i, -i) for i in range(4)])
    parameters = TVL1(nscales=3, warps=2)
    np.testing.assert_array_equal(
        tvl1(frames, parameters), np.concatenate([tvl1(frames[:2], parameters), tvl1(frames[1:], parameters)])
    )


def test_a_small_image_does_not_degrade_the_next_call(texture):
    frames = np.stack([shifted(texture, 0, 0), shifted(texture, 8, 0)])
    before = tvl1(frames)
    tvl1(frames[:, :20, :20].copy())
    np.testing.assert_array_equal(tvl1(frames), before)


def test_parameters_reach_opencv():
    import reaction.flow.opencv as opencv

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
    import reaction.flow.opencv as opencv

    ours, theirs = opencv._solver(TVL1()), cv2.optflow.DualTVL1OpticalFlow_create()
    getters = [name for name in dir(theirs) if name.startswith("get") and name != "getDefaultName"]
    assert len(getters) >= 12
    assert {name: getattr(ours, name)() for name in getters} == {name: getattr(theirs, name)() for name in getters}


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 32, 32), np.float32),
        np.zeros((2, 32, 32, 3), np.uint8),
        np.zeros((0, 32, 32), np.uint8),
        np.zeros((2, 15, 32), np.uint8),
    ],
)
def test_wrong_frames_are_refused(frames):
    with pytest.raises(ValueError, match="TV-L1"):
        tvl1(frames)


def test_unknown_semantics_are_refused():
    frames = np.zeros((2, 32, 32), np.uint8)
    with pytest.raises(ValueError, match=r"opencv-cuda.*opencv-cpu"):
        tvl1(frames, semantics="opencv-cuda")
    with pytest.raises(ValueError, match="backend"):
        tvl1(frames, backend="torch")


@pytest.mark.parametrize("wrong", [{"scale_step": 1.0}, {"median": 4}, {"nscales": 0}, {"epsilon": -1.0}])
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TVL1(**wrong)


@pytest.mark.real_data
def test_error_on_rubber_whale():
    """Middlebury's RubberWhale: 0.156 px for OpenCV's TV-L1, 1.256 px for no flow at all."""
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR is not set")
    folder = Path(os.environ["REACTION_MIRROR"]).parent / "flow_gt" / "middlebury"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    frames = np.stack([cv2.imread(str(folder / f"rubberwhale{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (1, 2)])
    truth = cv2.readOpticalFlow(str(folder / "flow_gt.flo")).transpose(2, 0, 1)  # (2, H, W)
    known = (np.abs(truth) < 1e9).all(axis=0)
    error = np.linalg.norm(tvl1(frames)[0] - truth, axis=0)[known].mean()
    assert error == pytest.approx(0.156, abs=0.002)
    assert np.linalg.norm(truth, axis=0)[known].mean() == pytest.approx(1.256, abs=0.002)
