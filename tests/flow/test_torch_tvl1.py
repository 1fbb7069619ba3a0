"""The oracle against OpenCV, against its CUDA code transcribed pixel by pixel, and against motion that is known."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from reaction.flow import torch_tvl1 as oracle
from reaction.flow.front import TVL1
from reaction.flow.torch_tvl1 import torch_tvl1

SEMANTICS = ("opencv-cuda", "opencv-cpu", "opencv5-cpu")
INSTALLED = "opencv-cpu" if cv2.__version__.startswith("4.") else "opencv5-cpu"  # what the installed cv2 computes
FIXED = {"epsilon": 0.0, "inner_iterations": 30, "outer_iterations": 1}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def texture():
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(120, 160)), (0, 0), 3)
    return cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.float32)


def moved(texture, x=0.0, y=0.0, degrees=0.0, height=64, width=80):
    """The middle of `texture` after a rotation about the middle and a shift by (x, y): float32 (height, width)."""
    centre = ((texture.shape[1] - 1) / 2, (texture.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, -degrees, 1)  # cv2's angle is anti-clockwise, with y down
    matrix[:, 2] += (x, y)
    image = cv2.warpAffine(texture, matrix, texture.shape[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    top, left = (texture.shape[0] - height) // 2, (texture.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def small_pair(texture, height=64, width=80):
    """Frames 1.3 and 0.8 px apart, float32 (2, height, width) of whole grey levels."""
    return np.stack([moved(texture, *shift, height=height, width=width) for shift in ((0, 0), (1.3, -0.8))]).round()


def parameters_for(semantics, **changes):
    """The semantics' own defaults but for `changes`."""
    cuda = {"inner_iterations": 300, "outer_iterations": 1, "median": 1} if semantics == "opencv-cuda" else {}
    return TVL1(**(cuda | changes))


def ours(frames, parameters, semantics=INSTALLED, **options):
    return torch_tvl1(torch.from_numpy(np.asarray(frames, np.float32)), parameters, semantics, **options).numpy()


def opencv(frames, p):
    """cv2's own flow (2, H, W) for frames (2, H, W)."""
    solver = cv2.optflow.DualTVL1OpticalFlow_create(
        p.tau, p.lambda_, p.theta, p.nscales, p.warps, p.epsilon, p.inner_iterations, p.outer_iterations,
        p.scale_step, p.gamma, p.median, False,
    )  # fmt: skip
    return solver.calc(*frames.clip(0, 255).astype(np.uint8), None).transpose(2, 0, 1)


def mean_distance(a, b):
    return np.linalg.norm(a - b, axis=-3).mean()


ONE_WARP = {"nscales": 1, "warps": 1, "epsilon": 0.0, "inner_iterations": 4, "outer_iterations": 2}


@pytest.mark.parametrize("changes", [{}, {"gamma": 0.3}, {"median": 1}, {"median": 3, "lambda_": 0.05}])
def test_one_scale_and_one_warp_equal_opencv(texture, changes):
    frames, parameters = small_pair(texture), TVL1(**(ONE_WARP | changes))
    assert mean_distance(ours(frames, parameters)[0], opencv(frames, parameters)) < 1e-6


SCALES = [{"scale_step": 0.5}, {"scale_step": 0.7, "median": 3}, {"scale_step": 0.995, "nscales": 3}]  # equal sizes


@pytest.mark.parametrize("changes", [{}, {"gamma": 0.3}, *SCALES])
def test_fixed_iterations_equal_opencv(texture, changes):
    """Not to the last bit: the least difference may move a coordinate to the next 1/32 px of the 4.x warp."""
    frames, parameters = small_pair(texture), TVL1(**(FIXED | changes))
    assert mean_distance(ours(frames, parameters)[0], opencv(frames, parameters)) < 1e-2


@pytest.mark.parametrize("changes", [{}, {"gamma": 0.3}, {"epsilon": 0.03, "inner_iterations": 7}])
def test_the_stopping_rule_equals_opencv_s(texture, changes):
    frames, parameters = small_pair(texture), TVL1(**changes)
    assert mean_distance(ours(frames, parameters)[0], opencv(frames, parameters)) < 0.02


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (31, 16), (16, 64), (33, 47)])
def test_small_and_odd_sizes_equal_opencv(texture, size):
    frames, parameters = small_pair(texture, *size), TVL1(**FIXED)
    flow = ours(frames, parameters)
    assert flow.shape == (1, 2, *size)
    assert mean_distance(flow[0], opencv(frames, parameters)) < 1e-2


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_known_motion_is_recovered(texture, semantics):
    height, width, angle = 64, 80, 2.0
    frames = np.stack([moved(texture), moved(texture, 2.6, -1.7), moved(texture, degrees=angle)])
    parameters = parameters_for(semantics)
    inside = np.s_[:, 8:-8, 8:-8]
    shift = np.array([2.6, -1.7])[:, None, None]
    assert mean_distance(ours(frames[:2], parameters, semantics)[0][inside], shift) < 0.1
    y, x = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    rotation = np.stack([cos * x - sin * y - x, sin * x + cos * y - y])
    assert mean_distance(ours(frames[::2], parameters, semantics)[0][inside], rotation[inside]) < 0.1


@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_identical_and_constant_frames_do_not_move(texture, semantics, gamma):
    parameters = parameters_for(semantics, gamma=gamma)
    assert not ours(np.stack([moved(texture)] * 2), parameters, semantics).any()
    assert not ours(np.full((2, 20, 24), 77.0), parameters, semantics).any()


@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_pair_s_bits_depend_on_nothing_but_the_pair(texture, semantics, gamma):
    """Neither on the batch, where others stop earlier or later, nor on the chunk, nor on the threads."""
    shifts = [(0, 0), (0.4, 0.2), (0.4, 0.2), (4.0, -3.0), (-2.0, 1.0)]
    frames = np.stack([moved(texture, *shift, height=27, width=35) for shift in shifts])
    parameters = parameters_for(
        semantics, nscales=2, warps=2, epsilon=0.05, gamma=gamma, outer_iterations=1, inner_iterations=25
    )
    alone = ours(frames, parameters, semantics)
    np.testing.assert_array_equal(ours(frames, parameters, semantics, batch=3), alone)
    np.testing.assert_array_equal(ours(frames[2:4], parameters, semantics)[0], alone[2])
    torch.set_num_threads(2)
    np.testing.assert_array_equal(ours(frames, parameters, semantics, batch=4), alone)


@pytest.mark.parametrize("semantics", ["opencv-cuda", "opencv-cpu"])
def test_looking_less_often_changes_nothing(texture, monkeypatch, semantics):
    """On a GPU the host looks now and then only, long after all pairs may have stopped."""
    frames = np.stack([moved(texture, *shift, height=37, width=45) for shift in ((0, 0), (0.4, 0.2), (0.4, 0.2))])
    parameters = parameters_for(semantics, nscales=2, warps=2, inner_iterations=30, outer_iterations=1)
    expected = ours(frames, parameters, semantics)
    monkeypatch.setitem(oracle.LOOK_EVERY, "cpu", 7)
    for batch in (1, 2):
        np.testing.assert_array_equal(ours(frames, parameters, semantics, batch=batch), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("gamma", [0.0, 0.3])
@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_gpu_computes_the_same(texture, semantics, gamma):
    frames = torch.from_numpy(np.stack([moved(texture, x) for x in (0, 1.3, 1.3, 4.0)]))
    parameters = parameters_for(semantics, gamma=gamma)
    flow = torch_tvl1(frames.cuda(), parameters, semantics)
    assert flow.device.type == "cuda"
    assert torch.equal(torch_tvl1(frames.cuda(), parameters, semantics, batch=1), flow)
    assert mean_distance(flow.cpu().numpy(), ours(frames, parameters, semantics)) < 0.01


def test_one_frame_has_no_flow():
    assert ours(np.zeros((1, 20, 24)), TVL1()).shape == (0, 2, 20, 24)


def cuda_iterations(changes, limit, iterations):
    """`procOneScale`'s loop after a warp (cudaoptflow): which iterations look, and how many there are."""
    error, previous, looks, n = np.inf, 0.0, [], 0
    while error > limit and n < iterations:
        look = limit > 0 and n % 2 == 1 and previous < limit
        if look:
            error = previous = changes[n]
            looks.append(n)
        else:
            error = np.inf
            previous -= limit
        n += 1
    return looks, n


@pytest.mark.parametrize("epsilon", [0.01, 0.0])
def test_opencv_cuda_looks_when_its_code_does(epsilon):
    iterations, pairs = 60, 12
    limit = epsilon * epsilon * 16 * 20
    rates = np.linspace(0.05, 1.0, pairs)
    n = np.arange(iterations)[:, None]
    noise = np.random.default_rng(0).uniform(0.5, 2, (iterations, pairs))
    changes = 40e-4 * 16 * 20 * np.exp(-rates * n) * noise  # (iterations, pairs): 40 times the limit, then less
    rule = oracle.StopRule(torch.zeros(pairs, 2, 16, 20), TVL1(epsilon=epsilon), "opencv-cuda")
    looks, counts = [[] for _ in range(pairs)], np.zeros(pairs, int)
    for n in range(iterations):
        running, due = rule.running().numpy(), rule.due(n)
        for pair in np.flatnonzero(running):
            counts[pair] += 1
            looks[pair] += [n] if due[pair] else []
        rule.record(due, torch.from_numpy(changes[n]))
    expected = [cuda_iterations(changes[:, pair], limit, iterations) for pair in range(pairs)]
    assert [(looks[pair], counts[pair]) for pair in range(pairs)] == expected
    if epsilon:
        assert len(set(counts)) > 5


def test_opencv_cpu_stops_at_the_first_change_within_the_limit():
    rule = oracle.StopRule(torch.zeros(3, 2, 16, 20), TVL1(), "opencv-cpu")
    for n, change in enumerate([[1, 0.03, 1], [0.03, 1, 1]]):
        assert rule.due(n).all()
        rule.record(rule.due(n), torch.tensor(change, dtype=torch.float64))
    assert rule.running().tolist() == [False, False, True]  # at most 0.0001 * 320
    rule = oracle.StopRule(torch.zeros(1, 2, 16, 20), TVL1(epsilon=0), "opencv-cpu")
    rule.record(rule.due(0), torch.zeros(1, dtype=torch.float64))
    assert not rule.running().any()  # with epsilon 0 only no change at all stops it


def test_only_the_cpu_code_counts_u3():
    old, new = torch.zeros(2, 3, 5, 7), torch.ones(2, 3, 5, 7) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert oracle.squared_change(old, new, count_u3=True).tolist() == [35 * 14] * 2
    assert oracle.squared_change(old, new, count_u3=False).tolist() == [35 * 5] * 2
    assert oracle.squared_change(old[:, :2], new[:, :2], count_u3=True).tolist() == [35 * 5] * 2


def keys_kernel(distance, a):
    """Keys' cubic convolution kernel in float64."""
    d = np.abs(distance)
    near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def exact_warp(image, x, y, semantics):
    """`image` at (x, y) as the formulas have it, in float64: every pixel within two of each coordinate."""
    if semantics == "opencv-cpu":
        x, y = np.round(x * 32) / 32, np.round(y * 32) / 32
    pad = 16
    mode = {"mode": "edge"} if semantics == "opencv-cuda" else {"mode": "constant"}
    padded = np.pad(image.astype(np.float64), pad, **mode)
    a = -0.5 if semantics == "opencv-cuda" else -0.75
    total, weights = np.zeros(x.shape), np.zeros(x.shape)
    for j in range(-2, 3):
        for i in range(-2, 3):
            column, row = np.floor(x).astype(int) + i, np.floor(y).astype(int) + j
            weight = keys_kernel(x - column, a) * keys_kernel(y - row, a)
            total += weight * padded[row + pad, column + pad]
            weights += weight
    return total / weights if semantics == "opencv-cuda" else total


@pytest.fixture(scope="module")
def flow_field():
    """Flow (2, 64, 80), up to 12 px and out of the image, whole pixels and 1/64 among it."""
    flow = np.random.default_rng(1).normal(scale=3, size=(2, 64, 80)).clip(-12, 12).astype(np.float32)
    flow[:, :8] = np.round(flow[:, :8])
    flow[:, 8:16] = np.round(flow[:, 8:16] * 64) / 64
    return flow


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_warp_reads_where_the_formulas_say(texture, flow_field, semantics):
    images = np.stack([moved(texture), moved(texture, 5, 5)])
    y, x = np.mgrid[:64, :80] + flow_field[::-1]
    warped = oracle.warp(torch.from_numpy(images)[None], torch.from_numpy(flow_field)[None], semantics)[0].numpy()
    for image, got in zip(images, warped, strict=True):
        np.testing.assert_allclose(got, exact_warp(image, x, y, semantics), atol=2e-3)


def test_warp_is_the_installed_remap(texture, flow_field):
    image = moved(texture)
    y, x = (np.mgrid[:64, :80] + flow_field[::-1]).astype(np.float32)
    got = oracle.warp(torch.from_numpy(image)[None, None], torch.from_numpy(flow_field)[None], INSTALLED)[0, 0].numpy()
    np.testing.assert_allclose(got, cv2.remap(image, x, y, cv2.INTER_CUBIC), atol=3e-4)


@pytest.mark.parametrize("scale_step", [0.8, 0.5, 0.7])
def test_pyramid_and_upsampling_are_cv2_resize(texture, scale_step):
    parameters = TVL1(scale_step=scale_step)
    levels = [level[0].numpy() for level in oracle.pyramid(torch.from_numpy(texture)[None], parameters, "opencv-cpu")]
    assert len(levels) >= 3
    for fine, coarse in pairwise(levels):
        np.testing.assert_allclose(coarse, cv2.resize(fine, None, fx=scale_step, fy=scale_step), atol=5e-4)
        u = torch.from_numpy(np.stack([coarse] * 3))[None] / 100
        got = oracle.upsample(u, fine.shape, parameters, "opencv-cpu")[0].numpy()
        expected = cv2.resize(coarse / 100, fine.shape[::-1])
        for channel, factor in enumerate((1 / scale_step, 1 / scale_step, 1)):  # u3 is no length
            np.testing.assert_allclose(got[channel], expected * factor, atol=1e-5)


@pytest.mark.parametrize("sizes", [((30, 41), (24, 33), (1.25, 1.25)), ((24, 33), (30, 41), (24 / 30, 33 / 41))])
def test_resize_of_opencv_cuda_is_its_kernel(texture, sizes):
    """`resize_linear` in cudawarping/src/cuda/resize.cu: source = destination times scale, without half a pixel."""
    old, new, scale = sizes
    image = texture[: old[0], : old[1]]
    y, x = np.meshgrid(np.arange(new[0]) * scale[0], np.arange(new[1]) * scale[1], indexing="ij")
    y1, x1 = np.floor(y + 1e-6).astype(int), np.floor(x + 1e-6).astype(int)
    y2, x2 = np.minimum(y1 + 1, old[0] - 1), np.minimum(x1 + 1, old[1] - 1)
    top = image[y1, x1] * (x1 + 1 - x) + image[y1, x2] * (x - x1)
    bottom = image[y2, x1] * (x1 + 1 - x) + image[y2, x2] * (x - x1)
    got = oracle.resize(torch.from_numpy(image)[None], new, scale, "opencv-cuda")[0].numpy()
    np.testing.assert_allclose(got, top * (y1 + 1 - y) + bottom * (y - y1), atol=1e-3)


@pytest.mark.parametrize(
    ("size", "nscales", "expected"),
    [
        ((240, 320), 5, [(240, 320), (192, 256), (154, 205), (123, 164), (98, 131)]),
        ((16, 320), 5, [(16, 320)]),
        ((20, 21), 5, [(20, 21), (16, 17)]),
        ((240, 320), 2, [(240, 320), (192, 256)]),
    ],
)
def test_pyramid_ends_at_16_pixels(size, nscales, expected):
    for semantics in SEMANTICS:
        levels = oracle.pyramid(torch.zeros(1, *size), TVL1(nscales=nscales), semantics)
        assert [tuple(level.shape[1:]) for level in levels] == expected


@pytest.mark.parametrize("width", [3, 5])
def test_median_is_cv2_s(width):
    images = np.random.default_rng(2).normal(size=(2, 3, 17, 20)).astype(np.float32)
    got = oracle.median_filter(torch.from_numpy(images), width).numpy()
    expected = np.stack([[cv2.medianBlur(image, width) for image in pair] for pair in images])
    np.testing.assert_array_equal(got, expected)


def test_gradient_is_halved_at_the_border_too():
    x, y = oracle.gradient(torch.tensor([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]]))
    assert x.tolist() == [[0.5, 2.0, 1.5], [0, 0, 0]]
    assert y.tolist() == [[1, 0.5, -1], [1, 0.5, -1]]


def test_divergence_is_the_negative_adjoint_of_the_differences():
    u, p = torch.randn(5, 7, dtype=torch.float64), torch.randn(2, 5, 7, dtype=torch.float64)
    p[0, :, -1] = p[1, -1] = 0  # no flux through the border
    assert (oracle.forward_differences(u) * p).sum().item() == pytest.approx(-(u * oracle.divergence(p)).sum().item())


def test_primal_step_is_opencv_s_threshold():
    """`estimateV`'s three cases, pixel by pixel, and a gradient of exactly 0."""
    rng = np.random.default_rng(3)
    warped = rng.normal(size=(1, 3, 6, 8)).astype(np.float32) * 5
    warped[:, 1:, :2] = 0
    warped[:, 1:, 2] *= 1e-3
    warped[:, 0, 2] = 0
    first = warped[:, 0] + rng.normal(size=(1, 6, 8)).astype(np.float32)
    first[:, 0] = warped[:, 0, 0]  # no residue either
    first[:, 2] = 1e-7  # next to none, and next to no gradient
    parameters = TVL1(gamma=0.4)
    u = np.zeros((1, 3, 6, 8), np.float32)
    data = oracle.linearise(torch.from_numpy(first), torch.from_numpy(warped), torch.from_numpy(u), parameters)
    got = oracle.primal_step(torch.from_numpy(u), torch.zeros(2, 1, 3, 6, 8), data, parameters)[0].numpy()
    limit = parameters.lambda_ * parameters.theta
    for y, x in np.ndindex(6, 8):
        slope = np.array([*warped[0, 1:, y, x], 0.4])
        rho, square = warped[0, 0, y, x] - first[0, y, x], (slope[:2] ** 2).sum()
        inside = -rho / square if square > 1.2e-7 else 0
        step = -np.sign(rho) * limit if abs(rho) > limit * square else inside
        np.testing.assert_allclose(got[:, y, x], step * slope, rtol=1e-4, atol=1e-6)


@pytest.mark.real_data
def test_rubber_whale_equals_opencv(rubber_whale):
    """Middlebury's RubberWhale, a part of it: at fixed iterations, and with the stopping rule."""
    frames = rubber_whale[0][:, 120:248, 200:360]
    one_warp, fixed = TVL1(**ONE_WARP), TVL1(**FIXED)
    assert mean_distance(ours(frames, one_warp)[0], opencv(frames, one_warp)) < 1e-5
    assert mean_distance(ours(frames, fixed)[0], opencv(frames, fixed)) < 1e-2
    assert mean_distance(ours(frames, TVL1())[0], opencv(frames, TVL1())) < 0.02
