"""Annotations in AVA's form, and the mistakes that would otherwise cost a whole training."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reaction.data import ava
from reaction.data.datasets import DatasetError
from reaction.data.datasets import ava as layout

NAMES = {1: "bend/bow (at the waist)", 2: "crouch/kneel", 3: "dance"}
MAP = "".join(f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in NAMES.items())
ROWS = """film1,0902,0.1,0.2,0.5,0.8,2,7
film1,0902,0.1,0.2,0.5,0.8,3,7
film1,0903,0.0,0.0,0.25,1.0,1,8
film2,1000,0.5,0.5,1.0,1.0,3,0
"""


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def size(frames: int, fps: float = 30.0) -> SimpleNamespace:
    return SimpleNamespace(frames=frames, fps=fps, width=400, height=200)


@pytest.fixture
def actions(tmp_path: Path) -> ava.Actions:
    return ava.read_actions(put(tmp_path / "ava_train_v2.2.csv", ROWS), NAMES)


def test_key_frames_are_seconds_of_thirty_frames_from_900():
    assert [ava.key_frame(second) for second in (900, 902, 1798)] == [0, 60, 26940]
    assert ava.key_frame(10, fps=23.976, start=0) == 240


def test_both_forms_of_the_official_label_map(tmp_path):
    assert ava.read_label_map(put(tmp_path / "a.pbtxt", MAP)) == NAMES
    other = 'label {\n  name: "stand"\n  label_id: 12\n  label_type: PERSON_MOVEMENT\n}\n'
    assert ava.read_label_map(put(tmp_path / "b.pbtxt", other)) == {12: "stand"}
    for text, message in (
        ("stand 12", "no block such as item"),
        ('item { name: "stand" id: 0 }', "numbered from 1"),
        (MAP + 'item { name: "again" id: 1 }', "a number of its own"),
    ):
        with pytest.raises(DatasetError, match=message):
            ava.read_label_map(put(tmp_path / "c.pbtxt", text))


def test_lines_as_they_are_written(actions):
    assert actions.video.tolist() == ["film1"] * 3 + ["film2"]
    assert actions.second.tolist() == [902, 902, 903, 1000]
    assert actions.action.tolist() == [2, 3, 1, 3]
    assert actions.person.tolist() == [7, 7, 8, 0]
    np.testing.assert_allclose(actions.box[0], [0.1, 0.2, 0.5, 0.8])
    kept = ava.without_excluded(actions, {("film1", 902), ("film9", 903)})
    assert kept.line.tolist() == [3, 4]


MISTAKES = [
    ("video,second,x1,y1,x2,y2,action,person", "'second' is no second; leave out the header"),
    ("f,902,0.1,0.2,0.5", "expected video,second,x1"),
    ("f,902,0.1,0.2,0.5,x,1,0", "'x' is no coordinate"),
    ("f,902,0.1,0.2,0.5,nan,1,0", "that is no box"),
    ("f,902,32,48,160,192,1,0", "fractions of the frame, not pixels"),
    ("f,902,0.5,0.2,0.1,0.8,1,0", "the order is x1, y1, x2, y2"),
    ("f,902,0.1,0.2,0.5,1.3,1,0", "outside of the frame"),
    ("f,902,0.1,0.2,0.5,0.8,0,0", "numbered from 1: add 1 to all"),
    (
        "f,902,0.1,0.2,0.5,0.8,4,0",
        "action 4 is not in the label map, which has 3 from 1 to 3; is it of an",
    ),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
@pytest.mark.parametrize("before", ["", "f,902,0.1,0.2,0.5,0.8,1,0\n"])
def test_a_line_that_cannot_be_right_is_named(tmp_path, line, message, before):
    path = put(tmp_path / "mine.csv", f"{before}{line}\n")
    if before:
        message = message.split(";")[0] if "header" in message else message
    with pytest.raises(DatasetError, match=rf"mine\.csv:{2 if before else 1}: .*{message}"):
        ava.read_actions(path, NAMES)


def test_corners_that_rounding_put_outside_are_cut(tmp_path):
    path = put(tmp_path / "mine.csv", "f,1,-0.004,0,1.001,1,1,0\n")
    boxes = ava.to_boxes(ava.read_actions(path, NAMES), {"f": size(100)}, {1: 0})
    assert boxes["f"].box.tolist() == [[0, 0, 400, 200]]


def test_boxes_on_key_frames_of_films_cut_at_900_and_of_whole_ones(actions):
    labels = {1: 0, 2: 1, 3: 2}
    cut = ava.to_boxes(actions, {"film1": size(27030), "film2": size(30100)}, labels)
    assert cut["film1"].frame.tolist() == [60, 60, 90]
    assert cut["film1"].label.tolist() == [1, 2, 0]
    assert cut["film1"].tube.tolist() == [7, 7, 8]
    np.testing.assert_allclose(cut["film1"].box[:2], [[40, 40, 200, 160]] * 2)
    assert cut["film2"].frame.tolist() == [30000], "a film that holds second 1000 begins at 0"
    whole = ava.to_boxes(actions, {"film1": size(40000, 25.0)}, labels)
    assert whole["film1"].frame.tolist() == [22550, 22550, 22575]
    assert [*whole] == ["film1"], "videos that are not there have no boxes"
    assert ava.to_boxes(actions, {"film1": size(27030)}, {3: 0})["film1"].label.tolist() == [0]


def test_frames_that_a_video_does_not_have_are_named(actions):
    with pytest.raises(DatasetError, match=r"v2\.2\.csv:1: second 902 of film1 is frame 60 counted from second 900,"):
        ava.to_boxes(actions, {"film1": size(60)}, {2: 0})


def test_without_persons_equal_boxes_are_one_actor(tmp_path):
    text = "f,1,0,0,0.5,1,1\nf,1,0,0,0.5,1,2\nf,1,0.5,0,1,1,1\nf,2,0,0,0.5,1,1\n"
    read = ava.read_actions(put(tmp_path / "mine.csv", text), NAMES)
    assert read.person.tolist() == [-1] * 4
    assert ava.to_boxes(read, {"f": size(99)}, {1: 0, 2: 1})["f"].tube.tolist() == [0, 0, 1, 2]


def test_proposals_of_slowfast_and_of_mmaction2_are_the_same(tmp_path):
    lines = "f,0902,0.1,0.2,0.5,0.8,,0.99\nf,0902,0.1,0.2,0.5,0.8,3,0.99\n"
    lines += "f,0902,0.0,0.2,0.5,0.8,,0.5\ng,0903,0,0,1,1,-1,0.7\n"
    listed = ava.read_proposals(put(tmp_path / "boxes.csv", lines))
    arrays = {
        "f,0902": np.array([[0.1, 0.2, 0.5, 0.8, 0.99], [0, 0.2, 0.5, 0.8, 0.5]]),
        "g,0903": np.array([[0, 0, 1, 1, 0.7]]),
    }
    (tmp_path / "boxes.pkl").write_bytes(pickle.dumps(arrays))
    pickled = ava.read_proposals(tmp_path / "boxes.pkl")
    assert [*listed] == [*pickled] == [("f", 902), ("g", 903)]
    for key, boxes in listed.items():
        np.testing.assert_allclose(boxes, pickled[key])
        assert boxes.dtype == pickled[key].dtype == np.float32


def test_damaged_and_hostile_proposals_are_refused(tmp_path):
    path = tmp_path / "boxes.pkl"
    for content, message in (
        ({"f": np.zeros((1, 5))}, r"expected \(N, 5\) under 'video,second', got \(1, 5\) under 'f'"),
        ({"f,0902": np.zeros((1, 7))}, r"got \(1, 7\) under 'f,0902'"),
        ({"f,0902": np.array([[0, 0, 9, 9, 1]])}, "'f,0902', box 0: box 0, 0, 9, 9: corners are fractions"),
        ([1], "holds a list"),
        ({"f,0902": Path("x")}, "asks for pathlib"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DatasetError, match=message):
            ava.read_proposals(path)
    bare = {"f,0902": np.array([[0, 0, 1, 1]])}
    path.write_bytes(pickle.dumps(bare))
    assert ava.read_proposals(path)["f", 902].tolist() == [[0, 0, 1, 1, 1]]


def test_proposals_of_another_part_or_version_are_refused(tmp_path, actions):
    lines = "film1,902,0,0,1,1,,0.9\nfilm1,903,0,0,1,1,,0.9\nfilm2,1000,0,0,1,1,,0.9\n"
    proposals = ava.read_proposals(put(tmp_path / "boxes_v2.2.csv", lines))
    ava.check_proposals(proposals, tmp_path / "boxes_v2.2.csv", actions)
    with pytest.raises(DatasetError, match=r"ava_train_v2\.2\.csv is v2\.2, .*boxes_v2\.1\.csv is v2\.1"):
        ava.check_proposals(proposals, tmp_path / "boxes_v2.1.csv", actions)
    del proposals["film2", 1000]
    with pytest.raises(DatasetError, match=r"boxes for 2 of the 3 seconds .* none for film2 at 1000"):
        ava.check_proposals(proposals, tmp_path / "boxes.csv", actions)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "ava_v2.2"
    put(folder / "ava_train_v2.2.csv", ROWS)
    put(folder / "ava_val_v2.2.csv", "film3,0902,0,0,1,1,1,0\nfilm3,0904,0,0,1,1,1,0\n")
    put(folder / "ava_train_excluded_timestamps_v2.2.csv", "film1,0903\n")
    put(folder / "ava_val_excluded_timestamps_v2.2.csv", "film3,0904\n")
    put(folder / "ava_action_list_v2.2.pbtxt", MAP)
    put(folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt", MAP)
    put(folder / "ava_val_predicted_boxes.csv", "not read")
    return tmp_path


def test_the_official_archive_as_it_unpacks(lists):
    official = layout.read_official(lists, ["split1"])
    assert official.classes == [*NAMES.values()]
    assert [entry.video for entry in official.entries] == ["film1", "film2", "film3"]
    assert (official.entries[0].class_name, *official.entries[0].also) == (NAMES[1], NAMES[2], NAMES[3])
    assert official.splits == {"split1": {"film1": "train", "film2": "train", "film3": "test"}}
    sizes = {video: size(60000) for video in ("film1", "film3")}
    boxes = layout.read_boxes(lists, [NAMES[3], NAMES[1]], sizes)
    assert {video: one.label.tolist() for video, one in boxes.items()} == {"film1": [0], "film3": [1]}
    with pytest.raises(DatasetError, match=r"AVA has no split2: write `splits: \[split1\]`"):
        layout.read_official(lists, ["split1", "split2"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ava_train_v2.1.csv", ROWS, "2 instead of one file of actions for training"),
        ("ava_val_v2.2.csv", ROWS, "film1, which is for train too"),
        ("ava_val_v2.2.csv", None, r"0 instead of one file of actions for test, such as ava_val_v2\.2\.csv$"),
        ("ava_action_list_v2.2.pbtxt", None, "0 instead of one label map"),
    ],
)
def test_lists_that_do_not_belong_together(lists, name, text, message):
    path = lists / "ava_v2.2" / name
    path.unlink(missing_ok=True)
    if text:
        path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        layout.read_official(lists, ["split1"])


def test_a_label_map_of_another_version_is_refused(lists):
    (lists / "ava_v2.2/ava_action_list_v2.2.pbtxt").rename(lists / "ava_action_list_v2.1.pbtxt")
    with pytest.raises(DatasetError, match="have to be of one version"):
        layout.read_official(lists, ["split1"])
