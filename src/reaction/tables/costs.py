"""Accuracy against computation: the points of a paper's figure, and our runs beside them (SlowFast, figure 2).

The cost is that of one view in the test, in multiply-adds of convolutions and matrix products, which papers of this
family print as GFLOPs. Ours are counted on networks without memory. Accuracies on other videos, or of smaller networks,
stand in panels of their own: nothing on one axis that is not comparable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reaction.files import read_json
from reaction.tables.claims import read_paper
from reaction.tables.figures import finish
from reaction.training.networks import build_network, stream_of
from reaction.verify import MultiplyAdds


@dataclass(frozen=True)
class Point:
    """A network: its kind, what tells it from others of the kind, 10^9 multiply-adds and top-1 in per cent.

    `spread` is the lowest and the highest of our runs, None for what a paper prints.
    """

    panel: str
    series: str
    name: str
    cost: float
    value: float
    spread: tuple[float, float] | None = None


def cost_figure(spec: Mapping[str, Any], stem: Path) -> None:
    """Write <stem>.png and <stem>.svg of the `claims` of a `paper`, by `series`, and of `ours` that have been made."""
    points = published(spec) + ours(spec)
    panels = list(dict.fromkeys(point.panel for point in points))
    figure = Figure(figsize=(5.2 * len(panels) + 0.4, 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, [point for point in points if point.panel == panel], spec["series"])
        axes.set(title=panel, xlabel="10\N{SUPERSCRIPT NINE} multiply-adds of a view", ylabel="top-1 (%)")
    finish(figure, stem)


def published(spec: Mapping[str, Any]) -> list[Point]:
    """The paper's points, whose names begin with that of their series."""
    claims = [one for one in read_paper(Path(spec["paper"])).claims if one.table == spec["claims"]]
    points = []
    for claim in claims:
        series = next(name for name in spec["series"] if claim.method.startswith(f"{name} "))
        points.append(
            Point(claim.dataset, series, claim.method.removeprefix(series).strip(), claim.gflops, claim.value)
        )
    return points


def ours(spec: Mapping[str, Any]) -> list[Point]:
    """A point for each row all of whose runs have been scored: the mean of their top-1."""
    points = []
    for row in spec["ours"]:
        files = [Path(folder, "metrics.json") for folder in row["folders"]]
        if not all(file.exists() for file in files):
            continue
        values = [100 * read_json(file)["top1"] for file in files]
        panel = row["dataset"] if row["scale"] == "paper" else f"{row['dataset']}, scale {row['scale']}"
        mean, spread = float(np.mean(values)), (min(values), max(values))
        name = row["method"].partition("_")[2] or row["method"]  # the series says how it begins
        points.append(Point(panel, row["series"], name, multiply_adds(row) / 1e9, mean, spread))
    return points


def multiply_adds(row: Mapping[str, Any]) -> float:
    """Of one view as the row's protocol shows it, convolutions and matrix products."""
    protocol = row["protocol"]
    network = row["network"] | {key: protocol[key] for key in ("input", "stack") if key in protocol}
    channels, side = stream_of({"stream": row["stream"], "network": network}).channels, network["input"]
    with torch.device("meta"):
        model = build_network(network, stream=row["stream"], classes=2).eval()
        view = torch.empty(1, 1, channels, side, side)
    with torch.no_grad(), MultiplyAdds() as counted:
        model(view)
    return counted.convolutions + counted.products


def _draw(axes: Axes, points: Sequence[Point], series: Sequence[str]) -> None:
    for point in points:
        colour = f"C{series.index(point.series)}"
        label = f"{point.series}, {'published' if point.spread is None else 'ours'}"
        if point.spread is None:
            axes.plot(point.cost, point.value, "o", mfc="white", color=colour, label=label)
        else:
            reach = [[point.value - point.spread[0]], [point.spread[1] - point.value]]
            axes.errorbar(point.cost, point.value, reach, fmt="D", markersize=5, capsize=3, color=colour, label=label)
        axes.annotate(point.name, (point.cost, point.value), (7, -3), textcoords="offset points", fontsize=7.5)
    _arrows(axes, points, series)
    costs = [point.cost for point in points]
    axes.set_xlim(0, 1.25 * max(costs))
    axes.margins(y=0.12)
    axes.grid(linewidth=0.4, color="#dddddd")
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(named.values(), named.keys(), loc="lower right", fontsize=8, frameon=False)


def _arrows(axes: Axes, points: Sequence[Point], series: Sequence[str]) -> None:
    """From a paper's point of the first series to the one of the same name in another, with what is gained."""
    printed = {(point.series, point.name): point for point in points if point.spread is None}
    for (name, which), start in printed.items():
        for end in (printed.get((other, which)) for other in series[1:] if name == series[0]):
            if end is None:
                continue
            ends = {"xy": (end.cost, end.value), "xytext": (start.cost, start.value)}
            axes.annotate("", **ends, arrowprops={"arrowstyle": "->", "color": "#999999", "shrinkA": 4, "shrinkB": 4})
            middle = ((start.cost + end.cost) / 2, (start.value + end.value) / 2)
            gain = f"{end.value - start.value:+.1f}"
            axes.annotate(gain, middle, (-4, 2), textcoords="offset points", ha="right", fontsize=8, color="#666666")
