"""Pictures of results: the same bytes for the same numbers, drawn without a display."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reaction.files import atomic

DPI = 150
DASHES = {"rgb": "-", "flow": "--"}
FEW, ABREAST = 6, 5  # what one picture can tell apart by colour; of more methods, so many stand beside each other

History = Mapping[str, NDArray]
"""A column of history.csv each, (epochs,)."""

PerClass = Mapping[str, tuple[int, float]]
"""Of a class: videos, and those that were right; where videos have several classes, their average precisions' sum."""


class FigureError(ValueError):
    """A file to be drawn that is missing or broken."""


def confusion_matrix(counts: NDArray, classes: Sequence[str], path: Path) -> None:
    """A PNG of counts (classes, classes): rows true, columns predicted, colour = per cent of the row.

    Counts are printed into the cells up to 25 classes; a class without videos stays blank.
    """
    counts = np.asarray(counts)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (classes, classes)
    side = float(np.clip(0.32 * len(classes) + 2.2, 4, 18))
    figure = Figure(figsize=(side, side * 0.9), layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(classes)), classes, rotation=90)
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(labelsize=8 if len(classes) <= 60 else 5)
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    if len(classes) <= 25:
        _print_counts(axes, counts, share)
    save(figure, path)


def _print_counts(axes: Axes, counts: NDArray, share: NDArray) -> None:
    for row, column in np.argwhere(counts):
        colour = "white" if share[row, column] > 55 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=colour)


def figures(spec: Mapping[str, Any], stem: Path) -> None:
    """Write <stem>_curves and <stem>_per_class, each as .png and .svg.

    `spec` holds `curves` and `per_class`: lists of `name` (`method/stream`) and `folders`, those of its runs or of
    their scores; a run in rounds has a folder for each, one after the other. Raises FigureError naming the key or file
    that is missing or broken.
    """
    if missing := {"curves", "per_class"} - set(spec):
        raise FigureError(f"the specification of {stem} lacks {', '.join(sorted(missing))}")
    curves = {entry["name"]: read_histories(entry["folders"]) for entry in spec["curves"]}
    counts = {entry["name"]: [read_per_class(folder) for folder in entry["folders"]] for entry in spec["per_class"]}
    training_curves(curves, Path(f"{stem}_curves"))
    ranked = any(_is_ranked(folder) for entry in spec["per_class"] for folder in entry["folders"])
    measure = "average precision" if ranked else "accuracy"
    accuracies = {name: pooled(tables) for name, tables in counts.items()}
    class_accuracies(accuracies, Path(f"{stem}_per_class"), measure)


def read_history(folder: Path | str) -> History:
    """The epochs of a run: `epoch` from 0, `loss` and `top1` (a fraction) on the training clips."""
    rows = read_columns(Path(folder) / "history.csv", ("epoch", "loss", "top1"))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def read_histories(folders: Sequence[Path | str]) -> list[History]:
    """The history of every run. A folder whose epochs do not begin at 0 goes on with the run of the folder before.

    Raises FigureError naming the folder whose epochs do not follow on from those before it.
    """
    runs: list[History] = []
    for folder in folders:
        found = read_history(folder)
        if found["epoch"][0] == 0:
            runs.append(found)
        elif runs and runs[-1]["epoch"][-1] + 1 == found["epoch"][0]:
            runs[-1] = {key: np.concatenate([runs[-1][key], found[key]]) for key in found}
        else:
            raise FigureError(
                f"{folder}/history.csv begins at epoch {found['epoch'][0]:.0f}, which goes on from no folder before "
                "it: list a run's rounds in their order."
            )
    return runs


def read_per_class(folder: Path | str) -> PerClass:
    """Of every class, in the order of the official list: how many videos were tested and how many were right."""
    path = Path(folder) / "per_class.csv"
    if _is_ranked(folder):
        rows = read_columns(path, ("class", "n", "ap"))
        return {row["class"]: (int(row["n"]), int(row["n"]) * float(row["ap"] or 0)) for row in rows}
    rows = read_columns(path, ("class", "n", "correct"))
    return {row["class"]: (int(row["n"]), int(row["correct"])) for row in rows}


def _is_ranked(folder: Path | str) -> bool:
    """Whether videos have several classes there, each with an average precision instead of an accuracy."""
    path = Path(folder) / "per_class.csv"
    return path.exists() and path.read_text(encoding="utf-8").startswith("class,n,ap\n")


def read_columns(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, of each what `columns` names. Raises FigureError naming the file."""
    if not path.exists():
        raise FigureError(f"{path} is missing. Make it with the command that its folder's config.json names.")
    with open(path, encoding="utf-8", newline="") as file:
        rows = [{key: row.get(key) for key in columns} for row in csv.DictReader(file)]
    if not rows or any(None in row.values() for row in rows):
        raise FigureError(f"{path} has no rows, or not the columns {', '.join(columns)}. Delete it and run again.")
    return rows


def pooled(tables: Sequence[PerClass]) -> dict[str, float]:
    """The accuracy of every class over all videos of all runs; NaN for a class without videos."""
    videos, correct = Counter(), Counter()
    for name, (n, hits) in (item for table in tables for item in table.items()):
        videos[name] += n
        correct[name] += hits
    return {name: correct[name] / n if n else float("nan") for name, n in videos.items()}


def training_curves(histories: Mapping[str, Sequence[History]], path: Path) -> None:
    """Loss and top-1 on the training clips over epochs, one line per run, as PNG and SVG beside each other.

    `histories` maps `method/stream` to its runs. Runs of one name look alike. Of up to FEW methods each has a colour, a
    stream a dash; of more, each has panels of its own.
    """
    methods = list(dict.fromkeys(name.split("/")[0] for name in histories))
    (_curves_together if len(methods) <= FEW else _curves_apart)(histories, methods, path)


def _curves_together(histories: Mapping[str, Sequence[History]], methods: Sequence[str], path: Path) -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for name, runs in histories.items():
        method, stream = name.split("/")
        look = {"color": f"C{methods.index(method)}", "linestyle": DASHES.get(stream, ":"), "linewidth": 1.1}
        _runs(losses, accuracies, runs, look | {"label": name})
    losses.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    accuracies.set(xlabel="epoch", ylabel="training top-1 (%)", ylim=(0, 102))
    lines = losses.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=min(4, len(methods)), fontsize=8, frameon=False)
    finish(figure, path)


def _curves_apart(histories: Mapping[str, Sequence[History]], methods: Sequence[str], path: Path) -> None:
    """Bands of panels, a method's loss above its top-1; all panels have the same axes."""
    streams = list(dict.fromkeys(name.split("/")[1] for name in histories))
    bands = -(-len(methods) // ABREAST)
    figure = Figure(figsize=(1.9 * ABREAST, 2.6 * bands + 0.5), layout="constrained")
    panels = figure.subplots(2 * bands, ABREAST, sharex=True, squeeze=False)
    for place, method in enumerate(methods):
        band, column = divmod(place, ABREAST)
        losses, accuracies = panels[2 * band : 2 * band + 2, column]
        for stream in streams:
            look = {"color": f"C{streams.index(stream)}", "linestyle": DASHES.get(stream, ":"), "linewidth": 0.9}
            _runs(losses, accuracies, histories.get(f"{method}/{stream}", ()), look | {"label": stream})
        losses.set_title(method, fontsize=8)
    _same_axes(panels, len(methods), max(run["loss"].max() for runs in histories.values() for run in runs))
    drawn = (pair for axes in panels.flat for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    named = {label: line for line, label in drawn}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), fontsize=8, frameon=False)
    finish(figure, path)


def _same_axes(panels: NDArray, methods: int, loss: float) -> None:
    """Limits for all, names at the left and below the last of each column; what is left over of the last band, away."""
    for row, line in enumerate(panels):
        top = row % 2 == 0
        for column, axes in enumerate(line):
            place = row // 2 * ABREAST + column
            axes.set(ylim=(0, 1.03 * loss if top else 102))
            axes.tick_params(labelsize=7, labelleft=column == 0, labelbottom=not top and place + ABREAST >= methods)
            axes.set_visible(place < methods)
            axes.grid(linewidth=0.4, color="#dddddd")
            if not top and place + ABREAST >= methods:
                axes.set_xlabel("epoch", fontsize=8)
        line[0].set_ylabel("training loss" if top else "top-1 (%)", fontsize=8)


def _runs(losses: Axes, accuracies: Axes, runs: Sequence[History], look: Mapping[str, Any]) -> None:
    """A line a run in both; only the first has the name, and one epoch is a point."""
    for number, run in enumerate(runs):
        own = {"label": look["label"] if number == 0 else None, "marker": "o" if len(run["epoch"]) == 1 else None}
        losses.plot(run["epoch"] + 1, run["loss"], **{**look, **own})
        accuracies.plot(run["epoch"] + 1, 100 * run["top1"], **{**look, **own})


def class_accuracies(accuracies: Mapping[str, Mapping[str, float]], path: Path, measure: str = "accuracy") -> None:
    """Accuracy of every class, best first by the first entry, as PNG and SVG: bars, or of many entries a coloured grid.

    `accuracies` maps what is compared to fractions by class, NaN for a class without videos; `measure` names them.
    """
    classes = list(next(iter(accuracies.values())))
    values = {name: np.array([of_class[one] for one in classes]) for name, of_class in accuracies.items()}
    order = np.argsort(np.nan_to_num(next(iter(values.values())), nan=-1), kind="stable")
    sorted_values = {name: 100 * shares[order] for name, shares in values.items()}
    draw = _class_bars if len(accuracies) <= FEW else _class_grid
    draw([classes[one] for one in order], sorted_values, path, measure)


def _class_bars(classes: Sequence[str], values: Mapping[str, NDArray], path: Path, measure: str) -> None:
    """Horizontal bars, the first class lowest, one bar per entry."""
    height = 0.8 / len(values)
    figure = Figure(figsize=(6, 0.26 * len(classes) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    for position, (name, shares) in enumerate(values.items()):
        rows = np.arange(len(classes)) + 0.4 - height * (position + 0.5)
        axes.barh(rows, shares, height, label=name)
    axes.set_yticks(range(len(classes)), classes, fontsize=8)
    axes.set(xlabel=f"{measure} (%)", xlim=(0, 100), ylim=(-0.6, len(classes) - 0.4))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    finish(figure, path)


def _class_grid(classes: Sequence[str], values: Mapping[str, NDArray], path: Path, measure: str) -> None:
    """A column per entry, a row per class, the first lowest; the accuracy in numbers and as colour."""
    shares = np.stack(list(values.values()), axis=1)  # (classes, entries)
    size = (0.34 * shares.shape[1] + 2.6, 0.2 * shares.shape[0] + 2.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto", origin="lower")
    for row, column in np.argwhere(~np.isnan(shares)):
        colour = "white" if shares[row, column] > 55 else "black"
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_yticks(range(len(classes)), classes, fontsize=7.5)
    axes.set_xticks(range(len(values)), list(values), fontsize=7.5, rotation=90)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=f"{measure} (%)", shrink=0.6, aspect=25)
    finish(figure, path)


def finish(figure: Figure, path: Path) -> None:
    """Write the figure as <path>.png and <path>.svg, its axes without lines at the top and right."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".svg"):
        save(figure, Path(f"{path}{suffix}"))


def save(figure: Figure, path: Path) -> None:
    """Write PNG or SVG by the path's suffix, without date, version or random ids in the file."""
    svg = Path(path).suffix == ".svg"
    with matplotlib.rc_context({"svg.hashsalt": "reaction"}), atomic(path) as partial:
        figure.savefig(partial, dpi=DPI, metadata={"Date": None, "Creator": None} if svg else {"Software": None})
