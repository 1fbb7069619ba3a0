import numpy as np
import pytest

from reaction.flow import dequantise, quantise


def test_known_levels():
    flow = np.array([-30, -20, 0, 20, 30, 0.2], np.float32)
    assert quantise(flow, 20).tolist() == [0, 0, 128, 255, 255, 129]


@pytest.mark.parametrize("bound", [15.0, 20.0])
def test_round_trip_is_unbiased_and_within_half_a_level(bound):
    flow = np.linspace(-bound, bound, 100_001, dtype=np.float32)
    error = dequantise(quantise(flow, bound), bound) - flow
    assert np.abs(error).max() <= bound / 255 * (1 + 1e-4)
    assert abs(error.mean()) < 1e-4


def test_mirrored_levels_are_the_negative():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_allclose(dequantise(255 - levels, 20), -dequantise(levels, 20), rtol=0, atol=1e-6)


def test_every_level_survives():
    levels = np.arange(256, dtype=np.uint8)
    assert (quantise(dequantise(levels, 20), 20) == levels).all()
