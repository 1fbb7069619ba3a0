"""The front: what it takes, whom it calls, what it says; and what every backend that is here must get right."""

import dataclasses
import importlib
import re
import sys
import types

import cv2
import numpy as np
import pytest

from reaction.flow import BACKENDS, SEMANTICS, TVL1, choose, defaults, front, quantise, tvl1

SMALL = {"nscales": 3, "warps": 2}
HERE = [(b, s) for b in BACKENDS[1:] for s in SEMANTICS if front.unable(b, s, TVL1()) is None]


@pytest.fixture(scope="module")
def texture():
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(120, 160)), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def shifted(texture, x, y, height=64, width=80):
    """The window of `texture` in which everything has moved by (x, y) pixels."""
    return texture[20 - y : 20 - y + height, 20 - x : 20 - x + width]


def fast(semantics="opencv-cuda", **changes):
    return dataclasses.replace(defaults(semantics), **SMALL | changes)


@pytest.fixture
def absent(monkeypatch):
    """Says why the native kernel and the GPU's cannot be used; unsaid, they can."""

    def module(reason):
        return types.SimpleNamespace(available=lambda: reason)

    def set_reasons(native=None, gpu=None):
        modules = {"reaction.flow.native": module(native), "reaction.flow.gpu": module(gpu)}
        monkeypatch.setattr(front, "_has_gpu", lambda: gpu != "no CUDA device")
        monkeypatch.setattr(front, "import_module", lambda name: modules.get(name) or importlib.import_module(name))

    return set_reasons


@pytest.mark.parametrize(("backend", "semantics"), HERE)
def test_translation_is_recovered(texture, backend, semantics):
    frames = np.stack([shifted(texture, 0, 0), shifted(texture, 3, -2)])
    flow = tvl1(frames, fast(semantics, warps=5), semantics=semantics, backend=backend)
    x, y = np.median(flow, axis=(0, 2, 3))
    assert abs(x - 3) < 0.1
    assert abs(y + 2) < 0.1


@pytest.mark.parametrize(("backend", "semantics"), HERE)
def test_identical_and_constant_frames_are_128_everywhere(texture, backend, semantics):
    still, constant = np.stack([shifted(texture, 0, 0)] * 2), np.full((2, 33, 47), 200, np.uint8)
    for frames in (still, constant):
        flow = tvl1(frames, fast(semantics), semantics=semantics, backend=backend)
        assert (quantise(flow, 20) == 128).all()


@pytest.mark.parametrize(("backend", "semantics"), HERE)
def test_floats_are_the_same_picture_as_bytes(texture, backend, semantics):
    frames = np.stack([shifted(texture, i, -i) for i in range(3)])
    from_bytes, from_float, from_double = (
        tvl1(given, fast(semantics), semantics=semantics, backend=backend)
        for given in (frames, np.float32(frames) / 255, frames / 255)
    )
    assert from_float.dtype == from_double.dtype == np.float32
    assert np.abs(from_float - from_bytes).mean() < 1e-3
    assert np.abs(from_double - from_bytes).mean() < 1e-3


@pytest.mark.parametrize(("backend", "semantics"), HERE)
def test_strides_chunks_threads_and_odd_sizes_change_nothing(texture, backend, semantics):
    big = np.stack([np.repeat(np.repeat(shifted(texture, i, -i, 37, 51), 2, 0), 2, 1) for i in range(4)])
    loose = big[:, ::2, ::2]  # (4, 37, 51)
    options = {"parameters": fast(semantics, epsilon=0.05), "semantics": semantics, "backend": backend}
    flow = tvl1(np.ascontiguousarray(loose), **options)
    assert flow.shape == (3, 2, 37, 51)
    assert flow.dtype == np.float32
    assert flow.flags.c_contiguous
    chunks = [tvl1(loose[part], threads=2, **options) for part in (slice(0, 2), slice(1, 4))]
    np.testing.assert_array_equal(np.concatenate(chunks), flow)
    mirrored = np.ascontiguousarray(loose[:2, ::-1, ::-1])[:, ::-1, ::-1]
    np.testing.assert_array_equal(tvl1(mirrored, **options), flow[:1])


@pytest.mark.parametrize(("backend", "semantics"), HERE)
def test_a_small_image_does_not_degrade_the_next_call(texture, backend, semantics):
    frames = np.stack([shifted(texture, 0, 0), shifted(texture, 8, 0)])
    before = tvl1(frames, fast(semantics), semantics=semantics, backend=backend)
    assert tvl1(frames[:, :16, :16], fast(semantics), semantics=semantics, backend=backend).shape == (1, 2, 16, 16)
    np.testing.assert_array_equal(tvl1(frames, fast(semantics), semantics=semantics, backend=backend), before)


FIXED = {"epsilon": 0.0, "inner_iterations": 30, "outer_iterations": 1}


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize(
    ("changes", "pixels"),
    [
        (FIXED | {"nscales": 1, "warps": 1}, dict.fromkeys(SEMANTICS, 1e-5)),
        (FIXED, {"opencv-cuda": 1e-3, "opencv-cpu": 1e-2, "opencv5-cpu": 1e-3}),
        ({}, dict.fromkeys(SEMANTICS, 0.02)),
    ],
    ids=["one-warp", "fixed-iterations", "stop-rule"],
)
def test_backends_agree(texture, semantics, changes, pixels):
    """As closely as docs/flow.md says; what it says of real pictures is measured, not tested."""
    frames = np.stack([shifted(texture, i, -i) for i in range(3)])
    parameters = fast(semantics, **changes)
    truth = tvl1(frames, parameters, semantics=semantics, backend="torch")
    for backend in [one for one, offered in HERE if offered == semantics and one != "torch"]:
        flow = tvl1(frames, parameters, semantics=semantics, backend=backend)
        assert np.linalg.norm(flow - truth, axis=1).mean() <= pixels[semantics], backend
        levels = np.abs(quantise(flow, 20).astype(int) - quantise(truth, 20))
        assert (levels == 0).mean() >= 0.93, backend
        assert (levels <= 1).mean() >= 0.998, backend


def test_n_frames_give_n_minus_1_fields(texture):
    frames = np.stack([shifted(texture, i, 0) for i in range(4)])
    for n in range(1, 5):
        flow = tvl1(frames[:n], fast(nscales=1, warps=1))
        assert flow.dtype == np.float32
        assert flow.shape == (n - 1, 2, 64, 80)


def test_more_pairs_than_a_device_takes_at_once(texture, monkeypatch):
    monkeypatch.setattr(front, "BATCH", 2)
    frames = np.stack([shifted(texture, i, -i, 24, 32) for i in range(6)])
    whole = tvl1(frames, fast(warps=1), backend="torch")
    for k in range(5):
        np.testing.assert_array_equal(tvl1(frames[k : k + 2], fast(warps=1), backend="torch")[0], whole[k])


def test_defaults_are_those_of_each_code():
    assert defaults("opencv-cpu") == defaults("opencv5-cpu") == TVL1()
    assert defaults("opencv-cuda") == TVL1(inner_iterations=300, outer_iterations=1, median=1)
    with pytest.raises(ValueError, match=r"'farneback' is none of opencv-cuda, opencv-cpu, opencv5-cpu"):
        defaults("farneback")


def test_what_is_unsaid_is_the_cuda_code_with_its_defaults(texture, monkeypatch):
    calls = []

    def solver(*given):
        calls.append(given)
        return np.zeros((1, 2, 16, 16), np.float32)

    monkeypatch.setattr(front, "_SOLVERS", dict.fromkeys(BACKENDS, solver))
    tvl1(np.zeros((2, 16, 16), np.uint8))
    tvl1(np.zeros((2, 16, 16), np.uint8), semantics="opencv-cpu", threads=3)
    assert calls[0][1:] == (defaults("opencv-cuda"), "opencv-cuda", 1)
    assert calls[1][1:] == (TVL1(), "opencv-cpu", 3)


@pytest.mark.parametrize("wrong", [{"median": 5}, {"outer_iterations": 2}, {}])
def test_the_cuda_code_has_no_median_and_one_loop(wrong):
    parameters = dataclasses.replace(defaults("opencv-cuda"), **wrong) if wrong else TVL1()
    with pytest.raises(ValueError, match=r"median and outer_iterations must be 1, .* by default 300"):
        tvl1(np.zeros((2, 16, 16), np.uint8), parameters)


@pytest.mark.parametrize(
    ("semantics", "reasons", "gamma", "expected"),
    [
        ("opencv-cuda", {}, 0, "gpu"),
        ("opencv-cpu", {}, 0, "gpu"),
        ("opencv-cuda", {"gpu": "no CUDA device"}, 0, "native"),
        ("opencv-cpu", {"gpu": "no CUDA device"}, 0, "native"),
        ("opencv-cuda", {"gpu": "no NVRTC"}, 0, "native"),
        ("opencv-cuda", {"gpu": "no CUDA device", "native": "no compiler"}, 0, "torch"),
        ("opencv-cpu", {"gpu": "no CUDA device", "native": "no compiler"}, 0, "opencv"),
        ("opencv5-cpu", {"gpu": "no CUDA device", "native": "no compiler"}, 0, "torch"),
        ("opencv-cuda", {"gpu": "no CUDA device"}, 0.1, "torch"),
        ("opencv-cpu", {"gpu": "no CUDA device"}, 0.1, "opencv"),
    ],
)
def test_auto_takes_the_fastest_that_is_here(absent, monkeypatch, semantics, reasons, gamma, expected):
    monkeypatch.setattr("reaction.flow.opencv.VERSION", "4.14.0")
    absent(**reasons)
    name, note = choose(semantics, dataclasses.replace(defaults(semantics), gamma=gamma))
    assert name == expected
    if name in ("torch", "opencv"):
        speed = {"torch": "PyTorch computes the flow, about 2.5", "opencv": "OpenCV computes the flow, about 1.3"}[name]
        assert f"{speed} pairs a second and core at 320x240 instead of 35" in note
        assert ("gamma is 0.1" if gamma else "no native kernel (no compiler)") in note
    elif reasons.get("gpu") == "no NVRTC":
        assert note.startswith("no GPU kernel (no NVRTC): the native kernel computes the flow, about 35 pairs a second")
    else:
        assert note is None


@pytest.mark.parametrize(
    ("version", "semantics"), [("4.14.0", "opencv-cpu"), ("5.0.0", "opencv5-cpu"), ("5.1.0-dev", "opencv5-cpu")]
)
def test_opencv_s_semantics_are_its_version_s(absent, monkeypatch, version, semantics):
    monkeypatch.setattr("reaction.flow.opencv.VERSION", version)
    absent(gpu="no CUDA device", native="no compiler")
    other = {"opencv-cpu": "opencv5-cpu", "opencv5-cpu": "opencv-cpu"}[semantics]
    assert choose(semantics)[0] == "opencv"
    assert choose(other)[0] == "torch"
    with pytest.raises(ValueError, match=f"opencv cannot be used: OpenCV {version} has the semantics {semantics}, not"):
        choose(other, backend="opencv")


@pytest.mark.parametrize(
    ("backend", "semantics", "gamma", "message"),
    [
        ("gpu", "opencv-cuda", 0.0, "gpu cannot be used: no CUDA device"),
        ("native", "opencv-cuda", 0.0, "native cannot be used: no compiler"),
        ("native", "opencv-cuda", 0.5, "no illumination term, and gamma is 0.5"),
        ("opencv", "opencv-cuda", 0.0, "has the semantics opencv-cpu, not opencv-cuda"),
        ("opencv-cuda", "opencv-cuda", 0.0, "was built without CUDA"),
        ("cuda", "opencv-cuda", 0.0, "backend 'cuda' is none of auto, native"),
    ],
)
def test_a_backend_asked_for_by_name_is_used_or_refused(absent, monkeypatch, backend, semantics, gamma, message):
    monkeypatch.setattr("reaction.flow.opencv.VERSION", "4.14.0")
    absent(gpu="no CUDA device", native="no compiler")
    with pytest.raises(ValueError, match=message):
        tvl1(
            np.zeros((2, 16, 16), np.uint8),
            dataclasses.replace(defaults(semantics), gamma=gamma),
            semantics=semantics,
            backend=backend,
        )


@pytest.mark.parametrize(("backend", "threads"), [("native", [2]), ("gpu", [])])
def test_kernels_get_contiguous_floats_up_to_255(absent, monkeypatch, backend, threads):
    absent()
    seen = []
    module = types.SimpleNamespace(**{f"{backend}_tvl1": lambda *given: seen.append(given)})
    monkeypatch.setitem(sys.modules, f"reaction.flow.{backend}", module)
    monkeypatch.setattr(front, "_on", lambda device, solve, frames: solve(front._grey255(frames)))
    tvl1(np.full((3, 16, 20), 0.5)[:, :, ::-1], TVL1(), semantics="opencv-cpu", backend=backend, threads=2)
    frames, *rest = seen[0]
    assert rest == [TVL1(), "opencv-cpu", *threads]
    assert frames.dtype == np.float32
    assert frames.flags.c_contiguous
    assert (frames == 127.5).all()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 32, 32), np.int16), "uint8, or float"),
        (np.zeros((2, 32, 32), bool), "uint8, or float"),
        (np.zeros((2, 32, 32, 3), np.uint8), r"not uint8 \(2, 32, 32, 3\)"),
        (np.zeros((0, 32, 32), np.uint8), "n >= 1"),
        (np.zeros((2, 15, 32), np.uint8), "at least 16 pixels a side, not 32x15"),
        (np.full((2, 32, 32), 1.5), "from 1.5 to 1.5"),
        (np.full((2, 32, 32), -0.1, np.float32), "from -0.1"),
        (np.where(np.arange(2048).reshape(2, 32, 32) == 9, np.nan, 0.5), "from nan"),
        (np.where(np.arange(2048).reshape(2, 32, 32) == 9, np.inf, 0.5), "to inf"),
    ],
)
def test_wrong_frames_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        tvl1(frames)


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="threads is 0"):
        tvl1(np.zeros((2, 32, 32), np.uint8), threads=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale_step": 1.0},
        {"median": 4},
        {"nscales": 0},
        {"epsilon": -1.0},
        {"gamma": -0.1},
        {"tau": float("nan")},
        {"theta": float("inf")},
    ],
)
def test_wrong_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TVL1(**wrong)


def test_versions_name_who_computed():
    assert re.fullmatch(r"native [0-9a-f]{12} (avx512|avx2|baseline)", front.version("native"))
    assert front.version("opencv") == f"opencv {cv2.__version__}"
    assert "torch 2." in front.version("torch")


@pytest.mark.real_data
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_error_on_rubber_whale(rubber_whale, semantics):
    """0.156 px for OpenCV's TV-L1, 1.256 px for no flow at all."""
    frames, truth, known = rubber_whale
    error = np.linalg.norm(tvl1(frames, semantics=semantics)[0] - truth, axis=0)[known].mean()
    assert error == pytest.approx(0.156, abs=0.002)
    assert np.linalg.norm(truth, axis=0)[known].mean() == pytest.approx(1.256, abs=0.002)
