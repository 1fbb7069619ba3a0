"""`reaction predict`: a trained run on a video; an annotated copy, and a CSV file of what was seen."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reaction.data.index import read_classes
from reaction.files import atomic, read_json
from reaction.predict.boxes import Finder
from reaction.predict.classes import Recogniser
from reaction.predict.draw import with_boxes, with_classes
from reaction.predict.video import Clock, Source, encoder, written
from reaction.training.job import be_deterministic, tell
from reaction.training.networks import RunError

BEST = 5  # classes that are shown
THRESHOLD = 0.3
RULES = ("train", "train_detector")

Write = Callable[[NDArray[np.uint8]], None]
Row = Callable[[Sequence[Any]], Any]


def predict(
    video: Path | str,
    run: Path | str,
    out: Path | str,
    *,
    classes: Path | str | None = None,
    threshold: float = THRESHOLD,
    threads: int = 1,
) -> None:
    """Write `out`/<stem>.mp4 and .csv of what the trained run in the folder `run` sees in a video.

    `classes` is a file of class names, a line each; without it they are those of the run's index. Boxes whose best
    class scores less than `threshold` are left out, and so are other actions of actors who may do several. Raises
    RunError where the run's folders are incomplete, and DecodeError where the video cannot be read; each names the
    file.
    """
    be_deterministic(threads)
    clock, rule, names = Clock(), _rule(Path(run)), class_names(Path(run), classes)
    source = Source(video, clock)
    network = Recogniser(run, clock, threads) if rule == "train" else Finder(run, clock, threshold)
    if network.classes != len(names):
        raise RunError(f"{run} tells {network.classes} classes apart, and {len(names)} names were given for them")
    copy, table = (Path(out) / f"{Path(video).stem}{suffix}" for suffix in (".mp4", ".csv"))
    if copy.resolve() == source.path.resolve():
        raise RunError(f"{copy} is the video itself: give --out another folder")
    with (
        atomic(table) as partial,
        open(partial, "w", encoding="utf-8", newline="") as text,
        written(copy, source.rate, threads=threads) as write,
    ):
        row = csv.writer(text, lineterminator="\n").writerow
        told = (_classes if rule == "train" else _boxes)(network, source, names, write, row, clock)
    for line in (*(f"warning: {video} {warning}" for warning in source.warnings), *told):
        tell(line)
    tell(f"{source.count} frames, {source.seconds:.2f} s: {copy} ({encoder()}), {table}")
    tell(clock.report(source.count))


def class_names(run: Path, file: Path | str | None) -> list[str]:
    """The names of a run's classes: from a file, or else from its index. Raises RunError naming what is missing."""
    if file is not None:
        return Path(file).read_text(encoding="utf-8").splitlines()
    index = Path(read_json(run / "config.json")["inputs"]["index"])
    if not (index / "classes.txt").is_file():
        raise RunError(
            f"{index / 'classes.txt'} is missing, which names the classes of {run}: start in the folder that the run "
            f"was made in, make it again by `reaction index {index}`, or name such a file with --classes"
        )
    return read_classes(index)


def _rule(run: Path) -> str:
    path = run / "config.json"
    if not path.is_file():
        raise RunError(f"{path} is missing: name the folder of a trained run, results/models/<dataset>/<run>")
    rule = read_json(path)["rule"]
    if rule not in RULES:
        raise RunError(f"{run} was made by `{rule}`: name the folder of a trained run, made by {' or '.join(RULES)}")
    return rule


def _classes(
    network: Recogniser, source: Source, names: Sequence[str], write: Write, row: Row, clock: Clock
) -> list[str]:
    """Draws and lists the best classes of every second; returns lines on those of the whole video."""
    row(("start_s", "end_s", "class", "probability"))
    total, seconds = np.zeros(len(names)), 0
    for frames, probabilities in network.seconds(source):
        best = np.argsort(-probabilities, kind="stable")[:BEST]
        shown = [names[one] for one in best], probabilities[best].tolist()
        with clock("encode"):
            for frame in frames:
                write(with_classes(frame, *shown))
        end = min(seconds + 1, source.seconds)
        for name, probability in zip(*shown, strict=True):
            row((seconds, f"{end:g}", name, f"{probability:.4f}"))
        total, seconds = total + probabilities, seconds + 1
    best = np.argsort(-total, kind="stable")[:BEST]
    return [f"{total[one] / seconds:.4f} {names[one]}" for one in best]


def _boxes(network: Finder, source: Source, names: Sequence[str], write: Write, row: Row, clock: Clock) -> list[str]:
    """Draws and lists the actors of every frame, best first; returns a line on how many there were."""
    row(("frame", "time_s", "x1", "y1", "x2", "y2", "class", "score"))
    found = 0
    for number, (frame, actors) in enumerate(network.frames(source)):
        boxes = actors.box.numpy()
        told = [[(one, score[one]) for one in network.told(score)] for score in actors.score.numpy()]
        texts = [", ".join(f"{names[one]} {value:.2f}" for one, value in own) for own in told]
        with clock("encode"):
            write(with_boxes(frame, boxes, texts, [own[0][0] for own in told]))
        time = f"{float(number / source.rate):.3f}"
        for box, own in zip(boxes.tolist(), told, strict=True):
            for one, value in own:
                row((number, time, *(f"{side:.1f}" for side in box), names[one], f"{value:.4f}"))
        found += len(boxes)
    return [f"{found} boxes"]
