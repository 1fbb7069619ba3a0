"""Two ways to train with attention, over epochs and over seconds: figure 4.1 of Park's thesis (SNU 2019).

Two-phase training is two stages with one computation of maps between them; end-to-end alternation (the thesis's
Algorithm 1) is a stage a round, each after new maps. The seconds are those of the runs plus those of the maps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reaction.files import read_json
from reaction.tables.figures import DASHES, FigureError, finish, read_columns

UNITS = ((3 * 3600, 3600, "hours"), (3 * 60, 60, "minutes"), (0, 1, "seconds"))


@dataclass(frozen=True)
class Stage:
    """Some epochs in a row, all (epochs,): what was reached at each one's end, counted from the way's very start.

    loss and top1, a fraction, are of the training clips; epochs counts from 1, seconds contain those of the maps.
    """

    epochs: NDArray
    seconds: NDArray
    loss: NDArray
    top1: NDArray


def read_stages(entries: Sequence[Mapping[str, Any]]) -> list[Stage]:
    """The stages of one way, each an entry with its `history` folder and `maps`, made before the first epoch.

    These are files of provenance, of every job that made maps for the stage; their seconds are added up.
    """
    stages, epochs, seconds = [], 0, 0.0
    for entry in entries:
        rows = read_columns(Path(entry["history"]) / "history.csv", ("loss", "top1", "seconds"))
        columns = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
        seconds += sum(_measured(Path(path)) for path in entry.get("maps", []))
        reached = seconds + np.cumsum(columns["seconds"])
        stages.append(Stage(epochs + np.arange(1, len(rows) + 1), reached, columns["loss"], columns["top1"]))
        epochs, seconds = epochs + len(rows), float(reached[-1])
    return stages


def _measured(path: Path) -> float:
    """The seconds that a job took, by its own clock."""
    try:
        return float(read_json(path)["seconds"])
    except FileNotFoundError:
        raise FigureError(f"{path} is missing. Make the maps of {path.parent} again.") from None
    except (KeyError, TypeError, ValueError):
        raise FigureError(f"{path} does not say how many `seconds` its maps took. Make them again.") from None


def alternation_figure(spec: Sequence[Mapping[str, Any]], path: Path) -> None:
    """<path>.png and .svg; `spec`: a list of `name` (`way/stream`) and `stages`, as `read_stages` takes them."""
    courses([(entry["name"], read_stages(entry["stages"])) for entry in spec], path)


def courses(ways: Sequence[tuple[str, Sequence[Stage]]], path: Path) -> None:
    """Loss and top-1 over epochs (left) and time (right), a line a way, dotted where maps are computed.

    A name comes once for each of its runs; a way has a colour, a stream a dash.
    """
    colours = list(dict.fromkeys(name.split("/")[0] for name, _ in ways))
    second, unit = _unit(max(stages[-1].seconds[-1] for _, stages in ways))
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    seen: set[str] = set()
    for name, stages in ways:
        way, _, stream = name.partition("/")
        look = {"color": f"C{colours.index(way)}", "linestyle": DASHES.get(stream, "-" if not stream else "-.")}
        for line, values in zip(panels, (lambda s: s.loss, lambda s: 100 * s.top1), strict=True):
            _course(line[0], [(s.epochs, values(s)) for s in stages], look)
            _course(line[1], [(s.seconds / second, values(s)) for s in stages], look)
        if name not in seen:
            panels[0, 0].plot([], [], label=name, **look)
        seen.add(name)
    panels[0, 0].set(ylabel="training loss", ylim=(0, None))
    panels[1, 0].set(ylabel="training top-1 (%)", ylim=(0, 102), xlabel="epoch")
    panels[1, 1].set(xlabel=f"{unit}, maps included")
    for axes in panels[1]:
        axes.set_xlim(0, None)
    figure.legend(loc="outside lower center", ncols=min(4, len(seen)), fontsize=8, frameon=False)
    finish(figure, path)


def _unit(longest: float) -> tuple[int, str]:
    """How many seconds a unit has that fits the longest time, and its name."""
    return next((second, name) for least, second, name in UNITS if longest >= least)


def _course(axes: Axes, stages: Sequence[tuple[NDArray, NDArray]], look: Mapping[str, Any]) -> None:
    """One line, thin and dotted from a stage's end to the next one's first epoch, which has a point."""
    for place, (x, y) in enumerate(stages):
        axes.plot(x, y, linewidth=1.2, **look)
        axes.plot(x[:1], y[:1], marker="o", markersize=2.5, color=look["color"])
        if place:
            before_x, before_y = stages[place - 1]
            gap = {"color": look["color"], "linestyle": ":", "linewidth": 0.8}
            axes.plot([before_x[-1], x[0]], [before_y[-1], y[0]], **gap)
