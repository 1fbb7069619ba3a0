"""TV-L1 in plain torch, batched over pairs: the readable statement of what the fast kernels compute, and their oracle.

Zach, Pock, Bischof: A Duality Based Approach for Realtime TV-L1 Optical Flow, DAGM 2007. OpenCV has three versions of
it, told apart here by `semantics`: `opencv-cpu` is its CPU code in 4.x (opencv_contrib, modules/optflow/src/
tvl1flow.cpp), `opencv5-cpu` the same code upon 5.0's `remap`, and `opencv-cuda` its CUDA code (modules/cudaoptflow/src/
tvl1flow.cpp, cuda/tvl1flow.cu). They differ in five places, each a function below:

                    opencv-cpu                  opencv5-cpu        opencv-cuda
`resize`            pixel centres at x + 1/2    the same           pixel centres at x
`warp`              cubic, a = -3/4, at 1/32    cubic, a = -3/4,   cubic, a = -1/2, exact, the border
                    pixel, zeros outside        exact, zeros       repeated, weights sum to one
`median_filter`     before the first of every   the same           none
                    `inner_iterations`
`StopRule`          a check every iteration     the same           a check now and then
`squared_change`    u3 counts                   the same           u3 does not

Only operations on single pixels are used, one at a time and in a fixed order, and among them only such as give the
same bits wherever a pixel lies in memory: a pair's flow depends neither on the batch nor on the threads.

Shapes: B pairs of H x W pixels. C is 2, for the flow's components u1 (x) and u2 (y), or 3 with `gamma` > 0, which adds
u3, a change of illumination.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from reaction.flow.front import TVL1

MIN_SIDE = 16  # the pyramid's smallest level in OpenCV
BATCH_PIXELS = 2**23  # pixels of the frames in one batch on a GPU: some 2 GiB of memory
LOOK_EVERY = {"cpu": 1, "cuda": 8}  # iterations until the host looks again whether all pairs have stopped


@torch.no_grad()
def torch_tvl1(frames: torch.Tensor, parameters: TVL1, semantics: str, *, batch: int | None = None) -> torch.Tensor:
    """Flow (n-1, 2, H, W) in pixels, x before y, between grey frames (n, H, W), float32 in 0..255.

    It is computed where the frames are, on a CPU or a CUDA device. `batch` is how many pairs are solved at once; by
    default one on a CPU, whose cache holds no more, and as many as `BATCH_PIXELS` allows on a GPU. It changes no bit.
    """
    n, height, width = frames.shape
    if batch is None:
        batch = 1 if frames.device.type == "cpu" else max(1, BATCH_PIXELS // (height * width))
    flow = frames.new_empty(n - 1, 2, height, width)
    for start in range(0, n - 1, batch):
        flow[start : start + batch] = solve(frames[start : start + batch + 1], parameters, semantics)
    return flow


def solve(frames: torch.Tensor, parameters: TVL1, semantics: str) -> torch.Tensor:
    """Flow (B, 2, H, W) between B + 1 frames (B+1, H, W), all pairs at once, from the coarsest level to the finest."""
    levels = pyramid(frames, parameters, semantics)
    channels = 3 if parameters.gamma else 2
    coarsest = levels.pop()
    u = frames.new_zeros(len(frames) - 1, channels, *coarsest.shape[1:])  # (B, C, h, w)
    u = solve_level(coarsest[:-1], coarsest[1:], u, parameters, semantics)
    for level in reversed(levels):
        u = upsample(u, level.shape[1:], parameters, semantics)
        u = solve_level(level[:-1], level[1:], u, parameters, semantics)
    return u[:, :2]


def solve_level(
    first: torch.Tensor, second: torch.Tensor, u: torch.Tensor, parameters: TVL1, semantics: str
) -> torch.Tensor:
    """Refines u (B, C, H, W) from frames `first` to `second`, both (B, H, W), by warping and iterating in turn."""
    target = torch.stack([second, *gradient(second)], dim=1)  # (B, 3, H, W)
    p = u.new_zeros(2, *u.shape)  # the dual variables' x and y components; they live on from warp to warp
    for _ in range(parameters.warps):
        data = linearise(first, warp(target, u, semantics), u, parameters)
        u, p = iterate(u, p, data, parameters, semantics)
    return u


def iterate(
    u: torch.Tensor, p: torch.Tensor, data: DataTerm, parameters: TVL1, semantics: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Iterates u (B, C, H, W) and p (2, B, C, H, W) until every pair has stopped; one that has is left as it is.

    OpenCV's outer and inner loops are one loop here: the outer one's condition is the inner one's, and all it does is
    the median filter.
    """
    rule = StopRule(u, parameters, semantics)
    look_every = LOOK_EVERY[u.device.type]
    for n in range(parameters.outer_iterations * parameters.inner_iterations):
        if n % look_every == 0 and not rule.running().any():
            break
        running = rule.running()
        if parameters.median > 1 and n % parameters.inner_iterations == 0:
            filtered = torch.cat([median_filter(u[:, :2], parameters.median), u[:, 2:]], dim=1)  # never u3
            u = advance(running, u, filtered)
        new_u = primal_step(u, p, data, parameters)
        rule.update(n, u, new_u)
        p = advance(running, p, dual_step(new_u, p, parameters))
        u = advance(running, u, new_u)
    return u, p


def advance(running: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """`new` of the pairs that are `running`, bool (B,), and `old` of the others; both (..., B, C, H, W)."""
    if running.device.type == "cpu" and running.all():
        return new  # spares a copy; on a GPU finding that out would cost more
    return torch.where(running[:, None, None, None], new, old)


class StopRule:
    """When OpenCV stops the iterations after a warp, for each of B pairs by itself.

    A pair stops once its `squared_change` in one iteration is at most epsilon^2 px^2 a pixel. The CPU code looks at
    every iteration. The CUDA code looks at odd iterations only, and after a look that found the change to be k times
    that limit not again for about k iterations, since a look makes the host wait.
    """

    def __init__(self, u: torch.Tensor, parameters: TVL1, semantics: str):
        limit = parameters.epsilon * parameters.epsilon * u.shape[-2] * u.shape[-1]
        self.sparing = semantics == "opencv-cuda"
        # A double in the CUDA code, a float in the CPU code.
        self.limit = limit if self.sparing else torch.tensor(limit, dtype=torch.float32).item()
        self.change = torch.full((len(u),), torch.inf, dtype=torch.float64, device=u.device)  # (B,)
        self.debt = torch.zeros_like(self.change)  # (B,), `prevError` in OpenCV

    def running(self) -> torch.Tensor:
        """Which pairs go on: bool (B,)."""
        return self.change > self.limit

    def due(self, n: int) -> torch.Tensor:
        """Which pairs look at their change in iteration n, counted from 0 at every warp: bool (B,)."""
        if not self.sparing:
            return torch.ones_like(self.debt, dtype=torch.bool)
        if n % 2 == 0 or not self.limit:
            return torch.zeros_like(self.debt, dtype=torch.bool)
        return self.debt < self.limit

    def update(self, n: int, old: torch.Tensor, new: torch.Tensor) -> None:
        """Takes in iteration n, from `old` to `new`, both (B, C, H, W)."""
        due = self.due(n)
        # Summing up is spared where nobody looks, if finding that out does not make the host wait for a GPU.
        nobody = not due.any() if due.device.type == "cpu" else self.sparing and n % 2 == 0
        self.record(due, torch.inf if nobody else squared_change(old, new, count_u3=not self.sparing))

    def record(self, due: torch.Tensor, change: torch.Tensor | float) -> None:
        """Takes in `change`, float64 (B,) px^2, of the pairs that look, and that the others' is unknown."""
        running = self.running()
        self.debt = torch.where(due, change, self.debt - self.limit)
        self.change = torch.where(running, torch.where(due, change, torch.inf), self.change)


def squared_change(old: torch.Tensor, new: torch.Tensor, count_u3: bool) -> torch.Tensor:
    """Sum over the pixels of |new - old|^2, float64 (B,), for u (B, C, H, W) before and after an iteration.

    Half of the pixels is added to the other half until one is left: an order that the batch cannot change. (OpenCV's
    CPU code adds in float32 one by one: within 1e-4 of this, which hardly ever moves the stop.)
    """
    squares = (new - old) * (new - old)
    total = squares[:, 0] + squares[:, 1]
    if count_u3 and squares.shape[1] == 3:
        total = total + squares[:, 2]
    total = total.flatten(1).double()  # (B, H W)
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        odd = total[:, 2 * half :]  # (B, 1), or (B, 0)
        total = torch.cat([total[:, :half] + total[:, half : 2 * half], odd], dim=1)
    return total[:, 0]


class DataTerm(NamedTuple):
    """The brightness residual about the flow u at which it was linearised: rho(u) = constant + <slope, u>."""

    slope: torch.Tensor  # (B, C, H, W): the warped gradient and, for u3, gamma
    square: torch.Tensor  # (B, H, W): the warped gradient's |.|^2, without gamma
    constant: torch.Tensor  # (B, H, W)


def linearise(first: torch.Tensor, warped: torch.Tensor, u: torch.Tensor, parameters: TVL1) -> DataTerm:
    """The data term at u (B, C, H, W) for `first` (B, H, W) and `warped` (B, 3, H, W): a frame and its gradient."""
    image, x, y = warped.unbind(1)
    slope = warped[:, 1:]
    if parameters.gamma:
        slope = torch.cat([slope, torch.full_like(slope[:, :1], parameters.gamma)], dim=1)
    # Never 0, for what is divided by it. (OpenCV takes no step below 1.2e-7 if rho is small too: less than 2e-5 px.)
    square = (x * x + y * y).clamp(min=torch.finfo(torch.float32).tiny)
    return DataTerm(slope, square, image - x * u[:, 0] - y * u[:, 1] - first)


def primal_step(u: torch.Tensor, p: torch.Tensor, data: DataTerm, parameters: TVL1) -> torch.Tensor:
    """The next u (B, C, H, W): the data term's thresholding step, then theta times the divergence of p.

    OpenCV's three cases of the threshold are one clamp.
    """
    limit = parameters.lambda_ * parameters.theta
    products = data.slope * u
    rho = data.constant + (products[:, 0] + products[:, 1])  # (B, H, W)
    if u.shape[1] == 3:
        rho = rho + products[:, 2]
    step = (-rho / data.square).clamp(-limit, limit)
    return (u + step[:, None] * data.slope) + parameters.theta * divergence(p)


def dual_step(u: torch.Tensor, p: torch.Tensor, parameters: TVL1) -> torch.Tensor:
    """The next p (2, B, C, H, W) from the u (B, C, H, W) of the same iteration."""
    step = parameters.tau / parameters.theta
    slopes = forward_differences(u)  # (2, B, C, H, W)
    squares = slopes * slopes
    # Not sqrt, which is MKL's on a CPU: not always the nearest float, and slow where there are zeros.
    inverse_norm = (squares[0] + squares[1]).rsqrt()  # infinite where u is flat
    return (p + step * slopes) / (1 + step / inverse_norm)


def forward_differences(u: torch.Tensor) -> torch.Tensor:
    """(2, ..., H, W): u(x+1) - u(x), 0 in the last column, and u(y+1) - u(y), 0 in the last row, of u (..., H, W)."""
    slopes = u.new_zeros(2, *u.shape)
    slopes[0, ..., :-1] = u[..., 1:] - u[..., :-1]
    slopes[1, ..., :-1, :] = u[..., 1:, :] - u[..., :-1, :]
    return slopes


def divergence(p: torch.Tensor) -> torch.Tensor:
    """(..., H, W): backward differences of p (2, ..., H, W), which is 0 left of and above the image."""
    x, y = p[0].clone(), p[1].clone()
    x[..., 1:] -= p[0, ..., :-1]
    y[..., 1:, :] -= p[1, ..., :-1, :]
    return x + y


def gradient(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the central differences in x and in y of images (..., H, W), whose border pixels are repeated."""
    x = torch.cat([images[..., :1], images, images[..., -1:]], dim=-1)
    y = torch.cat([images[..., :1, :], images, images[..., -1:, :]], dim=-2)
    return 0.5 * (x[..., 2:] - x[..., :-2]), 0.5 * (y[..., 2:, :] - y[..., :-2, :])


def pyramid(frames: torch.Tensor, parameters: TVL1, semantics: str) -> list[torch.Tensor]:
    """Frames (n, H, W) and their reductions by `scale_step`, at most `nscales` levels of at least 16 pixels a side."""
    levels = [frames]
    step = parameters.scale_step
    while len(levels) < parameters.nscales:
        size = tuple(round(side * step) for side in levels[-1].shape[1:])  # half to even, as cvRound
        if min(size) < MIN_SIDE:
            break
        levels.append(resize(levels[-1], size, (1 / step, 1 / step), semantics))
    return levels


def upsample(u: torch.Tensor, size: torch.Size, parameters: TVL1, semantics: str) -> torch.Tensor:
    """u (B, C, h, w) for the next finer level of `size` H, W: longer by 1 / scale_step, but for u3."""
    # OpenCV inverts the ratio of the sizes twice.
    scale = tuple(1 / (new / old) for new, old in zip(size, u.shape[2:], strict=True))
    u = resize(u, size, scale, semantics)
    return torch.cat([u[:, :2] * (1 / parameters.scale_step), u[:, 2:]], dim=1)


def resize(images: torch.Tensor, size: tuple[int, int], scale: tuple[float, float], semantics: str) -> torch.Tensor:
    """Images (..., h, w) to (..., H, W) of `size`, linearly; pixel x is read at about x times its axis' `scale`.

    As `cv::resize`, or as `cv::cuda::resize` for `opencv-cuda`, which takes no account of a pixel's extent.
    """
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    for axis, side, step in ((-1, size[1], scale[1]), (-2, size[0], scale[0])):
        low, high, weight = _taps(images.shape[axis], side, step, semantics)
        low, high, weight = (part.to(images.device) for part in (low, high, weight))
        if axis == -2:
            weight = weight[:, None]
        images = images.index_select(axis, low) * (1 - weight) + images.index_select(axis, high) * weight
    return images


def _taps(old: int, new: int, step: float, semantics: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two pixels of `old` that each of `new` pixels is read between, and the second one's weight: (new,) each."""
    if semantics == "opencv-cuda":
        x = torch.arange(new, dtype=torch.float32) * step
    else:
        x = ((torch.arange(new, dtype=torch.float64) + 0.5) * step - 0.5).float()
    x = x.clamp(0, old - 1)
    low = x.floor()
    return low.long(), (low.long() + 1).clamp(max=old - 1), x - low


def warp(images: torch.Tensor, u: torch.Tensor, semantics: str) -> torch.Tensor:
    """Images (B, K, H, W) read by cubic interpolation at x + u1, y + u2 of u (B, >= 2, H, W)."""
    height, width = images.shape[-2:]
    x, weights_x = _cubic_taps(torch.arange(width, device=u.device) + u[:, 0], width, semantics)
    y, weights_y = _cubic_taps(torch.arange(height, device=u.device)[:, None] + u[:, 1], height, semantics)
    flat = images.flatten(2)  # (B, K, H W)
    total, total_weight = torch.zeros_like(images), torch.zeros_like(images[:, :1])
    for start, weight_y in zip(y * width, weights_y, strict=True):
        for column, weight_x in zip(x, weights_x, strict=True):
            index = (start + column).flatten(1)[:, None].expand_as(flat)  # (B, K, H W)
            weight = (weight_y * weight_x)[:, None]  # (B, 1, H, W)
            total += weight * flat.gather(2, index).view_as(images)
            total_weight += weight
    return total * (1 / total_weight) if semantics == "opencv-cuda" else total


def _cubic_taps(x: torch.Tensor, side: int, semantics: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The four pixels, int64 (4, B, H, W), about coordinates x (B, H, W) on an axis `side` long, and their weights."""
    if semantics == "opencv-cpu":
        x = (x * 32).round() / 32  # remap's table; half to even
    x = x.clamp(-4, side + 3)  # as far outside as it goes, and safe to convert
    taps = torch.stack([x.floor() + offset for offset in (-1, 0, 1, 2)])
    weights = _cubic_weight((x - taps).abs(), -0.5 if semantics == "opencv-cuda" else -0.75)
    if semantics != "opencv-cuda":
        weights[3] = 1 - weights[0] - weights[1] - weights[2]  # as remap has it
        weights = weights * ((taps >= 0) & (taps < side))  # BORDER_CONSTANT with 0
    return taps.clamp(0, side - 1).long(), weights


def _cubic_weight(distance: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic convolution kernel at a distance in 0..2 pixels; `a` is its slope at 1."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, far)


def median_filter(images: torch.Tensor, width: int) -> torch.Tensor:
    """Median of the `width` x `width` (odd) pixels about each of images (..., H, W), whose border pixels are repeated.

    Of half of the values and two more, neither the smallest nor the largest is the median: they are dropped, another
    value is taken in, and so on until one is left. Exact, and three times as fast as `torch.median`.
    """
    height, image_width = images.shape[-2:]
    border = width // 2
    rows = torch.arange(-border, height + border, device=images.device).clamp(0, height - 1)
    columns = torch.arange(-border, image_width + border, device=images.device).clamp(0, image_width - 1)
    padded = images.index_select(-2, rows).index_select(-1, columns)
    rest = [padded[..., y : y + height, x : x + image_width] for y in range(width) for x in range(width)]
    kept = [rest.pop() for _ in range(width * width // 2 + 2)]
    while True:
        kept = _without_extremes(kept)
        if not rest:
            return kept[0]
        kept.append(rest.pop())


def _without_extremes(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """The values, elementwise, without the smallest and the largest one."""
    smallest, *others = values
    for i, value in enumerate(others):
        smallest, others[i] = torch.minimum(smallest, value), torch.maximum(smallest, value)
    *others, largest = others
    for i, value in enumerate(others):
        others[i], largest = torch.minimum(value, largest), torch.maximum(value, largest)
    return others
