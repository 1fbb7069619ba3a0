"""Snakemake under DVC: every way in which the pair is known to record an old number as new, or to redo days of work."""

import json
import os
import re
import shutil
from collections import Counter

import pytest
import yaml

WEIGHT_DECAY = ("schedules", "tsn_rgb", "weight_decay")
RETRAINED = Counter(train=1, score=1, fuse=1, table=1, figure=1)


def test_the_first_run_makes_everything_once(made_once):
    run = made_once.first_run
    assert run == Counter(
        fetch=1, index=1, frames=2, flow=2, train=6, gradcam=2, attention_net=2, attend=2, score=6, fuse=3,
        table=1, figure=1,
    )  # fmt: skip
    assert "not comparable" in made_once.read("results/tables/synthetic.csv")


def test_a_finished_project_has_nothing_to_do(made):
    assert not made.jobs("snakemake")
    assert not made.jobs("dvc", "repro")


def test_the_report_shows_tables_and_figures(made):
    made.run("snakemake", "--report", "report.html")
    report = made.read("report.html")
    for name in ("synthetic.csv", "synthetic_comparisons.csv", "synthetic_curves.svg", "synthetic_per_class.svg"):
        assert name in report
    assert "on the training clips of every run of synthetic" in report, "the captions"


def test_dvc_shows_our_numbers_and_curves(made):
    numbers = json_of(made.run("dvc", "metrics", "show", "--json").stdout)
    found = numbers[""]["data"]["results/metrics/synthetic.json"]["data"]["synthetic"]
    assert {method: set(streams) for method, streams in found.items()} == {
        method: {"rgb", "flow", "fusion"} for method in ("tsn", "st_phase1", "st_attention")
    }
    file = made.folder / "results/metrics/synthetic.json"
    before = found["tsn"]["rgb"]["top1 on split 1"]
    file.write_text(file.read_text().replace(f'"top1 on split 1": {before}', f'"top1 on split 1": {before + 1}'))
    changed = json_of(made.run("dvc", "metrics", "diff", "--json").stdout)["results/metrics/synthetic.json"]
    assert changed["synthetic.tsn.rgb.top1 on split 1"]["diff"] == 1
    made.run("dvc", "plots", "show")
    pictures = [path.name for path in (made.folder / "dvc_plots/static").iterdir()]
    assert [name for name in pictures if name.endswith("synthetic_curves.svg")], pictures


def json_of(said: str) -> dict:
    """What a command wrote as JSON, whatever it warned of before."""
    return json.JSONDecoder().raw_decode(said[said.index("{") :])[0]


def test_a_changed_parameter_through_dvc(made):
    before = made.read("dvc.lock")
    made.edit(*WEIGHT_DECAY, value=0.1)
    assert made.jobs("dvc", "repro") == RETRAINED
    assert made.read("dvc.lock") != before


def test_a_changed_parameter_in_a_fresh_clone_through_dvc(pulled):
    pulled.edit(*WEIGHT_DECAY, value=0.1)
    assert pulled.jobs("dvc", "repro") == RETRAINED


def test_a_changed_parameter_in_a_fresh_clone_through_snakemake(pulled):
    assert not pulled.jobs("snakemake")
    pulled.edit(*WEIGHT_DECAY, value=0.1)
    assert pulled.jobs("snakemake") == RETRAINED


def test_changed_and_changed_back_remakes_the_table_and_figures_alone(made):
    table = made.read("results/tables/synthetic.csv")
    made.edit(*WEIGHT_DECAY, value=0.1)
    made.jobs("dvc", "repro")
    assert made.read("results/tables/synthetic.csv") != table, "the runs' names are in the table"
    made.edit(*WEIGHT_DECAY, value=0.0005)
    assert made.jobs("dvc", "repro") == Counter(table=1, figure=1)
    assert made.read("results/tables/synthetic.csv") == table


def test_snakemake_first_then_dvc_recomputes_nothing(made):
    made.edit(*WEIGHT_DECAY, value=0.1)
    assert made.jobs("snakemake") == RETRAINED
    assert not made.jobs("dvc", "repro")
    assert "up to date" in made.run("dvc", "status").stdout


def test_an_experiment_records_the_result_of_its_own_parameter(made):
    ran = made.jobs("dvc", "exp", "run", "--set-param", "schedules.tsn_rgb.weight_decay=0.00001")
    assert ran == RETRAINED
    written = yaml.safe_load(made.read("params.yaml"))["schedules"]["tsn_rgb"]["weight_decay"]
    assert float(written) == 0.00001
    assert not made.jobs("snakemake"), "DVC writes 1e-05, which is text to Snakemake's reader"
    header = made.run("dvc", "exp", "show", "--csv").stdout
    assert "synthetic.tsn.fusion.top1 on split 1" in header
    assert "schedules.tsn_rgb.weight_decay" in header


def test_an_experiment_changes_a_schedule_that_a_method_writes_out(made):
    values = yaml.safe_load(made.read("params.yaml"))
    made.edit("methods", "tsn", "streams", "rgb", value=values["schedules"]["tsn_rgb"])
    made.commit("A schedule written out")
    assert not made.jobs("snakemake"), "the same numbers in another place"
    ran = made.jobs("dvc", "exp", "run", "--set-param", "methods.tsn.streams.rgb.weight_decay=0.00001")
    assert ran == RETRAINED


def test_an_experiment_cannot_set_a_number_where_a_schedule_is_named(made):
    done = made.run("dvc", "exp", "run", "--set-param", "methods.tsn.streams.rgb.weight_decay=0.00001", check=False)
    assert done.returncode != 0
    assert yaml.safe_load(made.read("params.yaml"))["methods"]["tsn"]["streams"]["rgb"] == "tsn_rgb"


def test_a_parameter_of_phase_two_reruns_only_phase_two(made):
    made.edit("schedules", "st_attention_flow", "weight_decay", value=0.1)
    assert made.jobs("snakemake") == RETRAINED


def test_another_flow_bound_leaves_rgb_alone(made):
    made.edit("features", "flow-128x96", "bound", value=6.0)
    ran = made.jobs("snakemake")
    assert "frames" not in ran
    assert "index" not in ran
    assert ran["flow"] == 2
    assert ran["train"] == 4, "tsn flow, phase 1 flow, and both nets of phase 2, whose maps or input changed"


def test_a_new_method_is_trained_beside_the_old_ones(made):
    values = yaml.safe_load(made.read("params.yaml"))
    made.edit("methods", "tsn_k2", value=values["methods"]["tsn"] | {"segments": 2})
    made.edit("tables", "synthetic", "methods", value=["tsn", "tsn_k2", "st_phase1", "st_attention"])
    assert made.jobs("dvc", "repro") == Counter(train=2, score=2, fuse=1, table=1, figure=1)


def test_a_changed_claim_retrains_nothing(made):
    claims = made.folder / "workflow/papers/wang2016.yaml"
    claims.write_text(claims.read_text() + "\n")
    assert made.jobs("dvc", "repro") == Counter(table=1)


def test_a_fresh_clone_believes_its_tables_whatever_their_times(made_once, tmp_path):
    clone = made_once.clone(tmp_path / "clone")
    assert not (clone.folder / "results/models").exists()
    for newest in ("workflow/papers/wang2016.yaml", "results/tables/synthetic.csv"):
        os.utime(clone.folder / newest, (2**31, 2**31))
        assert "Nothing to be done" in clone.run("snakemake", "--dry-run").stdout


def test_a_fresh_clone_sees_that_a_parameter_is_another_than_that_of_its_tables(made_once, tmp_path):
    clone = made_once.clone(tmp_path / "clone")
    os.utime(clone.folder / "results/tables/synthetic.csv", (2**31, 2**31))
    clone.edit(*WEIGHT_DECAY, value=0.1)
    for _ in range(2):
        planned = clone.run("snakemake", "--dry-run").stdout
        assert {"train", "table", "figure"} <= set(re.findall(r"^(\w+) +\d+$", planned, flags=re.MULTILINE))
    clone.edit(*WEIGHT_DECAY, value=0.0005)
    assert "Nothing to be done" in clone.run("snakemake", "--dry-run").stdout


@pytest.mark.parametrize("command", [("snakemake",), ("dvc", "repro")])
def test_tables_without_a_word_from_snakemake_are_made_again_when_another_comparison_is_asked_for(made, command):
    shutil.rmtree(made.folder / ".snakemake")
    made.edit("tables", "synthetic", "comparisons", value=[["tsn/fusion", "st_phase1/fusion"]])
    assert made.jobs(*command) == Counter(table=1, figure=1)
    assert "tsn/fusion,st_phase1/fusion" in made.read("results/tables/synthetic_comparisons.csv")
    assert not made.jobs(*command)


def test_a_run_asked_for_by_no_parameter_is_refused_with_a_reason(made):
    done = made.run("snakemake", "results/models/synthetic/tsn-rgb-split1-00000000/model.safetensors", check=False)
    assert done.returncode != 0
    assert "params.yaml asks for no such artifact" in done.stdout


def test_gc_removes_what_is_no_longer_asked_for_and_nothing_else(made):
    made.edit(*WEIGHT_DECAY, value=0.1)
    made.jobs("snakemake")
    assert "3 artifacts" in made.run("reaction", "gc").stdout
    made.run("reaction", "gc", "--delete")
    assert not made.jobs("snakemake")
    assert "unused" not in made.run("reaction", "ls").stdout


def test_the_demo_makes_what_a_committed_table_lacks(made_once, tmp_path):
    clone = made_once.clone(tmp_path / "clone")
    assert (clone.folder / "results/tables/synthetic.csv").exists(), "tables are in git"
    demo = next(line for line in clone.read("Makefile").splitlines() if "results/tables/synthetic.csv --" in line)
    command = demo.strip().removeprefix("$(ACTIVATE) ").split()
    planned = clone.run(*command, "--dry-run").stdout
    assert "train                6" in planned
