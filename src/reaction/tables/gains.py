"""What a method changes, class by class and mistake by mistake, against another one on the same videos."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reaction.evaluation import statistics
from reaction.evaluation.classification import label_ranks
from reaction.evaluation.fuse import Predictions, read_predictions
from reaction.files import write_text
from reaction.tables.figures import FigureError, finish, read_per_class

BETTER, WORSE, NEITHER = "#0072b2", "#d55e00", "#999999"  # told apart by the colour-blind, too


@dataclass(frozen=True)
class Gain:
    """Accuracy after - before on one class's n videos, a fraction, with its 95 % interval over these videos."""

    name: str
    n: int
    gain: float
    low: float
    high: float


def class_gains(before: Sequence[Predictions], after: Sequence[Predictions], classes: Sequence[str]) -> list[Gain]:
    """The gain of every class that has videos, the largest first; both sides list the same runs in the same order.

    A video's own difference is the mean over its runs, so that seeds make no videos. The interval is a bootstrap over
    the class's videos, or what `statistics.unanimous` allows where all of them show the same difference.
    """
    differences: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one, other in zip(before, after, strict=True):
        if one.videos != other.videos or (one.labels != other.labels).any():
            raise FigureError("a gain needs runs of the same videos in the same order on both sides")
        changed = _hits(other) - _hits(one)  # (n,) of -1, 0, 1
        for video, label, change in zip(one.videos, one.labels, changed, strict=True):
            differences[int(label)][video].append(float(change))
    gains = [
        _gain(classes[label], np.array([np.mean(found) for found in of_class.values()]))
        for label, of_class in sorted(differences.items())
    ]
    return sorted(gains, key=lambda one: -one.gain)


def _hits(predictions: Predictions) -> NDArray:
    return (label_ranks(predictions.scores, predictions.labels) == 0).astype(np.int64)


def _gain(name: str, differences: NDArray) -> Gain:
    n, gain = len(differences), float(differences.mean())
    if np.ptp(differences) == 0:
        return Gain(name, n, gain, *statistics.unanimous(gain, n))
    return Gain(name, n, gain, *statistics.bootstrap(statistics.accuracy(differences), n))


def gain_figure(spec: Mapping[str, Any], path: Path) -> None:
    """<path>.png and .svg; `spec`: `before` and `after`, each a `name` and the `folders` of its scores, run by run."""
    sides = [[read_predictions(Path(folder)) for folder in spec[side]["folders"]] for side in ("before", "after")]
    classes = list(read_per_class(spec["before"]["folders"][0]))
    gain_bars(class_gains(*sides, classes), f"{spec['after']['name']} against {spec['before']['name']}", path)


def gain_bars(gains: Sequence[Gain], title: str, path: Path) -> None:
    """A bar a class, the largest gain on top, with its interval; coloured where the interval leaves zero out."""
    rows = np.arange(len(gains))[::-1]
    values = 100 * np.array([one.gain for one in gains])
    ends = 100 * np.array([(one.low, one.high) for one in gains]).T  # (2, classes)
    colours = [BETTER if one.low > 0 else WORSE if one.high < 0 else NEITHER for one in gains]
    figure = Figure(figsize=(6, 0.21 * len(gains) + 1.3), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(rows, values, 0.72, color=colours)
    whiskers = np.maximum(0, np.abs(ends - values))  # a bootstrap's ends may round to the wrong side of a bar's
    axes.errorbar(values, rows, xerr=whiskers, fmt="none", ecolor="black", elinewidth=0.8, capsize=1.8)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(rows, [f"{one.name} ({one.n})" for one in gains], fontsize=7.5)
    axes.set(xlabel="gain in accuracy (points)", ylim=(-0.7, len(gains) - 0.3))
    axes.grid(axis="x", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9)
    finish(figure, path)


@dataclass(frozen=True)
class Pair:
    """How often videos of one class were taken for another, over all runs; `of` counts the class's videos."""

    true: str
    predicted: str
    before: int
    after: int
    of: int

    @property
    def change(self) -> int:
        return self.after - self.before


def read_confusion(folder: Path | str) -> tuple[list[str], NDArray]:
    """The classes and the counts (classes, classes) of a scores folder's confusion.csv: row true, column predicted."""
    path = Path(folder) / "confusion.csv"
    if not path.exists():
        raise FigureError(f"{path} is missing. Make it with the command that its folder's config.json names.")
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    if [row[0] for row in rows] != header[1:] or any(len(row) != len(header) for row in rows):
        raise FigureError(f"{path} is not a square of classes. Delete it and run again.")
    return header[1:], np.array([[int(count) for count in row[1:]] for row in rows])


def confused_pairs(before: NDArray, after: NDArray, classes: Sequence[str]) -> list[Pair]:
    """The mistakes whose number differs, those that became rarest first, from counts (classes, classes)."""
    if before.shape != after.shape or (before.sum(axis=1) != after.sum(axis=1)).any():
        raise FigureError("confusions to compare need the same runs on the same videos on both sides")
    places = [(row, column) for row, column in np.argwhere(before != after) if row != column]
    pairs = [
        Pair(classes[row], classes[column], int(before[row, column]), int(after[row, column]), int(before[row].sum()))
        for row, column in places
    ]
    return sorted(pairs, key=lambda pair: (pair.change, -pair.before, pair.true, pair.predicted))


def confusion_figure(spec: Mapping[str, Any], path: Path) -> None:
    """<path>.csv with every mistake that changed, and <path>.png and .svg with the `most` (10) on either side.

    `spec`: `before` and `after`, each a `name` and the `folders` of its scores; perhaps `most`.
    """
    found = {side: [read_confusion(folder) for folder in spec[side]["folders"]] for side in ("before", "after")}
    classes = found["before"][0][0]
    if any(names != classes for side in found.values() for names, _ in side):
        raise FigureError(f"confusions to compare list other classes than {spec['before']['folders'][0]}")
    counts = {side: sum(one for _, one in tables) for side, tables in found.items()}
    pairs = confused_pairs(counts["before"], counts["after"], classes)
    write_pairs(pairs, Path(f"{path}.csv"))
    confusion_bars(pairs, (spec["before"]["name"], spec["after"]["name"]), path, most=spec.get("most", 10))


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """A CSV file: true, predicted, before, after, change, of."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("true", "predicted", "before", "after", "change", "of"))
    writer.writerows((pair.true, pair.predicted, pair.before, pair.after, pair.change, pair.of) for pair in pairs)
    write_text(path, text.getvalue())


def confusion_bars(pairs: Sequence[Pair], names: tuple[str, str], path: Path, *, most: int = 10) -> None:
    """The `most` mistakes that `names[1]` makes less often than `names[0]`, and those that it makes more often."""
    fixed = [pair for pair in pairs if pair.change < 0][:most]
    broken = sorted((pair for pair in pairs if pair.change > 0), key=lambda pair: (-pair.change, -pair.after))[:most]
    figure = Figure(figsize=(9.5, 0.24 * max(len(fixed), len(broken), 1) + 1.5), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, shown, what, colour in zip(
        panels, (fixed, broken), ("rarer", "more frequent"), (BETTER, WORSE), strict=True
    ):
        _mistakes(axes, shown, colour)
        axes.set_title(f"{what} with {names[1]}", fontsize=9)
        axes.set_ylim(max(len(fixed), len(broken), 1) - 0.4, -0.6)
    figure.supxlabel(f"videos of all runs: {names[0]} (grey), {names[1]} (colour)", fontsize=9)
    finish(figure, path)


def _mistakes(axes: Axes, pairs: Sequence[Pair], colour: str) -> None:
    rows = np.arange(len(pairs))
    axes.barh(rows - 0.2, [pair.before for pair in pairs], 0.38, color="#bbbbbb")
    axes.barh(rows + 0.2, [pair.after for pair in pairs], 0.38, color=colour)
    axes.set_yticks(rows, [f"{pair.true} \N{RIGHTWARDS ARROW} {pair.predicted}" for pair in pairs], fontsize=7.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
