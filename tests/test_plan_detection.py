"""Tables of detections: which artifacts they ask for, and what a changed parameter moves."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from reaction.artifacts import Run
from reaction.params import ParamsError, parse
from reaction.plan import Plan
from reaction.plan_detection import detected, linked, measured, trained
from reaction.specs import detection_drawn, detection_figure_spec, detection_spec, undetectable

SHIPPED = yaml.safe_load(Path("params.yaml").read_text())
SMALL = Run("jhmdb21", "yowo_narrow", 1, 0, "small_boxes", "every_evaluator")


def edited(*path, value):
    values = deepcopy(SHIPPED)
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return Plan(parse(values))


@pytest.fixture(scope="module")
def plan():
    return Plan(parse(SHIPPED))


def folders(plan, run=SMALL):
    made = {"train": trained(plan, run), "detect": detected(plan, run), "evaluate": measured(plan, run)}
    made |= {linker: linked(plan, run, linker) for linker in ("yowo", "act", "road", "multisports")}
    return {name: one.folder for name, one in made.items()}


def moved(plan, changed):
    before, after = folders(plan), folders(changed)
    return {name for name in before if before[name] != after[name]}


def test_a_table_needs_one_training_one_detection_and_a_link_for_each_evaluator_of_tubes(plan):
    rules = [made.rule for made in plan.needed("jhmdb21_detection_small").values()]
    assert sorted(rules) == sorted(
        ["fetch", "index", "frames", "train_detector", "detect", "link", "link", "link", "link", "evaluate"]
    )
    assert {"results/detections/jhmdb21/", "results/models/jhmdb21/"} <= {
        made.folder.rpartition("/")[0] + "/" for made in plan.needed("jhmdb21_detection_small").values()
    }


ALL = {"train", "detect", "evaluate", "yowo", "act", "road", "multisports"}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("detector_schedules", "yowo_scratch", "jitter"), 0.1, ALL),
        (("detection_protocols", "every_evaluator", "least_score"), 0.01, ALL - {"train"}),
        (("detection_protocols", "every_evaluator", "frame_map"), {"act": [0.5]}, {"evaluate"}),
        (("detection_protocols", "every_evaluator", "video_map", "act"), [0.5], {"evaluate"}),
        (("detector_schedules", "yowo_ava", "jitter"), 0.1, set()),
        (("scales", "small_boxes", "every"), 4, ALL),
    ],
)
def test_a_change_moves_what_hangs_below_it(plan, path, value, expected):
    assert moved(plan, edited(*path, value=value)) == expected


def test_the_papers_schedule_trains_late_layers_and_one_from_scratch_all(plan):
    full = trained(plan, Run("jhmdb21", "yowo_16f", 1, 0, "paper", "every_evaluator")).config
    assert (full["trains"], full["weights"]["source"], full["training"]["bn_group"]) == ("late", "file", 6)
    small = trained(plan, Run("jhmdb21", "yowo_16f", 1, 0, "small_boxes", "every_evaluator")).config
    assert (small["trains"], small["weights"]["source"], small["training"]["epochs"]) == ("all", "none", 20)


def test_each_3d_network_starts_from_branches_of_its_own(plan):
    starts = set()
    for name, detector in plan.params.detectors.items():
        if "ucf101_24" in detector.schedules:
            run = Run("ucf101_24", name, 1, 0, "paper", "every_evaluator")
            starts.add((detector.backbone_3d, trained(plan, run).config["weights"]["path"]))
    assert len(starts) == len({backbone for backbone, _ in starts}) == len({path for _, path in starts}) == 8


def test_options_of_parts_that_a_detector_does_not_have_are_no_part_of_it(plan):
    alone = trained(plan, Run("ucf101_24", "yowo_16f_2d", 1, 0, "paper", "every_evaluator")).config["network"]
    joined = trained(plan, Run("ucf101_24", "yowo_16f_2d_3d", 1, 0, "paper", "every_evaluator")).config["network"]
    assert not {"backbone_3d", "attention"} & set(alone)
    assert joined["backbone_3d"] == "resnext101"
    assert "attention" not in joined


def test_actions_of_an_own_label_map_do_not_exclude_each_other():
    mine = SHIPPED["datasets"]["ava"] | {"poses": 0}
    detector = SHIPPED["detectors"]["yowo_narrow"] | {"schedules": {"mine": "yowo_scratch"}}
    values = deepcopy(SHIPPED)
    values["datasets"]["mine"], values["detectors"]["narrow"] = mine, detector
    run = Run("mine", "narrow", 1, 0, "tiny_boxes", "every_ava_evaluator")
    network = trained(Plan(parse(values)), run).config["network"]
    assert (network["several"], network["poses"]) == (True, 0)


def test_ava_is_asked_on_its_key_frames_and_has_no_tubes(plan):
    run = Run("ava", "yowo_32f", 1, 0, "paper", "every_ava_evaluator")
    own = {"frames": 32, "poses": 14, "several": True}
    assert trained(plan, run).config["network"] | own == trained(plan, run).config["network"]
    assert detected(plan, run).config["at"] == "annotated"
    assert set(measured(plan, run).inputs) == {"index", "boxes"}
    assert detection_spec(plan, "ava")["metrics"] == [["frame_map@0.5", ["activitynet", "slowfast", "mmaction2"]]]


def test_tubes_of_ucf101_24_are_trimmed_by_road_alone(plan):
    run = Run("ucf101_24", "yowo_16f", 1, 0, "paper", "every_evaluator")
    assert linked(plan, run, "road").config["untrimmed"] is True
    assert "untrimmed" not in linked(plan, run, "act").config
    assert "untrimmed" not in linked(plan, SMALL, "road").config


def test_a_tables_columns_are_each_metric_with_its_evaluators(plan):
    metrics = dict(detection_spec(plan, "jhmdb21_detection_small")["metrics"])
    assert metrics["frame_map@0.5"] == ["padilla", "act", "gurkirt", "multisports"]
    assert metrics["video_map@0.05"] == ["yowo"]
    assert metrics["video_map@0.5:0.95"] == ["act", "road"]


def test_why_a_row_is_not_comparable(plan):
    table = plan.params.detection_tables["jhmdb21_detection_small"]
    assert undetectable(plan.params, table, "yowo_narrow") == ["scale small_boxes"]
    assert undetectable(plan.params, plan.params.detection_tables["ucf101_24"], "yowo_16f") == []


def test_figures_show_the_first_row_and_read_what_is_made(plan):
    spec, files = (
        detection_figure_spec(plan, "jhmdb21_detection_small"),
        detection_drawn(plan, "jhmdb21_detection_small"),
    )
    assert spec["shown"]["tubes"] == folders(plan)["yowo"]
    assert [one["folders"] for one in spec["methods"]] == [[folders(plan)["evaluate"]]]
    for needed in (f"{spec['shown']['boxes']}/boxes.h5", f"{folders(plan)['train']}/history.csv"):
        assert needed in files


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("detectors", "yowo_16f", "schedules"), {"jhmdb21": "nowhere"}, r"schedules\.jhmdb21: `nowhere` is none of"),
        (("detectors", "yowo_16f", "schedules"), {"hmdb51": "yowo_ava"}, "of layout: `hmdb51` is none of jhmdb21"),
        (("detectors", "tsn"), SHIPPED["detectors"]["yowo_16f"], "there is a method of this name"),
        (("detectors", "yowo_16f", "input"), 100, r"detectors\.yowo_16f\.input: .*multiple of 32"),
        (("detection_tables", "ava", "protocol"), "every_evaluator", "AVA is measured by `ava:`"),
        (("detection_tables", "ucf101_24", "methods"), ["yowo_narrow"], "`ucf101_24` is none of jhmdb21, synthetic"),
        (("detection_tables", "hmdb51"), SHIPPED["detection_tables"]["ava"], "there is a table of this name"),
        (("detection_protocols", "every_ava_evaluator", "frame_map"), {"act": [0.5]}, "`ava:` goes alone"),
        (("detection_protocols", "every_evaluator", "frame_map"), {"act": ["0.5:0.95"]}, "takes single thresholds"),
        (("detectors", "yowo_lfb", "frames"), 16, "write `frames: 1`"),
        (("detection_tables", "jhmdb21_detection", "splits"), [1, 2], "learned from test videos of split 2"),
        (("scales", "small_boxes", "input"), 112, "cells of 32 pixels, not 112"),
        (("scales", "small_boxes", "features"), {"rgb": "rgb-short256-25fps"}, "leave `fps:` out"),
        (("detector_schedules", "yowo_ava", "bn_group"), 1, "greater than or equal to 2"),
    ],
)
def test_what_does_not_go_together_is_named(path, value, message):
    with pytest.raises(ParamsError, match=message):
        edited(*path, value=value)
