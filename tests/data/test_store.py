import os
import pickle
import signal
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest

from reaction.data.store import (
    Maps,
    MapWriter,
    Shards,
    ShardWriter,
    StoreError,
    decode_flow,
    decode_rgb,
    encode_flow,
    encode_jpeg,
    shard_name,
    shard_of,
)
from reaction.files import sha256

CONFIG = {"bound": 20.0, "resize": "340x256", "parameters": {"tau": 0.25, "median": 5}, "shards": 2, "init": None}
BLOBS = {"b video": [b"one", b"", b"three"], "a": [b"x" * 300_000], "ü": [bytes([i]) for i in range(10)]}


def write(folder, blobs=BLOBS, config=CONFIG, shard=0):
    path = folder / shard_name(shard)
    with ShardWriter(path, config) as writer:
        for video, items in blobs.items():
            writer.add(video, iter(items), source_sha256=f"sha of {video}")
    return path


def test_round_trip(tmp_path):
    write(tmp_path)
    shards = Shards(tmp_path, {"bound": 20, "parameters": {"median": 5, "tau": 0.25}, "init": None})
    assert shards.videos == ["a", "b video", "ü"]
    for video, items in BLOBS.items():
        assert shards.length(video) == len(items)
        assert shards.read(video, range(len(items))) == items
    assert shards.read("ü", [7, 2, 2, 8, 0]) == [bytes([i]) for i in (7, 2, 2, 8, 0)]
    assert shards.read("ü", []) == []
    assert {key: shards.attributes[key] for key in CONFIG} == CONFIG
    assert shards.attributes["libraries"]["opencv"] == cv2.__version__


@pytest.mark.parametrize("modality", ["rgb", "flow"])
def test_pictures_are_the_stored_items_decoded(tmp_path, modality):
    flat = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[:, None, None] + np.zeros((3, 6, 8, 3), int)
    if modality == "rgb":
        blobs = [encode_jpeg(picture.astype(np.uint8), 100) for picture in flat]
    else:
        flat = flat[..., :2]
        blobs = [encode_flow(picture.transpose(2, 0, 1).astype(np.uint8), 100) for picture in flat]
    write(tmp_path, {"a": blobs}, CONFIG | {"modality": modality})
    pictures = Shards(tmp_path).pictures("a", [2, 0, 2])
    assert [(picture.shape, picture.dtype) for picture in pictures] == [(flat.shape[1:], np.uint8)] * 3
    assert np.abs(np.stack(pictures).astype(int) - flat[[2, 0, 2]]).max() <= 3


def test_layout_is_the_documented_one(tmp_path):
    with h5py.File(write(tmp_path)) as file:
        assert file["video"].asstr()[:].tolist() == list(BLOBS)
        assert file["first"][:].tolist() == [0, 3, 4, 14]
        assert file["offset"][:5].tolist() == [0, 3, 3, 8, 300_008]
        assert file["blob"].dtype == np.uint8
        assert file["blob"][:8].tobytes() == b"onethree"
        assert file["source_sha256"].asstr()[0] == "sha of b video"


def test_same_input_same_bytes(tmp_path):
    assert sha256(write(tmp_path / "first")) == sha256(write(tmp_path / "second"))


def test_empty_shard(tmp_path):
    write(tmp_path, {})
    assert Shards(tmp_path).videos == []


def test_other_bound_is_refused_with_both_values(tmp_path):
    write(tmp_path)
    with pytest.raises(StoreError, match=r"bound = 20\.0.*15\.0 is expected"):
        Shards(tmp_path, {"bound": 15.0}).length("a")
    with pytest.raises(StoreError, match=r"shard-000\.h5.*algorithm = None.*'tvl1'"):
        Shards(tmp_path, {"algorithm": "tvl1"}).length("a")


def test_shards_of_different_configs_are_refused(tmp_path):
    write(tmp_path)
    write(tmp_path, {"other": [b""]}, CONFIG | {"bound": 15.0}, shard=1)
    with pytest.raises(StoreError, match=r"shard-001\.h5 was made with bound = 15\.0"):
        _ = Shards(tmp_path).videos


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.9])
def test_truncated_shard_names_the_file_and_the_fix(tmp_path, keep):
    path = write(tmp_path)
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(StoreError, match=r"shard-000\.h5.*delete it and run again"):
        Shards(tmp_path).read("a", [0])


def test_missing_video_names_its_shard(tmp_path):
    write(tmp_path)
    with pytest.raises(StoreError, match=f"gone.*{shard_name(shard_of('gone', 2))}"):
        Shards(tmp_path).length("gone")
    with pytest.raises(StoreError, match="holds no shards"):
        _ = Shards(tmp_path / "nowhere").videos


def test_index_outside_is_refused(tmp_path):
    write(tmp_path)
    for index in (-1, 3):
        with pytest.raises(IndexError, match="b video has 3 items"):
            Shards(tmp_path).read("b video", [index])


def test_failed_writer_leaves_nothing(tmp_path):
    def breaks():
        yield b"good"
        raise RuntimeError("decoder")

    with pytest.raises(RuntimeError, match="decoder"), ShardWriter(tmp_path / "shard-000.h5", CONFIG) as writer:
        writer.add("a", breaks(), source_sha256="")
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_no_shard(tmp_path):
    code = (
        "import os, signal, sys; from reaction.data.store import ShardWriter\n"
        "with ShardWriter(sys.argv[1], {}) as writer:\n"
        "    writer.add('a', [b'x'] * 1000, source_sha256='')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "shard-000.h5"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=os.environ | {"PYTHONPATH": "src"})
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()


def test_reader_survives_a_fork_and_pickling(tmp_path):
    write(tmp_path)
    shards = Shards(tmp_path)
    assert shards.read("a", [0]) == BLOBS["a"]
    child = os.fork()
    if child == 0:
        os._exit(0 if shards.read("ü", [3]) == [b"\x03"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert shards.read("ü", [4]) == [b"\x04"]
    assert pickle.loads(pickle.dumps(shards)).read("ü", [5]) == [b"\x05"]


def test_shard_of_is_what_it_was():
    # By sha256sum; a change would move every video of every stored dataset.
    assert [shard_of(name, 64) for name in ("v_Basketball_g01_c01", "ü", "")] == [42, 36, 20]
    counts = np.bincount([shard_of(f"video {i}", 8) for i in range(4000)], minlength=8)
    assert counts.min() > 400


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 % 200, y * 2 % 200, (x + y) % 200], axis=-1).astype(np.uint8)


def test_rgb_keeps_its_channels():
    red = np.zeros((17, 31, 3), np.uint8)
    red[..., 0] = 200
    decoded = decode_rgb(encode_jpeg(red, 95)).astype(int)
    assert decoded.shape == red.shape
    assert np.abs(decoded - red).max() <= 3


def test_flow_keeps_x_and_y_apart():
    field = np.stack([np.full((9, 14), 128, np.uint8), picture(9, 14)[..., 0]])
    decoded = decode_flow(encode_flow(field, 95)).astype(int)
    assert decoded.shape == (2, 9, 14)
    assert np.abs(decoded[0, :5] - 128).max() <= 2
    assert np.abs(decoded - field).mean() < 2


def test_still_field_is_exact():
    field = np.full((2, 64, 80), 128, np.uint8)
    assert (decode_flow(encode_flow(field, 95)) == 128).all()


def test_broken_jpeg_is_reported():
    with pytest.raises(StoreError, match="not a JPEG"):
        decode_rgb(b"no picture")


def test_maps_round_trip(tmp_path):
    maps = {"a": np.random.default_rng(0).random((5, 8, 6)), "b": np.zeros((1, 8, 6))}
    with MapWriter(tmp_path / "shard-000.h5", {"every": 2, "normalise": True}) as writer:
        for video, values in maps.items():
            writer.add(video, values)
    stored = Maps(tmp_path, {"every": 2})
    assert stored.attributes["normalise"] is True
    assert stored.videos == ["a", "b"]
    assert stored.length("a") == 5
    assert stored.read("a", 4).dtype == np.float32
    np.testing.assert_array_equal(stored.read("a", 4), maps["a"][4].astype(np.float32))
    np.testing.assert_array_equal(stored.read("b", 0), maps["b"][0])
    with pytest.raises(IndexError, match="no map 5"):
        stored.read("a", 5)
