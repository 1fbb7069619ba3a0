import numpy as np

from reaction.clips.rgbdiff import frame_differences, frames_needed
from reaction.clips.transforms import flip, normalise

STACKS = np.random.default_rng(0).integers(0, 256, (2, 6, 3, 4, 5), dtype=np.uint8)  # (K, L + 1, c, h, w)


def test_later_less_earlier_in_temporal_order_of_normalised_frames():
    result = frame_differences(STACKS)
    assert result.shape == (2, 15, 4, 5)
    assert result.dtype == np.float32
    for k in range(2):
        for step in range(5):
            earlier, later = normalise(STACKS[k, step]), normalise(STACKS[k, step + 1])
            np.testing.assert_allclose(result[k, 3 * step : 3 * step + 3], later - earlier, atol=1e-6)


def test_bytes_do_not_wrap_around():
    fading = np.array([255, 0, 255], np.uint8)[None, :, None, None, None] * np.ones((1, 1, 3, 1, 1), np.uint8)
    assert frame_differences(fading)[0, :, 0, 0].tolist() == [-2.0, -2.0, -2.0, 2.0, 2.0, 2.0]


def test_a_repeated_last_frame_makes_no_difference():
    assert not frame_differences(STACKS[:, [0, 0]]).any()


def test_differences_of_mirrored_frames_are_mirrored_differences():
    result = frame_differences(flip(STACKS, "rgb"))
    np.testing.assert_array_equal(result, frame_differences(STACKS)[..., ::-1])


def test_five_differences_need_six_frames():
    assert frames_needed(5) == STACKS.shape[1] == 6
