import re
from pathlib import Path

import pytest

from reaction.files import write_json, write_text
from reaction.tables.alternation import alternation_figure, read_stages
from reaction.tables.figures import FigureError


@pytest.fixture(autouse=True)
def histories(tmp_path, monkeypatch):
    """A first run of three epochs of 10 s, and one that went on from there: its epochs count on."""
    monkeypatch.chdir(tmp_path)
    for name, first in (("one", 0), ("two", 3)):
        rows = "".join(f"{first + epoch},{2 / (first + epoch + 1)},0.5,0.1,10.0\n" for epoch in range(3))
        write_text(f"models/{name}/history.csv", f"epoch,loss,top1,learning_rate,seconds\n{rows}")
    write_json("maps/provenance-000.json", {"seconds": 100.0})
    write_json("maps/provenance-001.json", {"seconds": 7.5})
    write_json("maps/provenance-002.json", {"seconds": 600})
    write_json("maps/provenance-003.json", {"threads": 1})


def test_epochs_and_seconds_go_on_and_the_maps_are_paid_for():
    stages = [
        {"history": "models/one"},
        {"history": "models/two", "maps": ["maps/provenance-000.json", "maps/provenance-001.json"]},
    ]
    first, second = read_stages(stages)
    assert first.epochs.tolist() == [1, 2, 3]
    assert first.seconds.tolist() == [10, 20, 30]
    assert second.epochs.tolist() == [4, 5, 6]
    assert second.seconds.tolist() == [147.5, 157.5, 167.5]
    assert second.loss.tolist() == pytest.approx([2 / 4, 2 / 5, 2 / 6])


def test_a_way_is_named_once_for_all_its_runs_and_time_has_a_fitting_unit():
    two = {"name": "two-phase/rgb", "stages": [{"history": "models/one"}, {"history": "models/two"}]}
    slow = {"name": "end to end/rgb", "stages": [{"history": "models/one", "maps": ["maps/provenance-002.json"]}]}
    alternation_figure([two, two, slow], Path("ways"))
    said = re.findall(r"<!-- (.*?) -->", Path("ways.svg").read_text())
    assert [text for text in said if "/" in text] == ["two-phase/rgb", "end to end/rgb"]
    assert "minutes, maps included" in said
    alternation_figure([two], Path("ways"))
    assert "<!-- seconds, maps included -->" in Path("ways.svg").read_text()


def test_a_missing_history_or_timing_is_named():
    with pytest.raises(FigureError, match=r"models/none/history\.csv is missing"):
        read_stages([{"history": "models/none"}])
    with pytest.raises(FigureError, match=r"maps/provenance-009\.json is missing"):
        read_stages([{"history": "models/one", "maps": ["maps/provenance-009.json"]}])
    with pytest.raises(FigureError, match=r"maps/provenance-003\.json does not say how many `seconds`"):
        read_stages([{"history": "models/one", "maps": ["maps/provenance-003.json"]}])
