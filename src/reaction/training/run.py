"""The jobs `train` and `score`: read config.json, build what it describes, call the loop, write the outputs."""

import csv
import io
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from reaction.clips.loader import Augmentation, Stream, TestClips, TrainClips
from reaction.clips.maps import ConstantMaps, FrameMaps, StoredMaps
from reaction.data.index import Video, part_videos, read_classes
from reaction.data.splits import hold_out
from reaction.data.store import Maps, Shards
from reaction.files import atomic, read_json, sha256, write_json, write_text
from reaction.models.bn_inception import BNInception
from reaction.models.cnn_m import CNNM
from reaction.models.inception_v3 import InceptionV3
from reaction.models.st_attention import STAttention
from reaction.models.tsn import TSN
from reaction.models.vgg import VGG16
from reaction.models.weights import (
    check,
    cpu_copy,
    download,
    load_pretrained,
    read_weights,
    start_classifier,
    write_weights,
)
from reaction.training import checkpoint
from reaction.training.loop import Recipe, best_row, train

MODEL = "model.safetensors"
BEST = "best.safetensors"
BACKBONES = {"inception_v3": InceptionV3, "bn_inception": BNInception, "cnn_m_2048": CNNM, "vgg16": VGG16}
DOWNLOADS = Path("downloads/weights")
VIEWS_AT_ONCE = 64
SECONDS_BETWEEN_LINES = 30
LIBRARIES = ("torch", "lightning-fabric", "numpy", "opencv-contrib-python-headless", "h5py", "safetensors")


class RunError(ValueError):
    """A run whose folder, inputs or weights do not fit together."""


def train_run(
    folder: Path | str,
    *,
    checkpoints: Path | str,
    workers: int = 0,
    threads: int = 1,
    stop_after: float | None = None,
) -> None:
    """Train the run in `folder`: model.safetensors (the last epoch's), history.csv, metrics.json, provenance.json.

    Where the recipe holds groups of the training videos out, best.safetensors too, of the epoch that did best on them.
    `checkpoints` is this run's own folder for the state a killed job goes on from; the state is removed at the end.
    Under torchrun every process calls this and the first one writes. Raises StopEarly after `stop_after` minutes.
    """
    be_deterministic(threads)
    folder, checkpoints = Path(folder), Path(checkpoints)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    torch.manual_seed(config["seed"])
    model = build_network(config["network"], stream=config["stream"], classes=len(read_classes(inputs["index"])))
    origin = load_start(model, config, inputs.get("init"))
    recipe = Recipe(**config["training"])
    clips, heldout = training_clips(config, inputs, recipe.holdout)
    identity = f"{frozen['dataset']}/{folder.name}"
    options = {"checkpoints": checkpoints, "identity": identity, "workers": workers, "stop_after": stop_after}
    history, best = train(model, clips, recipe, seed=config["seed"], heldout=heldout, report=_tell, **options)
    if int(os.environ.get("RANK", 0)) == 0:
        _write_run(folder, {MODEL: cpu_copy(model), BEST: best}, config, history, _counts(clips, heldout))
        seconds = sum(row["seconds"] for row in history)
        write_json(folder / "provenance.json", provenance(seconds, threads, workers=workers, weights=origin))
        (checkpoints / checkpoint.LAST).unlink(missing_ok=True)


def load_run(folder: Path | str) -> tuple[TSN, dict[str, Any]]:
    """The trained network of a run, in evaluation mode on the CPU, and the run's own parameters."""
    folder = Path(folder)
    config = read_json(folder / "config.json")["config"]
    state = _read_model(folder)
    last_layer = BACKBONES[config["network"]["backbone"]].last_layer
    classes = state[f"backbone.{last_layer}.weight"].shape[0]
    model = build_network(config["network"], stream=config["stream"], classes=classes)
    _fit(model, state, folder)
    return model.eval(), config


def score_run(folder: Path | str, *, workers: int = 0, threads: int = 1) -> None:
    """Score one part of the split in `folder`: scores.h5 with every view's logits, and provenance.json.

    `part` is `test`, `train` (every training video, those that the run held out among them) or `heldout` (those alone).
    """
    be_deterministic(threads)
    started, folder = time.monotonic(), Path(folder)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    model, run = load_run(inputs["run"])
    clips = _test_clips(config, inputs, run)
    logits = score(model.to(device()), clips, workers=workers, report=_tell)
    labels = [video.labels[0] for video in clips.videos]
    write_scores(folder / "scores.h5", [video.video for video in clips.videos], labels, logits, config["protocol"])
    write_json(folder / "provenance.json", provenance(time.monotonic() - started, threads, workers=workers))


@torch.no_grad()
def score(model: TSN, clips: TestClips, *, workers: int = 0, report: Callable[[str], None] = print) -> np.ndarray:
    """Logits float32 (n, V, classes) of every view of every video: each view alone, nothing averaged."""
    model.eval()
    where = next(model.parameters()).device
    started = told = time.monotonic()
    logits = []
    for item in DataLoader(clips, batch_size=None, num_workers=workers):
        views = item["clip"].split(VIEWS_AT_ONCE)  # (v, C, H, W)
        maps = item["map"].split(VIEWS_AT_ONCE) if "map" in item else [None] * len(views)
        logits.append(torch.cat([_view_logits(model, *pair, where) for pair in zip(views, maps, strict=True)]))
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES or len(logits) == len(clips):
            told = time.monotonic()
            left = (told - started) / len(logits) * (len(clips) - len(logits))
            report(f"scored {len(logits)}/{len(clips)} videos, {left:.0f} s left")
    return torch.stack(logits).numpy()


def write_scores(
    path: Path, videos: Sequence[str], labels: Sequence[int], logits: np.ndarray, protocol: Mapping[str, Any]
) -> None:
    """scores.h5: `video`, `label`, `logits` float32 (n, V, classes); attributes `segments` and `crops`."""
    with atomic(path) as partial, h5py.File(partial, "w", track_order=False) as file:
        file["video"] = np.array(videos, dtype=h5py.string_dtype())
        file["label"] = np.array(labels, dtype=np.int64)
        file["logits"] = logits.astype(np.float32)
        file.attrs["segments"], file.attrs["crops"] = protocol["segments"], protocol["crops"]


def build_network(network: Mapping[str, Any], *, stream: str, classes: int) -> TSN:
    """The untrained network that a run's `network` block describes; draws from torch's global generator."""
    entry, name = network["entry"], network["backbone"]
    channels = Stream(stream, network["stack"]).channels + _map_channels(entry)
    options = {"classes": classes, "channels": channels, "width": network["width"], "dropout": network["dropout"]}
    if name == "cnn_m_2048":
        options["second_norm"] = stream != "flow"  # the temporal net has none (Two-Stream, section 5)
    backbone = BACKBONES[name](**options)
    consensus = {"consensus": network.get("consensus", "average"), "segments": network["segments"]}
    if entry is None:
        return TSN(backbone, partial_bn=network["partial_bn"], **consensus)
    return STAttention(backbone, entry=entry, partial_bn=network["partial_bn"], **consensus)


def stream_of(run: Mapping[str, Any]) -> Stream:
    """What the network of a run sees, by the run's own parameters."""
    network = run["network"]
    return Stream(run["stream"], network["stack"], mean_flow=network.get("mean_flow", False))


def load_start(model: TSN, config: Mapping[str, Any], init: str | None) -> dict[str, Any]:
    """Put the weights that training starts from into `model`, in place; what they were, for provenance.json.

    They are those of the run folder `init`, if there is one, or else what the `weights` block names.
    """
    if init is not None:
        _fit(model, _read_model(Path(init)), Path(init))
        return {"source": "run", "run": init}
    weights = config["weights"]
    if weights["source"] == "none":
        start_classifier(model.backbone)
        return {"source": "none"}
    path = _weights_file(weights)
    read = read_weights(path)
    state = {name.removeprefix("backbone."): value for name, value in read.items()}
    network = config["network"]
    # A network without a map has map_channel None, and no channel to fill with it.
    entering = {"extra": _map_channels(network["entry"]), "map_channel": network["map_channel"] or "mean"}
    # A run's own weights say backbone, and were trained on what the clip loader hands over.
    public = not any(name.startswith("backbone.") for name in read)
    coverage = load_pretrained(model.backbone, state, stream=config["stream"], public=public, **entering)
    _tell(f"{path}: {coverage}")
    return {"source": weights["source"], "file": path.name, "sha256": sha256(path), "coverage": vars(coverage)}


def entering_maps(maps: Mapping[str, Any] | None, folder: str | None) -> FrameMaps | None:
    """What a `maps` block describes: nothing, one constant, or the maps stored in `folder`."""
    if maps is None:
        return None
    if maps["source"] == "constant":
        return ConstantMaps(maps["value"])
    if folder is None:
        raise RunError(f"maps from {maps['source']!r} need a folder: config.json has no inputs.maps")
    return StoredMaps(Maps(folder), dead=maps["dead"])


def open_features(folder: str) -> Shards:
    """The shards of a features folder, each checked against the folder's own config."""
    return Shards(folder, expect=read_json(Path(folder) / "config.json")["config"])


def be_deterministic(threads: int) -> None:
    """The same numbers at the same number of threads; on a GPU as far as its kernels allow, with warnings."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def provenance(seconds: float, threads: int, **more: Any) -> dict[str, Any]:
    """How a result came about, which its numbers must not depend on: time, device, versions, commit."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    versions = {library: version(library) for library in LIBRARIES} | {"python": platform.python_version()}
    processes = int(os.environ.get("WORLD_SIZE", 1))
    facts = {"seconds": round(seconds, 3), "device": name, "threads": threads, "processes": processes}
    return facts | {"versions": versions, "commit": _commit()} | more


def training_clips(
    config: Mapping[str, Any], inputs: Mapping[str, str], holdout: float = 0.0
) -> tuple[TrainClips, TestClips | None]:
    """The clips a run learns from, and the centre crops it is measured on after each epoch, if groups are held out.

    Grad-CAM maps of the true label tell the held-out clips' label as well: what is measured with them compares epochs,
    and is no estimate of a test, which knows learned maps only.
    """
    videos = part_videos(inputs["index"], config["split"], "train")
    training, heldout = hold_out(videos, holdout, seed=config["seed"])
    segments = config["network"]["segments"]
    shared = _shared(config, config, inputs)
    augmentation = Augmentation(**config["augmentation"])
    clips = TrainClips(training, segments=segments, augmentation=augmentation, seed=config["seed"], **shared)
    return clips, TestClips(heldout, segments=segments, crops=1, sampler="tsn", **shared) if heldout else None


def _test_clips(config: Mapping[str, Any], inputs: Mapping[str, str], run: Mapping[str, Any]) -> TestClips:
    part = config.get("part", "test")
    videos = _scored_videos(part, config, inputs, run)
    if not videos:
        raise RunError(f"{inputs['index']} has no {part} videos in {config['split']}")
    protocol = {key: config["protocol"][key] for key in ("segments", "crops", "sampler")}
    return TestClips(videos, **protocol, **_shared(config, run, inputs))


def _scored_videos(
    part: str, config: Mapping[str, Any], inputs: Mapping[str, str], run: Mapping[str, Any]
) -> list[Video]:
    if part != "heldout":
        return part_videos(inputs["index"], config["split"], part)
    if run["split"] != config["split"]:
        raise RunError(f"the groups held out of {run['split']} say nothing about {config['split']}")
    share = run["training"]["holdout"]
    if not share:
        raise RunError(f"{inputs['run']} held no groups out: give its stream a `holdout:` above 0")
    return hold_out(part_videos(inputs["index"], run["split"], "train"), share, seed=run["seed"])[1]


def _shared(config: Mapping[str, Any], run: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What the clips of `run` have in common, whatever they are for; the maps are those of `config`."""
    return {
        "frames": open_features(inputs["features"]),
        "stream": stream_of(run),
        "input": run["network"]["input"],
        "maps": entering_maps(config["maps"], inputs.get("maps")),
    }


def _view_logits(model: TSN, views: Tensor, maps: Tensor | None, where: torch.device) -> Tensor:
    maps = None if maps is None else maps[:, None].to(where)  # (v, 1, 1, H, W)
    return model(views[:, None].to(where), maps).float().cpu()  # (v, classes)


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


def _counts(clips: TrainClips, heldout: TestClips | None) -> dict[str, int]:
    return {"n": len(clips)} | ({} if heldout is None else {"heldout": len(heldout)})


def write_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """A CSV file of rows with equal keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read_model(folder: Path) -> dict[str, Tensor]:
    path = folder / MODEL
    if not path.is_file():
        raise RunError(f"{path} is missing: `reaction train {folder}` makes it")
    return load_file(path)


def _fit(model: TSN, state: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"the weights in {folder} do not fit the network; are backbone, width, stream, map and consensus alike? "
            f"{error}"
        ) from error


def _map_channels(entry: str | None) -> int:
    return 1 if entry == "concat" else 0


def _weights_file(weights: Mapping[str, Any]) -> Path:
    if weights["source"] == "download":
        return download(weights["url"], weights["sha256"], DOWNLOADS / weights["url"].rsplit("/", 1)[-1])
    path = Path(weights["path"])
    if path.is_file() and weights["sha256"]:
        check(path, weights["sha256"], "put the right file there, or correct `sha256:` in params.yaml")
    return path


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _tell(line: str) -> None:
    print(line, flush=True)  # the log is a file, and someone is watching it
