import csv
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from reaction.cli import main
from reaction.files import write_json
from reaction.models.weights import write_weights
from reaction.training.detecting import ANCHORS, build_detector

NETWORK = {"network": "yowo", "backbone_3d": "shufflenet_2x", "parts": "2d+3d+cfam", "attention": "code"}
NETWORK |= {"width": 0.0625, "input": 64, "frames": 4}


@pytest.fixture
def detector(small_project):
    """A detection run of weights that nobody trained; returns its folder."""

    def make(name="detector", **changes):
        network = NETWORK | changes
        folder = Path(small_project.freeze("train_detector", name, {"network": network}, small_project.features("rgb")))
        torch.manual_seed(0)
        write_weights(folder / "model.safetensors", build_detector(network, classes=2).state_dict())
        write_json(folder / ANCHORS, {"anchors": [[0.5, 0.8]] * 5})
        return folder

    return make


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def facts_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, stream.frames, float(stream.average_rate), (stream.width, stream.height)


def test_a_classification_run_leaves_a_copy_and_a_table_and_says_how_fast(untrained, filmed, moving, capsys):
    run, film = untrained(), filmed(moving(10))
    assert main(["predict", str(film), "--run", str(run), "--out", "seen"]) == 0
    assert sorted(path.name for path in Path("seen").iterdir()) == ["film.csv", "film.mp4"]
    assert facts_of("seen/film.mp4") == ("h264", 10, 4.0, (104, 96))
    rows = rows_of("seen/film.csv")
    assert [(row["start_s"], row["end_s"]) for row in rows[::2]] == [("0", "1"), ("1", "2"), ("2", "2.5")]
    assert {row["class"] for row in rows} == {"left", "right"}
    shares = np.array([float(row["probability"]) for row in rows]).reshape(3, 2)
    assert shares.sum(axis=1) == pytest.approx(1, abs=1e-3)
    assert (shares[:, 0] >= shares[:, 1]).all(), "the best first"
    *whole, files, speed = capsys.readouterr().out.splitlines()
    means = {
        name: np.mean([float(row["probability"]) for row in rows if row["class"] == name]) for name in ("left", "right")
    }
    assert {line.split()[1]: float(line.split()[0]) for line in whole} == pytest.approx(means, abs=1e-3)
    assert files == "10 frames, 2.50 s: seen/film.mp4 (libx264), seen/film.csv"
    assert re.fullmatch(r"frames per second: decode [\d.]+, network [\d.]+, encode [\d.]+; together [\d.]+", speed)


def test_a_detection_run_lists_the_boxes_of_each_frame(detector, filmed, moving, capsys):
    film = filmed(moving(6, 80, 120))
    command = ["predict", str(film), "--run", str(detector()), "--out", "seen"]
    assert main([*command, "--threshold", "0.2"]) == 0
    rows = rows_of("seen/film.csv")
    assert f"{len(rows)} boxes" in capsys.readouterr().out
    assert facts_of("seen/film.mp4") == ("h264", 6, 4.0, (120, 80))
    assert {row["frame"] for row in rows} == {str(frame) for frame in range(6)}
    assert {(row["frame"], row["time_s"]) for row in rows} >= {("0", "0.000"), ("5", "1.250")}
    box = np.array([[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows])
    assert ((box[:, 2:] > box[:, :2]) & (box >= 0).all(axis=1, keepdims=True) & (box[:, 2:] <= [120, 80])).all()
    scores = np.array([float(row["score"]) for row in rows])
    assert (scores >= 0.2).all()
    assert main([*command, "--threshold", str(scores.max() + 0.01)]) == 0
    assert rows_of("seen/film.csv") == []


def test_an_actor_who_does_several_things_has_a_row_for_each(detector, filmed, moving, capsys):
    """Without poses each class is a yes or no: weights that nobody trained say a quarter of both."""
    film, run = filmed(moving(3, 80, 120)), detector("several", several=True, poses=0)
    assert main(["predict", str(film), "--run", str(run), "--out", "seen", "--threshold", "0.2"]) == 0
    rows = rows_of("seen/film.csv")
    actors = {}
    for row in rows:
        actors.setdefault(tuple(row[key] for key in ("frame", "x1", "y1", "x2", "y2")), []).append(row)
    assert f"{len(actors)} boxes" in capsys.readouterr().out
    assert max(map(len, actors.values())) == 2
    assert all(float(row["score"]) >= 0.2 for row in rows)
    for own in actors.values():
        assert len({row["class"] for row in own}) == len(own)
        assert [row["score"] for row in own] == sorted((row["score"] for row in own), reverse=True)


def test_a_broken_video_is_a_warning(untrained, filmed, moving, capsys):
    run, film = untrained(), filmed(moving(60))
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    assert main(["predict", str(film), "--run", str(run)]) == 0
    warning = capsys.readouterr().out.splitlines()[0]
    count = facts_of("predictions/film.mp4")[1]
    assert warning.startswith(f"warning: {film} ends after {count} frames: ")


def test_the_video_itself_is_never_overwritten(untrained, filmed, moving, capsys):
    run, film = untrained(), filmed(moving(3))
    before = film.read_bytes()
    assert main(["predict", str(film), "--run", str(run), "--out", str(film.parent)]) == 1
    assert "film.mp4 is the video itself: give --out another folder" in capsys.readouterr().err
    assert film.read_bytes() == before


def test_names_of_classes_may_come_from_a_file(untrained, small_project, filmed, moving, capsys):
    run, film, names = untrained(), filmed(moving(2)), Path("names.txt")
    Path(small_project.index, "classes.txt").unlink()
    command = ["predict", str(film), "--run", str(run)]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert re.search(r"index-0/classes\.txt is missing.*`reaction index .*index-0`.*--classes", error)
    names.write_text("west\neast\n")
    assert main([*command, "--classes", str(names)]) == 0
    assert {row["class"] for row in rows_of("predictions/film.csv")} == {"west", "east"}
    capsys.readouterr()
    names.write_text("west\neast\nnorth\n")
    assert main([*command, "--classes", str(names)]) == 1
    assert "tells 2 classes apart, and 3 names were given" in capsys.readouterr().err


def test_what_is_no_trained_run_is_told_so(small_project, untrained, filmed, moving, capsys):
    film, scores = filmed(moving(2)), small_project.freeze("score", "scores", {}, {})
    unmade = Path(small_project.run("unmade"))
    asked = {
        "nowhere": "nowhere/config.json is missing: name the folder of a trained run",
        scores: "was made by `score`: name the folder of a trained run",
        str(unmade): "unmade/model.safetensors is missing: `reaction train",
    }
    for run, message in asked.items():
        assert main(["predict", str(film), "--run", run]) == 1
        assert message in capsys.readouterr().err
    assert not Path("predictions").exists()
