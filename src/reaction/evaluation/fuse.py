"""From stored logits to metrics, of one stream or of two fused ones."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from reaction.data.index import read_classes
from reaction.evaluation import classification
from reaction.files import atomic, read_json, write_json, write_text

RUN = ("method", "split", "seed")


class ScoresError(ValueError):
    """Stored scores that are missing, broken or do not belong together."""


@dataclass(frozen=True)
class Predictions:
    """Videos in stored order, labels int64 (n,), scores float (n, classes); higher is likelier."""

    videos: tuple[str, ...]
    labels: NDArray
    scores: NDArray


def evaluate_scores(folder: Path) -> dict[str, Any]:
    """Write metrics.json, per_class.csv and confusion.{csv,png} beside the scores.h5 of one stream.

    Returns what metrics.json holds: accuracies are fractions, `n` of the `of` videos on the official test list.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    settings = config["config"]
    protocol = {key: settings[key] for key in ("protocol_name", "before_softmax", "maps")} | settings["protocol"]
    facts = {key: settings[key] for key in RUN} | {"stream": settings["stream"], "protocol": protocol}
    return _write_metrics(folder, read_predictions(folder), Path(config["inputs"]["index"]), facts)


def fuse_scores(folder: Path) -> dict[str, Any]:
    """Write fusion.h5 and the files of `evaluate_scores` from both streams' scores.h5.

    Raises ScoresError, naming the folders, when the streams differ in method, split, seed, videos or labels.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    settings, inputs = config["config"], config["inputs"]
    streams = {stream: Path(inputs[stream]) for stream in settings["weights"]}
    for source in streams.values():
        _check_same_run(folder, settings, source)
    views = {stream: _read_logits(source) for stream, source in streams.items()}
    fused = fuse(views, streams, weights=settings["weights"], before_softmax=settings["before_softmax"])
    _write_fusion(folder / "fusion.h5", fused)
    protocol = {key: settings[key] for key in ("protocol_name", "before_softmax", "weights")}
    facts = {key: settings[key] for key in RUN} | {"stream": "fusion", "protocol": protocol}
    return _write_metrics(folder, fused, Path(inputs["index"]), facts)


def _check_same_run(folder: Path, settings: Mapping[str, Any], source: Path) -> None:
    scored = read_json(source / "config.json")["config"]
    for key in RUN:
        if scored[key] != settings[key]:
            raise ScoresError(f"{folder} fuses {key} {settings[key]!r}, but {source} has {scored[key]!r}.")


def fuse(
    views: Mapping[str, Predictions],
    folders: Mapping[str, Path],
    *,
    weights: Mapping[str, float],
    before_softmax: bool = True,
) -> Predictions:
    """The weighted mean of the streams' consensus; `views` hold logits (n, V, classes), V may differ per stream.

    TSN adds raw scores with weights 1 and 1.5 (yjxiong/temporal-segment-networks, tools/eval_scores.py); Two-Stream
    ConvNets averages softmax scores. `folders` are named in the error when videos or labels differ.
    """
    reference, *others = views
    for other in others:
        _check_same_videos(views[reference], views[other], folders[reference], folders[other])
    total = sum(weights.values())
    fused = sum(
        weights[stream] / total * classification.consensus(found.scores, before_softmax=before_softmax)
        for stream, found in views.items()
    )
    return Predictions(views[reference].videos, views[reference].labels, fused)


def _check_same_videos(first: Predictions, second: Predictions, first_folder: Path, second_folder: Path) -> None:
    where = f"{first_folder} and {second_folder}"
    if first.videos != second.videos:
        only = sorted(set(first.videos) ^ set(second.videos))
        what = f"{len(only)} videos are in one only, the first is {only[0]!r}" if only else "the order differs"
        raise ScoresError(f"{where} scored different videos: {what}. Score both streams from the same index.")
    different = np.flatnonzero(first.labels != second.labels)
    if len(different):
        raise ScoresError(f"{where} have different labels, first at {first.videos[different[0]]!r}. Score both again.")
    if first.scores.shape[-1] != second.scores.shape[-1]:
        raise ScoresError(f"{where} have {first.scores.shape[-1]} and {second.scores.shape[-1]} classes.")


def read_predictions(folder: Path) -> Predictions:
    """Class scores (n, classes) from the folder's fusion.h5, or else the consensus of its scores.h5's views."""
    folder = Path(folder)
    if (folder / "fusion.h5").exists():
        return _read_h5(folder / "fusion.h5", "scores")
    found = _read_logits(folder)
    before_softmax = read_json(folder / "config.json")["config"]["before_softmax"]
    return replace(found, scores=classification.consensus(found.scores, before_softmax=before_softmax))


def _read_logits(folder: Path) -> Predictions:
    return _read_h5(Path(folder) / "scores.h5", "logits")


def _read_h5(path: Path, values: str) -> Predictions:
    if not path.exists():
        raise ScoresError(f"{path} is missing. Make it with the command that its folder's config.json names.")
    try:
        with h5py.File(path) as file:
            videos = tuple(file["video"].asstr()[:])
            found = Predictions(videos, file["label"][:], file[values][:])
    except (OSError, KeyError) as error:
        raise ScoresError(f"{path} is broken ({error}). Delete it and run again.") from error
    if not len(videos) == len(found.labels) == len(found.scores) > 0:
        raise ScoresError(f"{path} has no videos, or not as many labels and scores as videos. Delete it and run again.")
    return found


def _write_fusion(path: Path, fused: Predictions) -> None:
    with atomic(path) as partial, h5py.File(partial, "w") as file:
        file.create_dataset("video", data=list(fused.videos), dtype=h5py.string_dtype())
        file.create_dataset("label", data=fused.labels.astype(np.int64))
        file.create_dataset("scores", data=fused.scores.astype(np.float32))  # (n, classes)


def _write_metrics(folder: Path, predictions: Predictions, index: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    scores, labels = predictions.scores, predictions.labels
    classes = read_classes(index)
    if scores.shape[1] != len(classes):
        raise ScoresError(f"{folder} has scores for {scores.shape[1]} classes, {index} lists {len(classes)}.")
    metrics = dict(facts) | {
        "top1": classification.top_k(scores, labels, 1),
        "top5": classification.top_k(scores, labels, 5),
        "mean_class": classification.mean_class_accuracy(scores, labels),
        "n": len(labels),
        "of": read_json(index / "official.json")[facts["split"]]["test"],
        "chance": 1 / len(classes),
    }
    write_json(folder / "metrics.json", metrics)
    _write_classes(folder, predictions, classes)
    return metrics


def _write_classes(folder: Path, predictions: Predictions, classes: Sequence[str]) -> None:
    # matplotlib takes half a second to import: only those who draw pay for it
    from reaction.tables.figures import confusion_matrix

    videos, correct = classification.per_class(predictions.scores, predictions.labels)
    table = zip(classes, videos, correct, strict=True)
    rows = [(name, n, hits, f"{hits / n:.4f}" if n else "") for name, n, hits in table]
    _write_csv(folder / "per_class.csv", ("class", "n", "correct", "accuracy"), rows)
    counts = classification.confusion(predictions.scores, predictions.labels)
    rows = [(name, *row) for name, row in zip(classes, counts, strict=True)]
    _write_csv(folder / "confusion.csv", ("true \\ predicted", *classes), rows)
    confusion_matrix(counts, classes, folder / "confusion.png")


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
