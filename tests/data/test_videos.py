"""Pictures read from the videos against those that `frames_shard` stores of them."""

import csv
import pickle

import av
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from reaction.clips.loader import Augmentation, Stream, TrainClips
from reaction.data.extract import frames_shard
from reaction.data.index import read_index
from reaction.data.store import Shards
from reaction.data.videos import VideoError, Videos, open_features
from reaction.files import sha256, write_json

LENGTHS = {"long": 40, "short": 7}
STORED = {"modality": "rgb", "resize": "short_side:48", "jpeg_quality": 100, "shards": 1}
UNSTORED = {"modality": "rgb", "resize": "short_side:48", "stored": False}


def write_video(path, frames, codec="libx264"):
    """A smooth texture that moves by (2, 1) pixels a frame."""
    noise = cv2.GaussianBlur(np.random.default_rng(7).normal(size=(200, 260, 3)), (0, 0), 3)
    texture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = 12
        for k in range(frames):
            picture = np.ascontiguousarray(texture[k : k + 96, 2 * k : 2 * k + 128])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = []
    for name, frames in LENGTHS.items():
        path = tmp_path / f"fetched/videos/{name}.mp4"
        write_video(path, frames)
        facts = {"frames": frames, "fps": 25.0, "width": 128, "height": 96, "sha256": sha256(path), "decoder": "pyav"}
        rows.append({"video": name, "path": path.name, "labels": "0", "group": "g"} | facts)
    (tmp_path / "index").mkdir()
    with open("index/index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def folder_of(config, name="features"):
    write_json(f"{name}/config.json", {"config": config, "inputs": {"index": "index", "videos": "fetched"}})
    return name


@pytest.mark.parametrize("fps", [None, 10, 50])
def test_pictures_are_those_that_would_be_stored(project, fps):
    rate = {} if fps is None else {"fps": fps}
    stored, videos = folder_of(STORED | rate, "stored"), open_features(folder_of(UNSTORED | rate))
    frames_shard(stored, 0)
    shards = open_features(stored)
    assert isinstance(shards, Shards)
    assert isinstance(videos, Videos)
    assert shards.videos == videos.videos == sorted(LENGTHS)
    for video in LENGTHS:
        count = videos.length(video)
        assert count == shards.length(video)
        order = np.random.default_rng(0).integers(count, size=9)
        ours, theirs = videos.pictures(video, order), shards.pictures(video, order)
        assert [picture.shape for picture in ours] == [(48, 64, 3)] * 9
        assert np.abs(np.stack(ours).astype(int) - np.stack(theirs)).mean() < 6  # JPEG halves the chroma's size
        grey = [[cv2.cvtColor(one, cv2.COLOR_RGB2GRAY).astype(int) for one in some] for some in (ours, theirs)]
        assert np.abs(np.stack(grey[0]) - np.stack(grey[1])).max() <= 6
    assert videos.attributes["fps"] == fps if fps else "fps" not in videos.attributes


def test_clips_are_cut_from_videos_in_worker_processes(project):
    videos = Videos(folder_of(UNSTORED))
    options = {"segments": 1, "input": 32, "augmentation": Augmentation(), "seed": 3}
    clips = TrainClips(read_index("index"), videos, stream=Stream("rgb", 16), **options)
    (batch,) = DataLoader(clips, batch_size=2, num_workers=2)
    assert batch["clip"].shape == (2, 1, 48, 32, 32)
    assert all(torch.equal(batch["clip"][k], clips[k]["clip"]) for k in range(2))
    again = pickle.loads(pickle.dumps(videos))
    np.testing.assert_array_equal(again.pictures("short", [3])[0], videos.pictures("short", [3])[0])


def test_what_is_not_there_is_named(project):
    videos = Videos(folder_of(UNSTORED))
    assert videos.pictures("long", []) == []
    with pytest.raises(VideoError, match="film is not in index"):
        videos.length("film")
    for index in (40, -1):
        with pytest.raises(IndexError, match="long has 40 frames, not those asked for"):
            videos.pictures("long", [index])
    write_video(project / "fetched/videos/short.mp4", 9)
    with pytest.raises(VideoError, match=r"short\.mp4 has 9 frames and 7 were indexed"):
        videos.pictures("short", [0])
    write_video(project / "fetched/videos/short.mp4", 7, "mpeg4")
    with pytest.raises(VideoError, match=r"short\.mp4 is mpeg4 .*: use a feature that is stored, or convert the video"):
        videos.pictures("short", [0])
