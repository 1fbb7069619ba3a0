"""Accuracy against computation: SlowFast's figure 2, and our runs beside it."""

import json
from pathlib import Path

import pytest

from reaction.files import write_json
from reaction.params import load
from reaction.plan import Plan
from reaction.specs import cost_results, cost_spec
from reaction.tables.costs import cost_figure, multiply_adds, ours, published

ROOT = Path(__file__).parents[2]
FIGURE = "feichtenhofer2019_figure2"
PLAN = Plan(load(ROOT / "params.yaml"))


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """As the command gets it, in a folder without results."""
    monkeypatch.chdir(tmp_path)
    told = json.loads(json.dumps(cost_spec(PLAN, FIGURE)))
    return told | {"paper": str(ROOT / told["paper"])}


def row(spec, method, scale):
    return next(one for one in spec["ours"] if (one["method"], one["scale"]) == (method, scale))


def test_the_papers_points_are_of_two_kinds(spec):
    points = {(one.series, one.name): (one.cost, one.value) for one in published(spec)}
    assert points["Slow-only", "4x16, R50"] == (27.3, 72.6)
    assert points["SlowFast", "16x8, R101"] == (213, 78.9)
    assert {one.panel for one in published(spec)} == {"kinetics400"}


def test_the_table_s_rows_are_there_once_each(spec):
    rows = [(one["method"], one["dataset"]) for one in spec["ours"]]
    assert len(rows) == len(set(rows)) == 7
    assert ("slowfast_4x16_r50", "ucf101_5") in rows


@pytest.mark.parametrize(("method", "printed"), [("slow_4x16_r50", 27.3), ("slowfast_4x16_r50", 36.1)])
def test_a_view_costs_what_the_paper_prints(spec, method, printed):
    assert multiply_adds(row(spec, method, "paper")) / 1e9 == pytest.approx(printed, abs=0.05)


def test_without_results_the_paper_s_points_are_drawn(spec):
    assert (ours(spec), cost_results(PLAN, FIGURE)) == ([], [])
    cost_figure(spec, Path("figure"))
    assert Path("figure.png").stat().st_size > 10_000
    text = Path("figure.svg").read_text()
    first = text.count("<path")
    cost_figure(spec, Path("figure"))
    assert Path("figure.svg").read_text() == text  # the same bytes
    assert first > 6


def test_results_of_all_seeds_become_a_point_in_a_panel_of_their_own(spec):
    folders = row(spec, "slowfast_4x16_r50", "small")["folders"]
    for top1, folder in zip((0.5, 0.6), folders, strict=False):
        write_json(f"{folder}/metrics.json", {"top1": top1})
    assert ours(spec) == []  # a seed is missing
    write_json(f"{folders[2]}/metrics.json", {"top1": 0.7})
    (point,) = ours(spec)
    assert (point.panel, point.series, point.name) == ("ucf101_5, scale small", "SlowFast", "4x16_r50")
    assert point.value == pytest.approx(60)
    assert point.spread == pytest.approx((50, 70))
    assert point.cost == pytest.approx(0.585, abs=0.001)
    assert set(cost_results(PLAN, FIGURE)) == {f"{folder}/metrics.json" for folder in folders}
