import cv2
import numpy as np
import pytest

from reaction.clips.transforms import (
    COLOUR_AXES,
    COLOUR_DEVIATIONS,
    Crop,
    colour_shift,
    crop_sizes,
    cut,
    fixed_offsets,
    flip,
    mean_flow,
    multi_scale_crop,
    normalise,
    short_side_crop,
    subtract_mean_flow,
    test_crops,
)

TSN_SCALES = (1.0, 0.875, 0.75, 0.66)


def test_fixed_offsets_of_the_paper():
    rows = {0: [0, 58, 116], 16: [0, 58, 116], 32: [0, 58, 116], 8: [29, 87], 24: [29, 87]}
    by_hand = {(x, y) for y, row in rows.items() for x in row}
    offsets = fixed_offsets(340, 256, 224, 224)
    assert len(offsets) == 13
    assert set(offsets) == by_hand
    assert fixed_offsets(341, 341, 299, 299)[3] == (40, 40)  # 4 * (42 // 4): two pixels before the edge


def test_crop_sizes_of_the_paper():
    sides = [256, 224, 192, 168]
    allowed = {(w, h) for w in sides for h in sides if abs(sides.index(w) - sides.index(h)) <= 1}
    pairs = crop_sizes(340, 256, input=224, scales=TSN_SCALES)
    assert len(pairs) == len(allowed) == 10
    assert set(pairs) == allowed


def test_a_side_close_to_the_input_becomes_the_input_if_it_fits():
    assert crop_sizes(300, 258, input=224, scales=[0.875]) == [(224, 224)]  # int(225.75) = 225
    assert crop_sizes(300, 260, input=224, scales=[0.875]) == [(227, 227)]
    assert crop_sizes(400, 297, input=299, scales=[1.0]) == [(297, 297)]


def test_multi_scale_crops_are_all_sizes_at_all_fixed_offsets():
    rng = np.random.default_rng(0)
    law = {"input": 30, "scales": TSN_SCALES}
    drawn = {multi_scale_crop(57, 40, fixed_offsets=True, rng=rng, **law) for _ in range(4000)}
    every = {Crop(x, y, w, h) for w, h in crop_sizes(57, 40, **law) for x, y in fixed_offsets(57, 40, w, h)}
    assert drawn == every


def test_free_multi_scale_crops_reach_every_place_and_stay_inside():
    rng = np.random.default_rng(0)
    law = {"input": 4, "scales": [0.75], "fixed_offsets": False}
    drawn = {multi_scale_crop(14, 12, rng=rng, **law) for _ in range(1000)}
    assert drawn == {Crop(x, y, 9, 9) for x in range(6) for y in range(4)}


def test_test_crops_of_the_paper():
    corners = [Crop(0, 0, 224, 224), Crop(116, 0, 224, 224), Crop(0, 32, 224, 224), Crop(116, 32, 224, 224)]
    centre = Crop(58, 16, 224, 224)
    assert test_crops(340, 256, 224, 1) == [(centre, False)]
    assert test_crops(340, 256, 224, 5) == [(crop, False) for crop in [*corners, centre]]
    assert test_crops(340, 256, 224, 10)[5:] == [(crop, True) for crop in [*corners, centre]]


def test_three_crops_lie_along_the_longer_side():
    assert [crop for crop, _ in test_crops(340, 256, 256, 3)] == [Crop(x, 0, 256, 256) for x in (0, 42, 84)]
    assert [crop for crop, _ in test_crops(256, 300, 256, 3)] == [Crop(0, y, 256, 256) for y in (0, 22, 44)]
    assert not any(flipped for _, flipped in test_crops(340, 256, 256, 3))


def test_crops_of_a_jittered_short_side_show_what_those_of_the_resized_frame_would():
    rng = np.random.default_rng(0)
    crops = [short_side_crop(340, 256, input=224, short_sides=(256, 320), rng=rng) for _ in range(3000)]
    sides = {crop.w for crop in crops}
    # 224 of a short side of 256 to 320 is 179.2 to 224 of the stored 256
    assert (min(sides), max(sides)) == (179, 224)
    assert all(crop.w == crop.h and crop.x + crop.w <= 340 and crop.y + crop.h <= 256 for crop in crops)
    assert min(crop.x for crop in crops) == 0
    assert max(crop.x + crop.w for crop in crops) == 340


def test_test_crops_refuse_other_counts_and_small_frames():
    with pytest.raises(ValueError, match="4 test crops"):
        test_crops(340, 256, 224, 4)
    with pytest.raises(ValueError, match="do not fit"):
        test_crops(340, 200, 224, 10)


def ramp(height, width, channels, interleaved):
    """Channel c holds x + 1000 y + c, in either memory layout."""
    y, x = np.mgrid[:height, :width]
    planes = np.stack([x + 1000 * y + c for c in range(channels)]).astype(np.float32)
    image = np.moveaxis(planes, 0, -1)
    return np.ascontiguousarray(image) if interleaved else image


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("channels", [1, 2, 3, 20])
@pytest.mark.parametrize("crop", [Crop(3, 5, 16, 12), Crop(0, 0, 40, 30), Crop(8, 2, 24, 24)])
def test_a_cropped_ramp_in_closed_form(crop, channels, interleaved):
    size = 24
    image = ramp(30, 40, channels, interleaved)
    planes = cut([image, image + 500], crop, size)
    centres = np.arange(size) + 0.5  # bilinear between pixel centres, the crop's border repeated
    x = crop.x + np.clip(centres * crop.w / size - 0.5, 0, crop.w - 1)
    y = crop.y + np.clip(centres * crop.h / size - 0.5, 0, crop.h - 1)
    expected = x + 1000 * y[:, None] + np.arange(channels)[:, None, None]
    assert planes.shape == (2, channels, size, size)
    np.testing.assert_allclose(planes, [expected, expected + 500], atol=0.01)  # float32 at 30000


def test_both_layouts_give_the_same_bytes():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 20), dtype=np.uint8)
    planar = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, -1, 0)), 0, -1)
    crop = Crop(7, 3, 42, 36)
    assert cut([image], crop, 31).dtype == np.uint8
    np.testing.assert_array_equal(cut([image], crop, 31), cut([planar], crop, 31))


@pytest.mark.parametrize("shape", [(48, 64, 3), (48, 64, 2), (48, 64, 1), (48, 64)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_cut_is_opencvs_resized_patch_to_the_bit(shape, dtype):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, shape).astype(dtype) for _ in range(3)]
    for crop in (Crop(7, 3, 42, 36), Crop(0, 0, 64, 48), Crop(16, 9, 31, 31)):
        patches = [picture[crop.y : crop.y + crop.h, crop.x : crop.x + crop.w] for picture in pictures]
        resized = [cv2.resize(patch, (31, 31), interpolation=cv2.INTER_LINEAR).reshape(31, 31, -1) for patch in patches]
        np.testing.assert_array_equal(cut(pictures, crop, 31), np.stack(resized).transpose(0, 3, 1, 2))


def test_a_crop_of_the_inputs_size_is_cut_out_untouched():
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    patch = image[3:35, 7:39].transpose(2, 0, 1)
    np.testing.assert_array_equal(cut([image], Crop(7, 3, 32, 32), 32)[0], patch)
    np.testing.assert_array_equal(cut([image[..., 0]], Crop(7, 3, 32, 32), 32)[0, 0], patch[0])


@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("shape", [(6, 8, 8), (2, 5, 2, 6, 8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_flipping_twice_changes_nothing(stream, shape, dtype):
    planes = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    before = planes.copy()
    np.testing.assert_array_equal(flip(flip(planes, stream), stream), planes)
    np.testing.assert_array_equal(planes, before)


def test_flip_mirrors_and_only_x_flow_changes_sign():
    planes = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    mirrored = planes[:, :, ::-1]
    np.testing.assert_array_equal(flip(planes, "rgb"), mirrored)
    np.testing.assert_array_equal(flip(planes, "flow"), mirrored * np.array([-1, 1, -1, 1])[:, None, None])
    with pytest.raises(ValueError, match="'depth'"):
        flip(planes, "depth")


def test_bytes_and_normalised_values_flip_alike():
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 8), dtype=np.uint8)
    np.testing.assert_allclose(normalise(flip(stored, "flow")), flip(normalise(stored), "flow"), atol=1e-6)


def test_flipped_flow_is_the_flow_of_the_flipped_scene():
    noise = np.random.default_rng(0).integers(0, 256, (80, 100), dtype=np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 3)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    first, second = scene[10:70, 10:90], scene[12:72, 7:87]  # moves by (3, -2)
    flow = farneback(first, second)
    mirrored = farneback(np.ascontiguousarray(first[:, ::-1]), np.ascontiguousarray(second[:, ::-1]))
    inside = np.s_[15:-15, 15:-15]
    np.testing.assert_allclose(np.median(flow[inside], axis=(0, 1)), [3, -2], atol=0.1)
    flipped = flip(flow.transpose(2, 0, 1), "flow").transpose(1, 2, 0)
    assert np.abs(flipped - mirrored)[inside].max() < 0.1


def farneback(first, second):
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 5, 5, 1.1, 0)


def test_normalise_is_inceptions_rule():
    values = np.arange(256, dtype=np.uint8)
    result = normalise(values)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, (values / 255 - 0.5) / 0.5, atol=1e-6)


@pytest.mark.parametrize("flipped", [False, True])
def test_mean_flow_comes_off_the_whole_field_before_crop_and_flip(flipped):
    rng = np.random.default_rng(0)
    fields = rng.integers(0, 256, (3, 12, 16, 2)).astype(np.uint8)
    crop = Crop(3, 2, 8, 8)
    planes = cut(fields, crop, 8)
    planes = flip(planes, "flow") if flipped else planes
    places = np.array([[0, 1], [1, 2]])  # two stacks of two fields
    stacks = normalise(planes[places].reshape(2, 4, 8, 8))
    result = subtract_mean_flow(stacks, mean_flow(fields)[places], flipped)

    vectors = fields / 127.5 - 1  # the same in floats, vector by vector
    centred = vectors - vectors.reshape(3, -1, 2).mean(axis=1)[:, None, None]
    expected = centred[:, 2:10, 3:11]
    expected = expected[:, :, ::-1] * [-1, 1] if flipped else expected
    expected = np.moveaxis(expected, -1, 1)[places].reshape(2, 4, 8, 8)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert result.dtype == np.float32


def test_without_mean_flow_a_panning_camera_stands_still():
    still = np.full((6, 8, 2), 128, np.uint8)
    panning = still + np.array([20, 7], np.uint8)
    stacks = normalise(np.stack([np.moveaxis(field, -1, 0) for field in (still, panning)]).reshape(1, 4, 6, 8))
    result = subtract_mean_flow(stacks, mean_flow([still, panning])[None], flipped=False)
    np.testing.assert_allclose(result, 0, atol=1e-6)


def test_colours_shift_along_their_principal_axes_by_their_deviations():
    """The shifts' covariance is A diag(s^2) A^T, times what the scale of [-1, 1] doubles."""
    assert np.abs(COLOUR_AXES.T @ COLOUR_AXES - np.eye(3)).max() < 1e-3, "axes at right angles"
    rng = np.random.default_rng(0)
    shifts = np.stack([colour_shift(0.1, rng) for _ in range(20_000)])
    expected = 4 * COLOUR_AXES @ np.diag((0.1 * COLOUR_DEVIATIONS) ** 2) @ COLOUR_AXES.T
    assert np.cov(shifts.T) == pytest.approx(expected, rel=0.05)
    assert np.abs(shifts.mean(axis=0)).max() < 1e-3
    brightness = shifts.mean(axis=1)
    assert np.corrcoef(brightness, shifts[:, 0])[0, 1] > 0.98, "most of it is brighter or darker"
