import csv
from pathlib import Path

import numpy as np
import pytest

from reaction.evaluation.fuse import Predictions, read_predictions
from reaction.files import write_text
from reaction.tables.figures import FigureError
from reaction.tables.gains import class_gains, confused_pairs, confusion_figure, gain_figure, read_confusion

CLASSES = ("hop", "run", "walk")
LABELS = [0, 0, 0, 0, 1, 1, 2, 2, 2]
BEFORE = [0, 1, 1, 1, 1, 0, 2, 2, 2]  # hop 1/4, run 1/2, walk 3/3
AFTER = [0, 0, 0, 1, 1, 0, 2, 2, 1]  # hop 3/4, run 1/2, walk 2/3


def predictions(predicted, labels=LABELS):
    return Predictions(tuple(f"v{k}" for k in range(len(labels))), np.array(labels), np.eye(3)[predicted])


def test_gains_are_sorted_and_a_class_without_change_is_not_taken_for_certain():
    hop, run, walk = class_gains([predictions(BEFORE)], [predictions(AFTER)], CLASSES)
    assert [(one.name, one.n, one.gain) for one in (hop, run, walk)] == [
        ("hop", 4, 0.5),
        ("run", 2, 0.0),
        ("walk", 3, pytest.approx(-1 / 3)),
    ]
    most = 1 - 0.025 ** (1 / 2)
    assert (run.low, run.high) == pytest.approx((-most, most))
    assert (hop.low, hop.high) == (0.0, 1.0), "no gain in 1 of 16 draws, all gain in 1 of 16"


def test_seeds_make_no_videos():
    once = class_gains([predictions(BEFORE)], [predictions(AFTER)], CLASSES)
    assert class_gains([predictions(BEFORE)] * 3, [predictions(AFTER)] * 3, CLASSES) == once
    [hop, *_] = class_gains([predictions(BEFORE)] * 2, [predictions(AFTER), predictions(BEFORE)], CLASSES)
    assert (hop.gain, hop.n) == (0.25, 4)


def test_gains_need_the_same_videos():
    with pytest.raises(FigureError, match="the same videos in the same order"):
        class_gains([predictions(BEFORE)], [predictions(AFTER[:-1], LABELS[:-1])], CLASSES)


def test_pairs_are_counted_and_ordered_from_fixed_to_broken(scored):
    folders = [scored("before", LABELS, BEFORE), scored("after", LABELS, AFTER)]
    (classes, before), (_, after) = map(read_confusion, folders)
    pairs = confused_pairs(before, after, classes)
    assert [(pair.true, pair.predicted, pair.before, pair.after, pair.change, pair.of) for pair in pairs] == [
        ("hop", "run", 3, 1, -2, 4),
        ("walk", "run", 0, 1, 1, 3),
    ], "the run taken for a hop stays one"
    with pytest.raises(FigureError, match="the same runs"):
        confused_pairs(before, 2 * after, classes)


def test_figures_come_from_the_folders_of_all_runs(scored):
    sides = {
        "before": {"name": "plain", "folders": [scored(f"before{k}", LABELS, BEFORE) for k in range(2)]},
        "after": {"name": "attentive", "folders": [scored(f"after{k}", LABELS, AFTER) for k in range(2)]},
    }
    gain_figure(sides, Path("gain"))
    confusion_figure(sides, Path("confusions"))
    with open("confusions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["true"], row["predicted"], row["change"], row["of"]) for row in rows] == [
        ("hop", "run", "-4", "8"),
        ("walk", "run", "2", "6"),
    ]
    said = Path("gain.svg").read_text()
    assert said.index("<!-- walk (3) -->") > said.index("<!-- hop (4) -->")
    assert "<!-- attentive against plain -->" in said
    assert "<!-- rarer with attentive -->" in Path("confusions.svg").read_text()
    assert read_predictions(Path(sides["before"]["folders"][0])).scores.shape == (9, 3)


def test_nothing_changed_is_a_figure_too(scored):
    same = {"name": "same", "folders": [scored("same", LABELS, LABELS)]}
    confusion_figure({"before": same, "after": same}, Path("confusions"))
    assert Path("confusions.csv").read_text() == "true,predicted,before,after,change,of\n"


def test_a_confusion_that_is_no_square_is_refused(tmp_path):
    with pytest.raises(FigureError, match=r"confusion\.csv is missing"):
        read_confusion(tmp_path)
    write_text(tmp_path / "confusion.csv", "true \\ predicted,hop,run\nhop,1,0\n")
    with pytest.raises(FigureError, match="is not a square of classes"):
        read_confusion(tmp_path)
