"""A table of detections from nothing, in the miniature: every job, every evaluator, figures; what a change reruns."""

import csv
import io
import json
from collections import Counter

import h5py
import pytest
import yaml

TABLE, CURVES = "results/tables/synthetic_detection.csv", "results/figures/synthetic_detection_curves.svg"
DETECT = ("snakemake", "--cores", "1", TABLE, CURVES)
EVALUATOR = ("detection_protocols", "every_evaluator")
LINKERS = ("yowo", "act", "road", "multisports")


@pytest.fixture(scope="module")
def detected(blank, tmp_path_factory):
    """The miniature's table of detections and its figures."""
    clone = blank.copy(tmp_path_factory.mktemp("detected") / "project")
    clone.first_run = clone.jobs(*DETECT)
    return clone


def rows(clone):
    return list(csv.DictReader(io.StringIO(clone.read(TABLE))))


def made(clone, pattern):
    (found,) = clone.folder.glob(f"results/{pattern}")
    return found


def test_the_first_run_makes_everything_once(detected):
    assert detected.first_run == Counter(
        fetch=1, index=1, frames=2, train_detector=1, detect=1, link=4, evaluate=1, detection_table=1,
        detection_figures=1,
    )  # fmt: skip


def test_a_row_for_every_metric_and_evaluator(detected):
    protocol = yaml.safe_load(detected.read("params.yaml"))["detection_protocols"]["every_evaluator"]
    asked = {
        (f"{kind}@{threshold}", evaluator)
        for kind in ("frame_map", "video_map")
        for evaluator, thresholds in protocol[kind].items()
        for threshold in thresholds
    }
    values = json.loads(made(detected, "detections/synthetic/map-*/metrics.json").read_text())["values"]
    assert {(metric, evaluator) for metric, of in values.items() for evaluator in of} == asked
    assert all(0 <= value <= 1 for of in values.values() for value in of.values())
    ours = [row for row in rows(detected) if row["ours"]]
    assert len(ours) == len(asked)
    assert {"scale tiny_boxes"} == {row["why"] for row in ours}


def test_boxes_are_of_all_test_videos_and_tubes_lie_in_them(detected):
    with h5py.File(made(detected, "detections/synthetic/boxes-*/boxes.h5")) as file:
        assert len(file["video"]) == 6
        assert len(file["box"]) == len(file["score"]) == file["first"][-1]
        assert file["score"].shape[1] == 6
    tubes = list(detected.folder.glob("results/detections/synthetic/tubes_*/tubes.h5"))
    assert {path.parent.name.split("-")[0] for path in tubes} == {f"tubes_{one}" for one in LINKERS}


def test_the_figures_are_drawn(detected):
    figures = {path.name for path in (detected.folder / "results/figures").glob("synthetic_detection_*")}
    parts = ("curves", "per_class", "errors", "tubes", "outlines")
    assert figures == {f"synthetic_detection_{part}.{kind}" for part in parts for kind in ("svg", "png")} | {
        "synthetic_detection_clips"
    }


def test_a_finished_table_has_nothing_to_do(detected):
    assert not detected.jobs(*DETECT)


def test_another_threshold_measures_again_and_detects_nothing(detected, tmp_path):
    clone = detected.copy(tmp_path / "project")
    clone.edit(*EVALUATOR, "frame_map", "act", value=[0.6])
    assert clone.jobs("snakemake", "--cores", "1", TABLE) == Counter(evaluate=1, detection_table=1)
    assert "frame_map@0.6" in {row["metric"] for row in rows(clone)}


def test_the_report_shows_the_table_and_its_figures(detected, tmp_path):
    clone = detected.copy(tmp_path / "project")
    clone.run("snakemake", TABLE, CURVES, "--report", "report.html")
    report = clone.read("report.html")
    for name in ("synthetic_detection.csv", "synthetic_detection_tubes.svg", "synthetic_detection_errors.svg"):
        assert name in report
    assert "what is annotated" in report, "the captions"
