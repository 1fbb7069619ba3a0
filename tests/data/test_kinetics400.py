"""Kinetics-400 in miniature: official lists, H.264 clips found, missing, corrupt, replaced and wrongly named."""

import csv
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

from reaction.data.datasets import DatasetError
from reaction.data.datasets.kinetics400 import read_official
from reaction.data.fetch import fetch_dataset
from reaction.data.index import build_index, part_videos, read_classes, read_index
from reaction.files import write_json

TRAIN = """label,youtube_id,time_start,time_end,split,is_cc
riding a bike,--3ouPhoy2A,20,30,train,0
riding a bike,aBcDeFgHiJk,0,10,train,1
"massaging person's head",Wh0_ever-77,113,123,train,0
abseiling,-gone_-gone,5,15,train,0
abseiling,broken_mp4_,7,17,train,0
abseiling,repaired__1,8,18,train,0
"""
VAL = """label,youtube_id,time_start,time_end,split,is_cc
abseiling,valvalvalva,1,11,val,0
riding a bike,valgonegone,2,12,val,0
"""
TEST = """label,youtube_id,time_start,time_end,split
riding a bike,testtesttes,3,13,test
"""
CLIPS = {  # where a clip of how many frames lies
    "train/riding a bike/--3ouPhoy2A_000020_000030.mp4": 9,
    "train/riding_a_bike/aBcDeFgHiJk.mp4": 8,
    "train/Wh0_ever-77_000113_000123.mp4": 7,
    "train/replacement_for_corrupted_k400/repaired__1_000008_000018.mp4": 6,
    "val/abseiling/valvalvalva_000001_000011.mp4": 5,
    "train/abseiling/never_listed_000001_000011.mp4": 4,
    "train/abseiling/--3ouPhoy2A_000040_000050.mp4": 4,
}


def film(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A user's own folder of clips and the official lists."""
    folder = tmp_path / "mirror/kinetics400"
    for name, frames in CLIPS.items():
        film(folder / name, frames)
    for name in ("broken_mp4__000007_000017", "repaired__1_000008_000018"):
        (folder / f"train/abseiling/{name}.mp4").write_bytes(b"no moov atom" * 50)
    (folder / "annotations").mkdir()
    for name, text in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        (folder / f"annotations/{name}.csv").write_text(text)
    monkeypatch.setenv("REACTION_MIRROR", str(folder.parent))
    monkeypatch.chdir(tmp_path)
    return folder


def fetch_and_index(**index) -> Path:
    page = "https://example.org"
    archives = [{"name": "train", "page": page}, {"name": "val", "page": page}]
    for name in ("train", "val"):
        lists = {"name": f"{name}.csv", "alternates": [f"annotations/{name}.csv"], "page": page, "into": "lists"}
        archives.append(lists)
    config = {"dataset": "kinetics400", "source": "archives", "mirror": "kinetics400", "archives": archives}
    write_json("videos/config.json", {"config": config, "inputs": {}})
    fetch_dataset("videos")
    config = {"dataset": "kinetics400", "layout": "kinetics400", "classes": None, "splits": ["split1"]}
    config |= {"missing": "allow"} | index
    write_json("index/config.json", {"config": config, "inputs": {"videos": "videos"}})
    build_index("index", threads=2)
    return Path("index")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_users_own_folder(mirror):
    index = fetch_and_index()
    videos = {video.video: video for video in read_index(index)}
    assert {name: video.frames for name, video in videos.items()} == {
        "repaired__1_000008_000018": 6,
        "valvalvalva_000001_000011": 5,
        "Wh0_ever-77_000113_000123": 7,
        "--3ouPhoy2A_000020_000030": 9,
        "aBcDeFgHiJk_000000_000010": 8,
    }
    assert read_classes(index) == ["abseiling", "massaging person's head", "riding a bike"]
    assert videos["aBcDeFgHiJk_000000_000010"].labels == (2,)
    assert videos["aBcDeFgHiJk_000000_000010"].path == "train/riding_a_bike/aBcDeFgHiJk.mp4"
    assert len({video.group for video in videos.values()}) == 5
    assert {video.fps for video in videos.values()} == {25.0}
    assert {video.decoder for video in videos.values()} == {"pyav"}  # counted: decoding them would have chosen decord
    assert [video.video for video in part_videos(index, "split1", "test")] == ["valvalvalva_000001_000011"]


def test_what_is_missing_or_of_no_use_is_told(mirror):
    index = fetch_and_index()
    assert json.loads((index / "official.json").read_text()) == {"split1": {"train": 6, "test": 2}}
    assert len(part_videos(index, "split1", "train")) == 4
    reasons = {Path(row["path"]).name: row["reason"] for row in rows(index / "quarantine.csv")}
    assert reasons.pop("broken_mp4__000007_000017.mp4").startswith("no frame can be decoded")
    assert reasons == {
        "never_listed_000001_000011.mp4": "not in the official list",
        "--3ouPhoy2A_000040_000050.mp4": "not in the official list",
        "repaired__1_000008_000018.mp4": "duplicate of "
        "train/replacement_for_corrupted_k400/repaired__1_000008_000018.mp4",
    }


def test_missing_videos_stop_a_dataset_that_does_not_allow_them(mirror):
    with pytest.raises(DatasetError, match=r"2 of the 8 videos.*\n  -gone_-gone_000005_000015\n  valgonegone_000002"):
        fetch_and_index(missing="error")


def test_archives_in_a_folder_are_unpacked(mirror, tmp_path):
    """One per class and one of many classes, as CVDF's parts are."""
    clips = mirror / "train/riding a bike"
    with zipfile.ZipFile(mirror / "train/riding a bike.zip", "w") as bundle:
        for path in clips.iterdir():
            bundle.write(path, f"riding a bike/{path.name}")
    shutil.rmtree(clips)
    with tarfile.open(mirror / "train/part_17.tar.gz", "w:gz") as tar:
        for path in (mirror / "train").glob("Wh0*.mp4"):
            tar.add(path, f"./{path.name}")
            path.unlink()
    paths = {video.video[:3]: video.path for video in read_index(fetch_and_index())}
    assert paths["--3"] == "train/riding a bike/riding a bike/--3ouPhoy2A_000020_000030.mp4"
    assert paths["Wh0"] == "train/part_17/Wh0_ever-77_000113_000123.mp4"
    assert len(paths) == 5


def test_split2_is_tested_on_the_test_list(mirror):
    official = read_official(mirror, ["split1", "split2"])
    assert official.splits["split2"]["testtesttes_000003_000013"] == "test"
    assert "valvalvalva_000001_000011" not in official.splits["split2"]
    assert {part: list(official.splits["split2"].values()).count(part) for part in ("train", "test")} == {
        "train": 6,
        "test": 1,
    }
    assert len(official.entries) == 9


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("test.csv", "youtube_id,time_start,time_end,split\nx,1,2,test\n", r"test\.csv has no column 'label'"),
        ("test.csv", TEST.replace("riding a bike", "yodel"), r"test\.csv: no training clip is of class 'yodel'"),
        ("train.csv", TRAIN.replace("113", "soon"), r"train\.csv:4: 'soon' and '123' are no seconds"),
    ],
)
def test_lists_that_say_something_else(mirror, name, text, message):
    (mirror / "annotations" / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_official(mirror, ["split2"])


def test_lists_that_are_missing_and_splits_that_there_are_not(mirror):
    (mirror / "annotations/val.csv").rename(mirror / "annotations/kinetics400_validate.csv")
    assert len(read_official(mirror, ["split1"]).entries) == 8
    (mirror / "annotations/test.csv").unlink()
    with pytest.raises(DatasetError, match=r"holds none of test\.csv, kinetics_test\.csv, kinetics400_test\.csv"):
        read_official(mirror, ["split2"])
    with pytest.raises(DatasetError, match="Kinetics-400 has no split3, only split1, split2"):
        read_official(mirror, ["split3"])
