"""Attention maps on the frames they belong to: figures 1.1 and 4.2 of Park's thesis (SNU 2019)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reaction.clips.maps import StoredMaps
from reaction.data.store import Maps, Shards, StoreError, decode_rgb
from reaction.tables.figures import FigureError, finish

COLOURS = "inferno"
COVER = 0.6  # how much of the frame the strongest attention hides
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in JPEG
CELL, SMALL_CELL = 1.9, 1.4  # inches
FEW = 3  # blocks below each other; of more, two stand abreast

Block = Sequence[tuple[str, Sequence[NDArray | None]]]
"""Lines, each a title and pictures (H, W, 3) or maps (H, W); None leaves a place empty."""


def overlay(frame: NDArray, map: NDArray) -> NDArray:
    """A frame, uint8 (H, W, 3), in grey under its map (H, W) in [0, 1]: the stronger the map, the more colour."""
    map = np.clip(map, 0.0, 1.0)
    colour = matplotlib.colormaps[COLOURS](map)[..., :3]  # (H, W, 3)
    cover = COVER * map[..., None]
    grey = frame @ GREY / 255  # (H, W)
    mixed = (1 - cover) * grey[..., None] + cover * colour
    return np.round(255 * mixed).astype(np.uint8)


def read_frame(folder: Path | str, video: str, frame: int) -> NDArray:
    """The stored picture, uint8 (H, W, 3), at a 0-based position of a video."""
    try:
        return decode_rgb(Shards(folder).read(video, [frame])[0])
    except (StoreError, IndexError) as error:
        raise FigureError(f"no picture to draw: {error}") from error


def read_map(folder: Path | str, video: str, frame: int, shape: tuple[int, int], *, dead: float = 0.0) -> NDArray:
    """The map (H, W) in [0, 1] of that position as a network reads it; a map without contrast is `dead` everywhere."""
    try:
        return StoredMaps(Maps(folder), dead=dead).at(video, frame, *shape)
    except (StoreError, IndexError) as error:
        raise FigureError(f"no map to draw: {error}") from error


def overlay_figure(spec: Mapping[str, Any], path: Path) -> None:
    """<path>.png and .svg from folders of stored frames and maps: a line for each of `shown`, or for two of many.

    `spec`: `frames` and `maps`, folders; `shown`, a list of `video`, `frame` (0-based) and `title`; perhaps `dead`. One
    of `shown` may name `maps` of its own.
    """
    shown, dead = spec["shown"], spec.get("dead", 0.0)
    frames = [read_frame(spec["frames"], one["video"], one["frame"]) for one in shown]
    maps = [
        read_map(one.get("maps", spec.get("maps")), one["video"], one["frame"], frame.shape[:2], dead=dead)
        for one, frame in zip(shown, frames, strict=True)
    ]
    overlays(frames, maps, [one["title"] for one in shown], path)


def overlays(frames: Sequence[NDArray], maps: Sequence[NDArray], titles: Sequence[str], path: Path) -> None:
    """Frame, map and both, side by side: frames uint8 (H, W, 3), maps (H, W) in [0, 1], a title each."""
    found = zip(titles, frames, maps, strict=True)
    blocks = [[(title, [frame, map, overlay(frame, map)])] for title, frame, map in found]
    _grid(blocks, ("frame", "map", "both"), path)


def layer_figure(spec: Mapping[str, Any], path: Path) -> None:
    """<path>.png and .svg: a block for each of `shown`, in it a line for each of `lines`, a column for each layer.

    `spec`: `frames`, a folder; `lines`, a list of `name` (what kind of maps) and `layers`, in each line the same, a
    list of `name` and `maps`, a folder; `shown` and `dead` as for `overlay_figure`.
    """
    shown, dead = spec["shown"], spec.get("dead", 0.0)
    frames = [read_frame(spec["frames"], one["video"], one["frame"]) for one in shown]
    maps = {
        line["name"]: {
            layer["name"]: [
                read_map(layer["maps"], one["video"], one["frame"], frame.shape[:2], dead=dead)
                for one, frame in zip(shown, frames, strict=True)
            ]
            for layer in line["layers"]
        }
        for line in spec["lines"]
    }
    layers_side_by_side(frames, maps, [one["title"] for one in shown], path)


def layers_side_by_side(
    frames: Sequence[NDArray],
    maps: Mapping[str, Mapping[str, Sequence[NDArray]]],
    titles: Sequence[str],
    path: Path,
) -> None:
    """The frame, then the frame under the map of every layer, a line for each kind of maps.

    frames uint8 (H, W, 3); of every kind and layer a map (H, W) in [0, 1] for each frame. Raises FigureError when the
    kinds do not have the same layers.
    """
    layers, *others = [tuple(of_kind) for of_kind in maps.values()]
    if any(other != layers for other in others):
        raise FigureError(f"{path}: every line shows the same layers, in one order; these differ: {layers}, {others}")
    blocks = []
    for place, (frame, title) in enumerate(zip(frames, titles, strict=True)):
        lines = [(kind, [None, *(overlay(frame, of[place]) for of in found.values())]) for kind, found in maps.items()]
        kind, [_, *over] = lines[0]
        lines[0] = (f"{title}\n{kind}", [frame, *over])  # the frame stands once, in the first line
        blocks.append(lines)
    _grid(blocks, ("frame", *layers), path)


def _grid(blocks: Sequence[Block], columns: Sequence[str], path: Path) -> None:
    """Blocks of pictures under column names, beside the scale of colours; two blocks abreast where there are many."""
    abreast, lines = (2 if len(blocks) > FEW else 1), len(blocks[0])
    height, width = blocks[0][0][1][0].shape[:2]
    across, down = abreast * len(columns), -(-len(blocks) // abreast) * lines
    cell = CELL if abreast == 1 else SMALL_CELL
    size = (cell * across + 0.3 * abreast + 0.8, cell * height / width * down + 0.4)
    figure = Figure(figsize=size, layout="compressed")
    cells = figure.subplots(down, across, squeeze=False)
    for number in range(-(-len(blocks) // abreast) * abreast):
        row, column = number // abreast * lines, number % abreast * len(columns)
        place = cells[row : row + lines, column : column + len(columns)]
        _block(place, blocks[number] if number < len(blocks) else [("", [None] * len(columns))] * lines)
    for axes, name in zip(cells[0], tuple(columns) * abreast, strict=True):
        axes.set_title(name, fontsize=9)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=cells, shrink=min(1.0, 2.2 / size[1]), aspect=12, pad=0.015, ticks=[0, 0.5, 1])
    bar.set_label("attention", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    finish(figure, path)


def _block(cells: NDArray, block: Block) -> None:
    """Lines of pictures into axes (lines, columns), each line's title at its left; None leaves a cell empty."""
    for line, (title, pictures) in zip(cells, block, strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            _show(axes, picture)
        line[0].set_ylabel(title, fontsize=8)


def _show(axes: Axes, picture: NDArray | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if picture is None:
        axes.set_facecolor("none")
        return
    # not resampled, so that an SVG holds the pixels there are and no more
    axes.imshow(picture, cmap=COLOURS, vmin=0, vmax=1, interpolation="none")
