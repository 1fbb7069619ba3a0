"""From stored logits to metrics, of one stream or of several fused ones."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from reaction.data.index import read_classes
from reaction.evaluation import classification, multi_label
from reaction.evaluation.svm_fusion import stack_streams, train_svm
from reaction.files import atomic, read_json, write_json, write_text

RUN = ("method", "split", "seed")


class ScoresError(ValueError):
    """Stored scores that are missing, broken or do not belong together."""


@dataclass(frozen=True)
class Predictions:
    """Videos in stored order, labels int64 (n,), scores float (n, classes); higher is likelier.

    Where videos have several classes, labels are zeros and ones (n, classes).
    """

    videos: tuple[str, ...]
    labels: NDArray
    scores: NDArray

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2


def evaluate_scores(folder: Path) -> dict[str, Any]:
    """Write metrics.json, per_class.csv and confusion.{csv,png} beside the scores.h5 of one stream.

    Returns what metrics.json holds: accuracies are fractions, `n` of the `of` videos on the official test list. Where
    videos have several classes they are average precisions, and `hit1` says how often the best class was a right one.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    settings = config["config"]
    protocol = {key: settings[key] for key in ("protocol_name", "before_softmax", "maps")} | settings["protocol"]
    if _part(settings) != "test":
        protocol["part"] = _part(settings)
    protocol |= _pooling(settings)
    facts = {key: settings[key] for key in RUN} | {"stream": settings["stream"], "protocol": protocol}
    return _write_metrics(folder, read_predictions(folder), Path(config["inputs"]["index"]), facts)


def fuse_scores(folder: Path) -> dict[str, Any]:
    """Write fusion.h5 and the files of `evaluate_scores` from the scores.h5 of every stream.

    The config says how: fixed `weights`; a `sweep`, a list of weights per stream, tried on the folders
    `heldout_<stream>`; or an `svm`, trained on the folders `train_<stream>`. Raises ScoresError, naming the folders,
    when the streams differ in method, split, seed, videos or labels, or a folder holds another part of the split than
    it should.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    settings, inputs = config["config"], config["inputs"]
    fused, how = _fused(folder, settings, inputs)
    _write_fusion(folder / "fusion.h5", fused)
    protocol = {key: settings[key] for key in ("protocol_name", "before_softmax")} | _pooling(settings) | how
    facts = {key: settings[key] for key in RUN} | {"stream": "fusion", "protocol": protocol}
    return _write_metrics(folder, fused, Path(inputs["index"]), facts)


def _fused(folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> tuple[Predictions, dict[str, Any]]:
    """The fused test scores, and what metrics.json says of how they came about."""
    before_softmax = settings["before_softmax"]
    if "svm" in settings:
        streams = [role.removeprefix("train_") for role in inputs if role.startswith("train_")]
        training, tested = (_open_part(folder, settings, inputs, streams, part) for part in ("train", "test"))
        fused = _fuse_by_svm(training, tested, settings["svm"], before_softmax=before_softmax, seed=settings["seed"])
        return fused, {"svm": settings["svm"], "trained_on": len(training[0][streams[0]].videos)}
    how = {"weights": settings.get("weights")}
    if "sweep" in settings:
        grid = settings["sweep"]
        views, folders = _open_part(folder, settings, inputs, list(grid), "heldout")
        best, *_ = sweep(views, folders, grid, before_softmax=before_softmax)
        how = {"weights": best.weights, "swept_on": len(next(iter(views.values())).videos), "swept_top1": best.top1}
    views, folders = _open_part(folder, settings, inputs, list(how["weights"]), "test")
    pool = settings.get("views", "mean")
    return fuse(views, folders, weights=how["weights"], before_softmax=before_softmax, pool=pool), how


def _pooling(settings: Mapping[str, Any]) -> dict[str, str]:
    """How a class's score comes from a video's views, where it is not their mean."""
    return {key: settings[key] for key in ("views",) if key in settings}


def _open_part(
    folder: Path, settings: Mapping[str, Any], inputs: Mapping[str, str], streams: Sequence[str], part: str
) -> tuple[dict[str, Predictions], dict[str, Path]]:
    """The logits of every stream on the test, training or held-out videos, and the folders they come from."""
    prefix = "" if part == "test" else f"{part}_"
    if absent := [prefix + stream for stream in streams if prefix + stream not in inputs] or (not streams and [part]):
        raise ScoresError(f"{folder}/config.json has no inputs {', '.join(absent)}: a fusion needs them.")
    folders = {stream: Path(inputs[prefix + stream]) for stream in streams}
    for source in folders.values():
        _check_same_run(folder, settings, source, part)
    return {stream: _read_logits(source) for stream, source in folders.items()}, folders


def _check_same_run(folder: Path, settings: Mapping[str, Any], source: Path, part: str) -> None:
    scored = read_json(source / "config.json")["config"]
    taken = settings.get("runs", {})  # streams that another method trained
    expected = {key: settings[key] for key in RUN} | {"method": taken.get(scored["stream"], settings["method"])}
    for key, value in expected.items():
        if scored[key] != value:
            raise ScoresError(f"{folder} fuses {key} {value!r}, but {source} has {scored[key]!r}.")
    if _part(scored) != part:
        raise ScoresError(f"{folder} takes {source} for scores of part {part!r}, but it has {_part(scored)!r}.")


def _part(settings: Mapping[str, Any]) -> str:
    """Which videos of the split were scored: `test`, `train`, or the `heldout` groups of the training videos."""
    return settings.get("part", "test")


def fuse(
    views: Mapping[str, Predictions],
    folders: Mapping[str, Path],
    *,
    weights: Mapping[str, float],
    before_softmax: bool = True,
    pool: str = "mean",
) -> Predictions:
    """The weighted mean of the streams' consensus; `views` hold logits (n, V, classes), V may differ per stream.

    TSN adds raw scores with weights 1 and 1.5 (yjxiong/temporal-segment-networks, tools/eval_scores.py); Two-Stream
    ConvNets averages softmax scores. `folders` are named in the error when videos or labels differ.
    """
    reference = _check_streams(views, folders)
    total = sum(weights.values())
    fused = sum(
        weights[stream] / total * _consensus(found, before_softmax=before_softmax, pool=pool)
        for stream, found in views.items()
    )
    return replace(reference, scores=fused)


def _consensus(found: Predictions, *, before_softmax: bool, pool: str = "mean") -> NDArray:
    """One score per class (n, classes) from the logits of every view (n, V, classes)."""
    how = {"before_softmax": before_softmax, "pool": pool, "multi_label": found.multi_label}
    return classification.consensus(found.scores, **how)


@dataclass(frozen=True)
class Swept:
    """One choice of weights: top-1, a fraction, and mean cross-entropy in nats on the videos it was tried on."""

    weights: dict[str, float]
    top1: float
    loss: float


def sweep(
    views: Mapping[str, Predictions],
    folders: Mapping[str, Path],
    grid: Mapping[str, Sequence[float]],
    *,
    before_softmax: bool = True,
) -> list[Swept]:
    """Every combination of the weights in `grid`, best first: by top-1, then the lowest loss, then the grid's order.

    The grid is a list of weights per stream; a combination of zeros alone is left out.

    `views` and `folders` are as `fuse`'s and hold videos that neither trained the networks nor test the fusion.
    """
    tried = [_try(views, folders, weights, before_softmax=before_softmax) for weights in _combinations(grid)]
    return sorted(tried, key=lambda one: (-one.top1, one.loss))


def _combinations(grid: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    return (dict(zip(grid, weights, strict=True)) for weights in product(*grid.values()) if any(weights))


def _try(
    views: Mapping[str, Predictions], folders: Mapping[str, Path], weights: dict[str, float], *, before_softmax: bool
) -> Swept:
    fused = fuse(views, folders, weights=weights, before_softmax=before_softmax)
    likelihoods = classification.softmax(fused.scores) if before_softmax else fused.scores
    loss = classification.cross_entropy(likelihoods, fused.labels)
    return Swept(weights, classification.top_k(fused.scores, fused.labels), loss)


def _fuse_by_svm(
    training: tuple[Mapping[str, Predictions], Mapping[str, Path]],
    tested: tuple[Mapping[str, Predictions], Mapping[str, Path]],
    settings: Mapping[str, Any],
    *,
    before_softmax: bool,
    seed: int,
) -> Predictions:
    """Test scores (n, classes) of an SVM trained on the training videos; a part is its logits and their folders."""
    learned, features = _features(*training, before_softmax=before_softmax)
    asked, test_features = _features(*tested, before_softmax=before_softmax)
    svm = train_svm(
        features,
        learned.labels,
        classes=learned.scores.shape[-1],
        cost=settings["c"],
        multi_class=settings.get("multi_class", "one-vs-rest"),
        seed=seed,
    )
    return replace(asked, scores=svm.scores(test_features))


def _features(
    views: Mapping[str, Predictions], folders: Mapping[str, Path], *, before_softmax: bool
) -> tuple[Predictions, NDArray]:
    """The videos of the first stream, and every stream's probabilities stacked (n, streams * classes)."""
    reference = _check_streams(views, folders)
    return reference, stack_streams([_probabilities(one, before_softmax=before_softmax) for one in views.values()])


def _probabilities(found: Predictions, *, before_softmax: bool) -> NDArray:
    """One probability per class (n, classes) from the logits of every view (n, V, classes)."""
    scores = classification.consensus(found.scores, before_softmax=before_softmax)
    return classification.softmax(scores) if before_softmax else scores


def _check_streams(views: Mapping[str, Predictions], folders: Mapping[str, Path]) -> Predictions:
    """The first stream's predictions, when all streams scored the same videos."""
    reference, *others = views
    for other in others:
        _check_same_videos(views[reference], views[other], folders[reference], folders[other])
    return views[reference]


def _check_same_videos(first: Predictions, second: Predictions, first_folder: Path, second_folder: Path) -> None:
    where = f"{first_folder} and {second_folder}"
    if first.videos != second.videos:
        only = sorted(set(first.videos) ^ set(second.videos))
        what = f"{len(only)} videos are in one only, the first is {only[0]!r}" if only else "the order differs"
        raise ScoresError(f"{where} scored different videos: {what}. Score both streams from the same index.")
    different = np.flatnonzero((first.labels != second.labels).reshape(len(first.labels), -1).any(axis=1))
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
    settings = read_json(folder / "config.json")["config"]
    pool = settings.get("views", "mean")
    return replace(found, scores=_consensus(found, before_softmax=settings["before_softmax"], pool=pool))


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
    measured = _measured_sets(scores, labels) if predictions.multi_label else _measured(scores, labels)
    counts = {"n": len(labels), "of": _official(index, facts, len(labels))}
    metrics = dict(facts) | measured | counts
    write_json(folder / "metrics.json", metrics)
    _write_classes(folder, predictions, classes)
    return metrics


def _measured(scores: NDArray, labels: NDArray) -> dict[str, float]:
    return {
        "top1": classification.top_k(scores, labels, 1),
        "top5": classification.top_k(scores, labels, 5),
        "mean_class": classification.mean_class_accuracy(scores, labels),
        "chance": 1 / scores.shape[1],
    }


def _measured_sets(scores: NDArray, labels: NDArray) -> dict[str, float]:
    """The same where videos have several classes; by chance a class's precision is its share of the videos."""
    share = labels.mean(axis=0)
    return {
        "map": float(np.nanmean(multi_label.average_precisions(scores, labels))),
        "hit1": float(multi_label.best_is_right(scores, labels).mean()),
        "chance": float(share[share > 0].mean()),
    }


def _official(index: Path, facts: Mapping[str, Any], n: int) -> int:
    """The videos on the official list of that part; held-out groups are drawn from the index, so they are all there."""
    part = _part(facts["protocol"])
    return n if part == "heldout" else read_json(index / "official.json")[facts["split"]][part]


def _write_classes(folder: Path, predictions: Predictions, classes: Sequence[str]) -> None:
    # matplotlib takes half a second to import: only those who draw pay for it
    from reaction.tables.figures import confusion_matrix

    measure = multi_label if predictions.multi_label else classification
    header, rows = (_precisions if predictions.multi_label else _accuracies)(predictions, classes)
    _write_csv(folder / "per_class.csv", header, rows)
    counts = measure.confusion(predictions.scores, predictions.labels)
    rows = [(name, *row) for name, row in zip(classes, counts, strict=True)]
    _write_csv(folder / "confusion.csv", ("true \\ predicted", *classes), rows)
    confusion_matrix(counts, classes, folder / "confusion.png")


def _accuracies(predictions: Predictions, classes: Sequence[str]) -> tuple[Sequence[str], list[Sequence[object]]]:
    videos, correct = classification.per_class(predictions.scores, predictions.labels)
    table = zip(classes, videos, correct, strict=True)
    rows = [(name, n, hits, f"{hits / n:.4f}" if n else "") for name, n, hits in table]
    return ("class", "n", "correct", "accuracy"), rows


def _precisions(predictions: Predictions, classes: Sequence[str]) -> tuple[Sequence[str], list[Sequence[object]]]:
    videos = predictions.labels.sum(axis=0)
    found = multi_label.average_precisions(predictions.scores, predictions.labels)
    rows = [(name, n, f"{ap:.4f}" if n else "") for name, n, ap in zip(classes, videos, found, strict=True)]
    return ("class", "n", "ap"), rows


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
