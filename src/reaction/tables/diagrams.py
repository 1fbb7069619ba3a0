"""The networks as block diagrams, drawn from the code: figures 3.1 and 3.2 of Park's thesis (SNU 2019).

Names, order and sizes are those of the modules that one input really passes, on torch's meta device, where nothing is
computed: a diagram cannot disagree with the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from reaction.data.index import read_classes
from reaction.tables.figures import FigureError, finish

COLOURS = {"conv": "#cfe2f3", "pool": "#f4cccc", "block": "#d9ead3", "head": "#fff2cc", "map": "#ead1dc"}
MAP_NAMES = {"rgb": "S", "flow": "T"}  # section 3.2 and Algorithm 1: what the spatial, the temporal net attends to
EDGE, MARK, LANES = "#444444", "#b00020", ("#0072b2", "#d55e00")
DETAIL = 6.5  # points
UNIT, BAR, STEP, ROW, ENTRY = 0.44, 0.74, 2.4, 6.0, -1.5  # inches; the rest in units


@dataclass(frozen=True)
class Block:
    """One module that an input passes: its name in the code, class and kernel, and the (C[, h, w]) that leaves it."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def role(self) -> str:
        """A key of COLOURS."""
        if "Pool" in self.kind:
            return "pool"
        if self.kind in ("Linear", "Dropout"):
            return "head"
        return "conv" if "Conv" in self.kind else "block"


@dataclass(frozen=True)
class StreamNet:
    """A stream's network: `entered` (C, H, W) is what its backbone sees, `image` that without the map.

    `entry` is how the map joins, None where there is none.
    """

    stream: str
    image: tuple[int, ...]
    entered: tuple[int, ...]
    entry: str | None
    blocks: Sequence[Block]


def walk(model, entered: Sequence[int]) -> list[Block]:
    """The direct children of a torch module in the order in which one input (C, H, W) passes them."""
    import torch  # heavy: most figures need none

    passed: list[Block] = []

    def hook(name: str):
        return lambda module, _, out: passed.append(Block(name, _kind(module), tuple(out.shape[1:])))

    handles = [child.register_forward_hook(hook(name)) for name, child in model.named_children()]
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, *entered, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return passed


def _kind(module) -> str:
    """A module's class, with the size of its kernel where it has one of its own."""
    kernel = np.ravel(getattr(module, "kernel_size", ()))
    return " ".join([type(module).__name__, *[" x ".join(map(str, kernel))] * bool(len(kernel))])


def stream_net(stream: str, network: Mapping[str, Any], classes: int) -> StreamNet:
    """The network that a run's `network` block describes."""
    import torch

    from reaction.training.networks import build_network

    with torch.device("meta"):
        model = build_network(network, stream=stream, classes=classes)
    channels, grid, entry = next(model.backbone.parameters()).shape[1], [network["input"]] * 2, network["entry"]
    entered = (channels, *grid)
    return StreamNet(stream, (channels - (entry == "concat"), *grid), entered, entry, walk(model.backbone, entered))


def attention_blocks(features: Sequence[int], hidden: int, kernel: int) -> list[Block]:
    """The modules of the attention network behind features (C, h, w)."""
    import torch

    from reaction.attention.attention_net import AttentionNet

    with torch.device("meta"):
        net = AttentionNet(features[0], hidden, kernel=kernel)
    return walk(net, features)


def network_figures(spec: Mapping[str, Any], path: Path) -> None:
    """<path>.png and .svg of both streams and their maps, <path>_attention_net.png and .svg of what makes a map.

    `spec`: `index`, the dataset's folder; `streams`, a list of `stream` and `network`, the frozen config's; `layer` or
    `layers`, which the maps look at; `net`, with `hidden` and perhaps `kernel` (3). Without `net` only the first is
    drawn.
    """
    classes = len(read_classes(spec["index"]))
    nets = [stream_net(one["stream"], one["network"], classes) for one in spec["streams"]]
    layers = spec.get("layers") or [spec["layer"]] if "net" in spec else []
    for net in nets:
        if unknown := set(layers) - {block.name for block in net.blocks}:
            raise FigureError(f"{path}: the {net.stream} network has no block {', '.join(sorted(unknown))}")
    networks(nets, layers, path)
    if layers:
        shape = next(block.shape for block in nets[0].blocks if block.name == layers[-1])
        blocks = attention_blocks(shape, spec["net"]["hidden"], spec["net"].get("kernel", 3))
        attention(blocks, layers, shape, nets[0].entered[1:], Path(f"{path}_attention_net"))


def networks(nets: Sequence[StreamNet], layers: Sequence[str], path: Path) -> None:
    """A stream a row of blocks, the higher the finer its grid; with `layers`, two streams' maps cross over."""
    length = max(len(net.blocks) for net in nets)
    edge = 3.5
    figure, axes = _canvas((-5.0, length + 2.6), (-ROW * (len(nets) - 1) - edge, edge))
    for row, net in enumerate(nets):
        _stream(axes, net, -ROW * row, layers, outward=-1 if row else 1)
    if len(nets) == 2:
        _cross_over(axes, nets, layers)
        _box(axes, (length + 1.5, -ROW / 2), (1.7, 1.0), "weighted\nmean", COLOURS["head"])
        _arrow(axes, [(length + 1.5, -0.3), (length + 1.5, 0.5 - ROW / 2)])
        _arrow(axes, [(length + 1.5, 0.3 - ROW), (length + 1.5, -0.5 - ROW / 2)])
    finish(figure, path)


def _stream(axes: Axes, net: StreamNet, y: float, layers: Sequence[str], *, outward: int) -> None:
    """One row, its blocks at x = 0, 1, ..., their sizes on the side `outward` (1 above, -1 below)."""
    _box(axes, (-3.75, y), (2.2, 1.0), f"{net.stream}\n{_size(net.image)}", "white")
    _arrow(axes, [(-2.65, y), (-BAR / 2, y)])
    if net.entry is not None:
        mark = {"concat": "+", "multiply": "\N{MULTIPLICATION SIGN}"}[net.entry]
        circle = {"boxstyle": "circle,pad=0.25", "fc": COLOURS["map"], "ec": EDGE, "lw": 0.8}
        axes.text(ENTRY, y, mark, ha="center", va="center", fontsize=9, bbox=circle, zorder=4)
        label = f"{net.entry}\n{_size(net.entered)}"
        edge = "bottom" if outward > 0 else "top"
        axes.text(ENTRY, y + outward * 0.5, label, ha="center", va=edge, fontsize=DETAIL)
    for x, block in enumerate(net.blocks):
        _bar(axes, (x, y), block, net.entered[1], outward=outward, marked=block.name in layers)
        if x:
            _arrow(axes, [(x - 1 + BAR / 2, y), (x - BAR / 2, y)])
    _arrow(axes, [(len(net.blocks) - 1 + BAR / 2, y), (len(net.blocks) + 0.8, y)])
    axes.text(len(net.blocks) + 1.5, y, "scores", ha="center", va="center", fontsize=8)


def _bar(axes: Axes, place: tuple[float, float], block: Block, side: int, *, outward: int, marked: bool) -> None:
    """A block, its name along it and what leaves it at its end."""
    (x, y), height = place, _height(block, side)
    _box(
        axes, place, (BAR, height), "", COLOURS[block.role], edge=MARK if marked else EDGE, width=1.8 if marked else 0.8
    )
    axes.text(x, y, block.name, rotation=90, ha="center", va="center", fontsize=7)
    edge = "bottom" if outward > 0 else "top"
    end = y + outward * (height / 2 + 0.12)
    axes.text(x, end, _size(block.shape), rotation=90, ha="center", va=edge, fontsize=DETAIL, color=EDGE)


def _height(block: Block, side: int) -> float:
    """Names have to fit, so a bar's height grows with its grid, but from a length that holds any name."""
    grid = block.shape[1] if len(block.shape) == 3 else 0
    return 1.95 + 0.8 * (grid / side) ** 0.5


def _cross_over(axes: Axes, nets: Sequence[StreamNet], layers: Sequence[str]) -> None:
    """From where a stream looks to the other's entry, in lanes between the rows."""
    for row, (net, other) in enumerate(zip(nets, reversed(nets), strict=True)):
        if not layers or other.entry is None:
            continue
        last = max(place for place, block in enumerate(net.blocks) if block.name in layers)
        start, lane, end = -ROW * row, -ROW / 2 + (0.6 if row == 0 else -0.6), -ROW * (1 - row)
        toward = 1 if row else -1
        edge = start + toward * _height(net.blocks[last], net.entered[1]) / 2
        middle, half = last - 4.2, 2.3
        label = f"{MAP_NAMES.get(net.stream, net.stream)}: Grad-CAM in training,\nattention network in tests"
        _box(axes, (middle, lane), (2 * half, 0.9), label, COLOURS["map"], fontsize=DETAIL)
        _arrow(axes, [(last, edge), (last, lane), (middle + half, lane)], LANES[row])
        x = ENTRY + (0.17 if row else -0.17)
        _arrow(axes, [(middle - half, lane), (x, lane), (x, end - toward * 0.3)], LANES[row])
        above = {"ha": "left", "va": "bottom", "fontsize": 8, "color": LANES[row], "fontstyle": "italic"}
        axes.text(
            0.3, lane + 0.06, f"map {MAP_NAMES.get(net.stream, net.stream)}, {_size((1, *net.entered[1:]))}", **above
        )


def attention(
    blocks: Sequence[Block], layers: Sequence[str], features: Sequence[int], side: Sequence[int], path: Path
) -> None:
    """The attention network's own modules, with what is a mere function dashed, and the map it learns to predict.

    `features` (C, h, w) come from the last of `layers`; maps are brought to `side` (H, W) before they are compared.
    """
    of = {block.name: block for block in blocks}
    learned = [(layers[-1], _size(features), COLOURS["block"])]
    for name in of:
        learned.append((name, f"{of[name].kind}\n{_size(of[name].shape)}", COLOURS[of[name].role]))
        learned += {"bn": [("ReLU", "", None)], "score": [("sigmoid", "", None)]}.get(name, [])
    learned += [("up-sample", "bilinear", None), ("learned map", _size((1, *side)), COLOURS["map"])]
    each = "\nat each layer" if len(layers) > 1 else ""
    target = [("\n".join(layers), "", COLOURS["block"]), ("gradient of the\nclass score" + each, "", None)]
    target += [("ReLU of the\nweighted sum", "", None), ("up-sample", "bilinear", None)]
    target += [("mean over\nlayers", "", None)] * (len(layers) > 1)
    target += [("min-max", "", None), ("Grad-CAM map", _size((1, *side)), COLOURS["map"])]
    figure, axes = _canvas((-0.2, STEP * len(learned) + 1.9), (-4.0, 0.9))
    ends = [_chain(axes, steps, y, len(learned)) for steps, y in ((learned, 0.0), (target, -3.0))]
    x = STEP * len(learned) + 0.9
    _box(axes, (x, -1.5), (1.7, 0.9), "binary cross-\nentropy", COLOURS["head"], fontsize=7)
    for end, y, edge in ((ends[0], 0.0, -1.05), (ends[1], -3.0, -1.95)):
        _arrow(axes, [(end, y), (x, y), (x, edge)])
    finish(figure, path)


def _chain(axes: Axes, steps: Sequence[tuple[str, str, str | None]], y: float, columns: int) -> float:
    """Boxes from left to right, the last in the last column; where it ends."""
    places = [*range(len(steps) - 1), columns - 1]
    for number, (place, (name, detail, colour)) in enumerate(zip(places, steps, strict=True)):
        x = STEP * place + 1.0
        text = name + (f"\n{detail}" if detail else "")
        _box(axes, (x, y), (1.9, 1.3), text, colour or "white", fontsize=7, dashed=colour is None)
        if number:
            _arrow(axes, [(STEP * places[number - 1] + 1.95, y), (x - 0.95, y)])
    return STEP * places[-1] + 1.95


def _canvas(across: tuple[float, float], up: tuple[float, float]) -> tuple[Figure, Axes]:
    """A drawing whose unit is UNIT inches."""
    figure = Figure(figsize=(UNIT * (across[1] - across[0]), UNIT * (up[1] - up[0])))
    axes = figure.add_axes((0, 0, 1, 1), xlim=across, ylim=up)
    axes.set_axis_off()
    return figure, axes


def _box(
    axes: Axes,
    centre: tuple[float, float],
    size: tuple[float, float],
    text: str,
    colour: str,
    *,
    edge: str = EDGE,
    width: float = 0.8,
    fontsize: float = 8,
    dashed: bool = False,
) -> None:
    (x, y), (across, up) = centre, size
    look = {"fc": colour, "ec": edge, "lw": width, "linestyle": "--" if dashed else "-", "zorder": 3}
    rounded = "round,pad=0,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch((x - across / 2, y - up / 2), across, up, boxstyle=rounded, **look))
    axes.text(x, y, text, ha="center", va="center", fontsize=fontsize, zorder=4, linespacing=1.25)


def _arrow(axes: Axes, points: Sequence[tuple[float, float]], colour: str = EDGE) -> None:
    """A line through the points with a head at its end."""
    corners = list(zip(*points[:-1], strict=True))
    axes.plot(*corners, color=colour, linewidth=1.0, solid_capstyle="butt", zorder=2)
    look = {"arrowstyle": "-|>", "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0, "color": colour, "linewidth": 1.0}
    axes.add_patch(FancyArrowPatch(points[-2], points[-1], zorder=2, **look))


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
