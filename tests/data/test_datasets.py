"""Official lists as they are, quirks included, and the door for boxes of another convention."""

import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reaction.data.boxes import Boxes, load_pickle, read_boxes, read_boxes_csv, write_boxes
from reaction.data.datasets import DatasetError, hmdb51, jhmdb21, ucf101

SPLITS = ["split1", "split2", "split3"]


def put(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


@pytest.fixture
def hmdb_lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists/testTrainMulti_7030_splits"
    put(folder / "wave_test_split1.txt", "Film_wave_f_0.avi 1 \nLet's_wave_[now]!&#_wave_f_1.avi 2  \n\n")
    put(
        folder / "kick_ball_test_split1.txt",
        "Film_kick_ball_f_0.avi 0 \nBj\N{LATIN SMALL LETTER O WITH DIAERESIS}rn_kick_ball_u_0.avi 1\n",
    )
    put(folder / "kick_test_split1.txt", "A_kick_in_time_kick_f_0.avi 2 ")
    put(folder / "class_list.txt", "kick_ball  \nkick\nwave")
    return tmp_path / "lists"


def test_hmdb51_lists(hmdb_lists):
    official = hmdb51.read_official(hmdb_lists, ["split1"])
    assert official.classes == ["kick", "kick_ball", "wave"]
    assert official.splits["split1"] == {
        "A_kick_in_time_kick_f_0": "test",
        "Bj\N{LATIN SMALL LETTER O WITH DIAERESIS}rn_kick_ball_u_0": "train",
        "Film_kick_ball_f_0": "unused",
        "Film_wave_f_0": "train",
        "Let's_wave_[now]!&#_wave_f_1": "test",
    }
    groups = {entry.video: (entry.class_name, entry.group) for entry in official.entries}
    assert groups["A_kick_in_time_kick_f_0"] == ("kick", "A_kick_in_time"), "the class's last occurrence ends the title"
    assert groups["Let's_wave_[now]!&#_wave_f_1"] == ("wave", "Let's_wave_[now]!&#")
    assert groups["Film_wave_f_0"][1] == groups["Film_kick_ball_f_0"][1], "one film, two classes, one group"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dive_test_split1.txt", "Film_wave_f_0.avi 1\n", "lists Film_wave_f_0 again, already listed in dive"),
        ("dive_test_split1.txt", "Film_dive_f_0.avi 3\n", r"dive_test_split1\.txt:1: expected"),
        ("dive_test_split1.txt", "Film_dive_f_0.avi\n", r"dive_test_split1\.txt:1: expected"),
        ("dive_test_split1.txt", "Film_run_f_0.avi 1\n", "does not contain its class dive"),
        ("dive_test_split2.txt", "Film_dive_f_0.avi 1\n", "class kick has no list for split2|class dive has no list"),
    ],
)
def test_hmdb51_lists_that_cannot_be(hmdb_lists, name, text, message):
    put(hmdb_lists / name, text)
    splits = ["split1", "split2"] if "split2" in name else ["split1"]
    with pytest.raises(DatasetError, match=message):
        hmdb51.read_official(hmdb_lists, splits)


def test_what_macos_packs_beside_the_lists_is_no_class(hmdb_lists):
    put(hmdb_lists / "__MACOSX/testTrainMulti_7030_splits/._wave_test_split1.txt", "\0\5\x16\7", "latin1")
    assert hmdb51.read_official(hmdb_lists, ["split1"]).classes == ["kick", "kick_ball", "wave"]


def test_hmdb51_lists_that_are_missing(tmp_path):
    with pytest.raises(DatasetError, match=r"no <class>_test_split1\.txt: fetch"):
        hmdb51.read_official(tmp_path, ["split1"])


@pytest.fixture
def ucf_lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists/ucfTrainTestlist"
    put(folder / "classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n10 Archery\r\n")
    put(folder / "trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n")
    pushups = "HandstandPushups/v_HandStandPushups_g01_c0{}.avi\r\n"
    put(folder / "testlist01.txt", pushups.format(2) + pushups.format(1) + "archery/v_Archery_g01_c01.avi\r\n")
    return tmp_path / "lists"


def test_ucf101_lists(ucf_lists):
    official = ucf101.read_official(ucf_lists, ["split1"])
    assert official.classes == ["ApplyEyeMakeup", "HandstandPushups", "Archery"]
    assert [(entry.video, entry.class_name, entry.group) for entry in official.entries] == [
        ("v_ApplyEyeMakeup_g08_c01", "ApplyEyeMakeup", "ApplyEyeMakeup_g08"),
        ("v_HandStandPushups_g01_c01", "HandstandPushups", "HandstandPushups_g01"),
        ("v_HandStandPushups_g01_c02", "HandstandPushups", "HandstandPushups_g01"),
        ("v_Archery_g01_c01", "Archery", "Archery_g01"),
    ]
    assert Counter(official.splits["split1"].values()) == {"train": 1, "test": 3}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Swimming/v_Swimming_g01_c01.avi 1", r"trainlist01\.txt:2: expected '<Class>"),
        ("Archery/v_Archery.avi 1", r"trainlist01\.txt:2: expected '<Class>"),
        ("Archery/v_Archery_g01_c01.avi 3", "split1 lists v_Archery_g01_c01 twice"),
    ],
)
def test_ucf101_lists_that_cannot_be(ucf_lists, line, message):
    with open(next(ucf_lists.rglob("trainlist01.txt")), "a") as file:
        file.write(line)
    with pytest.raises(DatasetError, match=message):
        ucf101.read_official(ucf_lists, ["split1"])


def test_ucf101_classes_that_cannot_be(ucf_lists):
    put(ucf_lists / "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\r\nArchery\r\n")
    with pytest.raises(DatasetError, match=r"classInd\.txt: expected '<number> <Class>', got 'Archery'"):
        ucf101.read_official(ucf_lists, ["split1"])


def test_ucf101_lists_that_are_missing(ucf_lists):
    with pytest.raises(DatasetError, match=r"holds no trainlist02\.txt"):
        ucf101.read_official(ucf_lists, ["split2"])


def jhmdb_pickle(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / jhmdb21.BOX_FILE).write_bytes(pickle.dumps(content, protocol=2))
    return folder


def tube(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_jhmdb_boxes_become_zero_based_and_half_open(tmp_path):
    content = {
        "labels": ["catch", "run", "wave"],
        "gttubes": {
            "wave/Film_wave_f_0": {2: [tube((1, 0, 0, 319, 239), (2, 5, 6, 5, 6)), tube((2, 1, 1, 2, 2))]},
            "catch/Film_catch_f_0": {0: [tube((1, 1, 1, 2, 2))]},
        },
    }
    found = jhmdb21.read_boxes(jhmdb_pickle(tmp_path, content), ["run", "wave"])
    assert list(found) == ["Film_wave_f_0"], "catch is not among the classes kept"
    boxes = found["Film_wave_f_0"]
    assert boxes.frame.tolist() == [0, 1, 1]
    assert boxes.box.tolist() == [[0, 0, 320, 240], [5, 6, 6, 7], [1, 1, 3, 3]]
    assert boxes.label.tolist() == [1, 1, 1]
    assert boxes.tube.tolist() == [0, 0, 1]
    assert (boxes.frame.dtype, boxes.box.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize(
    "content", [{"labels": []}, [1], {"labels": ["a"], "gttubes": {"a/b": {5: [tube((1, 0, 0, 1, 1))]}}}]
)
def test_a_pickle_of_something_else(tmp_path, content):
    with pytest.raises(DatasetError, match=r"JHMDB-GT\.pkl is not the ACT detector's"):
        jhmdb21.read_boxes(jhmdb_pickle(tmp_path, content), ["a"])


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_pickle_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hostile.pkl").write_bytes(pickle.dumps({"labels": Hostile()}))
    with pytest.raises(DatasetError, match=r"hostile\.pkl: it asks for posix\.mkdir; only numpy arrays"):
        load_pickle("hostile.pkl")
    assert not Path("executed").exists()
    Path("hostile.pkl").write_bytes(b"cbuiltins\neval\n(S'1'\ntR.")
    with pytest.raises(DatasetError, match=r"builtins\.eval"):
        load_pickle("hostile.pkl")


def test_arrays_of_every_protocol_are_read_and_damage_is_named(tmp_path):
    content = {"a": np.arange(6.0).reshape(2, 3), "b": np.float64(2.5), "c": {1, 2}, "d": ("x", None)}
    for protocol in (2, 4):
        (tmp_path / "good.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        loaded = load_pickle(tmp_path / "good.pkl")
        np.testing.assert_array_equal(loaded.pop("a"), content["a"])
        assert loaded == {key: content[key] for key in "bcd"}
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "good.pkl").read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"cut\.pkl is damaged"):
        load_pickle(tmp_path / "cut.pkl")


def some_boxes(frames: int, tubes: int) -> Boxes:
    frame = np.tile(np.arange(frames), tubes)
    box = np.random.default_rng(frames).uniform(0, 99, (len(frame), 4)).astype(np.float32)
    return Boxes(frame, box, np.full(len(frame), 3), np.repeat(np.arange(tubes), frames))


def test_boxes_file_round_trip(tmp_path):
    boxes = {
        "b": some_boxes(4, 2),
        "empty": some_boxes(0, 1),
        "a\N{LATIN SMALL LETTER U WITH DIAERESIS}": some_boxes(3, 1),
    }
    write_boxes(tmp_path / "boxes.h5", boxes)
    write_boxes(tmp_path / "again.h5", boxes)
    back = read_boxes(tmp_path / "boxes.h5")
    assert list(back) == list(boxes)
    for video, one in boxes.items():
        for name in ("frame", "box", "label", "tube"):
            np.testing.assert_array_equal(getattr(back[video], name), getattr(one, name))
            assert getattr(back[video], name).dtype == (np.float32 if name == "box" else np.int64)
    assert (tmp_path / "boxes.h5").read_bytes() == (tmp_path / "again.h5").read_bytes()
    write_boxes(tmp_path / "none.h5", {})
    assert read_boxes(tmp_path / "none.h5") == {}


def test_boxes_before_a_frame():
    boxes = some_boxes(4, 2).before(3)
    assert boxes.frame.tolist() == [0, 1, 2, 0, 1, 2]
    assert boxes.tube.tolist() == [0, 0, 0, 1, 1, 1]


def test_boxes_of_csv(tmp_path):
    put(tmp_path / "boxes.csv", "video,frame,x1,y1,x2,y2\na,0,1,2,3.5,4\nb,0,1,1,2,2\na,1,2,3,4.5,5\n")
    boxes = read_boxes_csv(tmp_path / "boxes.csv", {"a": 4})
    assert list(boxes) == ["a"]
    assert boxes["a"].box.tolist() == [[1, 2, 3.5, 4], [2, 3, 4.5, 5]]
    assert boxes["a"].label.tolist() == [4, 4]


@pytest.fixture
def mirror() -> Path:
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR names no folder with real data")
    return Path(os.environ["REACTION_MIRROR"])


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("module", "folder", "classes", "train", "test", "unused"),
    [
        (hmdb51, "hmdb51", 51, (3570, 3570, 3570), (1530, 1530, 1530), 1666),
        (ucf101, "ucf101", 101, (9537, 9586, 9624), (3783, 3734, 3696), 0),
        (jhmdb21, "jhmdb21", 21, (660, 658, 663), (268, 270, 265), 0),
    ],
)
def test_counts_of_the_official_lists(mirror, module, folder, classes, train, test, unused):
    official = module.read_official(mirror / folder, SPLITS)
    parts = [Counter(official.splits[split].values()) for split in SPLITS]
    assert len(official.classes) == classes == len({entry.class_name for entry in official.entries})
    assert tuple(count["train"] for count in parts) == train
    assert tuple(count["test"] for count in parts) == test
    assert all(count["unused"] == unused for count in parts)
    assert len({entry.video.casefold() for entry in official.entries}) == len(official.entries)


@pytest.mark.real_data
def test_ucf101_splits_keep_groups_whole_and_every_class_has_25(mirror):
    official = ucf101.read_official(mirror / "ucf101", SPLITS)
    groups = {entry.video: entry.group for entry in official.entries}
    assert set(Counter(group.rpartition("_")[0] for group in set(groups.values())).values()) == {25}
    for parts in official.splits.values():
        sides = [{groups[video] for video, part in parts.items() if part == side} for side in ("train", "test")]
        assert not sides[0] & sides[1]


@pytest.mark.real_data
def test_labels_of_hmdb51_are_those_of_public_label_maps(mirror):
    folder = mirror / "hmdb51/testTrainMulti_7030_splits"
    official = hmdb51.read_official(folder, ["split1"])
    assert official.classes == (folder / "label_map_mmaction2.txt").read_text().split()
    assert sorted(official.classes) == sorted((folder / "class_list.txt").read_text().split())


@pytest.mark.real_data
def test_jhmdb_tubes(mirror):
    official = jhmdb21.read_official(mirror / "jhmdb21", SPLITS)
    boxes = jhmdb21.read_boxes(mirror / "jhmdb21", official.classes)
    class_of = {entry.video: official.classes.index(entry.class_name) for entry in official.entries}
    assert len(boxes) == 928
    assert all(set(one.tube.tolist()) == {0} for one in boxes.values()), "one tube per video"
    assert sum(map(len, boxes.values())) == 31_852
    assert {video: set(one.label.tolist()) for video, one in boxes.items()} == {v: {k} for v, k in class_of.items()}
    every = np.concatenate([one.box for one in boxes.values()])
    assert every.min(axis=0).tolist()[:2] == [0, 0]
    assert every.max(axis=0).tolist()[2:] == [320, 240], "the last column and row are covered, and no more"
