"""Pictures of a table of detections: training curves, classes, mistakes, tubes on frames, and a short clip per class.

A tube is right when it has the class of the annotated tube that it overlaps most, by half at least. Nothing is chosen
by how well it went: tubes are those of the first test video of classes spread evenly over the list, each the video's
highest score; the clip of a class shows the highest score of all test videos, and clips.csv says whether it is right.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reaction.data.boxes import Boxes, read_boxes
from reaction.data.index import Video, read_classes, read_index
from reaction.data.videos import open_features
from reaction.evaluation.annotations import true_tubes
from reaction.evaluation.detected import read_tubes
from reaction.evaluation.tubes import Tube, TubeOverlap
from reaction.files import atomic, write_text
from reaction.tables.figures import FigureError, class_accuracies, finish, read_columns
from reaction.tables.gains import BETTER, WORSE

LOSSES = ("loss", "box", "confidence", "classes")
SHARES = {  # of all that there is to find; colours of Okabe and Ito
    "precision": BETTER,
    "localisation": "#e69f00",
    "classification": "#cc79a7",
    "time": "#56b4e9",
    "other": "#999999",
    "missed": "#dddddd",
}
RIGHT = 0.5  # overlap from which on a tube of the right class is right
BLANK = 236  # grey, of a frame that is not shown
COLUMNS, CELL = 6, 1.45  # frames of a tube, and inches
CLIP_WIDTH, CLIP_FRAMES, CLIP_BYTES = 160, 24, 300_000
COLOURS = (128, 64, 32, 16)  # of a clip, fewer where it is too large
DASH = 4  # pixels

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Found:
    """The best tube of a video, and the annotated ones. overlap: with the one that it meets best."""

    video: Video
    truth: Sequence[Tube]
    tube: Tube
    overlap: float
    right: bool

    @property
    def span(self) -> tuple[int, int]:
        """The first annotated frame and the one behind the last, of all annotated tubes."""
        return min(one.start for one in self.truth), max(one.end for one in self.truth)


def detection_figures(spec: Mapping[str, Any], stem: Path) -> None:
    """Write <stem>_curves, _per_class, _errors, _tubes and _outlines, as .png and .svg, and the folder <stem>_clips.

    `_outlines` are the tubes without the frames, for datasets whose frames may not be passed on.

    `spec`: `curves` and `methods`, lists of `name` and the `folders` of its runs or of their metrics; `shown`, what
    tubes and clips are of: folders `index`, `features` and `tubes`, and how many `videos`. Without `tubes` (where
    frames alone are evaluated, as on AVA) there are no clips, and a line of text is drawn. Raises FigureError naming
    the file that is missing or broken.
    """
    histories = {one["name"]: [read_losses(folder) for folder in one["folders"]] for one in spec["curves"]}
    detection_curves(histories, Path(f"{stem}_curves"))
    precisions, measure = read_precisions(spec["methods"])
    if precisions:
        class_accuracies(precisions, Path(f"{stem}_per_class"), measure)
    else:
        _note("no evaluator measured all of the methods", Path(f"{stem}_per_class"))
    errors = {one["name"]: read_errors(one["folders"]) for one in spec["methods"]}
    if all(errors.values()):
        error_bars(errors, Path(f"{stem}_errors"))
    else:
        _note("no analysis of mistakes: actors have several classes at a time", Path(f"{stem}_errors"))
    _shown(spec["shown"], stem)


def _shown(shown: Mapping[str, Any], stem: Path) -> None:
    if "tubes" not in shown:
        for name in ("tubes", "outlines"):
            _note("no tubes: frames alone are evaluated, each by itself", Path(f"{stem}_{name}"))
        write_clips([], [], shown, Path(f"{stem}_clips"))
        return
    classes = read_classes(shown["index"])
    videos, tubes = read_tubes(Path(shown["tubes"]) / "tubes.h5")
    index = {video.video: video for video in read_index(shown["index"])}
    found = judged([index[name] for name in videos], tubes, read_boxes(Path(shown["index"]) / "boxes.h5"))
    for name, features in (("tubes", shown["features"]), ("outlines", None)):
        draw_tubes(spread(found, shown["videos"]), classes, features, Path(f"{stem}_{name}"))
    write_clips(found, classes, shown, Path(f"{stem}_clips"))


def read_losses(folder: Path | str) -> dict[str, NDArray]:
    """The epochs of a detector's training: `epoch` from 0 and each of LOSSES, (epochs,)."""
    rows = read_columns(Path(folder) / "history.csv", ("epoch", *LOSSES))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def detection_curves(histories: Mapping[str, Sequence[Mapping[str, NDArray]]], path: Path) -> None:
    """The loss of a detector's training and its parts over epochs, a panel each, a line for each run."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(LOSSES)), LOSSES, strict=True):
        for number, (name, runs) in enumerate(histories.items()):
            for run in runs:
                label = name if run is runs[0] else None
                axes.plot(run["epoch"] + 1, run[part], color=f"C{number}", linewidth=1.1, label=label)
        axes.set(xlabel="epoch", ylim=(0, None))
        axes.set_title(part if part == "loss" else f"of it: {part}", fontsize=9)
    lines = axes.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    finish(figure, path)


def read_precisions(methods: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, float]], str]:
    """Of each method the average precision of each class, the mean of its runs; and which one that is.

    It is the first that the first per_class.csv lists and all have; where protocols have none in common, nothing and
    "". A class that has none in any run is NaN.
    """
    found = {method["name"]: [_precisions(folder) for folder in method["folders"]] for method in methods}
    runs = [run for own in found.values() for run in own]
    common = [measure for measure in runs[0] if all(measure in run for run in runs)]
    if not common:
        return {}, ""
    classes = dict.fromkeys(name for run in runs for name in run[common[0]])
    means = {
        method: {name: _mean(run[common[0]].get(name, "") for run in own) for name in classes}
        for method, own in found.items()
    }
    return means, " by ".join(common[0])


def _precisions(folder: str) -> dict[tuple[str, str], dict[str, str]]:
    """By metric and evaluator the average precisions of classes, as they are written."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in read_columns(Path(folder) / "per_class.csv", ("metric", "protocol", "class", "ap")):
        found.setdefault((row["metric"], row["protocol"]), {})[row["class"]] = row["ap"]
    return found


def read_errors(folders: Sequence[str]) -> dict[str, dict[str, float]]:
    """The share of each of SHARES by class, `mean` first, over runs averaged; empty where a run has no analysis."""
    paths = [Path(folder) / "errors.csv" for folder in folders]
    if any(path.exists() and len(path.read_text(encoding="utf-8").splitlines()) == 1 for path in paths):
        return {}
    rows = [row for path in paths for row in read_columns(path, ("class", *SHARES))]
    names = dict.fromkeys(row["class"] for row in rows)
    return {name: {kind: _mean(row[kind] for row in rows if row["class"] == name) for kind in SHARES} for name in names}


def _mean(values: Iterator[str]) -> float:
    known = [float(value) for value in values if value not in ("", "nan")]
    return float(np.mean(known)) if known else float("nan")


def error_bars(errors: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """What becomes of all that there is to find: bars of shares, each method's mean, then the first one's classes."""
    name, first = next(iter(errors.items()))
    classes = {key: shares for key, shares in first.items() if key != "mean"}
    means = {key: of_class["mean"] for key, of_class in errors.items()}
    figure = Figure(figsize=(6.5, 0.24 * (len(means) + len(classes)) + 2.2), layout="constrained")
    heights = [len(means) + 0.5, len(classes) + 0.5]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _stacked(upper, means)
    _stacked(lower, classes)
    lower.set(xlabel="share (%)", xlim=(0, 100))
    lower.set_title(f"{name}, class by class", fontsize=9)
    lines = upper.get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=len(SHARES), fontsize=8, frameon=False)
    finish(figure, path)


def _stacked(axes: Axes, shares: Mapping[str, Mapping[str, float]]) -> None:
    rows, left = np.arange(len(shares))[::-1], np.zeros(len(shares))
    for kind, colour in SHARES.items():
        values = 100 * np.nan_to_num([of[kind] for of in shares.values()])
        axes.barh(rows, values, 0.75, left=left, color=colour, label=kind)
        left += values
    axes.set_yticks(rows, list(shares), fontsize=8)
    axes.set_ylim(-0.6, len(shares) - 0.4)


def judged(videos: Sequence[Video], tubes: Sequence[Tube], boxes: Mapping[str, Boxes]) -> list[Found]:
    """Every tube of annotated videos, the highest score first; `tube.video` is a place in `videos`."""
    names, overlap = [video.video for video in videos], TubeOverlap()
    truth: dict[int, list[Tube]] = {}
    for true in true_tubes(boxes, names):
        truth.setdefault(true.video, []).append(true)
    found = []
    for tube in sorted(tubes, key=lambda one: -one.score):
        if tube.video in truth:
            overlaps = [overlap(tube, true) for true in truth[tube.video]]
            best = int(np.argmax(overlaps))
            right = overlaps[best] >= RIGHT and truth[tube.video][best].label == tube.label
            found.append(Found(videos[tube.video], truth[tube.video], tube, overlaps[best], right))
    return found


def spread(found: Sequence[Found], count: int) -> list[Found]:
    """The best tube of the first video, by name, of each of up to `count` classes spread evenly over the list."""
    first: dict[int, Found] = {}
    for one in sorted(found, key=lambda one: (one.video.video, -one.tube.score)):
        first.setdefault(one.truth[0].label, one)
    labels = sorted(first)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int)) if labels else []
    return [first[labels[place]] for place in chosen]


def draw_tubes(shown: Sequence[Found], classes: Sequence[str], features: Path | str | None, path: Path) -> None:
    """A row of frames for each tube: what is annotated dashed, what was found in the colour of right or wrong.

    Without `features` the frames are blank.
    """
    if not shown:
        _note("no tube was found in any video", path)
        return
    frames = [frames_of(one, features, COLUMNS) for one in shown]
    ratio = max(picture.shape[0] / picture.shape[1] for some in frames for _, picture in some)
    size = (CELL * COLUMNS + 1.6, (CELL * ratio + 0.22) * len(shown) + 0.5)
    figure = Figure(figsize=size, layout="compressed")
    cells = figure.subplots(len(shown), COLUMNS, squeeze=False)
    for line, one, some in zip(cells, shown, frames, strict=True):
        for axes, (number, picture) in zip(line, some, strict=False):
            _frame(axes, one, number, picture)
        for axes in line[len(some) :]:
            axes.set_visible(False)
        true, said = (classes[label] for label in (one.truth[0].label, one.tube.label))
        said = f"{true}\nfound: {said}\nscore {one.tube.score:.2f}\noverlap {one.overlap:.2f}"
        line[0].set_ylabel(said, fontsize=7.5, rotation=0, ha="right", va="center", color=_colour(one))
    looks = {"annotated": ("black", "--"), "found, right": (BETTER, "-"), "found, wrong": (WORSE, "-")}
    lines = [Line2D([], [], color=colour, linestyle=dash, linewidth=1.6) for colour, dash in looks.values()]
    figure.legend(lines, looks, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    finish(figure, path)


def frames_of(one: Found, features: Path | str | None, count: int) -> list[tuple[int, Picture]]:
    """Up to `count` frames spread evenly over what is annotated: each number and its picture (H, W, 3), or a blank."""
    start, end = one.span
    end = min(end, one.video.frames)
    numbers = np.unique(np.linspace(start, end - 1, min(count, end - start)).round().astype(int))
    if features is None:
        blank = np.full((one.video.height // 2, one.video.width // 2, 3), BLANK, np.uint8)
        return [(number, blank) for number in numbers.tolist()]
    return list(zip(numbers.tolist(), open_features(features).pictures(one.video.video, numbers), strict=True))


def _frame(axes: Axes, one: Found, number: int, picture: Picture) -> None:
    axes.imshow(picture, interpolation="none")  # not resampled, so that an SVG holds the pixels there are
    for box in _boxes(one.truth, number, one.video, picture):
        axes.add_patch(_rectangle(box, "black", "-"))
        axes.add_patch(_rectangle(box, "white", (0, (3, 3))))
    for box in _boxes([one.tube], number, one.video, picture):
        axes.add_patch(_rectangle(box, _colour(one), "-"))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"frame {number}", fontsize=7, pad=2)


def _rectangle(box: NDArray, colour: str, dash: Any) -> Rectangle:
    x1, y1, x2, y2 = box - 0.5  # a pixel's centre is a whole number to matplotlib
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=dash, linewidth=1.6)


def _boxes(tubes: Sequence[Tube], number: int, video: Video, picture: Picture) -> list[NDArray]:
    """The boxes that tubes have on a frame, in pixels of its stored picture."""
    scale = np.array([picture.shape[1] / video.width, picture.shape[0] / video.height] * 2)
    return [tube.box[number - tube.start] * scale for tube in tubes if tube.start <= number < tube.end]


def _colour(one: Found) -> str:
    return BETTER if one.right else WORSE


def write_clips(found: Sequence[Found], classes: Sequence[str], shown: Mapping[str, Any], folder: Path) -> None:
    """<class>.gif of the tube of each class with the highest score, and clips.csv, which says what they show."""
    best: dict[int, Found] = {}
    for one in found:
        best.setdefault(one.tube.label, one)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "video", "true", "score", "overlap", "right"))
    for label, one in sorted(best.items()):
        name, true = classes[label], classes[one.truth[0].label]
        writer.writerow((name, one.video.video, true, f"{one.tube.score:.4f}", f"{one.overlap:.4f}", int(one.right)))
        pictures = [annotated(one, *each, name) for each in frames_of(one, shown["features"], CLIP_FRAMES)]
        start, end = one.span
        seconds = (end - start) / (one.video.fps or 25)
        write_clip(pictures, seconds, folder / f"{re.sub(r'[^0-9A-Za-z_-]+', '_', name)}.gif")
    write_text(folder / "clips.csv", text.getvalue())


def annotated(one: Found, number: int, picture: Picture, name: str) -> Image.Image:
    """A frame of a clip, with its boxes and the class that was found."""
    width = CLIP_WIDTH
    small = Image.fromarray(picture).resize((width, round(picture.shape[0] * width / picture.shape[1])))
    draw, shape = ImageDraw.Draw(small), np.asarray(small)
    for box in _boxes(one.truth, number, one.video, shape):
        _dashed(draw, box)
    for box in _boxes([one.tube], number, one.video, shape):
        draw.rectangle(_pixels(box), outline=_colour(one), width=2)
    text = f"{name} {one.tube.score:.2f}"
    left, top, right, bottom = draw.textbbox((3, 1), text)
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=_colour(one))
    draw.text((3, 1), text, fill="white")
    return small


def _pixels(box: NDArray) -> tuple[int, int, int, int]:
    """The first and the last column and row of a half-open box, which has one of each though it be thinner."""
    first, last = np.rint(box[:2]).astype(int), np.rint(box[2:] - 1).astype(int)
    return *first.tolist(), *np.maximum(first, last).tolist()


def _dashed(draw: ImageDraw.ImageDraw, box: NDArray) -> None:
    x1, y1, x2, y2 = _pixels(box)
    for number, x in enumerate(range(x1, x2, DASH)):
        for y in (y1, y2):
            draw.line((x, y, min(x + DASH - 1, x2), y), fill=("white", "black")[number % 2])
    for number, y in enumerate(range(y1, y2, DASH)):
        for x in (x1, x2):
            draw.line((x, y, x, min(y + DASH - 1, y2)), fill=("white", "black")[number % 2])


def write_clip(pictures: Sequence[Image.Image], seconds: float, path: Path) -> None:
    """A GIF that plays pictures over and over, each round in so many seconds, in CLIP_BYTES at most.

    All share one palette; where that is too much, it has fewer colours, and then every second picture is left out.
    """
    for colours in COLOURS:
        gif = _gif(pictures, seconds, colours)
        if len(gif) <= CLIP_BYTES:
            with atomic(path) as partial:
                partial.write_bytes(gif)
            return
    if len(pictures) == 1:
        raise FigureError(f"{path}: a single frame of {pictures[0].size} is larger than {CLIP_BYTES} bytes")
    write_clip(pictures[::2], seconds, path)


def _gif(pictures: Sequence[Image.Image], seconds: float, colours: int) -> bytes:
    together = Image.fromarray(np.concatenate([np.asarray(one) for one in pictures]))
    palette = together.quantize(colours)
    first, *others = [one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures]
    each = max(20, round(1000 * seconds / len(pictures)))  # browsers slow faster ones down
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=each, loop=0)
    return file.getvalue()


def _note(text: str, path: Path) -> None:
    """A figure that says why there is none."""
    figure = Figure(figsize=(6, 0.8))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=9)
    finish(figure, path)
