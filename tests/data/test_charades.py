"""Charades in miniature: the official lists, videos with several actions, some with none."""

import av
import numpy as np
import pytest

from reaction.data.datasets import DatasetError, Span
from reaction.data.datasets.charades import read_official
from reaction.data.fetch import fetch_dataset
from reaction.data.index import build_index, part_videos, read_classes, read_index, read_spans
from reaction.files import read_json, write_json

HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
TRAIN = HEADER + (
    '46GP8,HR43,Kitchen,6,7,Yes,"One, cooking; then eating.",food,"One; two.",c002 11.90 21.20;c000 0.00 12.60,24.83\n'
    "N11GT,0KZ7,Stairs,6,7,Yes,Nothing.,,Nothing.,,18.33\n"
    "0IH69,6RE8,Bedroom,7,7,Yes,Twice.,bed,Twice.,c001 0.00 3.00;c001 5.00 7.50,30.04\n"
)
TEST = HEADER + "YSKX3,6RE8,Bedroom,6,6,Yes,Asleep.,bed,Asleep.,c001 0.00 31.00;c002 4 9,30.42\n"
CLASSES = "c000 Holding some clothes\nc001 Putting clothes somewhere\nc002 Taking some clothes from somewhere\n"


def film(path, frames=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


@pytest.fixture
def lists(tmp_path):
    folder = tmp_path / "lists/Charades"
    folder.mkdir(parents=True)
    for name, text in (("train.csv", TRAIN), ("test.csv", TEST), ("classes.txt", CLASSES)):
        (folder / f"Charades_v1_{name}").write_text(text)
    return folder


def test_a_video_has_the_classes_of_all_its_actions_and_their_seconds(lists):
    official = read_official(lists.parent, ["split1"])
    assert official.classes == [line[5:] for line in CLASSES.splitlines()]
    cooking, twice, asleep = official.entries
    assert [one.video for one in official.entries] == ["46GP8", "0IH69", "YSKX3"]
    assert (cooking.class_name, cooking.also) == (official.classes[0], (official.classes[2],))
    assert cooking.spans == (Span(official.classes[2], 11.9, 21.2), Span(official.classes[0], 0.0, 12.6))
    assert (twice.class_name, twice.also, len(twice.spans)) == (official.classes[1], (), 2)
    assert twice.group == asleep.group == "6RE8"
    assert official.splits == {"split1": {"46GP8": "train", "0IH69": "train", "YSKX3": "test"}}


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("train.csv", "c002 11.90 21.20", "c003 11.90 21.20", "46GP8 has the action 'c003 11.90 21.20'"),
        ("train.csv", "c002 11.90 21.20", "c002 11.90", "not one of c000 to c002 with its seconds"),
        ("test.csv", "YSKX3", "46GP8", "names 46GP8 a second time"),
        ("test.csv", "actions", "labels", "no column 'actions'"),
        ("classes.txt", "c001 ", "c004 ", "expected c001"),
    ],
)
def test_lists_that_cannot_be_right_are_refused(lists, name, old, new, said):
    path = lists / f"Charades_v1_{name}"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match=said):
        read_official(lists, ["split1"])


def test_a_missing_list_and_a_second_split_are_named(lists):
    with pytest.raises(DatasetError, match="no split2"):
        read_official(lists, ["split1", "split2"])
    (lists / "Charades_v1_classes.txt").unlink()
    with pytest.raises(DatasetError, match="no Charades_v1_classes"):
        read_official(lists, ["split1"])


def test_a_folder_of_videos_becomes_an_index_with_several_labels(lists, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror/charades"
    for video in ("46GP8", "N11GT", "0IH69", "YSKX3"):
        film(mirror / f"Charades_v1_480/{video}.mp4")
    lists.rename(mirror / "Charades")
    monkeypatch.setenv("REACTION_MIRROR", str(mirror.parent))
    monkeypatch.chdir(tmp_path)
    page = "https://example.org"
    archives = [
        {"name": "Charades_v1_480.zip", "alternates": ["Charades_v1_480"], "page": page},
        {"name": "Charades.zip", "alternates": ["Charades"], "page": page, "into": "lists"},
    ]
    config = {"dataset": "charades", "source": "archives", "mirror": "charades", "archives": archives}
    write_json("videos/config.json", {"config": config, "inputs": {}})
    fetch_dataset("videos")
    config = {"dataset": "charades", "layout": "charades", "classes": None, "splits": ["split1"], "missing": "error"}
    write_json("index/config.json", {"config": config, "inputs": {"videos": "videos"}})
    build_index("index")
    assert [(one.video, one.labels) for one in read_index("index")] == [
        ("46GP8", (0, 2)),
        ("0IH69", (1,)),
        ("YSKX3", (1, 2)),
    ]
    assert [one.video for one in part_videos("index", "split1", "test")] == ["YSKX3"]
    assert read_json("index/official.json") == {"split1": {"train": 2, "test": 1}}
    assert len(read_classes("index")) == 3
    assert read_spans("index") == {
        "46GP8": [(2, 11.9, 21.2), (0, 0.0, 12.6)],
        "0IH69": [(1, 0.0, 3.0), (1, 5.0, 7.5)],
        "YSKX3": [(1, 0.0, 31.0), (2, 4.0, 9.0)],
    }
