"""RoIAlign against mmcv's published vectors, a plain loop over samples, and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from reaction.models.layers.roi_align import RoIAlign, roi_align

torch.set_num_threads(1)

# tests/test_ops/test_roi_align.py of mmcv: features, box, output of 2 x 2 bins and gradient of its sum, 2 x 2 samples.
VECTORS = [
    ([[1, 2], [3, 4]], 1, [[1.0, 1.25], [1.5, 1.75]], [[3.0625, 0.4375], [0.4375, 0.0625]]),
    (
        [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]],
        3,
        [[1.9375, 4.75], [7.5625, 10.375]],
        [
            [0.47265625, 0.4296875, 0.4296875, 0.04296875],
            [0.4296875, 0.390625, 0.390625, 0.0390625],
            [0.4296875, 0.390625, 0.390625, 0.0390625],
            [0.04296875, 0.0390625, 0.0390625, 0.00390625],
        ],
    ),
]


@pytest.mark.parametrize(("cells", "corner", "expected", "gradient"), VECTORS)
def test_published_vectors(cells, corner, expected, gradient):
    features = torch.tensor([[cells]], dtype=torch.float32, requires_grad=True)
    out = roi_align(features, [torch.tensor([[0.0, 0.0, corner, corner]])], (2, 2), sampling=2)
    out.sum().backward()
    torch.testing.assert_close(out[0, 0], torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(features.grad[0, 0], torch.tensor(gradient), rtol=0, atol=1e-6)


def plain(image: Tensor, box: list[float], output: tuple[int, int], sampling: int, aligned: bool) -> Tensor:
    """One box of one image (C, H, W), sample by sample, as Mask R-CNN describes it."""
    x1, y1, x2, y2 = (side - 0.5 * aligned for side in box)
    w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1.0), max(y2 - y1, 1.0))
    n = sampling or max(math.ceil(h / output[0]), 1)
    m = sampling or max(math.ceil(w / output[1]), 1)
    out = image.new_zeros(len(image), *output)
    for p in range(output[0]):
        for q in range(output[1]):
            for i in range(n):
                for j in range(m):
                    y, x = y1 + (p + (i + 0.5) / n) * h / output[0], x1 + (q + (j + 0.5) / m) * w / output[1]
                    out[:, p, q] += bilinear(image, y, x) / (n * m)
    return out


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = image[:, top, left] * (left + 1 - x) + image[:, top, right] * (x - left)
    lower = image[:, down, left] * (left + 1 - x) + image[:, down, right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 1, 3])
def test_equals_a_loop_over_samples(sampling, aligned):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    corner = torch.rand(2, 5, 2, dtype=torch.float64) * 44 - 8  # some lie partly or wholly outside
    boxes = list(torch.cat([corner, corner + torch.rand(2, 5, 2, dtype=torch.float64) * 20], -1))
    out = roi_align(features, boxes, (3, 2), scale=0.25, sampling=sampling, aligned=aligned)
    expected = [
        plain(features[i], (box * 0.25).tolist(), (3, 2), sampling, aligned) for i in range(2) for box in boxes[i]
    ]
    torch.testing.assert_close(out, torch.stack(expected))


def test_a_plane_is_read_at_the_centres_of_the_bins():
    """Bilinear samples of a plane are exact, and their mean is the plane's value at the middle of the bin."""
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    features = (3 * x + 5 * y + 0.25)[None, None]
    box = [2.3, 4.1, 14.7, 16.9]
    for sampling in (0, 1, 2, 5):
        out = roi_align(features, [torch.tensor([box])], (4, 4), sampling=sampling)[0, 0]
        centres = (torch.arange(4) + 0.5) / 4
        at_x, at_y = box[0] - 0.5 + centres * 12.4, box[1] - 0.5 + centres * 12.8
        torch.testing.assert_close(out, 3 * at_x[None] + 5 * at_y[:, None] + 0.25)


@pytest.mark.parametrize("sampling", [0, 2])
def test_gradients(sampling):
    torch.manual_seed(0)
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    boxes = [torch.tensor([[0.0, 1.0, 4.0, 3.5], [-2.0, 0.3, 2.2, 9.0]]), torch.tensor([[1.0, 1.0, 3.0, 2.0]])]
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes, (2, 3), sampling=sampling), (features,))


def test_images_without_boxes_and_half_precision():
    features = torch.randn(3, 4, 6, 6)
    boxes = [torch.empty(0, 4), torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.empty(0, 4)]
    layer = RoIAlign((2, 2), scale=1.0)
    assert layer(features, boxes).shape == (1, 4, 2, 2)
    assert layer(features, [torch.empty(0, 4)] * 3).shape == (0, 4, 2, 2)
    half = layer(features.bfloat16(), boxes)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(features.bfloat16().float(), boxes), atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="3 images but 1 lists"):
        layer(features, boxes[:1])
