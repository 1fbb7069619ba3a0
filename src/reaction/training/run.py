"""The job `train`: read config.json, build what it describes, call the loop, write the outputs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reaction.clips.loader import JoinedClips, TestClips, TrainClips
from reaction.data.index import read_classes
from reaction.files import read_json, write_json
from reaction.models.weights import cpu_copy, write_weights
from reaction.training import checkpoint
from reaction.training.inputs import training_clips
from reaction.training.job import be_deterministic, provenance, tell, write_rows
from reaction.training.loop import Recipe, best_row, settle, train
from reaction.training.networks import MODEL, build_network, load_start, tasks_of
from reaction.training.schedules import in_epochs

BEST = "best.safetensors"


def train_run(
    folder: Path | str,
    *,
    checkpoints: Path | str,
    workers: int = 0,
    threads: int = 1,
    at_once: int | None = None,
    stop_after: float | None = None,
) -> None:
    """Train the run in `folder`: model.safetensors (the last epoch's), history.csv, metrics.json, provenance.json.

    Where the recipe holds groups of the training videos out, best.safetensors too, of the epoch that did best on them.
    `checkpoints` is this run's own folder for the state a killed job goes on from; the state is removed at the end.
    Where BatchNorm has groups (`bn_group`), `at_once` videos go through the network at a time, for the memory's sake.
    Under torchrun every process calls this and the first one writes. Raises StopEarly after `stop_after` minutes.
    """
    be_deterministic(threads)
    folder, checkpoints = Path(folder), Path(checkpoints)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    torch.manual_seed(config["seed"])
    tasks = tasks_of(frozen)
    classes = len(read_classes(inputs["index"])) if tasks is None else tasks.outputs
    model = build_network(config["network"], stream=config["stream"], classes=classes)
    origin = load_start(model, config, inputs.get("init"))
    if config.get("trains") == "last":
        model.train_last_only()
    clips, heldout = training_clips(config, inputs, config["training"]["holdout"])
    recipe = Recipe(**in_epochs(config["training"], len(clips)))
    identity = f"{frozen['dataset']}/{folder.name}"
    options = {
        "checkpoints": checkpoints,
        "identity": identity,
        "workers": workers,
        "stop_after": stop_after,
        "at_once": at_once,
    }
    options |= {"seed": config["seed"], "heldout": heldout, "tasks": tasks, "report": tell}
    history, best = train(model, clips, recipe, **options)
    if int(os.environ.get("RANK", 0)) == 0:
        if recipe.precise_bn:
            settle(model, clips, recipe, seed=config["seed"], workers=workers)
        _write_run(folder, {MODEL: cpu_copy(model), BEST: best}, config, history, _counts(clips, heldout))
        seconds = sum(row["seconds"] for row in history)
        how = {"workers": workers, "weights": origin, "bn_group": recipe.bn_group or recipe.batch}
        write_json(folder / "provenance.json", provenance(seconds, threads, **how))
        (checkpoints / checkpoint.LAST).unlink(missing_ok=True)


def _write_run(
    folder: Path,
    weights: Mapping[str, Mapping[str, Tensor]],
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, float]],
    counts: Mapping[str, int],
) -> None:
    for name, state in weights.items():
        if state:
            write_weights(folder / name, state)
    write_rows(folder / "history.csv", history)
    facts = {key: config[key] for key in ("method", "stream", "split", "seed", "scale")}
    last = {key: history[-1][key] for key in ("loss", "top1")} | {"epochs": len(history)}
    best = {"best": {key: best_row(history)[key] for key in ("epoch", "val_loss", "val_top1")}} if weights[BEST] else {}
    write_json(folder / "metrics.json", facts | last | best | counts)


def _counts(clips: TrainClips | JoinedClips, heldout: TestClips | None) -> dict[str, int]:
    tasks = clips.tasks if isinstance(clips, JoinedClips) else [clips]
    counts = {name: len(task) for name, task in zip(("n", "other_task"), tasks, strict=False)}
    return counts | ({} if heldout is None else {"heldout": len(heldout)})
