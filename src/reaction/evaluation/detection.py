"""The job `evaluate`: mean average precisions of a detector's boxes and tubes, by every evaluator that is asked for.

Boxes go into each protocol in the numbers it means (`as_counted`). `padilla` and `act`, and all of video-mAP but
`multisports`, add a pixel to widths: their authors' files of UCF101-24 and J-HMDB-21 name the last column and row of a
box. The others get our half-open ones. So widths are the same by all, and protocols differ in what they do with them.

Beside metrics.json are per_class.csv, errors.csv (`detection_errors`, at 0.5; with AVA, where an actor has several
classes, it is empty but for its header) and draws.h5: of each metric and evaluator 1000 bootstrap draws of the mean AP.
Videos are drawn, or groups, of the whole index, not only of what was tested, and the same for all runs of a dataset:
draws of several seeds and splits can be averaged and those of two methods subtracted, one by one.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from reaction.data.boxes import Boxes, read_boxes
from reaction.data.index import Video, read_classes, read_index
from reaction.evaluation import ava, detection_errors, frame_map, video_map
from reaction.evaluation.annotations import true_tubes, truth_of
from reaction.evaluation.average_precision import Draws, MeanAP
from reaction.evaluation.boxes import Detections, Truth, as_counted
from reaction.evaluation.detected import Detected, read_detected, read_tubes
from reaction.evaluation.linking import DetectionError, indexed
from reaction.evaluation.tubes import Tube
from reaction.files import atomic, read_json, write_json, write_text

RUN = ("method", "stream", "split", "seed", "scale")
PROTOCOL = ("protocol_name", "frame", "video", "ava")
DRAWS, DRAWN_WITH = 1000, 0  # how many, and their seed
HIGH = "0.5:0.95"  # of the thresholds: the mean over ten


@dataclass(frozen=True)
class Measured:
    """A metric by one evaluator: at one threshold, or at several to be averaged, and the classes it was measured on."""

    metric: str
    protocol: str
    results: Sequence[MeanAP]
    classes: Sequence[str]

    @property
    def value(self) -> float:
        """The mean AP in [0, 1]; 0 where an evaluator leaves out all classes since nothing was detected."""
        value = video_map.mean_over(self.results)
        return 0.0 if np.isnan(value) else value

    @property
    def draws(self) -> NDArray:
        """The mean AP of each draw, (D,)."""
        return np.mean([one.drawn_means for one in self.results], axis=0)

    @property
    def per_class(self) -> NDArray:
        """The AP of each class, (C,)."""
        return np.mean([one.per_class for one in self.results], axis=0)


@dataclass(frozen=True)
class Actors:
    """Detected actors on frames of videos: video, frame int64 (N,), box (N, 4), score (N, C), of each class.

    An actor is a detection of every class whose score exceeds `least`.
    """

    video: NDArray
    frame: NDArray
    box: NDArray
    score: NDArray
    least: float

    def of_class(self, label: int) -> Detections:
        """The detections of one class."""
        rows = np.flatnonzero(self.score[:, label] > self.least)
        columns = (self.video[rows], self.frame[rows], self.box[rows])
        return Detections(*columns, np.full(len(rows), label), self.score[rows, label])


@dataclass(frozen=True)
class Tested:
    """What was detected in the videos of a test, what was annotated there, and the draws of them."""

    index: Path
    boxes: Path
    videos: Sequence[Video]
    classes: Sequence[str]
    detected: Detected
    annotated: Mapping[str, Boxes]
    draws: Draws
    least: float

    @property
    def names(self) -> list[str]:
        return [video.video for video in self.videos]

    def actors(self, edge: float) -> Actors:
        """In the numbers of a protocol that adds `edge`."""
        found = self.detected
        return Actors(found.video, found.frame, as_counted(found.box, edge), found.score, self.least)

    def truth(self, edge: float) -> Truth:
        """In the numbers of a protocol that adds `edge`."""
        truth = truth_of(self.annotated, self.names)
        return replace(truth, box=as_counted(truth.box, edge))

    def true_tubes(self) -> list[Tube]:
        """Raises DetectionError for a tube that misses a frame."""
        tubes = []
        for place, name in enumerate(self.names):
            try:
                tubes += [replace(tube, video=place) for tube in true_tubes(self.annotated, [name])]
            except ValueError as error:
                raise DetectionError(f"{self.index}/boxes.h5, {name}: {error}, as two tubes") from None
        return tubes


def evaluate_detections(folder: Path | str) -> dict[str, Any]:
    """Write metrics.json, per_class.csv, errors.csv and draws.h5 of the boxes.h5 that config.json names.

    Returns what metrics.json holds: `values` by metric and evaluator are fractions, `n` of the `of` videos on the
    official test list; `chance` as `chance` says. Raises DetectionError, naming the file, where boxes, tubes and index
    do not belong together.
    """
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    settings, inputs = frozen["config"], frozen["inputs"]
    tested = open_tested(Path(inputs["index"]), Path(inputs["boxes"]), settings.get("resample", "video"))
    measured = []
    for one in measure(tested, settings, {role: Path(path) for role, path in inputs.items()}):
        print(f"evaluated {one.metric} by {one.protocol}: {one.value:.4f}", flush=True)
        measured.append(one)
    metrics = _facts(settings, tested, measured[0].classes) | {"values": _values(measured)}
    _write_draws(folder / "draws.h5", measured)
    _write_per_class(folder / "per_class.csv", measured)
    _write_errors(folder / "errors.csv", tested if "frame" in settings else None)
    write_json(folder / "metrics.json", metrics)
    return metrics


def open_tested(index: Path, boxes: Path, resample: Literal["video", "group"]) -> Tested:
    """What is to be measured, of an index's folder and that of a detector's boxes.

    Raises DetectionError where they do not belong together or nothing was annotated.
    """
    detected, classes = read_detected(boxes / "boxes.h5"), read_classes(index)
    if detected.score.shape[1] != len(classes):
        raise DetectionError(
            f"{boxes}/boxes.h5 has scores for {detected.score.shape[1]} classes, {index} lists {len(classes)}"
        )
    videos = indexed(detected, index, boxes)
    if not (index / "boxes.h5").exists():
        raise DetectionError(f"{index} has no boxes.h5: its dataset comes without boxes, nothing can be measured")
    annotated = read_boxes(index / "boxes.h5")
    if not any(video in annotated for video in detected.videos):
        raise DetectionError(f"{index}/boxes.h5 has no box of the {len(detected.videos)} videos in {boxes}/boxes.h5")
    least = read_json(boxes / "config.json")["config"]["least_score"]
    draws = draw(read_index(index), videos, resample)
    return Tested(index, boxes, videos, classes, detected, annotated, draws, least)


def draw(indexed: Sequence[Video], tested: Sequence[Video], resample: Literal["video", "group"]) -> Draws:
    """Draws of all indexed videos, or groups of them, as they fall on the tested ones."""
    units = list(dict.fromkeys(getattr(video, resample) for video in indexed))
    n = len(units)
    times = np.random.default_rng(DRAWN_WITH).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    place = {unit: i for i, unit in enumerate(units)}
    used, unit = np.unique([place[getattr(video, resample)] for video in tested], return_inverse=True)
    return Draws(unit, times[:, used].astype(np.float64))


def measure(tested: Tested, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> Iterator[Measured]:
    """Every metric by every evaluator that the settings ask for."""
    for name, thresholds in settings.get("frame", {}).items():
        yield from _measure_frames(tested, frame_map.PROTOCOLS[name], thresholds)
    for name, thresholds in settings.get("video", {}).items():
        yield from _measure_tubes(tested, video_map.PROTOCOLS[name], thresholds, inputs)
    for name in settings.get("ava", ()):
        yield _measure_actions(tested, name)


def _measure_frames(
    tested: Tested, protocol: frame_map.FrameProtocol, thresholds: Sequence[float]
) -> Iterator[Measured]:
    truth, actors = tested.truth(protocol.edge), tested.actors(protocol.edge)
    how = {"classes": len(tested.classes), "protocol": protocol, "draws": tested.draws}
    for threshold in thresholds:
        result = frame_map.frame_map(truth, actors, threshold=threshold, **how)
        yield Measured(f"frame_map@{threshold}", protocol.name, [result], tested.classes)


def _measure_tubes(
    tested: Tested,
    protocol: video_map.VideoProtocol,
    thresholds: Sequence[float | str],
    inputs: Mapping[str, Path],
) -> Iterator[Measured]:
    edge = protocol.overlap.edge
    truth, tubes = (_counted(some, edge) for some in (tested.true_tubes(), _linked(tested, protocol.name, inputs)))
    sets = {key: video_map.HIGH_THRESHOLDS if key == HIGH else (key,) for key in thresholds}
    distinct = sorted({threshold for some in sets.values() for threshold in some})
    how = {"classes": len(tested.classes), "protocol": protocol, "draws": tested.draws}
    results = dict(zip(distinct, video_map.video_map(truth, tubes, thresholds=distinct, **how), strict=True))
    for key, some in sets.items():
        yield Measured(f"video_map@{key}", protocol.name, [results[one] for one in some], tested.classes)


def _linked(tested: Tested, name: str, inputs: Mapping[str, Path]) -> list[Tube]:
    role = f"tubes_{name}"
    if role not in inputs:
        raise DetectionError(f"config.json has no inputs.{role}: `{name}` measures the tubes that it links itself")
    videos, tubes = read_tubes(inputs[role] / "tubes.h5")
    if videos != tested.detected.videos:
        raise DetectionError(f"{inputs[role]}/tubes.h5 and {tested.boxes}/boxes.h5 are of different videos: link again")
    return tubes


def _counted(tubes: Sequence[Tube], edge: float) -> list[Tube]:
    return [replace(tube, box=as_counted(tube.box, edge)) for tube in tubes]


def _measure_actions(tested: Tested, name: str) -> Measured:
    """AVA's metric; a protocol whose name ends in `-mini` sees every fourth second.

    Of the 80 actions those count that ActivityNet evaluates; keyframes that show none of them are listed nevertheless.
    The index leaves out excluded seconds, so that neither side has them.
    """
    columns = ava.evaluated(tested.classes)
    truth = truth_of(tested.annotated, tested.names)
    second, fractions = _seconds(tested, truth.video, truth.frame), _fractions(tested, truth.video, truth.box)
    listed = np.unique(np.stack([truth.video, second], axis=1), axis=0)
    counts = np.isin(truth.label, columns)
    label = np.searchsorted(columns, truth.label[counts])
    found = tested.detected
    actions = ava.ActionScores(
        found.video,
        _seconds(tested, found.video, found.frame),
        _fractions(tested, found.video, found.box),
        found.score[:, columns],
    )
    result = ava.ava_map(
        Truth(truth.video[counts], second[counts], fractions[counts], label),
        actions,
        protocol=ava.PROTOCOLS[name.removesuffix("-mini")],
        part="mini" if name.endswith("-mini") else "full",
        listed=listed,
        draws=tested.draws,
    )
    return Measured(f"frame_map@{ava.THRESHOLD}", name, [result], [tested.classes[i] for i in columns])


def _seconds(tested: Tested, video: NDArray, frame: NDArray) -> NDArray[np.int64]:
    """Seconds (N,) of key frames, since the video began: that may be at 900, which 4 divides as it does 0."""
    fps = np.array([one.fps for one in tested.videos])
    return np.rint(frame / fps[video]).astype(np.int64)


def _fractions(tested: Tested, video: NDArray, box: NDArray) -> NDArray:
    """Boxes (N, 4) as fractions of their frames."""
    size = np.array([(one.width, one.height) * 2 for one in tested.videos], np.float64)
    return box / size[video]


def _facts(settings: Mapping[str, Any], tested: Tested, classes: Sequence[str]) -> dict[str, Any]:
    run = {key: settings[key] for key in RUN if key in settings}
    protocol = {key: settings[key] for key in PROTOCOL if key in settings}
    official = read_json(tested.index / "official.json")[settings["split"]]["test"]
    return (
        run
        | {"protocol": protocol, "n": len(tested.videos), "of": official, "chance": chance(tested, classes)}
        | {"classes": len(classes)}
    )


def chance(tested: Tested, classes: Sequence[str]) -> float:
    """The mean AP, over classes with truth, of someone who knows every actor on every frame and nothing of classes.

    All equally sure, a class's detections are as precise as its share of the actors is large. Where actors have one
    class each the shares add up to 1.
    """
    boxes = [tested.annotated[name] for name in tested.names if name in tested.annotated]
    actors = sum(len(np.unique(np.stack([one.frame, one.tube]), axis=1).T) for one in boxes)
    having = sum(np.bincount(one.label, minlength=len(tested.classes)) for one in boxes)  # (C,)
    counted = np.array([having[tested.classes.index(name)] for name in classes])
    return float(counted.sum() / max(actors * np.count_nonzero(counted), 1))


def _values(measured: Sequence[Measured]) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    for one in measured:
        values.setdefault(one.metric, {})[one.protocol] = one.value
    return values


def _write_draws(path: Path, measured: Sequence[Measured]) -> None:
    with atomic(path) as partial_file, h5py.File(partial_file, "w", track_order=False) as file:
        for one in measured:
            stored = file.create_dataset(f"{one.metric}/{one.protocol}", data=one.draws)
            stored.attrs["value"] = one.value


def _write_per_class(path: Path, measured: Sequence[Measured]) -> None:
    rows = [
        (one.metric, one.protocol, name, _text(ap), positives)
        for one in measured
        for name, ap, positives in zip(one.classes, one.per_class, one.results[0].positives, strict=True)
    ]
    _write_csv(path, ("metric", "protocol", "class", "ap", "positives"), rows)


def _write_errors(path: Path, tested: Tested | None) -> None:
    if tested is None:
        _write_csv(path, ("class", "precision", *detection_errors.KINDS, "missed"), [])
        return
    edge = frame_map.ACT.edge
    errors = detection_errors.detection_errors(tested.truth(edge), tested.actors(edge), classes=len(tested.classes))
    each = zip(*errors.per_class.values(), strict=True)
    rows = [(name, *map(_text, values)) for name, values in zip(tested.classes, each, strict=True)]
    _write_csv(path, ("class", *errors.per_class), [("mean", *map(_text, errors.mean.values())), *rows])


def _text(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
