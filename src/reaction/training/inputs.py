"""What a run reads: the videos of its split, their features, and the maps that enter its network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reaction.clips.labels import MultiHot
from reaction.clips.loader import Augmentation, JoinedClips, TestClips, TrainClips
from reaction.clips.maps import ConstantMaps, FrameMaps, StoredMaps
from reaction.data.index import Video, part_videos, read_classes, read_spans
from reaction.data.splits import hold_out
from reaction.data.store import Maps
from reaction.data.videos import open_features
from reaction.files import read_json
from reaction.training.networks import RunError, stream_of


def training_clips(
    config: Mapping[str, Any], inputs: Mapping[str, str], holdout: float = 0.0
) -> tuple[TrainClips | JoinedClips, TestClips | None]:
    """The clips a run learns from, and the centre crops it is measured on after each epoch, if groups are held out.

    With `multi_task` it learns from all training videos of another dataset as well; none of those are held out.

    Grad-CAM maps of the true label tell the held-out clips' label as well: what is measured with them compares epochs,
    and is no estimate of a test, which knows learned maps only.
    """
    videos = part_videos(inputs["index"], config["split"], "train")
    training, heldout = hold_out(videos, holdout, seed=config["seed"])
    segments = config["network"]["segments"]
    shared = _shared(config, config, inputs)
    augmentation = Augmentation(**config["augmentation"])
    options = {"segments": segments, "augmentation": augmentation, "seed": config["seed"]}
    clips = TrainClips(training, **options, **shared | {"several": _several(config, inputs, own=True)})
    if "multi_task" in config:
        clips = JoinedClips(clips, TrainClips(**options, **_other_task(config, inputs, shared)))
    return clips, TestClips(heldout, segments=segments, crops=1, sampler="tsn", **shared) if heldout else None


def scored_clips(config: Mapping[str, Any], inputs: Mapping[str, str], run: Mapping[str, Any]) -> TestClips:
    """The views that a `score` job measures `run`, a trained run's own parameters, by.

    Raises RunError where the split has no such videos.
    """
    part = config.get("part", "test")
    videos = _scored_videos(part, config, inputs, run)
    if not videos:
        raise RunError(f"{inputs['index']} has no {part} videos in {config['split']}")
    given = config["protocol"]
    views = {key: given[key] for key in ("segments", "crops", "sampler", "crop") if key in given}
    shared = _shared(config, run, inputs, given.get("stack"))
    return TestClips(videos, **views, **shared | {"input": given.get("input", shared["input"])})


def entering_maps(maps: Mapping[str, Any] | None, folder: str | None) -> FrameMaps | None:
    """What a `maps` block describes: nothing, one constant, or the maps stored in `folder`."""
    if maps is None:
        return None
    if maps["source"] == "constant":
        return ConstantMaps(maps["value"])
    if folder is None:
        raise RunError(f"maps from {maps['source']!r} need a folder: config.json has no inputs.maps")
    return StoredMaps(Maps(folder), dead=maps["dead"])


def _other_task(config: Mapping[str, Any], inputs: Mapping[str, str], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The other dataset's training videos and features, to be seen as the run's own are."""
    other, maps = config["multi_task"], config["maps"]
    if maps is not None and maps["source"] != "constant":
        raise RunError(f"multi_task: there are no {maps['source']} maps of {other['dataset']}; train on one dataset")
    videos = part_videos(inputs["other_index"], other["split"], "train")
    if not videos:
        raise RunError(f"{inputs['other_index']} has no train videos in {other['split']}")
    _require_alike(inputs["features"], inputs["other_features"])
    return {**shared, "videos": videos, "frames": open_features(inputs["other_features"])}


def _require_alike(one: str, other: str) -> None:
    """Raise RunError where two folders of features differ in what their pictures mean."""
    configs = [read_json(Path(folder) / "config.json")["config"] for folder in (one, other)]
    for key in sorted((configs[0].keys() | configs[1].keys()) - {"shards"}):
        first, second = (config.get(key) for config in configs)
        if first != second:
            raise RunError(f"multi_task: {key} is {first!r} in {one} and {second!r} in {other}: make both alike")


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


def _shared(
    config: Mapping[str, Any], run: Mapping[str, Any], inputs: Mapping[str, str], stack: int | None = None
) -> dict[str, Any]:
    """What the clips of `run` have in common, whatever they are for; the maps are those of `config`."""
    flow = inputs.get("flow_features")
    return {
        "frames": open_features(inputs["features"]),
        "stream": stream_of(run, stack),
        "input": run["network"]["input"],
        "maps": entering_maps(config["maps"], inputs.get("maps")),
        "flow": None if flow is None else open_features(flow),
        "several": _several(run, inputs),
    }


def _several(run: Mapping[str, Any], inputs: Mapping[str, str], *, own: bool = False) -> MultiHot | None:
    """The labels of a run on videos with several classes: the videos', or a clip's `own` if it trains on those."""
    if "labels" not in run:
        return None
    classes = len(read_classes(inputs["index"]))
    if not own or run["labels"] == "video":
        return MultiHot(classes)
    rate = read_json(Path(inputs["features"]) / "config.json")["config"].get("fps")
    return MultiHot(classes, read_spans(inputs["index"]), rate)
