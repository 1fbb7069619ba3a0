"""The thesis's ablations and figures, run for real in the miniature."""

import csv
import io
import re

import pytest
import yaml

pytestmark = pytest.mark.slow

ROWS = ["st_phase1", "st_attention", "st_attention:centre_oracle"]
ABLATIONS = ["st_attention_7abc", "st_end_to_end"]
PARTS = ["overlay", "layers", "alternation", "gain", "confusions", "networks", "networks_attention_net"]


@pytest.fixture(scope="module")
def ablated(blank, tmp_path_factory):
    clone = blank.copy(tmp_path_factory.mktemp("ablated") / "project")
    file = clone.folder / "params.yaml"
    values = yaml.safe_load(file.read_text())
    values["scales"]["tiny"] |= {"epochs": 2, "steps": [2]}
    values["methods"]["st_end_to_end"]["alternation"] = {"epochs_per_round": 1}
    table = values["tables"]["synthetic"] | {"methods": ROWS + ABLATIONS, "maps": True}
    values["tables"]["synthetic"] = table | {"comparisons": [["st_attention/fusion", "st_phase1/fusion"]]}
    shown = {"video": "", "frame": 3, "title": "a video"}
    values["figures"] = {
        "small": {
            "table": "synthetic",
            "before": "st_phase1",
            "after": "st_attention",
            "layers": ["st_attention_7abc", "st_attention"],
            "end_to_end": "st_end_to_end",
            "shown": [shown],
        }
    }
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    clone.run("snakemake", "--cores", "2", "--until", "index")
    split = next(clone.folder.glob("results/data/synthetic/index-*/splits/split1.csv"))
    parts = csv.DictReader(io.StringIO(split.read_text()))
    shown["video"] = next(row["video"] for row in parts if row["part"] == "test")
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    clone.ran = clone.jobs("snakemake", "--cores", "2", "results/tables/synthetic.csv")
    return clone


def test_every_ablation_gets_its_rows_and_only_the_oracle_is_called_one(ablated):
    rows = list(csv.DictReader(io.StringIO(ablated.read("results/tables/synthetic.csv"))))
    assert {row["method"] for row in rows} == {*ROWS, *ABLATIONS}
    assert all(row["ours"] for row in rows)
    assert {row["method"] for row in rows if "oracle" in row["why"]} == {"st_attention:centre_oracle"}


def test_a_row_with_another_protocol_trains_nothing(ablated):
    """Two streams of four methods, of which the alternation has two rounds; the third row is the second's method."""
    assert ablated.ran["train"] == 2 * 3 + 2 * 2


def test_maps_are_set_against_what_they_imitate(ablated):
    maps = list(csv.DictReader(io.StringIO(ablated.read("results/tables/synthetic_maps.csv"))))
    assert {(row["method"], row["stream"]) for row in maps} >= {("st_attention", "rgb"), ("st_attention", "flow")}
    assert {row["part"] for row in maps} == {"test", "heldout"}
    assert all(float(row["entropy_floor"]) <= float(row["bce"]) for row in maps)


def test_figures_are_drawn(ablated):
    ablated.run("snakemake", "--cores", "2", "results/figures/small_overlay.svg")
    for part in PARTS:
        for suffix in ("svg", "png"):
            assert (ablated.folder / f"results/figures/small_{part}.{suffix}").stat().st_size > 1000


def test_another_layer_recomputes_maps_attention_nets_and_phase_two_only(ablated, tmp_path):
    clone = ablated.copy(tmp_path / "project")
    methods = yaml.safe_load(clone.read("params.yaml"))["methods"]
    own = {name: method for name, method in methods.items() if "runs" not in method}  # others want it as it is
    clone.edit("methods", value=own)
    clone.edit("tables", "synthetic", "methods", value=["st_phase1", "st_attention"])
    clone.edit("figures", value={})
    clone.edit("methods", "st_attention", "attention", "layers", value=["Mixed_7b"])
    planned = clone.run("snakemake", "--dry-run", "results/tables/synthetic.csv").stdout
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", planned, flags=re.MULTILINE)}
    del jobs["freeze"], jobs["total"]
    shards = 1  # `map_shards` of the scale
    assert jobs == {
        "gradcam": 2 * 2 * shards,  # of the training videos, and of the test videos that maps are measured on
        "attention_net": 2,
        "attend": 2 * shards,
        "agree": 2,
        "train": 2,
        "score": 2,
        "fuse": 1,
        "table_with_maps": 1,
    }
