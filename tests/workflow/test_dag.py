"""What the shipped workflow would do at full scale, and what it says when it cannot."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from reaction.artifacts import KINDS
from reaction.params import parse
from reaction.plan import Plan

PARAMS = Path(__file__).parents[2] / "params.yaml"
SHIPPED = yaml.safe_load(PARAMS.read_text())


@pytest.fixture(scope="module")
def shipped(blank, tmp_path_factory):
    """The project with the parameters it is shipped with, at full scale."""
    clone = blank.copy(tmp_path_factory.mktemp("shipped") / "project")
    (clone.folder / "params.yaml").write_text(PARAMS.read_text())
    return clone


def planned(clone, table: str) -> dict[str, int]:
    output = clone.run("snakemake", f"results/tables/{table}.csv", "--dry-run").stdout
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)}


PLAIN = ("synthetic", "hmdb51", "ucf101", "jhmdb21", "jhmdb21_small", "ucf101_5_small")
LONG = (
    "park2019_ablations_small",
    "park2019_table4_1_small",
    "wang2016_ucf101",
    "simonyan2014_ucf101",
)  # like others, and seconds each


@pytest.mark.parametrize("table", PLAIN)
def test_two_streams_of_every_method_split_and_seed_are_planned(shipped, table):
    described = SHIPPED["tables"][table]
    runs = len(described["methods"]) * len(described["splits"]) * len(described["seeds"]) * 2
    plan = planned(shipped, table)
    assert plan["train"] == plan["score"] == runs
    assert plan["fuse"] == runs // 2
    assert plan["frames"] == plan["flow"] == SHIPPED["datasets"][described["dataset"]]["shards"]


@pytest.mark.parametrize(
    "table",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in SHIPPED["tables"] if name not in PLAIN],
)
def test_snakemake_plans_what_the_plan_says(shipped, table):
    needed = Plan(parse(SHIPPED)).needed(table).values()
    jobs = Counter()
    for artifact in needed:
        if artifact.config.get("stored", True):  # frames of videos that are read as they are
            jobs[artifact.rule] += artifact.shards or 1
    plan = planned(shipped, table)
    assert {rule: plan[rule] for rule in jobs} == dict(jobs)
    assert plan["freeze"] == len(needed)


def test_only_a_table_that_asks_for_maps_has_a_table_of_them(shipped):
    for table, described in SHIPPED["tables"].items():
        if table in ("synthetic", "park2019_jhmdb21_small"):
            done = shipped.run("snakemake", f"results/tables/{table}_maps.csv", "--dry-run", check=False)
            assert (done.returncode == 0) == described.get("maps", False), done.stdout


def test_a_command_is_told_the_gpus_that_its_rule_asks_for(shipped):
    """None at a reduced scale, whatever the machine has; flow's is for the profile to give."""
    for table, gpus, flow in (("synthetic", 0, 0), ("jhmdb21", 1, 1)):
        command = ("snakemake", f"results/tables/{table}.csv", "--dry-run", "--printshellcmds")
        output = shipped.run(*command, "--set-resources", f"flow:gpu={flow}").stdout
        told = set(re.findall(r"reaction (\w+) .*--gpus (\d)", output))
        rules = ("train", "gradcam", "attention_net", "attend", "score")
        assert told == {(rule, str(gpus)) for rule in rules} | {("flow", str(flow))}


def test_an_unknown_table_is_refused_with_the_known_ones(shipped):
    done = shipped.run("snakemake", "results/tables/hmdb15.csv", "--dry-run", check=False)
    assert done.returncode != 0
    assert "hmdb51" in done.stdout


def test_a_mistake_in_the_parameters_is_explained_before_anything_runs(blank, tmp_path):
    clone = blank.copy(tmp_path / "project")
    clone.edit("methods", "tsn", "segmants", value=3)
    done = clone.run("snakemake", "--dry-run", check=False)
    assert done.returncode != 0
    assert "methods.tsn.segmants: unknown key" in done.stdout


def test_without_a_network_fetching_says_what_to_do(blank, tmp_path):
    clone = blank.copy(tmp_path / "project")
    (clone.folder / "params.yaml").write_text(PARAMS.read_text())
    for archive in (0, 1):
        clone.edit("datasets", "hmdb51", "archives", archive, "urls", value=["http://127.0.0.1:9/gone.rar"])
    done = clone.run("snakemake", "results/tables/hmdb51.csv", "--retries", "0", "--until", "fetch", check=False)
    assert done.returncode != 0
    assert "downloads/hmdb51/hmdb51_org.rar" in done.stdout, "where to put the archive"
    assert SHIPPED["datasets"]["hmdb51"]["archives"][0]["page"] in done.stdout, "the page to get it from"


def test_the_workflow_is_in_good_condition(blank):
    assert "good condition" in blank.run("snakemake", "--lint").stdout
    blank.run("snakefmt", "--check", "Snakefile", "workflow")


def test_every_kind_of_artifact_is_an_output_of_a_stage():
    """What no stage has, DVC neither stores nor pulls."""
    stages = yaml.safe_load(PARAMS.with_name("dvc.yaml").read_text())["stages"]
    outs = [folder for stage in stages.values() for out in stage["outs"] for folder in out]
    kinds = {f"results/{kind}" for kind in KINDS.values()}
    assert kinds <= set(outs)
    assert kinds <= set(stages["tables"]["deps"])
    targets = PARAMS.with_name("workflow").joinpath("rules/targets.smk").read_text()
    assert all(f'files_of("{kind}")' in targets for kind in KINDS.values())
