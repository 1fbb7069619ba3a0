"""params.yaml as shipped, and what its reader says of mistakes."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from reaction.params import ParamsError, load, parse

SHIPPED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def values() -> dict:
    return yaml.safe_load(SHIPPED.read_text())


def test_both_yaml_dialects_read_the_same_parameters(values):
    other_dialect = YAML(typ="safe").load(SHIPPED.read_text())
    assert parse(values) == parse(other_dialect)


def test_a_number_that_one_dialect_reads_as_text_is_a_number(values):
    values["methods"]["tsn"]["streams"]["rgb"]["learning_rate"] = "1e-3"
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


def test_flow_features_cannot_be_given_to_the_rgb_stream(values):
    values["scales"]["tiny"]["features"]["rgb"] = "flow-128x96"
    with pytest.raises(ParamsError, match="`flow-128x96` is flow"):
        parse(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("methods", "st_phase1", "init"), "st_attention", r"methods\.st_phase1: .*lead back to it"),
        (("methods", "st_attention", "streams", "flow", "stack"), 5, r"st_attention\.streams\.flow\.stack: must equal"),
        (("methods", "st_attention", "map", "entry"), "multiply", r"st_attention\.map: must equal"),
        (("methods", "st_attention", "attention", "from"), "st_attention", "lead back to it"),
        (("methods", "tsn", "streams", "rgb", "holdout"), 1.0, r"holdout.*less than 1, got 1\.0"),
        (("weights", "imagenet", "sha256"), None, "needs `url:` and `sha256:`"),
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


def test_outside_the_project_the_error_says_where_to_go(tmp_path):
    with pytest.raises(ParamsError, match="root folder"):
        load(tmp_path / "params.yaml")
