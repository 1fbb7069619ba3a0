"""Attention maps on the frames they belong to: figures 1.1 and 4.2 of Park's thesis (SNU 2019)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from reaction.clips.maps import StoredMaps
from reaction.data.store import Maps, Shards, StoreError, decode_rgb
from reaction.tables.figures import FigureError, finish

COLOURS = "inferno"
COVER = 0.6  # how much of the frame the strongest attention hides
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601, as in JPEG
CELL = 1.9  # inches


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
    """<path>.png and .svg from folders of stored frames and maps: a row for each of `shown`.

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
    """Frame, map and both, side by side: frames uint8 (H, W, 3), maps (H, W) in [0, 1], one title a row."""
    rows = [[frame, map, overlay(frame, map)] for frame, map in zip(frames, maps, strict=True)]
    _grid(rows, titles, ("frame", "map", "both"), path)


def layer_figure(spec: Mapping[str, Any], path: Path) -> None:
    """<path>.png and .svg: a row for each of `shown`, a column for each of `layers`.

    `spec`: `frames`, a folder; `layers`, a list of `name` and `maps`; `shown` and `dead` as for `overlay_figure`.
    """
    shown, dead = spec["shown"], spec.get("dead", 0.0)
    frames = [read_frame(spec["frames"], one["video"], one["frame"]) for one in shown]
    maps = {
        layer["name"]: [
            read_map(layer["maps"], one["video"], one["frame"], frame.shape[:2], dead=dead)
            for one, frame in zip(shown, frames, strict=True)
        ]
        for layer in spec["layers"]
    }
    layers_side_by_side(frames, maps, [one["title"] for one in shown], path)


def layers_side_by_side(
    frames: Sequence[NDArray], maps: Mapping[str, Sequence[NDArray]], titles: Sequence[str], path: Path
) -> None:
    """The frame, then the frame under the map of every layer; frames uint8 (H, W, 3), maps (H, W) in [0, 1]."""
    rows = [
        [frame, *(overlay(frame, of_layer[place]) for of_layer in maps.values())] for place, frame in enumerate(frames)
    ]
    _grid(rows, titles, ("frame", *maps), path)


def _grid(rows: Sequence[Sequence[NDArray]], titles: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """Pictures (H, W, 3) and maps (H, W) in rows with a title each, under column names, beside the scale of colours."""
    height, width = rows[0][0].shape[:2]
    size = (CELL * len(columns) + 1.0, CELL * height / width * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="compressed")
    cells = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, pictures, title in zip(cells, rows, titles, strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            _show(axes, picture)
        line[0].set_ylabel(title, fontsize=8)
    for axes, name in zip(cells[0], columns, strict=True):
        axes.set_title(name, fontsize=9)
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=cells, shrink=min(1.0, 2.2 / size[1]), aspect=12, pad=0.015, ticks=[0, 0.5, 1])
    bar.set_label("attention", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    finish(figure, path)


def _show(axes: Axes, picture: NDArray) -> AxesImage:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    # not resampled, so that an SVG holds the pixels there are and no more
    return axes.imshow(picture, cmap=COLOURS, vmin=0, vmax=1, interpolation="none")
