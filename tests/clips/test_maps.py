import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from reaction.clips.maps import ConstantMaps, StoredMaps


class MemoryMaps:
    """Stands in for `reaction.data.store.Maps`: one video."""

    def __init__(self, maps, *, every=1, normalise=True):
        self.stored = np.asarray(maps, np.float32)
        self.attributes = {"every": every, "normalise": normalise}

    def length(self, video):
        return len(self.stored)

    def read(self, video, k):
        return self.stored[k]


def up_sampled(map, height, width):
    tensor = torch.from_numpy(np.asarray(map, np.float32))[None, None]
    return interpolate(tensor, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


@pytest.mark.parametrize("size", [(60, 80), (256, 340), (5, 6)])
def test_learned_maps_are_up_sampled_as_torch_does(size):
    stored = np.random.default_rng(0).random((1, 8, 8))
    map = StoredMaps(MemoryMaps(stored, normalise=False), dead=0.1).at("v", 0, *size)
    assert map.dtype == np.float32
    np.testing.assert_allclose(map, up_sampled(stored[0], *size), atol=1e-6)


def test_gradcam_maps_are_normalised_after_up_sampling():
    stored = 5 * np.random.default_rng(0).random((1, 8, 8)) + 2
    map = StoredMaps(MemoryMaps(stored), dead=0.1).at("v", 0, 60, 80)
    expected = up_sampled(stored[0], 60, 80)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert (map.min(), map.max()) == (0, 1)
    np.testing.assert_allclose(map, expected, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.7, 1e6])
def test_a_map_without_contrast_is_dead(value):
    map = StoredMaps(MemoryMaps(np.full((1, 8, 8), value)), dead=0.1).at("v", 0, 60, 80)
    np.testing.assert_array_equal(map, np.full((60, 80), 0.1, np.float32))


def test_a_faint_map_is_alive():
    stored = np.zeros((1, 8, 8))
    stored[0, 2, 3] = 1e-6
    assert StoredMaps(MemoryMaps(stored), dead=0.1).at("v", 0, 60, 80).max() == 1


def test_a_learned_map_without_contrast_keeps_its_value():
    map = StoredMaps(MemoryMaps(np.full((1, 8, 8), 0.7), normalise=False), dead=0.1).at("v", 0, 60, 80)
    np.testing.assert_allclose(map, 0.7, atol=1e-6)


def test_a_frame_takes_the_last_map_before_it():
    stored = np.arange(3, dtype=np.float32)[:, None, None] / 4 + np.zeros((8, 8), np.float32)
    maps = StoredMaps(MemoryMaps(stored, every=2, normalise=False), dead=0.1)
    taken = [round(float(maps.at("v", frame, 4, 4).mean()) * 4) for frame in range(8)]
    assert taken == [0, 0, 1, 1, 2, 2, 2, 2]


def test_a_map_that_is_not_finite_is_refused():
    stored = np.full((1, 8, 8), np.nan)
    with pytest.raises(ValueError, match="v at frame 3"):
        StoredMaps(MemoryMaps(stored), dead=0.1).at("v", 3, 60, 80)


def test_constant_maps():
    np.testing.assert_array_equal(ConstantMaps(0.1).at("v", 7, 4, 5), np.full((4, 5), 0.1, np.float32))
    with pytest.raises(ValueError, match=r"1\.5"):
        ConstantMaps(1.5)
