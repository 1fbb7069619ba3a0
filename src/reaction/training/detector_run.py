"""The job `train_detector`: read config.json, build the detector it describes, call the loop, write the outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reaction.clips.keyframes import Around, Bank, Batch, Distortion, TrainKeyFrames
from reaction.data.anchors import cluster, mean_overlap, sides_in_cells
from reaction.data.boxes import Boxes, read_boxes
from reaction.data.index import Video, part_videos, read_classes
from reaction.data.store import Shards
from reaction.files import read_json, sha256, write_json
from reaction.models.weights import cpu_copy, read_weights, write_weights
from reaction.models.yowo import ANCHORS as PUBLIC
from reaction.models.yowo import YOWO, freeze_bank, freeze_branches, load_matching
from reaction.training import checkpoint
from reaction.training.detecting import ANCHORS, build_detector
from reaction.training.detector_loop import DetectorRecipe, train_detector
from reaction.training.job import be_deterministic, provenance, tell, write_rows
from reaction.training.networks import MODEL, RunError, weights_file
from reaction.training.region_loss import Losses, Targets, region_loss

COUNTER = ".num_batches_tracked"  # old files have none
PUBLIC_INPUT = 7  # cells a side of the images that the public anchors are for


def train_detector_run(
    folder: Path | str,
    *,
    checkpoints: Path | str,
    workers: int = 0,
    threads: int = 1,
    stop_after: float | None = None,
) -> None:
    """Train the detector in `folder`: model.safetensors, anchors.json, history.csv, metrics.json, provenance.json.

    `checkpoints` is this run's own folder for the state a killed job goes on from; the state is removed at the end.
    Raises StopEarly after `stop_after` minutes.
    """
    be_deterministic(threads)
    folder, checkpoints = Path(folder), Path(checkpoints)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    torch.manual_seed(config["seed"])
    classes = len(read_classes(inputs["index"]))
    videos, boxes = training_boxes(inputs["index"], config["split"])
    anchors, fit = choose_anchors(config, videos, boxes)
    model = build_detector(config["network"], classes=classes)
    origin = start_from(model, config["weights"])
    if config["trains"] == "late":
        freeze_branches(model)
    if "bank" in config["network"] and config["weights"]["source"] != "none":
        freeze_bank(model)
    several = config["network"].get("several", False)
    clips = _clips(config, inputs, videos, boxes, classes if several else None)
    loss = _loss(config, anchors, action_ratios(boxes.values(), classes) if several else None)
    recipe = DetectorRecipe(**config["training"])
    options = {"seed": config["seed"], "checkpoints": checkpoints, "identity": f"{frozen['dataset']}/{folder.name}"}
    history = train_detector(model, clips, loss, recipe, **options, workers=workers, stop_after=stop_after, report=tell)
    write_weights(folder / MODEL, cpu_copy(model))
    write_json(folder / ANCHORS, {"anchors": anchors.tolist(), "mean_overlap": fit})
    write_rows(folder / "history.csv", history)
    facts = {key: config[key] for key in ("method", "stream", "split", "seed", "scale")}
    write_json(folder / "metrics.json", facts | {"loss": history[-1]["loss"], "epochs": len(history), "n": len(clips)})
    seconds = sum(row["seconds"] for row in history)
    write_json(folder / "provenance.json", provenance(seconds, threads, workers=workers, weights=origin))
    (checkpoints / checkpoint.LAST).unlink(missing_ok=True)


def training_boxes(index: str, split: str) -> tuple[list[Video], dict[str, Boxes]]:
    """The training videos of a split, and their boxes by video. Raises RunError where there are none."""
    path = Path(index) / "boxes.h5"
    if not path.is_file():
        raise RunError(f"{path} is missing: the dataset's archives hold no boxes; see its page in params.yaml")
    videos = part_videos(index, split, "train")
    every = read_boxes(path)
    boxes = {video.video: every[video.video] for video in videos if video.video in every}
    if not boxes:
        raise RunError(f"{index} has no boxes of training videos in {split}")
    return videos, boxes


def choose_anchors(
    config: Mapping[str, Any], videos: Sequence[Video], boxes: Mapping[str, Boxes]
) -> tuple[Tensor, float]:
    """Anchors (5, 2) in cells of the run's input, and how well they fit its training boxes (`mean_overlap`).

    `anchors` in `config` is `fitted` (to these boxes), or says which public ones.

    The public ones are for 224 pixels; at another input the same actors take as many cells more or less.
    """
    sizes = {video.video: (video.width, video.height) for video in videos}
    sides = sides_in_cells((one, *sizes[video]) for video, one in boxes.items())  # of 7 x 7 cells
    if (kind := config["anchors"]) not in ("fitted", *PUBLIC):
        raise RunError(f"there are no public anchors for {kind}: write `anchors: fitted`")
    shapes = cluster(sides) if kind == "fitted" else np.array(PUBLIC[kind])
    cells = config["network"]["input"] / 32
    return torch.tensor(shapes * cells / PUBLIC_INPUT, dtype=torch.float32), mean_overlap(sides, shapes)


def start_from(model: YOWO, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Put the weights that training starts from into `model`, in place; what they were, for provenance.json.

    A file may hold the whole network or its branches alone; what follows them starts anew where it lacks or does not
    fit. Raises RunError where a branch is not there, or is another network's.
    """
    if weights["source"] == "none":
        return {"source": "none"}
    path = weights_file(weights)
    state = {name.removeprefix("backbone."): value for name, value in read_weights(path).items()}
    _check_branches(model, state, path)
    coverage = load_matching(model, state)
    tell(f"{path}: {coverage}")
    return {"source": weights["source"], "file": path.name, "sha256": sha256(path), "coverage": vars(coverage)}


def _check_branches(model: YOWO, state: Mapping[str, Tensor], path: Path) -> None:
    own = {name: value for name, value in model.state_dict().items() if name.startswith("backbone_")}
    other = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    if other := [name for name in other if not name.endswith(COUNTER)]:
        raise RunError(
            f"{path} lacks {other[0]} and {len(other) - 1} more of the branches, or has them in another shape: convert "
            "it with the files of both branches, of the 3D network that the detector has"
        )


def action_ratios(boxes: Sequence[Boxes], classes: int) -> Tensor:
    """How many of the actors, one in each frame, do each action: (classes,), from 0 to 1."""
    actors, doing = 0, np.zeros(classes)
    for one in boxes:
        actors += len(np.unique(np.stack((one.frame, one.tube)), axis=1).T)
        doing += np.bincount(one.label, minlength=classes)
    return torch.from_numpy(doing / max(actors, 1)).float()


def _clips(
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    videos: Sequence[Video],
    boxes: Mapping[str, Boxes],
    classes: int | None,
) -> TrainKeyFrames:
    network = config["network"]
    return TrainKeyFrames(
        videos,
        Shards(inputs["features"]),
        boxes,
        around=Around(network["frames"], "last"),
        input=network["input"],
        distortion=Distortion(**config["augmentation"]),
        seed=config["seed"],
        every=config["every"],
        bank=Bank(network["bank"]) if "bank" in network else None,
        strides=config["strides"],
        classes=classes,
    )


def _loss(config: Mapping[str, Any], anchors: Tensor, ratios: Tensor | None):
    def loss(output: Tensor, batch: Batch) -> Losses:
        targets = Targets(batch.image, batch.box, batch.label)
        return region_loss(
            output, targets, anchors, scaling=config["loss"], ratios=ratios, poses=config["network"]["poses"]
        )

    return loss
