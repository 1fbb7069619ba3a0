"""Crops, flips and normalisation of frames, flow stacks and attention maps.

Images are (H, W, C) arrays and maps (H, W); cut to the network's input both are planes (C, h, w). Crops are cut before
they are resized, with OpenCV's bilinear rule and without anti-aliasing, as TSN's Caffe layer does. Flow values are not
rescaled with the picture (TSN). Crop law: tsn-pytorch transforms.py, GroupMultiScaleCrop and GroupOverSample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MODALITIES = ("rgb", "flow")  # what a stored picture shows
MAX_DISTORT = 1  # steps in the list of scales between a crop's width and its height
# Principal axes of ImageNet's colours (R, G, B from 0 to 1), a row each channel, and the deviation along each axis:
# Krizhevsky et al. (NIPS 2012, section 4.1) print none; these are what fb.resnet.torch and its readers use.
COLOUR_AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
COLOUR_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
SNAP = 3  # a side nearer than this to the network's input becomes the input: no resizing by a hair's breadth


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels of the stored frame: x to the right and y down, from the upper left pixel."""

    x: int
    y: int
    w: int
    h: int


def fixed_offsets(width: int, height: int, crop_w: int, crop_h: int) -> list[tuple[int, int]]:
    """The 13 places (x, y) of TSN's corner crop: four corners, centre, four edge middles, four quarters.

    Steps are a quarter of the slack, rounded down; the right and lower crops may stop up to 3 pixels before the edge.
    """
    step_x, step_y = (width - crop_w) // 4, (height - crop_h) // 4
    corners = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
    edges = [(0, 2), (4, 2), (2, 4), (2, 0)]
    quarters = [(1, 1), (3, 1), (1, 3), (3, 3)]
    return [(x * step_x, y * step_y) for x, y in corners + edges + quarters]


def multi_scale_crop(
    width: int, height: int, *, input: int, scales: Sequence[float], fixed_offsets: bool, rng: np.random.Generator
) -> Crop:
    """Random crop of TSN's scale jittering: each side is the short side times one of `scales`.

    Width and height take equal or neighbouring scales. The place is one of the 13 fixed offsets, or any.
    """
    pairs = crop_sizes(width, height, input=input, scales=scales)
    w, h = pairs[rng.integers(len(pairs))]
    x, y = _random_offset(width, height, w, h, fixed_offsets, rng)
    return Crop(x, y, w, h)


def short_side_crop(
    width: int, height: int, *, input: int, short_sides: tuple[int, int], rng: np.random.Generator
) -> Crop:
    """Random square crop of `input` pixels of the frame as if its short side were drawn from `short_sides`, inclusive.

    SlowFast, section 4, after VGG; here the crop is cut first and resized once, with the same view.
    """
    side = round(min(width, height) * input / rng.integers(short_sides[0], short_sides[1] + 1))
    x, y = _random_offset(width, height, side, side, False, rng)
    return Crop(x, y, side, side)


def crop_sizes(width: int, height: int, *, input: int, scales: Sequence[float]) -> list[tuple[int, int]]:
    """The (width, height) pairs that `multi_scale_crop` draws from, with equal chances."""
    short = min(width, height)
    sides = [_snap(int(short * scale), input, short) for scale in scales]
    return [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= MAX_DISTORT]


def _snap(side: int, input: int, short: int) -> int:
    return input if abs(side - input) < SNAP and input <= short else side


def _random_offset(
    width: int, height: int, crop_w: int, crop_h: int, fixed: bool, rng: np.random.Generator
) -> tuple[int, int]:
    if fixed:
        offsets = fixed_offsets(width, height, crop_w, crop_h)
        return offsets[rng.integers(len(offsets))]
    return int(rng.integers(width - crop_w + 1)), int(rng.integers(height - crop_h + 1))


def test_crops(width: int, height: int, size: int, count: int) -> list[tuple[Crop, bool]]:
    """Square crops of the test protocol, each with whether it is flipped.

    1: the centre. 3: both ends of the longer side, and its middle between them (SlowFast, section 4). 5: the corners,
    then the centre. 10: those, then their flips. The centre is the same crop in 1, 5 and 10.
    """
    if size > min(width, height):
        raise ValueError(f"crops of {size} pixels do not fit into frames of {width}x{height}")
    if count == 3:
        slack_x, slack_y = width - size, height - size
        third = [
            (slack_x * k // 2, slack_y // 2) if width >= height else (slack_x // 2, slack_y * k // 2) for k in range(3)
        ]
        return [(Crop(x, y, size, size), False) for x, y in third]
    crops = [Crop(x, y, size, size) for x, y in fixed_offsets(width, height, size, size)[:5]]
    plain = [(crop, False) for crop in crops]
    views = {1: plain[4:], 5: plain, 10: plain + [(crop, True) for crop in crops]}
    if count not in views:
        raise ValueError(f"{count} test crops: allowed are 1, 3, 5 and 10")
    return views[count]


test_crops.__test__ = False  # pytest would collect the name


def cut(pictures: Sequence[np.ndarray], crop: Crop, input: int) -> np.ndarray:
    """The crop of n images (H, W, C) or maps (H, W), resized: planes (n, C, input, input) in the dtype they came in."""
    channels = pictures[0].shape[2] if pictures[0].ndim == 3 else 1
    planes = np.empty((len(pictures), channels, input, input), pictures[0].dtype)
    for picture, target in zip(pictures, planes, strict=True):
        _cut(picture[crop.y : crop.y + crop.h, crop.x : crop.x + crop.w], target)
    return planes


def _cut(patch: np.ndarray, target: np.ndarray) -> None:
    """Resize a patch (h, w, C) or (h, w) into `target` (C, h', w'), where OpenCV writes without a copy."""
    shape = target.shape[:0:-1]  # OpenCV wants the width first
    if patch.ndim == 3 and patch.shape[2] > 1 and patch.strides[2] == patch.itemsize:  # colours side by side
        cv2.split(cv2.resize(patch, shape, interpolation=cv2.INTER_LINEAR), list(target))
        return
    planes = patch[None] if patch.ndim == 2 else patch.transpose(2, 0, 1)  # flow lies plane by plane in memory
    for plane, resized in zip(planes, target, strict=True):
        cv2.resize(plane, shape, dst=resized, interpolation=cv2.INTER_LINEAR)


def flip(planes: np.ndarray, modality: str) -> np.ndarray:
    """Planes (..., C, h, w) of the mirrored scene. A map has no sign, and is flipped as `rgb` is.

    In flow the even channels are horizontal and change sign: -v for normalised values, 255 - q for stored ones, which
    the unbiased reading of 8-bit flow makes the same.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality {modality!r}: allowed are {' and '.join(MODALITIES)}")
    rows = np.ascontiguousarray(planes).reshape(-1, planes.shape[-1])
    mirrored = cv2.flip(rows, 1).reshape(planes.shape)  # nine times as fast as reversed strides
    if modality == "flow":
        horizontal = mirrored[..., ::2, :, :]
        horizontal[...] = 255 - horizontal if planes.dtype == np.uint8 else -horizontal
    return mirrored


def normalise(image: np.ndarray) -> np.ndarray:
    """Bytes to float32 in [-1, 1]: (q / 255 - 0.5) / 0.5, Inception-V3's rule, used for every stream."""
    scaled = image * np.float32(2 / 255)  # one pass over bytes, which NumPy computes in float32
    scaled -= 1
    return scaled


def colour_shift(deviation: float, rng: np.random.Generator) -> np.ndarray:
    """What a picture's R, G and B change by, float32 (3,) on the scale of `normalise`: colour jitter.

    A step along each principal axis of colour, in units of its deviation normal with the given `deviation`
    (Krizhevsky et al., NIPS 2012, section 4.1).
    """
    steps = rng.normal(0, deviation, 3) * COLOUR_DEVIATIONS
    return np.float32(2 * COLOUR_AXES @ steps)


def mean_flow(fields: Sequence[np.ndarray]) -> np.ndarray:
    """The mean vector of each whole stored field, uint8 (H, W, 2), float32 (fields, 2) as `normalise` scales values."""
    means = np.stack([field.mean(axis=(0, 1), dtype=np.float64) for field in fields])
    return (means * (2 / 255) - 1).astype(np.float32)


def subtract_mean_flow(stacks: np.ndarray, means: np.ndarray, flipped: bool) -> np.ndarray:
    """Flow stacks (K, 2L, h, w) less the mean vectors (K, L, 2) of their fields, both normalised.

    `flipped` stacks show the mirrored scene, where the horizontal means have the other sign; `means` are as stored.

    "From each displacement field d we subtract its mean vector" (Simonyan & Zisserman, NIPS 2014, section 3.1); the
    field is the whole frame's, from which the input is cut afterwards. The mean is taken off normalised values, not
    off bytes: those would be cut at the flow's bound a second time.
    """
    signs = np.array([-1 if flipped else 1, 1], means.dtype)
    return stacks - (signs * means).reshape(len(stacks), -1, 1, 1)
