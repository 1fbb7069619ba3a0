import os
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from reaction.committed import is_set_back, made_from, record_of, set_back
from reaction.files import read_json, write_json
from reaction.params import load, parse
from reaction.plan import Plan

ROOT = Path(__file__).parents[1]
CURVES = "results/figures/synthetic_curves.svg"


@pytest.fixture
def values(tmp_path, monkeypatch):
    """The shipped parameters, in a folder that has the papers and one table with its record, as git brings them."""
    monkeypatch.chdir(tmp_path)
    shipped = yaml.safe_load((ROOT / "params.yaml").read_text())
    shipped |= {"tables": {name: shipped["tables"][name] for name in ("synthetic", "jhmdb21_small")}}
    shipped |= {"figures": {}, "cost_figures": {}}
    for paper in (ROOT / "workflow/papers").iterdir():
        Path("workflow/papers").mkdir(parents=True, exist_ok=True)
        Path("workflow/papers", paper.name).write_bytes(paper.read_bytes())
    write_json(record_of("synthetic"), made_from(Plan(parse(shipped)), "synthetic"))
    Path(CURVES).parent.mkdir()
    Path(CURVES).touch()
    return shipped


def test_a_table_of_the_present_parameters_keeps_its_time(values):
    assert set_back(Plan(parse(values))) == []
    assert not is_set_back(record_of("synthetic"))
    assert not is_set_back(CURVES)


def changed_seed(values):
    values["tables"]["synthetic"]["seeds"] = [0, 1]


def changed_training(values):
    values["schedules"]["tsn_rgb"]["weight_decay"] = 0.1


def changed_comparison(values):
    values["tables"]["synthetic"]["comparisons"].pop()


@pytest.mark.parametrize("change", [changed_seed, changed_training, changed_comparison])
def test_a_table_of_other_parameters_is_older_than_all_files_and_so_are_its_curves(values, change):
    change(values)
    assert set_back(Plan(parse(values))) == ["synthetic"]
    assert is_set_back(record_of("synthetic"))
    assert is_set_back(CURVES)


def test_parameters_that_are_what_they_were_again_make_it_as_good_as_new(values):
    before = deepcopy(values)
    changed_training(values)
    set_back(Plan(parse(values)))
    assert set_back(Plan(parse(before))) == []
    assert not is_set_back(record_of("synthetic"))
    assert not is_set_back(CURVES)


def test_curves_that_were_not_drawn_again_yet_wait_for_it(values):
    """The table was made, and then something killed the run."""
    now = made_from(Plan(parse(values)), "synthetic")
    write_json(record_of("synthetic"), now | {"results": ""})
    set_back(Plan(parse(values)))
    write_json(record_of("synthetic"), now)
    assert set_back(Plan(parse(values))) == []
    assert is_set_back(CURVES)


def test_what_another_table_asks_for_is_no_change(values):
    values["tables"]["jhmdb21_small"]["seeds"] = [0, 1]
    assert set_back(Plan(parse(values))) == []


def test_a_changed_claim_concerns_the_table_alone(values):
    with Path("workflow/papers/wang2016.yaml").open("a") as paper:
        paper.write("\n")
    assert set_back(Plan(parse(values))) == ["synthetic"]
    assert is_set_back(record_of("synthetic"))
    assert not is_set_back(CURVES)


def test_a_paper_written_later_with_the_same_text_is_no_change(values):
    os.utime("workflow/papers/wang2016.yaml", (2**32, 2**32))
    assert set_back(Plan(parse(values))) == []


def test_every_committed_table_shows_what_params_yaml_asks_for(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan(load())
    committed = [name for name in plan.tables if Path(f"results/tables/{name}.csv").exists()]
    stale = [name for name in committed if read_json(record_of(name)) != made_from(plan, name)]
    assert not stale, "`snakemake` makes them again where their runs are"
