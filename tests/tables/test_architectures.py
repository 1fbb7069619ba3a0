"""Table 1 of Carreira & Zisserman 2017, from what params.yaml would train: against the paper's figures, typed here."""

import json
from pathlib import Path

import pandas as pd
import pytest

from reaction.params import load
from reaction.plan import Plan
from reaction.specs import network_spec
from reaction.tables.architectures import MEASURES, footprint, network_table

ROOT = Path(__file__).parents[2]
PAPER = {  # frames, fields, seconds: training, test
    "convnet_lstm": (25, 0, 5.0, 50, 0, 10.0),
    "c3d": (16, 0, 0.64, 240, 0, 9.6),
    "two_stream_joint": (1, 10, 0.4, 25, 250, 10.0),
    "fused3d": (5, 50, 2.0, 25, 250, 10.0),
    "i3d": (64, 64, 2.56, 250, 250, 10.0),
}
EXACT = {
    "convnet_lstm": 8_954_928,
    "c3d": 79_653_712,
    "two_stream_joint": 12_073_120,
    "fused3d": 39_770_384,
    "i3d": 12_697_264 + 12_675_312,
}


@pytest.fixture(scope="module")
def spec():
    return json.loads(json.dumps(network_spec(Plan(load(ROOT / "params.yaml")), "carreira2017_table1")))


def test_footprints_are_the_papers(spec):
    for row in spec["rows"]:
        assert tuple(footprint(row, 25)[measure] for measure in MEASURES) == PAPER[row["method"]], row["method"]


def test_the_table_has_our_counts_beside_the_papers(spec, tmp_path):
    network_table(spec | {"paper": str(ROOT / spec["paper"])}, tmp_path / "table1.csv")
    table = pd.read_csv(tmp_path / "table1.csv").set_index("method")
    assert table["parameters"].to_dict() == EXACT
    assert set(table["verdict"]) == {"equal"}
    lines = (tmp_path / "table1.md").read_text().splitlines()
    assert any("79,653,712 (79 M)" in line and "0.64" in line for line in lines)


def test_another_clip_is_seen_to_differ(spec, tmp_path):
    changed = json.loads(json.dumps(spec))
    changed["rows"][4]["streams"][0]["network"]["stack"] = 32
    network_table(changed | {"paper": str(ROOT / spec["paper"])}, tmp_path / "table1.csv")
    table = pd.read_csv(tmp_path / "table1.csv").set_index("method")
    assert table["verdict"].to_dict() == dict.fromkeys(EXACT, "equal") | {"i3d": "differs"}
    assert "32 (64)" in (tmp_path / "table1.md").read_text()
