import re
from pathlib import Path

import numpy as np
import pytest

from reaction.files import write_text
from reaction.tables.figures import (
    FigureError,
    confusion_matrix,
    figures,
    pooled,
    read_histories,
    read_history,
    read_per_class,
)


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """Two runs of one stream, one of the other, and the classes of two fusions."""
    monkeypatch.chdir(tmp_path)
    for name in ("rgb0", "rgb1", "flow0"):
        epochs = "".join(f"{epoch},{2 / (epoch + 1)},{epoch / 4},0.1,{name}\n" for epoch in range(4))
        write_text(f"models/{name}/history.csv", f"epoch,loss,top1,learning_rate,seconds\n{epochs}")
    write_text("scores/a/per_class.csv", "class,n,correct,accuracy\nrun,4,1,0.25\nwalk,0,0,\nhop,2,2,1.0\n")
    write_text("scores/b/per_class.csv", "class,n,correct,accuracy\nrun,8,8,1.0\nwalk,0,0,\nhop,2,0,0.0\n")
    return {
        "curves": [
            {"name": "tsn/rgb", "folders": ["models/rgb0", "models/rgb1"]},
            {"name": "tsn/flow", "folders": ["models/flow0"]},
        ],
        "per_class": [{"name": "tsn/fusion", "folders": ["scores/a", "scores/b"]}],
    }


def test_a_history_is_read_as_columns(spec):
    history = read_history("models/rgb0")
    assert history["loss"].tolist() == [2, 1, 2 / 3, 0.5]
    assert history["top1"].tolist() == [0, 0.25, 0.5, 0.75]


def test_rounds_that_go_on_from_each_other_are_one_run(spec):
    for name, epochs in (("round0", (0, 1)), ("round1", (2, 3)), ("round2", (4,))):
        rows = "".join(f"{epoch},{10 - epoch},{epoch / 8}\n" for epoch in epochs)
        write_text(f"models/{name}/history.csv", f"epoch,loss,top1\n{rows}")
    rounds = [f"models/round{number}" for number in range(3)]
    alone, chain, again = read_histories(["models/rgb0", *rounds, *rounds])
    assert alone["loss"].tolist() == [2, 1, 2 / 3, 0.5]
    assert chain["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert chain["loss"].tolist() == again["loss"].tolist() == [10, 9, 8, 7, 6]
    for wrong in (rounds[1:], [rounds[0], rounds[2]], ["models/rgb0", rounds[1]]):
        with pytest.raises(FigureError, match=r"round\d/history\.csv begins at epoch \d, which goes on from no folder"):
            read_histories(wrong)


def test_classes_are_pooled_over_videos_not_over_runs(spec):
    shares = pooled([read_per_class("scores/a"), read_per_class("scores/b")])
    assert shares["run"] == 9 / 12
    assert shares["hop"] == 2 / 4
    assert np.isnan(shares["walk"])


def texts(svg: str) -> list[str]:
    """What an SVG says: text is drawn as paths, with itself as a comment before."""
    return re.findall(r"<!-- (.*?) -->", Path(svg).read_text())


def test_figures_name_every_run_once_and_order_the_classes(spec):
    figures(spec, Path("figures/toy"))
    said = texts("figures/toy_curves.svg")
    assert [text for text in said if "/" in text] == ["tsn/rgb", "tsn/flow"], "two runs, one look and one entry"
    assert Path("figures/toy_curves.svg").read_text().count("clip-path=") == 2 * 3, "loss and top-1 of three runs"
    said = texts("figures/toy_per_class.svg")
    assert [text for text in said if text in ("run", "walk", "hop")] == ["walk", "hop", "run"], "from below"


def test_of_many_methods_each_has_its_own_panels_and_a_column_of_numbers(spec):
    methods = [f"method{number}" for number in range(7)]
    streams = {"method0": ("rgb",)}
    for method in methods:
        for number, stream in enumerate(streams.get(method, ("rgb", "flow"))):
            spec["curves"].append(
                {"name": f"{method}/{stream}", "folders": [f"models/{('rgb0', 'flow0')[number]}"] * 2}
            )
        spec["per_class"].append({"name": f"{method}/fusion", "folders": ["scores/b"]})
    figures(spec, Path("many"))
    said = texts("many_curves.svg")
    assert [said.count(method) for method in ("tsn", *methods)] == [1] * 8
    assert (said.count("rgb"), said.count("flow")) == (1, 1), "one legend, of streams that the first method lacks, too"
    assert said.count("epoch") == 5, "below the last panel of each column"
    paths = re.findall(r'clip-path="[^>]*', Path("many_curves.svg").read_text())
    lines = [sum(colour in path for path in paths) for colour in ("#1f77b4", "#ff7f0e")]
    assert lines == [2 * (2 + 7 * 2), 2 * (1 + 6 * 2)], "loss and top-1 of every run, rgb and flow"
    said = texts("many_per_class.svg")
    assert [text for text in said if text in ("run", "walk", "hop")] == ["walk", "hop", "run"], "from below"
    assert said.count("tsn/fusion") == 1
    assert [said.count(text) for text in ("75", "50")] == [2, 2], "of tsn (run 9 of 12, hop 2 of 4), and the scale"
    assert said.count("100") == 7 + 1, "run, by each of the others, and the scale"


def test_figures_have_the_same_bytes_each_time(spec):
    def draw(folder):
        confusion_matrix(np.array([[3, 1], [0, 0]]), ["walk", "run"], folder / "confusion.png")
        figures(spec, folder / "toy")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = draw(Path("first"))
    assert sorted(first) == ["confusion.png"] + [
        f"toy_{name}.{suffix}" for name in ("curves", "per_class") for suffix in ("png", "svg")
    ]
    assert draw(Path("second")) == first


def test_a_method_with_one_epoch_is_still_seen(spec):
    write_text("models/flow0/history.csv", "epoch,loss,top1\n0,1.0,0.5\n")
    figures(spec, Path("with"))
    assert "<use " in Path("with_curves.svg").read_text()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("models/rgb0/history.csv", "epoch,loss\n0,1\n", r"rgb0/history\.csv has no rows, or not the columns epoch"),
        ("models/rgb0/history.csv", "", "has no rows"),
        ("scores/b/per_class.csv", None, r"scores/b/per_class\.csv is missing"),
    ],
)
def test_errors_name_the_file(spec, file, text, message):
    Path(file).unlink() if text is None else write_text(file, text)
    with pytest.raises(FigureError, match=message):
        figures(spec, Path("toy"))


def test_a_specification_without_its_parts_is_refused(spec):
    with pytest.raises(FigureError, match="toy lacks per_class"):
        figures({"curves": []}, Path("toy"))
