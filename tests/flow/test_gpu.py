"""The GPU's kernels, compiled for the CPU by g++ and run by gpu.py's own schedule and launcher."""

import ctypes
import shutil
import subprocess
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from reaction.flow import gpu, torch_tvl1
from reaction.flow.front import SEMANTICS, TVL1, defaults

# CUDA's driver as far as the launcher calls it, with the CPU for a device.
DRIVER = """
#include "{source}"
extern "C" int cuModuleLoadData(void** module, const char* image) {{
    *module = nullptr;
    return std::strcmp(image, "cubin");
}}
extern "C" int cuModuleGetFunction(void** function, void*, const char* name) {{
    *function = strdup(name);
    return 0;
}}
extern "C" int cuFuncSetAttribute(const char* function, int attribute, int bytes) {{
    return std::strcmp(function, "iterate") || attribute != 8 || bytes != sizeof(Exchange);
}}
extern "C" int cuLaunchKernel(const char* function, int grid_x, int grid_y, int grid_z, int block_x, int block_y,
                              int block_z, int bytes, void* stream, void** arguments, void** extra) {{
    if (stream || extra || bytes != (std::strcmp(function, "iterate") ? 0 : int(sizeof(Exchange)))) return 1;
    return launch(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, arguments);
}}
"""
SIZES = [(16, 16), (98, 131), (61, 77), (52, 104)]  # H, W: less than a tile, several, and just what tiles own


def compiled(folder, *options):
    """Launches the kernels on the CPU."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile tvl1.cu with")
    source, library = folder / "driver.cpp", folder / "driver.so"
    source.write_text(DRIVER.format(source=gpu.SOURCE))
    options = [
        "-std=c++17",
        "-O3",
        "-ffp-contract=off",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        *options,
    ]
    subprocess.run(["g++", *options, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return gpu.driver_launcher(ctypes.CDLL(str(library)), b"cubin", lambda: 0)


@pytest.fixture(scope="module")
def cpu(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("driver"))


def frames_of(n, height, width):
    """A texture that moves, a little more in every frame: float32 (n, H, W)."""
    noise = np.random.default_rng(0).normal(size=(height + 80, width + 80))
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).round()
    frames = []
    for i in range(n):
        y, x = 40 - i * i, 40 + i
        frames.append(texture[y : y + height, x : x + width])
    return torch.from_numpy(np.stack(frames).astype(np.float32))


def primal_step(u, p, data, parameters):
    """As OpenCV writes it, in the kernel's order."""
    limit = parameters.lambda_ * parameters.theta
    x, y = data.slope[:, 0], data.slope[:, 1]
    square = x * x + y * y
    rho = data.constant + (x * u[:, 0] + y * u[:, 1])
    step = torch.where(square > torch.finfo(torch.float32).eps, -rho / square, 0.0)
    step = torch.where(rho < -limit * square, limit, torch.where(rho > limit * square, -limit, step))
    return (u + step[:, None] * data.slope) + parameters.theta * torch_tvl1.divergence(p)


def dual_step(u, p, parameters):
    """In the kernel's order; the root is taken in double precision, since PyTorch's in single is not IEEE's."""
    tau_theta = parameters.tau / parameters.theta
    slopes = torch_tvl1.forward_differences(u)
    norm = (slopes[0] * slopes[0] + slopes[1] * slopes[1]).double().sqrt().float()
    return (p + tau_theta * slopes) * (1 / (1 + tau_theta * norm))


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("size", SIZES)
def test_a_few_iterations_agree_with_torch(cpu, semantics, size):
    frames = frames_of(3, *size)
    few = TVL1(nscales=1, warps=1, inner_iterations=7, outer_iterations=1, median=1, epsilon=0)
    flow = gpu.solve(frames, few, semantics, cpu)
    assert flow.abs().max() > 0.1
    assert (flow - torch_tvl1.torch_tvl1(frames, few, semantics)).abs().max() <= 1e-6


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("size", SIZES)
def test_the_whole_solver_is_torch_s_to_the_last_bit(cpu, semantics, size, monkeypatch):
    """Pyramid, warps, medians, stop rule and all, once torch takes the two steps in the kernel's order."""
    monkeypatch.setattr(torch_tvl1, "primal_step", primal_step)
    monkeypatch.setattr(torch_tvl1, "dual_step", dual_step)
    frames = frames_of(3, *size)
    flow = gpu.solve(frames, defaults(semantics), semantics, cpu)
    assert torch.equal(flow, torch_tvl1.torch_tvl1(frames, defaults(semantics), semantics))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_the_whole_solver_agrees_with_torch(cpu, semantics):
    frames = frames_of(3, 98, 131)
    difference = gpu.solve(frames, defaults(semantics), semantics, cpu)
    difference -= torch_tvl1.torch_tvl1(frames, defaults(semantics), semantics)
    assert difference.norm(dim=1).mean() <= 1e-3


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_neither_block_nor_batch_changes_a_bit(cpu, semantics):
    frames, parameters = frames_of(4, 61, 77), replace(defaults(semantics), nscales=2)
    frames[2] = frames[1]  # a pair that stops at once
    flow = gpu.solve(frames, parameters, semantics, cpu)
    assert not flow[1].any()
    for block, batch in ((1, 3), (4, 2), (16, 1)):
        assert torch.equal(flow, gpu.solve(frames, parameters, semantics, cpu, block=block, batch=batch))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_no_thread_relies_on_another_s_turn(cpu, semantics, tmp_path):
    """All threads of a phase, and all blocks, run backwards. (A missing barrier between phases fails the launch.)"""
    backwards = compiled(tmp_path, "-DBACKWARDS")
    frames, parameters = frames_of(3, 61, 77), replace(defaults(semantics), nscales=2, warps=2)
    flow = gpu.solve(frames, parameters, semantics, cpu)
    assert torch.equal(flow, gpu.solve(frames, parameters, semantics, backwards))


@pytest.mark.parametrize(
    "changed",
    [
        {"median": 3, "inner_iterations": 7, "outer_iterations": 3},
        {"scale_step": 0.5, "warps": 2, "tau": 0.2, "theta": 0.4, "lambda_": 0.05},
        {"epsilon": 0.0, "inner_iterations": 5, "outer_iterations": 2},
        {"epsilon": 10.0},
    ],
)
def test_other_parameters(cpu, changed, monkeypatch):
    monkeypatch.setattr(torch_tvl1, "primal_step", primal_step)
    monkeypatch.setattr(torch_tvl1, "dual_step", dual_step)
    frames, parameters = frames_of(3, 40, 70), TVL1(**changed)
    flow = gpu.solve(frames, parameters, "opencv5-cpu", cpu)
    assert torch.equal(flow, torch_tvl1.torch_tvl1(frames, parameters, "opencv5-cpu"))


def test_translation_is_recovered(cpu):
    flow = gpu.solve(frames_of(2, 64, 80), defaults("opencv-cuda"), "opencv-cuda", cpu)
    x, y = flow[0].flatten(1).median(dim=1).values
    assert abs(x + 1) < 0.1
    assert abs(y - 1) < 0.1


def test_frames_without_texture_do_not_move(cpu):
    assert not gpu.solve(torch.full((3, 20, 30), 77.0), defaults("opencv-cpu"), "opencv-cpu", cpu).any()


def test_one_frame_has_no_flow(cpu):
    assert gpu.solve(frames_of(1, 20, 30), TVL1(), "opencv-cpu", cpu).shape == (0, 2, 20, 30)


def test_gamma_is_refused():
    with pytest.raises(ValueError, match="torch"):
        gpu.gpu_tvl1(frames_of(2, 20, 30), TVL1(gamma=0.1), "opencv-cpu")


@pytest.mark.parametrize("block", [0, 17])
def test_a_wrong_block_is_refused(cpu, block):
    with pytest.raises(ValueError, match="1 to 16"):
        gpu.solve(frames_of(2, 20, 30), TVL1(), "opencv-cpu", cpu, block=block)


def test_a_driver_s_refusal_is_an_error(cpu, monkeypatch):
    monkeypatch.setattr(gpu, "SHARED_BYTES", 1)
    with pytest.raises(RuntimeError, match="launch of iterate"):
        gpu.solve(frames_of(2, 20, 30), TVL1(), "opencv-cpu", cpu)


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return gpu.nvrtc()
    except OSError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_compiles_the_kernels(nvrtc, architecture):
    cubin = gpu.compile_cubin(nvrtc, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert all(kernel.encode() in cubin for kernel in gpu.KERNELS)


def test_nvrtc_s_refusal_says_why(nvrtc, monkeypatch, tmp_path):
    (tmp_path / "wrong.cu").write_text("__global__ void wrong() { nonsense; }")
    monkeypatch.setattr(gpu, "SOURCE", tmp_path / "wrong.cu")
    with pytest.raises(RuntimeError, match="nonsense"):
        gpu.compile_cubin(nvrtc, "sm_90")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_reason_is_told():
    assert gpu.available() == "no CUDA device"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_gpu_computes_the_same_bits(cpu, semantics):
    assert gpu.available() is None
    frames = frames_of(5, 98, 131)
    flow = gpu.gpu_tvl1(frames.cuda(), defaults(semantics), semantics).cpu()
    assert torch.equal(flow, gpu.solve(frames, defaults(semantics), semantics, cpu))


def test_kernels_that_compute_another_flow_are_not_taken(cpu):
    def forgets_a_kernel(name, *arguments):
        if name != "linearise":
            cpu(name, *arguments)

    assert gpu.disagreement(cpu, torch.device("cpu")) is None
    assert "px off" in gpu.disagreement(forgets_a_kernel, torch.device("cpu"))
