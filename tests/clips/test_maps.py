import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from reaction.clips.maps import ConstantMaps, StoredMaps
from reaction.data.store import Maps, MapWriter


class MemoryMaps:
    """Stands in for `reaction.data.store.Maps`: one video."""

    def __init__(self, maps, *, every=1, normalise=True):
        self.stored = np.asarray(maps, np.float32)
        self.attributes = {"every": every, "normalise": normalise}

    def length(self, video):
        return len(self.stored)

    def read(self, video, k):
        return self.stored[k]


def stored_parts(folder, *parts, normalise=True):
    """Real shards of one video whose maps are sums of several parts (n, h, w)."""
    with MapWriter(folder / "shard-000.h5", {"every": 1, "normalise": normalise, "layers": ["a", "b"]}) as writer:
        writer.add("v", *(np.asarray(part, np.float32) for part in parts))
    return StoredMaps(Maps(folder), dead=0.1)


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


def test_parts_are_up_sampled_then_added_then_normalised(tmp_path):
    rng = np.random.default_rng(0)
    parts = [3 * rng.random((2, 8, 9)), rng.random((2, 17, 19)), rng.random((2, 4, 5))]
    maps = stored_parts(tmp_path, *parts)
    for size in ((60, 80), (299, 299)):
        total = sum(up_sampled(part[1], *size) for part in parts)
        expected = (total - total.min()) / (total.max() - total.min())
        np.testing.assert_allclose(maps.at("v", 1, *size), expected, atol=1e-5)


def test_layers_of_one_resolution_are_stored_and_read_as_one_map(tmp_path):
    stored = np.random.default_rng(0).random((1, 8, 8))
    expected = StoredMaps(MemoryMaps(stored), dead=0.1).at("v", 0, 60, 80)
    np.testing.assert_array_equal(stored_parts(tmp_path, stored).at("v", 0, 60, 80), expected)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_part_without_contrast_leaves_the_map_to_the_others(tmp_path, value):
    alive = np.random.default_rng(0).random((1, 8, 8))
    map = stored_parts(tmp_path, np.full((1, 17, 17), value), alive).at("v", 0, 60, 80)
    expected = StoredMaps(MemoryMaps(alive), dead=0.1).at("v", 0, 60, 80)
    np.testing.assert_allclose(map, expected, atol=1e-5)


def test_parts_all_without_contrast_are_dead(tmp_path):
    map = stored_parts(tmp_path, np.zeros((1, 8, 8)), np.full((1, 17, 17), 0.3)).at("v", 0, 60, 80)
    np.testing.assert_array_equal(map, np.full((60, 80), 0.1, np.float32))


def test_parts_that_cancel_each_other_out_are_dead(tmp_path):
    ramp = np.linspace(0, 1, 8, dtype=np.float32) * np.ones((1, 8, 1), np.float32)
    map = stored_parts(tmp_path, ramp, 1 - ramp).at("v", 0, 60, 80)
    np.testing.assert_array_equal(map, np.full((60, 80), 0.1, np.float32))


def test_a_part_that_is_not_finite_is_refused(tmp_path):
    with pytest.raises(ValueError, match="v at frame 0"):
        stored_parts(tmp_path, np.ones((1, 8, 8)), np.full((1, 4, 4), np.inf)).at("v", 0, 60, 80)


def test_a_learned_map_of_several_layers_is_one_map_only_up_sampled(tmp_path):
    stored = np.random.default_rng(0).random((1, 8, 8))
    map = stored_parts(tmp_path, stored, normalise=False).at("v", 0, 60, 80)
    np.testing.assert_allclose(map, up_sampled(stored[0], 60, 80), atol=1e-6)


def test_constant_maps():
    np.testing.assert_array_equal(ConstantMaps(0.1).at("v", 7, 4, 5), np.full((4, 5), 0.1, np.float32))
    with pytest.raises(ValueError, match=r"1\.5"):
        ConstantMaps(1.5)
