"""Boxes of UCF101-24 and of puppet masks, the check that all boxes pass, and indices with boxes."""

import csv
import os
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.io import savemat

from reaction.data.boxes import Boxes, check, read_boxes
from reaction.data.datasets import DatasetError, jhmdb21, ucf101_24
from reaction.data.index import build_index, read_classes, read_index
from reaction.files import sha256, write_json

VIDEOS = ("Diving/v_Diving_g01_c01", "Diving/v_Diving_g02_c01", "Biking/v_Biking_g01_c01")


def annotations(folder: Path, tubes: dict[str, list[tuple[int, list]]]) -> Path:
    """A finalAnnots.mat: by video, tubes as (first frame, from 1; x, y, width, height of each box)."""
    fields = [("num_imgs", object), ("name", object), ("tubes", object)]
    annot = np.zeros((1, len(tubes)), dtype=fields)
    for n, (name, several) in enumerate(tubes.items()):
        own = np.zeros((1, len(several)), dtype=[(field, object) for field in ("ef", "sf", "class", "boxes")])
        for k, (first, boxes) in enumerate(several):
            last = np.uint8(first + len(boxes) - 1)
            own[0, k] = (last, np.uint8(first), np.uint8(1), np.array(boxes, np.uint8))
        annot[0, n] = (np.uint8(9), name, own)
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "finalAnnots.mat", {"annot": annot})
    return folder


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    tubes = {
        VIDEOS[0]: [(2, [[1, 1, 254, 200], [2, 2, 200, 100]]), (1, [[10, 20, 30, 40]])],
        VIDEOS[1]: [(1, [[5, 5, 5, 5]])],
        VIDEOS[2]: [(4, [[100, 100, 220, 140]])],
    }
    folder = annotations(tmp_path / "lists", tubes)
    (folder / "testlist01.txt").write_text("Diving/v_Diving_g02_c01.avi\r\nYoYo/v_YoYo_g01_c01.avi\r\n")
    return folder


def test_ucf101_24_lists(lists):
    official = ucf101_24.read_official(lists, ["split1"])
    assert official.classes == ["Biking", "Diving"]
    assert [(e.video, e.class_name, e.group) for e in official.entries] == [
        ("v_Biking_g01_c01", "Biking", "Biking_g01"),
        ("v_Diving_g01_c01", "Diving", "Diving_g01"),
        ("v_Diving_g02_c01", "Diving", "Diving_g02"),
    ]
    assert Counter(official.splits["split1"].values()) == {"train": 2, "test": 1}
    with pytest.raises(DatasetError, match=r"UCF101-24 has no split2: write `splits: \[split1\]`"):
        ucf101_24.read_official(lists, ["split1", "split2"])


def test_ucf101_24_boxes_are_numbers_too_large_for_their_bytes(lists):
    boxes = ucf101_24.read_boxes(lists, ["Biking", "Diving"])
    assert boxes["v_Biking_g01_c01"].box.tolist() == [[99, 99, 320, 240]], "100 + 220 in a byte is 64"
    one = boxes["v_Diving_g01_c01"]
    assert one.frame.tolist() == [1, 2, 0]
    assert one.tube.tolist() == [0, 0, 1]
    assert one.label.tolist() == [1, 1, 1]
    assert one.box[0].tolist() == [0, 0, 255, 201]
    assert [*ucf101_24.read_boxes(lists, ["Biking"])] == ["v_Biking_g01_c01"]


def test_damaged_annotations_are_named(lists, tmp_path):
    (lists / "testlist01.txt").write_text("".join(f"Diving/v_Diving_g09_c{n}.avi\n" for n in range(5)))
    with pytest.raises(DatasetError, match=r"v_Diving_g09_c0 and 4 more without boxes .* another version"):
        ucf101_24.read_official(lists, ["split1"])
    path = lists / "finalAnnots.mat"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"finalAnnots\.mat is damaged"):
        ucf101_24.read_boxes(lists, ["Diving"])
    with pytest.raises(DatasetError, match=r"holds no finalAnnots\.mat"):
        ucf101_24.read_boxes(tmp_path / "elsewhere", ["Diving"])
    annotations(lists, {VIDEOS[0]: [(1, [[5, 5, 0, 5]])]})
    with pytest.raises(DatasetError, match=r"Diving/v_Diving_g01_c01 has a tube .* or an empty box"):
        ucf101_24.read_boxes(lists, ["Diving"])


def test_puppet_masks_give_the_box_around_all_parts(tmp_path):
    mask = np.zeros((240, 320, 4), np.uint8)
    mask[10:20, 30:50, 0] = 1
    mask[25, 60, 0] = 9  # another part
    mask[239, 319, 2] = 3
    mask[0, 0, 2] = 3
    folder = tmp_path / "puppet_mask/wave/clip_1"
    folder.mkdir(parents=True)
    savemat(folder / "puppet_mask.mat", {"part_mask": mask})
    assert jhmdb21.has_boxes(tmp_path)
    (boxes,) = jhmdb21.read_boxes(tmp_path, ["run", "wave"]).values()
    assert boxes.frame.tolist() == [0, 2], "nobody is seen in the other frames"
    assert boxes.box.tolist() == [[30, 10, 61, 26], [0, 0, 320, 240]]
    assert boxes.label.tolist() == [1, 1]
    assert jhmdb21.read_boxes(tmp_path, ["run"]) == {}
    (folder / "puppet_mask.mat").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"puppet_mask\.mat is damaged"):
        jhmdb21.read_boxes(tmp_path, ["wave"])
    assert not jhmdb21.has_boxes(tmp_path / "elsewhere")


def boxes_of(*corners: tuple[float, ...], label: int = 0) -> Boxes:
    n = len(corners)
    return Boxes(np.arange(n), np.array(corners, np.float32).reshape(n, 4), np.full(n, label), np.zeros(n, int))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (boxes_of((0, 0, 9, 9), (0.5, np.nan, 9, 9)), "clip, frame 1: box 0.5, nan, 9, 9 with label 0 is no box"),
        (boxes_of((0.1, 0.2, 0.5, 0.9)), "frame 0: .* holds fractions: multiply by 320 and 240 pixels"),
        (boxes_of((0, 0, 9, 9), (20, 9, 10, 30)), "frame 1: .* corners swapped"),
        (boxes_of((0, 0, 330, 9)), "outside of its frame, 320 x 240: was it drawn on frames of another size"),
        (boxes_of((-4, 0, 30, 9)), "outside"),
        (boxes_of((0, 0, 30, 250)), "outside"),
        (boxes_of((0, 0, 30, 20), label=3), "label 3 needs a label from 0 to 2: count them from 0"),
    ],
)
def test_boxes_that_cannot_be_right_are_named(boxes, message):
    with pytest.raises(DatasetError, match=message):
        check("clip", boxes, width=320, height=240, classes=3)


def test_right_boxes_pass():
    check("clip", boxes_of((0, 0, 320, 240), (0.5, 0.5, 0.75, 0.75), label=2), width=320, height=240, classes=3)
    check("clip", boxes_of(), width=320, height=240, classes=3)


def film(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((120, 160, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def index(source: Path, layout: str, *, missing: str = "error") -> Path:
    """The folder of an index of what lies under `source`/videos and `source`/lists."""
    files = sorted(path for path in (source / "videos").rglob("*") if path.is_file())
    with open(source / "videos.csv", "w", newline="") as file:
        rows = [(path.relative_to(source / "videos"), path.stat().st_size, sha256(path)) for path in files]
        csv.writer(file).writerows([("path", "bytes", "sha256"), *rows])
    folder = source / "index"
    config = {"dataset": "toy", "layout": layout, "classes": None, "splits": ["split1"], "missing": missing}
    write_json(folder / "config.json", {"config": config, "inputs": {"videos": str(source)}})
    build_index(folder, threads=1)
    return folder


def warnings(folder: Path) -> list[dict[str, str]]:
    with open(folder / "warnings.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_an_index_of_ucf101_24_cuts_and_scales_tubes_and_says_so(lists):
    for name in VIDEOS:
        film(lists.parent / f"videos/UCF-101/{name}.avi", 2)
    folder = index(lists.parent, "ucf101_24")
    boxes = read_boxes(folder / "boxes.h5")
    assert boxes["v_Diving_g01_c01"].box.tolist() == [[0, 0, 127.5, 100.5], [4.5, 9.5, 20, 30]]
    assert len(boxes["v_Biking_g01_c01"]) == 0
    told = [(row["video"], row["warning"]) for row in warnings(folder)]
    assert ("v_Biking_g01_c01", "1 boxes lie behind its last frame (2 frames) and were cut off") in told
    assert ("v_Diving_g02_c01", "boxes were drawn on 320 x 240 pixels and scaled to 160 x 120") in told


def test_an_index_of_a_users_own_annotations_in_avas_form(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/label_map.pbtxt").write_text('item { name: "sit" id: 1 }\nitem { name: "talk" id: 2 }\n')
    (tmp_path / "lists/my_train.csv").write_text("one,1,0,0,0.5,0.5,1\none,1,0,0,0.5,0.5,2\n")
    (tmp_path / "lists/my_test.csv").write_text("two,0,0.5,0,1,1,2\n")
    for name in ("one", "two"):
        film(tmp_path / f"videos/{name}.mp4", 30)
    folder = index(tmp_path, "ava")
    assert [video.labels for video in read_index(folder)] == [(0, 1), (1,)]
    assert read_classes(folder) == ["sit", "talk"]
    boxes = read_boxes(folder / "boxes.h5")
    assert boxes["one"].frame.tolist() == [25, 25]
    assert boxes["one"].label.tolist() == [0, 1]
    assert boxes["one"].tube.tolist() == [0, 0]
    assert boxes["two"].box.tolist() == [[80, 0, 160, 120]]


@pytest.fixture
def mirror() -> Path:
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR names no folder with real data")
    return Path(os.environ["REACTION_MIRROR"])


@pytest.mark.real_data
def test_counts_of_ucf101_24(mirror):
    """3,194 videos, 4,458 tubes, 573,862 boxes; 2,284 of training and 910 of test, by either of the lists."""
    official = ucf101_24.read_official(mirror / "ucf101_24", ["split1"])
    boxes = ucf101_24.read_boxes(mirror / "ucf101_24", official.classes)
    assert (len(official.entries), len(official.classes)) == (3194, 24)
    assert Counter(official.splits["split1"].values()) == {"train": 2284, "test": 910}
    assert (sum(len(set(one.tube.tolist())) for one in boxes.values()), sum(map(len, boxes.values()))) == (
        4458,
        573_862,
    )
    of_ucf101 = mirror / "ucf101/ucfTrainTestlist"
    assert set(ucf101_24._test_videos(of_ucf101, official.classes)) >= set(
        ucf101_24._test_videos(mirror / "ucf101_24", official.classes)
    )
    every = np.concatenate([one.box for one in boxes.values()])
    assert every.min(axis=0)[:2].tolist() == [0, 0]
    assert every.max(axis=0)[2:].tolist() == [320, 240]
    for video, one in boxes.items():
        check(video, one, width=320, height=240, classes=24)


@pytest.mark.real_data
def test_an_index_of_real_clips_of_ucf101_24_has_no_box_behind_a_last_frame(mirror, tmp_path):
    for name, place in (("lists", mirror / "ucf101_24"), ("videos", mirror / "ucf101_24/demo_clips")):
        (tmp_path / name).symlink_to(place)
    (tmp_path / "work").mkdir()
    for name in ("lists", "videos"):
        (tmp_path / "work" / name).symlink_to(tmp_path / name)
    folder = index(tmp_path / "work", "ucf101_24", missing="allow")
    boxes = read_boxes(folder / "boxes.h5")
    assert len(read_index(folder)) == len(boxes) == 9
    assert {row["warning"] for row in warnings(folder)} == {
        "boxes were drawn on 320 x 240 pixels and scaled to 340 x 256"
    }
    assert max(len(set(one.tube.tolist())) for one in boxes.values()) > 1
