from pathlib import Path

import pytest

from reaction.files import write_text
from reaction.tables.figures import FigureError
from reaction.tables.thesis import thesis_figures

LABELS = [0, 0, 1, 1, 2]


@pytest.fixture
def spec(scored):
    write_text(
        "models/one/history.csv", "epoch,loss,top1,learning_rate,seconds\n0,1.0,0.5,0.1,2.0\n1,0.5,0.6,0.1,2.0\n"
    )
    before = {"name": "plain", "folders": [scored("before", LABELS, [0, 1, 1, 1, 2])]}
    after = {"name": "attentive", "folders": [scored("after", LABELS, [0, 0, 1, 2, 2])]}
    sides = {"before": before, "after": after}
    return {
        "alternation": [{"name": "two-phase/rgb", "stages": [{"history": "models/one"}]}],
        "gain": sides,
        "confusions": sides,
    }


def drawn(spec, folder):
    thesis_figures(spec, Path(folder) / "toy")
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_what_is_asked_for_is_drawn_and_has_the_same_bytes_each_time(spec):
    first = drawn(spec, "first")
    pictures = [f"toy_{part}.{suffix}" for part in spec for suffix in ("png", "svg")]
    assert sorted(first) == sorted([*pictures, "toy_confusions.csv"])
    assert drawn(spec, "second") == first
    assert sorted(drawn({"gain": spec["gain"]}, "third")) == ["toy_gain.png", "toy_gain.svg"]


def test_errors_name_the_part_and_the_key(spec):
    with pytest.raises(FigureError, match="toy has pictures; there are overlay, layers, alternation"):
        thesis_figures({"pictures": {}}, Path("toy"))
    with pytest.raises(FigureError, match="toy lacks 'after' in gain"):
        thesis_figures({"gain": {"before": spec["gain"]["before"]}}, Path("toy"))
