"""Pictures of results: the same bytes for the same numbers, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reaction.files import atomic

DPI = 150


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


def training_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Loss and top-1 on the training clips over epochs, one line per run, as PNG and SVG beside each other.

    `histories` maps a run's name to the rows of its history.csv (epoch, loss, top1 as a fraction).
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for name, rows in histories.items():
        epochs = [float(row["epoch"]) for row in rows]
        losses.plot(epochs, [float(row["loss"]) for row in rows], label=name)
        accuracies.plot(epochs, [100 * float(row["top1"]) for row in rows], label=name)
    losses.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    accuracies.set(xlabel="epoch", ylabel="training top-1 (%)", ylim=(0, 102))
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    for axes in (losses, accuracies):
        axes.spines[["top", "right"]].set_visible(False)
    for suffix in (".png", ".svg"):
        save(figure, Path(path).with_suffix(suffix))


def class_accuracies(accuracies: Mapping[str, NDArray], classes: Sequence[str], path: Path) -> None:
    """A PNG of horizontal bars: every class, best first by the first entry, one bar per entry.

    `accuracies` maps what is compared (streams, methods) to fractions (classes,), NaN for a class without videos.
    """
    order = np.argsort(np.nan_to_num(next(iter(accuracies.values())), nan=-1), kind="stable")
    height = 0.8 / len(accuracies)
    figure = Figure(figsize=(6, 0.26 * len(classes) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    for position, (name, values) in enumerate(accuracies.items()):
        rows = np.arange(len(classes)) + 0.4 - height * (position + 0.5)
        axes.barh(rows, 100 * np.asarray(values)[order], height, label=name)
    axes.set_yticks(range(len(classes)), [classes[label] for label in order], fontsize=8)
    axes.set(xlabel="accuracy (%)", xlim=(0, 100), ylim=(-0.6, len(classes) - 0.4))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write PNG or SVG by the path's suffix, without date, version or random ids in the file."""
    svg = Path(path).suffix == ".svg"
    with matplotlib.rc_context({"svg.hashsalt": "reaction"}), atomic(path) as partial:
        figure.savefig(partial, dpi=DPI, metadata={"Date": None, "Creator": None} if svg else {"Software": None})
