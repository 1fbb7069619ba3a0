"""TV-L1 optical flow between the frames of a video: the one door to every implementation.

Zach, Pock, Bischof: A Duality Based Approach for Realtime TV-L1 Optical Flow, DAGM 2007. Several algorithms go by
OpenCV's name for it and differ by hundredths of a pixel: `semantics` says which one is meant, `backend` who computes
it, and only the first may change results beyond rounding. docs/flow.md has both as tables.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata

import numpy as np

SEMANTICS = ("opencv-cuda", "opencv-cpu", "opencv5-cpu")  # its CUDA code, its CPU code of 4.x and of 5.0
BACKENDS = ("auto", "native", "gpu", "torch", "opencv", "opencv-cuda")
MIN_SIDE = 16  # the pyramid's smallest level in OpenCV
PAIRS_A_SECOND = {"native": 35, "torch": 2.5, "opencv": 1.3}  # on one CPU core, 320x240, `defaults`
BATCH = 128  # pairs on a device at once


@dataclass(frozen=True)
class TVL1:
    """Parameters by OpenCV's names, with the defaults of `cv2.optflow.DualTVL1OpticalFlow_create`.

    `tau` time step, `lambda_` weight of the data term (smaller is smoother), `theta` tightness of the coupling,
    `nscales` and `scale_step` the pyramid, `warps` per scale, `epsilon` the change in pixels that stops the iterations,
    `inner_iterations` between two median filters and `outer_iterations` of those, `gamma` weight of an illumination
    term, `median` the filter's width: 1 (off), 3 or 5. OpenCV's CUDA code has one loop, `iterations`, and no median:
    `inner_iterations` with an `outer_iterations` and a `median` of 1.
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
        whole = ("nscales", "warps", "inner_iterations", "outer_iterations", "median")
        for name in whole:
            if int(getattr(self, name)) != getattr(self, name):
                raise ValueError(f"TV-L1: {name} is {getattr(self, name)}; it must be a whole number")
        positive = ("tau", "lambda_", "theta", *whole)
        for name in positive:
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"TV-L1: {name} is {getattr(self, name)}; it must be positive")
        for name in ("epsilon", "gamma"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"TV-L1: {name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"TV-L1: scale_step is {self.scale_step}; it must lie between 0 and 1")
        if self.median not in (1, 3, 5):
            raise ValueError(f"TV-L1: median is {self.median}; OpenCV filters with 3 or 5, and 1 switches it off")


def defaults(semantics: str) -> TVL1:
    """The parameters that OpenCV's code of these semantics has by default."""
    _known("semantics", semantics, SEMANTICS)
    if semantics == "opencv-cuda":
        return TVL1(inner_iterations=300, outer_iterations=1, median=1)
    return TVL1()


def check(semantics: str, parameters: TVL1) -> None:
    """Raises ValueError, which says what to write, where the code of these semantics has no such parameters."""
    _known("semantics", semantics, SEMANTICS)
    if semantics == "opencv-cuda" and (parameters.median, parameters.outer_iterations) != (1, 1):
        raise ValueError(
            f"TV-L1 of opencv-cuda has no median filter (median is {parameters.median}) and a single loop of "
            f"iterations (outer_iterations is {parameters.outer_iterations}): "
            "median and outer_iterations must be 1, and inner_iterations, by default 300, is the length of that loop"
        )


def tvl1(
    frames: np.ndarray,
    parameters: TVL1 | None = None,
    *,
    semantics: str = "opencv-cuda",
    backend: str = "auto",
    threads: int = 1,
) -> np.ndarray:
    """Flow from each frame to the next: grey (n, H, W) to float32 (n-1, 2, H, W), x before y, in pixels per frame.

    x points right and y down: what is at (x, y) in frame i is at (x + flow[i, 0, y, x], y + flow[i, 1, y, x]) in frame
    i+1. Pairs are independent, so a video may come in chunks that overlap by one frame.

    Args:
        frames: uint8, or float32 or float64 in [0, 1], of at least 16 pixels a side; any strides.
        parameters: unsaid, those of `defaults(semantics)`.
        semantics: whose TV-L1, one of `SEMANTICS`; a parameter like the others.
        backend: who computes it, one of `BACKENDS`; see `choose`.
        threads: of the CPU; they change no result.

    Raises ValueError for frames, parameters or names other than these, and for a backend that cannot be used here.
    """
    frames = _checked(np.asarray(frames))
    if threads < 1 or int(threads) != threads:
        raise ValueError(f"TV-L1: threads is {threads}; it must be a whole number, at least 1")
    parameters = parameters or defaults(semantics)
    name, note = choose(semantics, parameters, backend)
    if note:
        warnings.warn(note, stacklevel=2)  # Python shows it once
    if len(frames) == 1:
        return np.empty((0, 2, *frames.shape[1:]), np.float32)
    return _SOLVERS[name](frames, parameters, semantics, threads)


def choose(semantics: str, parameters: TVL1 | None = None, backend: str = "auto") -> tuple[str, str | None]:
    """The backend that `tvl1` takes, and a note on what it had to do without and what that costs, or None.

    "auto" is the GPU where there is one, else the native kernel, else PyTorch; the CPU semantics fall back to OpenCV
    before PyTorch, where the installed one has them. The semantics never change with the backend.

    Raises ValueError where the backend named cannot compute this here.
    """
    parameters = parameters or defaults(semantics)
    check(semantics, parameters)
    _known("backend", backend, BACKENDS)
    if backend != "auto":
        if reason := unable(backend, semantics, parameters):
            raise ValueError(f"TV-L1 backend {backend} cannot be used: {reason}")
        return backend, None
    before = ("gpu", "native") if _has_gpu() else ("native",)
    reasons = {}
    for name in (*before, *(() if semantics == "opencv-cuda" else ("opencv",))):
        reason = unable(name, semantics, parameters)
        if reason is None:
            return name, _note(name, reasons)
        reasons[name] = reason
    return "torch", _note("torch", reasons)


def _note(name: str, reasons: dict[str, str]) -> str | None:
    label = {"native": "the native kernel", "opencv": "OpenCV", "torch": "PyTorch"}.get(name)
    instead = f"{label} computes the flow, about {PAIRS_A_SECOND.get(name)} pairs a second and core at 320x240"
    if "native" in reasons:
        return f"no native kernel ({reasons['native']}): {instead} instead of {PAIRS_A_SECOND['native']}"
    return f"no GPU kernel ({reasons['gpu']}): {instead}" if "gpu" in reasons else None


def unable(backend: str, semantics: str, parameters: TVL1) -> str | None:
    """Why a backend cannot compute this here; None where it can."""
    if backend == "gpu" and not _has_gpu():
        return "no CUDA device"
    if backend in ("native", "gpu") and parameters.gamma > 0:
        return f"it has no illumination term, and gamma is {parameters.gamma}"
    if backend == "torch":
        return None
    try:
        module = import_module(f"reaction.flow.{backend.replace('-', '_')}")
    except ImportError as error:
        return str(error)
    return module.available() or _foreign(backend, semantics)


def _foreign(backend: str, semantics: str) -> str | None:
    """Why OpenCV's own code, which has no choice, does not compute these semantics; None for the other backends."""
    if backend == "opencv":
        from reaction.flow import opencv

        found = opencv.semantics()
        return None if found == semantics else f"OpenCV {opencv.VERSION} has the semantics {found}, not {semantics}"
    if backend == "opencv-cuda" and semantics != backend:
        return f"it has the semantics opencv-cuda, not {semantics}"
    return None


def version(backend: str) -> str:
    """A backend (not "auto") with the version of what computes, as the shards record it."""
    if backend == "native":
        from reaction.flow import native

        return native.version()
    if backend in ("opencv", "opencv-cuda"):
        import cv2

        return f"{backend} {cv2.__version__}"
    import torch

    device = torch.cuda.get_device_name() if _has_gpu() else "cpu"
    return f"{backend} {metadata.version('reaction')}, torch {torch.__version__}, {device}"


def _native(frames: np.ndarray, parameters: TVL1, semantics: str, threads: int) -> np.ndarray:
    from reaction.flow.native import native_tvl1

    return native_tvl1(_grey255(frames), parameters, semantics, threads)


def _gpu(frames: np.ndarray, parameters: TVL1, semantics: str, threads: int) -> np.ndarray:
    from reaction.flow.gpu import gpu_tvl1

    return _on("cuda", lambda part: gpu_tvl1(part, parameters, semantics), frames)


def _torch(frames: np.ndarray, parameters: TVL1, semantics: str, threads: int) -> np.ndarray:
    from reaction.flow.torch_tvl1 import torch_tvl1

    with _torch_threads(threads):
        return _on(_device(), lambda part: torch_tvl1(part, parameters, semantics), frames)


def _opencv(frames: np.ndarray, parameters: TVL1, semantics: str, threads: int) -> np.ndarray:
    from reaction.flow.opencv import opencv_tvl1

    return opencv_tvl1(frames, parameters, threads)


def _opencv_cuda(frames: np.ndarray, parameters: TVL1, semantics: str, threads: int) -> np.ndarray:
    from reaction.flow.opencv_cuda import opencv_cuda_tvl1

    return opencv_cuda_tvl1(frames, parameters)


_SOLVERS: dict[str, Callable[[np.ndarray, TVL1, str, int], np.ndarray]] = {
    "native": _native,
    "gpu": _gpu,
    "torch": _torch,
    "opencv": _opencv,
    "opencv-cuda": _opencv_cuda,
}


def _on(device: str, solve: Callable, frames: np.ndarray) -> np.ndarray:
    """What a solver of tensors makes of the frames on a device."""
    import torch

    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    for start in range(0, len(flow), BATCH):
        part = torch.from_numpy(_grey255(frames[start : start + BATCH + 1])).to(device)
        flow[start : start + BATCH] = solve(part).cpu().numpy()
    return flow


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _has_gpu() -> bool:
    """Whether PyTorch sees a CUDA device; PyTorch takes a second to load, so the driver is looked for first."""
    if "torch" not in sys.modules:
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return False
    import torch

    return torch.cuda.is_available()


def _device() -> str:
    return "cuda" if _has_gpu() else "cpu"


def _grey255(frames: np.ndarray) -> np.ndarray:
    """float32 (n, H, W) in 0..255 of checked frames: OpenCV multiplies float pictures by 255."""
    return frames.astype(np.float32) if frames.dtype == np.uint8 else frames * np.float32(255)


def _checked(frames: np.ndarray) -> np.ndarray:
    """The frames as uint8 or float32, C-contiguous."""
    if frames.dtype not in (np.uint8, np.float32, np.float64) or frames.ndim != 3 or not len(frames):
        raise ValueError(
            "TV-L1 takes grey frames (n, H, W) with n >= 1, uint8, or float in [0, 1], "
            f"not {frames.dtype} {frames.shape}"
        )
    if min(frames.shape[1:]) < MIN_SIDE:
        raise ValueError(
            f"TV-L1 needs frames of at least {MIN_SIDE} pixels a side, not {frames.shape[2]}x{frames.shape[1]}"
        )
    if frames.dtype == np.uint8:
        return np.ascontiguousarray(frames)
    low, high = frames.min(), frames.max()  # NaN if there is one
    if not (low >= 0 and high <= 1):
        raise ValueError(f"TV-L1 takes float frames in [0, 1], and these have values from {low} to {high}")
    return np.ascontiguousarray(frames, np.float32)


def _known(what: str, name: str, among: tuple[str, ...]) -> None:
    if name not in among:
        raise ValueError(f"TV-L1 {what} {name!r} is none of {', '.join(among)}")
