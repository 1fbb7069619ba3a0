"""TV-L1 on a GPU: batched over pairs, by the kernels of tvl1.cu, compiled at run time by NVRTC.

The host only queues launches; it decides nothing. After each launch of up to `block` iterations, `decide` walks through
their changes on the device, pair by pair. A pair that should have stopped inside the launch redoes the iterations up to
there, from the side of its planes that the launch has left alone; stopped pairs' blocks return at once. Merely to end
early the host looks, a few launches late, whether any pair is left (`_Watch`). A pair's flow depends neither on its
batch nor on `block`.

The schedule takes whoever launches as an argument: the tests compile tvl1.cu for the CPU and drive it by this very
code. No GPU has run it yet. What is known of one is what NVRTC and ptxas say: it compiles, and for sm_80 and sm_90
`iterate` takes 64 registers (20 to 28 bytes spilled) and 76 KiB of shared memory: one block per multiprocessor.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from reaction.flow.front import TVL1

SOURCE = Path(__file__).with_name("tvl1.cu")
KERNELS = (
    "reduce",
    "enlarge",
    "differentiate",
    "linearise",
    "filter",
    "take_filtered",
    "iterate",
    "begin_warp",
    "decide",
)
# No fused multiply-adds, and division and root as IEEE 754 has them, which is NVRTC's default: on any GPU the bits are
# those of the CPU build that the tests check. --use_fast_math would save some 40 % of the instructions of `iterate`.
OPTIONS = ("--std=c++17", "--fmad=false")
MIN_SIDE = 16  # the pyramid's smallest level in OpenCV
TILE, STRIPS, MAX_ITERATIONS = 64, 16, 16  # as in tvl1.cu
SHARED_BYTES = 4 * (4 * TILE * TILE + 2 * STRIPS * TILE) + 8 * MAX_ITERATIONS * TILE * STRIPS // 32  # its `Exchange`
BLOCK = 6  # iterations in one launch
BATCH_PIXELS = 2**24  # pixels of the frames solved at once, at some 100 bytes each
BATCH_PAIRS = 2**14  # at most, for CUDA's grids
TRUSTED = 1e-3  # px from PyTorch's flow, on average
LOOK_EVERY = 2  # launches of `iterate` between two looks at whether all pairs have stopped

# launcher(kernel's name, grid, block, bytes of shared memory, pointers to the arguments)
Launcher = Callable[[str, tuple[int, int, int], tuple[int, int, int], int, ctypes.Array], None]


def available() -> str | None:
    """None where the kernels run here and compute what PyTorch does, else why not.

    The first call compiles them and solves a small pair, which takes a second or two.
    """
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "no CUDA device"
    return _tried(torch.cuda.current_device())


@lru_cache
def _tried(index: int) -> str | None:
    try:
        return disagreement(cuda_launcher(index), torch.device("cuda", index))
    except (OSError, RuntimeError) as error:
        return str(error)


def disagreement(launcher: Launcher, device: torch.device) -> str | None:
    """What is wrong with a small pair's flow by these kernels on this device, beside PyTorch's; None if nothing."""
    from reaction.flow.front import TVL1
    from reaction.flow.torch_tvl1 import torch_tvl1

    parameters = TVL1(nscales=2, warps=2, epsilon=0.0, inner_iterations=8, outer_iterations=1, median=1)
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    moved = [(x - shift, y - shift / 2) for shift in (0.0, 1.0)]
    frames = torch.stack(
        [127 + 70 * torch.sin(0.5 * x) * torch.cos(0.4 * y) + 40 * torch.sin(0.2 * y) for x, y in moved]
    )
    expected = torch_tvl1(frames, parameters, "opencv-cuda")
    found = solve(frames.to(device), parameters, "opencv-cuda", launcher).cpu()
    distance = (found - expected).norm(dim=1).mean().item()
    if distance <= TRUSTED:
        return None
    return f"it computes another flow than PyTorch on {device}: {distance:.2g} px off"  # NaN, too


def gpu_tvl1(frames: torch.Tensor, parameters: TVL1, semantics: str) -> torch.Tensor:
    """Flow (n-1, 2, H, W) in pixels, x before y, between grey frames (n, H, W), float32 in 0..255, on a CUDA device."""
    if parameters.gamma:
        raise ValueError(
            f"TV-L1 on a GPU has no illumination term, and gamma is {parameters.gamma}: use backend torch, or gamma 0"
        )
    with torch.cuda.device(frames.device):
        return solve(frames, parameters, semantics, cuda_launcher(frames.device.index))


# ------------------------------------------------------------------------------------------------------- the schedule


@torch.no_grad()
def solve(
    frames: torch.Tensor,
    parameters: TVL1,
    semantics: str,
    launcher: Launcher,
    *,
    block: int = BLOCK,
    batch: int | None = None,
) -> torch.Tensor:
    """Flow (n-1, 2, H, W) of frames (n, H, W); `launcher` runs the kernels where the frames are.

    `block` iterations, at most 16, go into a launch, `batch` pairs into a batch. Neither changes a bit of the result.
    """
    if not 1 <= block <= MAX_ITERATIONS:
        raise ValueError(f"TV-L1: a launch has 1 to {MAX_ITERATIONS} iterations, not {block}")
    n, height, width = frames.shape
    batch = batch or min(max(1, BATCH_PIXELS // (height * width)), BATCH_PAIRS)
    flow = frames.new_empty(n - 1, 2, height, width)
    for start in range(0, n - 1, batch):
        part = frames[start : start + batch + 1].contiguous()
        flow[start : start + batch] = _Solver(part, parameters, semantics, launcher, block).run()
    return flow


@dataclass
class _Level:
    """A level's planes on the device, with the layouts that tvl1.cu gives them."""

    frames: torch.Tensor  # (B+1, H, W)
    gradients: torch.Tensor  # (B, 2, H, W)
    data: torch.Tensor  # (B, 3, H, W)
    u: torch.Tensor  # (2, B, 2, H, W)
    p: torch.Tensor  # (2, B, 4, H, W)
    control: torch.Tensor  # int32 (B, 4)

    @classmethod
    def of(cls, frames: torch.Tensor) -> _Level:
        """A level with u and p at 0."""
        n, height, width = frames.shape
        pairs = n - 1
        return cls(
            frames,
            frames.new_empty(pairs, 2, height, width),
            frames.new_empty(pairs, 3, height, width),
            frames.new_zeros(2, pairs, 2, height, width),
            frames.new_zeros(2, pairs, 4, height, width),
            torch.zeros(pairs, 4, dtype=torch.int32, device=frames.device),
        )


class _Solver:
    """One batch of pairs: queues the kernels, coarsest level first."""

    def __init__(self, frames: torch.Tensor, parameters: TVL1, semantics: str, launcher: Launcher, block: int):
        self.parameters, self.launcher, self.block = parameters, launcher, block
        self.centred = int(semantics != "opencv-cuda")
        self.sparing = int(semantics == "opencv-cuda")
        self.warp = ("opencv-cpu", "opencv5-cpu", "opencv-cuda").index(semantics)  # as `Warp` in tvl1.cu
        self.frames, self.pairs = frames, len(frames) - 1
        self.debt = torch.zeros(self.pairs, dtype=torch.float64, device=frames.device)
        self.sums = torch.zeros(self.pairs, MAX_ITERATIONS, dtype=torch.int64, device=frames.device)
        self.active = torch.zeros(1, dtype=torch.int32, device=frames.device)

    def run(self) -> torch.Tensor:
        """Flow (B, 2, H, W)."""
        level = None
        for frames in reversed(self._pyramid()):
            finer = _Level.of(frames)
            if level:
                self._enlarge(level, finer)
            level = finer
            self._solve_level(level)
        side = level.control[:, 2].long()
        return level.u[side, torch.arange(self.pairs, device=side.device)]

    def _pyramid(self) -> list[torch.Tensor]:
        """The frames and their reductions by `scale_step`: at most `nscales`, of at least 16 pixels a side."""
        levels, scale = [self.frames], self.parameters.scale_step
        while len(levels) < self.parameters.nscales:
            old_height, old_width = levels[-1].shape[1:]
            height, width = round(old_height * scale), round(old_width * scale)  # half to even, as cvRound
            if min(height, width) < MIN_SIDE:
                break
            if (height, width) == (old_height, old_width):
                levels.append(levels[-1])  # resizing to the same size copies
                continue
            reduced = self.frames.new_empty(len(self.frames), height, width)
            sizes = (old_width, old_height, width, height)
            self._each_pixel("reduce", reduced, levels[-1], reduced, *sizes, ctypes.c_double(1 / scale), self.centred)
            levels.append(reduced)
        return levels

    def _enlarge(self, level: _Level, finer: _Level) -> None:
        """Side 0 of the finer level's u from the valid side of the coarser one's."""
        (old_height, old_width), (height, width) = level.u.shape[3:], finer.u.shape[3:]
        # OpenCV inverts the ratio of the sizes twice.
        steps = (ctypes.c_double(1 / (width / old_width)), ctypes.c_double(1 / (height / old_height)))
        sizes = (self.pairs, old_width, old_height, width, height)
        factor = 1 / self.parameters.scale_step
        target = finer.u[0].flatten(0, 1)  # (2 B, H, W)
        self._each_pixel("enlarge", target, level.u, level.control, target, *sizes, *steps, self.centred, factor)

    def _solve_level(self, level: _Level) -> None:
        height, width = level.u.shape[3:]
        self._each_pixel("differentiate", level.gradients[:, 0], level.frames, level.gradients, width, height)
        for _ in range(self.parameters.warps):
            self._each_pair("begin_warp", level.control, self.debt, self.sums, self.active, self.pairs)
            planes = (level.frames, level.gradients, level.u, level.control, level.data)
            self._each_pixel("linearise", level.data[:, 0], *planes, self.pairs, width, height, self.warp)
            self._iterate(level)

    def _iterate(self, level: _Level) -> None:
        """All iterations of a warp; those of pairs that have stopped do nothing."""
        parameters, limits, watch = self.parameters, self._limits(level), _Watch(self.active)
        for outer in range(parameters.outer_iterations):
            if parameters.median > 1:
                self._filter(level)
            for inner in range(0, parameters.inner_iterations, self.block):
                count = min(self.block, parameters.inner_iterations - inner)
                self._launch_iterations(level, outer * parameters.inner_iterations + inner, count, limits)
                if watch.all_stopped():
                    return
        self._launch_iterations(level, 0, 0, limits)  # for pairs that stopped inside the last launch

    def _launch_iterations(self, level: _Level, first: int, count: int, limits: _Limits) -> None:
        height, width = level.u.shape[3:]
        own = TILE - 2 * self.block
        grid = (_divided(width, own), _divided(height, own), self.pairs)
        common = (level.control, self.debt, self.sums)
        planes = (level.u, level.p, level.data, *common)
        arguments = (*planes, self.pairs, width, height, self.block, first, count, limits)
        self._launch("iterate", grid, (TILE, STRIPS, 1), SHARED_BYTES, *arguments)
        self._each_pair("decide", *common, self.active, self.pairs, first, count, limits)

    def _filter(self, level: _Level) -> None:
        height, width = level.u.shape[3:]
        both = level.u[0].flatten(0, 1)  # (2 B, H, W)
        self._each_pixel("filter", both, level.u, level.control, self.pairs, width, height, self.parameters.median)
        self._each_pair("take_filtered", level.control, self.pairs)

    def _limits(self, level: _Level) -> _Limits:
        parameters = self.parameters
        height, width = level.u.shape[3:]
        square = parameters.epsilon * parameters.epsilon
        change = square * height * width
        # A pixel's epsilon^2 is about a million quanta. With epsilon 0 all that counts is whether there is a change.
        scale = 2.0 ** (20 - math.frexp(square)[1]) if square > 1e-30 else 2.0**40
        return _Limits(
            parameters.lambda_ * parameters.theta,
            parameters.theta,
            parameters.tau / parameters.theta,
            scale,
            change if self.sparing else ctypes.c_float(change).value,  # a double in the CUDA code only
            self.sparing,
        )

    def _each_pixel(self, kernel: str, images: torch.Tensor, *arguments: object) -> None:
        """A thread for each pixel of images (z, H, W), of which only the shape is used."""
        depth, height, width = images.shape
        self._launch(kernel, (_divided(width, 32), _divided(height, 8), depth), (32, 8, 1), 0, *arguments)

    def _each_pair(self, kernel: str, *arguments: object) -> None:
        self._launch(kernel, (_divided(self.pairs, 64), 1, 1), (64, 1, 1), 0, *arguments)

    def _launch(self, kernel: str, grid: tuple, block: tuple, shared_bytes: int, *arguments: object) -> None:
        values = [_as_c(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self.launcher(kernel, grid, block, shared_bytes, pointers)  # which copies the values: they may go then


class _Limits(ctypes.Structure):
    """`Limits` in tvl1.cu."""

    _fields_ = (
        ("lambda_theta", ctypes.c_float),
        ("theta", ctypes.c_float),
        ("tau_theta", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("change", ctypes.c_double),
        ("sparing", ctypes.c_int),
    )


def _as_c(argument: object) -> ctypes._SimpleCData | ctypes.Structure:
    """A kernel's argument: tensors as addresses, int and float as such, ctypes' own unchanged."""
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int(argument)
    return ctypes.c_float(argument) if isinstance(argument, float) else argument


def _divided(number: int, by: int) -> int:
    return -(-number // by)


class _Watch:
    """Whether all pairs have stopped, as it was a few launches ago.

    The answer is copied while the device works on what is queued behind the question. The host waits for the copy
    before last only, so that the device never runs dry and the queue never holds many launches that have become idle.
    """

    def __init__(self, active: torch.Tensor):
        self.active, self.calls = active, 0
        self.asked: list[tuple[torch.Tensor, torch.cuda.Event]] = []  # at most two, the older one first

    def all_stopped(self) -> bool:
        if not self.active.is_cuda:
            return not self.active.item()
        self.calls += 1
        if self.calls % LOOK_EVERY:
            return False
        answer, event = torch.empty(1, dtype=torch.int32, pin_memory=True), torch.cuda.Event()
        answer.copy_(self.active, non_blocking=True)
        event.record()
        self.asked.append((answer, event))
        if len(self.asked) < 2:
            return False
        answer, event = self.asked.pop(0)
        event.synchronize()
        return not answer.item()


# ------------------------------------------------------------------------------------------------- NVRTC and the driver


@lru_cache
def cuda_launcher(device: int) -> Launcher:
    """Compiles the kernels for a CUDA device, once, and launches them on its current stream.

    Raises OSError where a library is missing, RuntimeError where NVRTC or the driver refuses.
    """
    with torch.cuda.device(device):
        torch.empty(1, device="cuda")  # makes the device's context the current one
        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
        cubin = compile_cubin(nvrtc(), architecture)
        return driver_launcher(ctypes.CDLL("libcuda.so.1"), cubin, lambda: torch.cuda.current_stream().cuda_stream)


def nvrtc() -> ctypes.CDLL:
    """NVRTC, of CUDA's release that PyTorch was built with: from the system, or the package PyTorch requires."""
    major = (torch.version.cuda or "13").split(".")[0]
    packages = find_spec("nvidia")
    folders = [Path(folder) for folder in packages.submodule_search_locations] if packages else []
    found = [path for folder in folders for path in sorted(folder.glob(f"*/lib/libnvrtc.so.{major}"))]
    for name in (*found, f"libnvrtc.so.{major}"):
        try:
            return ctypes.CDLL(str(name))
        except OSError:
            continue
    raise OSError(f"no libnvrtc.so.{major}: install nvidia-cuda-nvrtc, or set LD_LIBRARY_PATH to CUDA's lib64")


def compile_cubin(library: ctypes.CDLL, architecture: str) -> bytes:
    """Machine code of tvl1.cu for a GPU architecture such as sm_90; needs no GPU."""
    program = ctypes.c_void_p()
    source, name = SOURCE.read_bytes(), SOURCE.name.encode()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source, name, 0, None, None), "nvrtcCreateProgram")
    options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    if failed:
        log = _sized(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
        raise RuntimeError(f"NVRTC cannot compile tvl1.cu for {architecture}: {log.decode(errors='replace')[:2000]}")
    cubin = _sized(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    _check(library.nvrtcDestroyProgram(ctypes.byref(program)), "nvrtcDestroyProgram")
    return cubin


def _sized(size_of: Callable, fill: Callable, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)), size_of.__name__)
    buffer = ctypes.create_string_buffer(size.value)
    _check(fill(program, buffer), fill.__name__)
    return buffer.raw


def driver_launcher(driver: ctypes.CDLL, cubin: bytes, stream: Callable[[], int]) -> Launcher:
    """Launches a cubin's kernels by CUDA's driver (libcuda), in the current context, on the stream of that moment."""
    module, functions = ctypes.c_void_p(), {}
    _check(driver.cuModuleLoadData(ctypes.byref(module), cubin), "cuModuleLoadData")
    for kernel in KERNELS:
        functions[kernel] = ctypes.c_void_p()
        found = driver.cuModuleGetFunction(ctypes.byref(functions[kernel]), module, kernel.encode())
        _check(found, f"cuModuleGetFunction {kernel}")
    # More shared memory than 48 KiB is to be asked for: CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES is 8.
    _check(driver.cuFuncSetAttribute(functions["iterate"], 8, SHARED_BYTES), f"{SHARED_BYTES} bytes of shared memory")

    def launch(kernel: str, grid: tuple, block: tuple, shared_bytes: int, pointers: ctypes.Array) -> None:
        queue = ctypes.c_void_p(stream())
        failed = driver.cuLaunchKernel(functions[kernel], *grid, *block, shared_bytes, queue, pointers, None)
        _check(failed, f"launch of {kernel}")

    return launch


def _check(status: int, what: str) -> None:
    if status:
        raise RuntimeError(f"CUDA: {what} failed with status {status}")
