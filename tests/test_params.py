"""params.yaml as shipped, and what its reader says of mistakes."""

import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from reaction.flow import TVL1, defaults
from reaction.params import LAYERS, ParamsError, load, parse

SHIPPED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def values() -> dict:
    return yaml.safe_load(SHIPPED.read_text())


def test_both_yaml_dialects_read_the_same_parameters(values):
    other_dialect = YAML(typ="safe").load(SHIPPED.read_text())
    assert parse(values) == parse(other_dialect)


def test_a_number_that_one_dialect_reads_as_text_is_a_number(values):
    values["schedules"]["tsn_rgb"]["learning_rate"] = "1e-3"
    assert parse(values).methods["tsn"].streams["rgb"].learning_rate == 0.001


def test_dvc_would_not_drop_a_key(values):
    def keys(node):
        if isinstance(node, dict):
            for key, value in node.items():
                yield key
                yield from keys(value)

    assert not {"size", "nfiles"} & set(keys(values)), "treeverse/dvc#10296"


def test_an_unknown_key_is_named_with_its_path(values):
    values["methods"]["tsn"]["segmants"] = 3
    with pytest.raises(ParamsError, match=r"methods\.tsn\.segmants: unknown key"):
        parse(values)


def test_a_missing_key_is_shown_as_yaml(values):
    del values["methods"]["tsn"]["segments"]
    with pytest.raises(ParamsError, match=r"methods:\n *tsn:\n *segments: \.\.\."):
        parse(values)


def test_a_wrong_type_is_named_with_what_was_found(values):
    values["scales"]["tiny"]["epochs"] = "many"
    with pytest.raises(ParamsError, match=r"scales\.tiny\.epochs.*got 'many'"):
        parse(values)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("reproduce",), ["nothing"]),
        (("tables", "synthetic", "dataset"), "kinetics"),
        (("tables", "synthetic", "methods"), ["tsm"]),
        (("scales", "tiny", "features", "rgb"), "rgb-1x1"),
        (("methods", "st_attention", "init"), "st_phase0"),
        (("methods", "tsn", "weights"), "coco"),
        (("methods", "tsn", "streams", "flow"), "tsn_flwo"),
        (("methods", "st_attention", "attention", "net"), "st_atention"),
        (("tables", "synthetic", "comparisons"), [["tsn/rgb", "tsn/audio"]]),
    ],
)
def test_a_name_that_does_not_exist_lists_those_that_do(values, path, name):
    changed = deepcopy(values)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = name
    with pytest.raises(ParamsError, match="is none of"):
        parse(changed)


def test_a_schedule_and_an_attention_net_may_be_named_or_written_out(values):
    written = deepcopy(values)
    method = written["methods"]["st_attention_7a"]
    method["streams"] = {stream: values["schedules"][f"st_attention_{stream}"] for stream in ("rgb", "flow")}
    method["attention"]["net"] = values["attention_nets"]["st_attention"]
    assert parse(written) == parse(values)
    method["streams"]["rgb"] = method["streams"]["rgb"] | {"batch": 7}
    with_rgb = {name: one.streams["rgb"] for name, one in parse(written).methods.items() if "rgb" in one.streams}
    changed = {name for name, recipe in with_rgb.items() if recipe.batch == 7}
    assert changed == {"st_attention_7a"}


def test_an_unknown_schedule_is_named_with_its_path_and_the_known_ones(values):
    values["methods"]["tsn"]["streams"]["flow"] = "tsn_flwo"
    with pytest.raises(
        ParamsError, match=r"^params\.yaml:\n  methods\.tsn\.streams\.flow: `tsn_flwo` is none of .*tsn_flow"
    ):
        parse(values)


def test_a_mistake_in_a_schedule_is_told_once_and_not_for_every_method(values):
    values["schedules"]["tsn_rgb"]["batch"] = 0
    with pytest.raises(ParamsError) as error:
        parse(values)
    assert str(error.value).startswith("params.yaml:\n  schedules.tsn_rgb.batch: ")
    assert str(error.value).count("greater than 0") == 1
    assert "methods" not in str(error.value)


def test_flow_features_cannot_be_given_to_the_rgb_stream(values):
    values["scales"]["tiny"]["features"]["rgb"] = "flow-128x96"
    with pytest.raises(ParamsError, match="`flow-128x96` is flow"):
        parse(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("methods", "st_phase1", "init"), "st_attention", r"methods\.st_phase1: .*lead back to it"),
        (("schedules", "st_attention_flow", "stack"), 5, r"st_attention\.streams\.flow\.stack: must equal"),
        (("methods", "st_attention", "map", "entry"), "multiply", r"st_attention\.map: must equal"),
        (("methods", "st_attention", "attention", "from"), "st_attention", "lead back to it"),
        (("methods", "st_phase1", "runs"), {"rgb": "st_phase1"}, r"st_phase1: .*`runs:`.*lead back to it"),
        (("methods", "st_attention", "runs"), {"rgb": "st_phase1_longer"}, r"runs\.rgb: .* trains rgb otherwise"),
        (("methods", "st_attention_only_t", "runs", "flow"), "tsn", r"runs\.flow: tsn trains flow otherwise"),
        (("methods", "st_attention", "runs"), {"rgbdiff": "tsn"}, r"runs: `rgbdiff` is none of rgb, flow"),
        (("schedules", "tsn_rgb", "holdout"), 1.0, r"schedules\.tsn_rgb\.holdout.*less than 1, got 1\.0"),
        (("weights", "imagenet", "sha256"), None, "needs `url:` and `sha256:`"),
        (("methods", "two_stream_multitask", "multi_task", "split"), 4, r"multi_task\.split: `4` is none of 1, 2, 3"),
        (("methods", "two_stream_multitask", "multi_task", "datasets"), ["hmdb51", "hmdb51"], "hmdb51 twice"),
        (
            ("methods", "two_stream_multitask", "multi_task", "datasets"),
            ["jhmdb21", "ucf101"],
            "`hmdb51` is none of jhmdb21, ucf101",
        ),
        (("methods", "two_stream_multitask", "multi_task", "streams"), ["rgbdiff"], "`rgbdiff` is none of rgb, flow"),
        (("schedules", "tsn_flow", "jitter"), 0.1, r"tsn.*\.streams\.flow\.jitter: only rgb has colours"),
        (("protocols", "tsn", "fusion", "flow"), 0, r"protocols\.tsn\.fusion\.flow.*greater than 0"),
        (("scales", "tiny", "features"), {"rgb": "rgb-128x96"}, r"scales\.tiny\.features: `flow` is none of rgb"),
        (("tables", "synthetic", "seeds"), [], r"tables\.synthetic\.seeds"),
    ],
)
def test_what_would_fail_after_days_is_refused_at_once(values, path, value, message):
    node = values
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(ParamsError, match=message):
        parse(values)


@pytest.mark.parametrize(
    ("semantics", "changes", "message"),
    [
        ("opencv-cuda", {"median": 5}, r"median is 5.*must be 1"),
        ("opencv-cuda", {"outer_iterations": 10}, r"outer_iterations is 10.*must be 1"),
        ("opencv-cpu", {"median": 4}, r"median is 4; OpenCV filters with 3 or 5"),
        ("opencv5-cpu", {"scale_step": 1.0}, r"scale_step is 1\.0; it must lie between 0 and 1"),
        ("opencv-cuda", {"epsilon": -0.01}, r"epsilon is -0\.01"),
    ],
)
def test_flow_that_nobody_s_code_computes_is_refused_with_the_yaml_to_write(values, semantics, changes, message):
    values["features"]["flow-340x256"]["semantics"] = semantics
    values["features"]["flow-340x256"]["parameters"] |= changes
    with pytest.raises(ParamsError, match=rf"features\.flow-340x256: .*{message}") as error:
        parse(values)
    written = yaml.safe_load(str(error.value).partition("OpenCV's own are\n")[2])
    values["features"]["flow-340x256"] |= written
    assert asdict(defaults(semantics)) == parse(values).features["flow-340x256"].parameters.model_dump()


def test_the_papers_flow_is_opencv_s_cuda_code_with_its_defaults(values):
    described = parse(values).features["flow-340x256"]
    assert described.semantics == "opencv-cuda"
    assert TVL1(**described.parameters.model_dump()) == defaults("opencv-cuda")


def test_unknown_semantics_list_those_that_there_are(values):
    values["features"]["flow-340x256"]["semantics"] = "opencv"
    with pytest.raises(ParamsError, match=r"features\.flow-340x256\.semantics: .*'opencv-cuda', 'opencv-cpu'"):
        parse(values)


def test_reading_parameters_loads_no_heavy_library():
    heavy = "{'torch', 'cv2', 'h5py', 'av', 'matplotlib'}"
    script = f"import sys; from reaction.params import load; load(); print(*sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=SHIPPED.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_outside_the_project_the_error_says_where_to_go(tmp_path):
    with pytest.raises(ParamsError, match="root folder"):
        load(tmp_path / "params.yaml")


def test_layers_are_those_of_the_network():
    from reaction.models import inception_v3

    assert inception_v3.LAYERS == LAYERS


def test_no_block_is_shared():
    """DVC's `exp run --set-param` changes nothing in blocks that share others by anchors, and does not say so."""
    tokens = yaml.scan(Path(__file__).parents[1].joinpath("params.yaml").read_text())
    assert not [token for token in tokens if isinstance(token, yaml.AnchorToken | yaml.AliasToken)]


@pytest.mark.parametrize(
    ("method", "change", "told"),
    [
        ("c3d", {"streams": {"flow": "carreira2017_c3d"}}, r"c3d: `flow` is none of rgb"),
        ("fused3d", {"streams": {"joint": "carreira2017_i3d_rgb"}}, "takes 10 fields"),
        ("slowfast_4x16_r50", {"streams": {"rgb": "carreira2017_lstm"}}, "multiple of alpha, 8, not 25"),
        ("i3d", {"pathways": {"depth": 101}}, "pathways of i3d: `depth` is none of"),
        ("slow_4x16_r50", {"pathways": {"alpha": 4}}, "pathways of slow: `alpha` is none of depth"),
    ],
)
def test_a_network_of_clips_is_given_what_it_takes(values, method, change, told):
    values["methods"][method] |= change
    with pytest.raises(ParamsError, match=told):
        parse(values)


def test_short_sides_hold_the_crop(values):
    values["schedules"]["fast_32"]["short_sides"] = [200, 320]
    with pytest.raises(ParamsError, match="none below 224"):
        parse(values)


def test_only_networks_of_any_length_are_tested_on_longer_clips(values):
    values["tables"]["carreira2017_table3"]["methods"].append("two_stream_joint:clips_i3d")
    with pytest.raises(ParamsError, match="takes no clips of another length"):
        parse(values)


def test_frames_and_the_fields_behind_them_are_of_one_size(values):
    values["methods"]["two_stream_joint"]["features"] = {"rgb": "rgb-128x96"}
    with pytest.raises(ParamsError, match=r"sees rgb-128x96 and .* together; give both one `resize:`"):
        parse(values)


def test_a_transfer_has_its_own_schedule_or_the_methods(values):
    values["transfers"]["short"] = {"trains": "last"}
    values["tables"]["feichtenhofer2019_table2"]["methods"] += ["slowfast_4x16_r50@full_ft", "slowfast_4x16_r50@short"]
    methods = parse(values).methods
    long, short, own = (methods[f"slowfast_4x16_r50{end}"].streams["rgb"] for end in ("@full_ft", "@short", ""))
    assert (long.updates, long.epochs, long.decay, long.warmup_epochs, long.rate_batch) == (
        5000,
        None,
        "steps",
        0,
        None,
    )
    assert short == own.model_copy(update={"trains": "last"})
