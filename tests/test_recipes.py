"""Small golden results of every rule: they may change only together with the rule's number in RECIPES.

After raising a number, `REACTION_GOLDEN=write pytest tests/test_recipes.py` stores the new results beside it. Every
rule gets fixed inputs of its own, so that one rule's change shows in that rule alone. Counts and names are compared
exactly, and measured values to a thousandth, which another processor's rounding stays below.
"""

import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest

from reaction.files import read_json, sha256, write_json, write_text
from reaction.recipes import RECIPES

GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-3
LAYER = "Mixed_6e"
LEARNED = {"source": "learned", "dead": 0.1}
NETWORK = {"entry": "concat", "map_channel": "mean", "input": 112}
Results = dict[str, Any]


def fetch(project) -> Results:
    from reaction.data.fetch import fetch_dataset

    generator = {"seed": 3, "videos": 12, "width": 96, "height": 80, "frames": [7, 9], "appearances": ["red", "blue"]}
    generator |= {"motions": ["rise", "fall"], "groups": 3, "splits": 2, "actor": [24, 30]}
    folder = frozen("fetch", {"dataset": "synthetic", "source": "generated", "generator": generator}, {})
    fetch_dataset(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".mp4", ".avi"))
    return {
        "videos": [str(path.relative_to(folder)) for path in paths],
        "official": (folder / "lists/official.csv").read_text(),
        "classes": (folder / "lists/classes.txt").read_text(),
        "boxes": numbers(folder / "lists/boxes.csv", "x1", "y1", "x2", "y2"),
        "luma": [blocks(picture) for path in paths[::5] for picture in planes(path)[::4]],
    }


def index(project) -> Results:
    from reaction.data.boxes import read_boxes
    from reaction.data.index import build_index, read_index

    folder = indexed(filmed())
    build_index(folder)
    machine = ("sha256", "decoder")  # these tell the encoder's version and which decoder could be installed
    rows = [{key: value for key, value in asdict(video).items() if key not in machine} for video in read_index(folder)]
    names = ("classes.txt", "quarantine.csv", "splits/split1.csv")
    boxes = {name: found.box.tolist() for name, found in read_boxes(folder / "boxes.h5").items()}
    return {"index": rows, "boxes": boxes} | {name: (folder / name).read_text() for name in names}


def frames(project) -> Results:
    from reaction.data.extract import frames_shard
    from reaction.data.store import decode_rgb

    config = {"modality": "rgb", "resize": "48x36", "jpeg_quality": 95, "shards": 2}
    return extracted("frames", config, frames_shard, lambda blob: decode_rgb(blob).mean(axis=-1))


def flow(project) -> Results:
    from reaction.data.extract import flow_shard
    from reaction.data.store import decode_flow

    parameters = {"tau": 0.25, "lambda_": 0.15, "theta": 0.3, "nscales": 3, "warps": 2, "epsilon": 0.02}
    parameters |= {"inner_iterations": 60, "outer_iterations": 1, "scale_step": 0.5, "gamma": 0.0, "median": 1}
    config = {"modality": "flow", "resize": "48x36", "jpeg_quality": 95, "bound": 8.0, "algorithm": "tvl1"}
    config |= {"semantics": "opencv-cuda", "parameters": parameters, "shards": 2}
    return extracted("flow", config, flow_shard, lambda blob: np.concatenate(decode_flow(blob)))


def train(project) -> Results:
    from safetensors.numpy import load_file

    from reaction.training.inputs import training_clips
    from reaction.training.run import train_run

    training = {"epochs": 3, "warmup_epochs": 1, "holdout": 0.3, "learning_rate": 0.1, "weight_decay": 0.1}
    # Trained statistics that stay as they are: from scratch, six steps blow rounding up to a hundredth. No dropout,
    # whose random numbers differ by processor.
    network = NETWORK | {"partial_bn": True, "dropout": 0.0}
    options = {"network": network, "training": training, "maps": {"source": "constant", "value": 0.1}}
    folder = Path(project.run("golden", **options, inputs={"init": formula_run(project)}))
    train_run(folder, checkpoints="checkpoints/golden")
    described = read_json(folder / "config.json")
    drawn = [part[k]["clip"] for part in training_clips(described["config"], described["inputs"], 0.3) for k in (0, 3)]
    columns = ("loss", "top1", "val_loss", "val_top1", "learning_rate")
    state = load_file(folder / "model.safetensors")
    first = ("Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.weight", "Conv2d_1a_3x3.bn.running_mean")
    kept = (*first, "Mixed_7c.branch1x1.conv.weight", "fc.weight", "fc.bias")
    return {
        "history": numbers(folder / "history.csv", *columns),
        "weights": [(10 * state[f"backbone.{name}"].ravel()[:6]).tolist() for name in kept],
        "clips": [blocks(10 * segment.numpy().mean(axis=0)) for clip in drawn for segment in clip],
        "best": read_json(folder / "metrics.json")["best"]["epoch"],
        "n": read_json(folder / "metrics.json")["n"],
    }


def gradcam(project) -> Results:
    from reaction.attention.maps import gradcam_shard

    config = {"label": "true", "part": "train", "split": "split1", "maps": {"source": "constant", "value": 0.1}}
    return mapped("gradcam", config, gradcam_shard, looking_at(project, formula_run(project)))


def attention_net(project) -> Results:
    from reaction.attention.maps import train_attention_net

    inputs = looking_at(project, formula_run(project)) | {"gradcam": formula_maps(project, normalise=True)}
    config = {"layer": LAYER, "split": "split1", "seed": 0, "hidden": 8, "kernel": 3, "epochs": 2, "batch": 12}
    folder = frozen("attention_net", config | {"learning_rate": 1e-3, "holdout": 0.3, "frames_per_video": 2}, inputs)
    train_attention_net(folder)
    columns = ("train_bce", "heldout_bce", "floor", "constant_bce", "correlation", "iou")
    return {"history": numbers(folder / "history.csv", *columns), "n": read_json(folder / "metrics.json")["n"]}


def attend(project) -> Results:
    from reaction.attention.attention_net import AttentionNet
    from reaction.attention.maps import NET, attend_shard
    from reaction.models.inception_v3 import InceptionV3

    net = frozen("attention_net", {}, {})
    channels = InceptionV3(width=0.0625).get_submodule(LAYER).outputs
    write_formula(AttentionNet(channels, 8), net / NET)
    inputs = looking_at(project, formula_run(project)) | {"attention_net": str(net)}
    return mapped("attend", {}, attend_shard, inputs)


def score(project) -> Results:
    from reaction.training.scoring import score_run

    run, maps = formula_run(project, maps=LEARNED), formula_maps(project, normalise=False)
    protocol = {"segments": 3, "crops": 10, "sampler": "tsn"}
    inputs = looking_at(project, run) | {"maps": maps}
    folder = frozen("score", {"split": "split1", "protocol": protocol, "maps": LEARNED}, inputs)
    score_run(folder)
    with h5py.File(folder / "scores.h5") as file:
        videos, labels = file["video"].asstr()[:].tolist(), file["label"][:].tolist()
        return {"video": videos, "label": labels, "logits": (100 * file["logits"][:, ::7]).tolist()}


def fuse(project) -> Results:
    from reaction.evaluation.fuse import fuse_scores

    write_json(f"{project.index}/official.json", {"split1": {"train": 12, "test": 5}})
    common = {"method": "golden", "split": "split1", "seed": 0}
    streams = {stream: str(frozen("score", common | {"stream": stream}, {}, stream)) for stream in ("rgb", "flow")}
    for k, folder in enumerate(streams.values()):
        with h5py.File(f"{folder}/scores.h5", "w") as file:
            file["video"] = ["clip_12", "clip_13", "clip_14", "clip_15"]
            file["label"] = np.array([0, 1, 0, 1])
            file["logits"] = formula((4, 6, 2), k).astype(np.float32)
    config = common | {"protocol_name": "golden", "weights": {"rgb": 1.0, "flow": 1.5}, "before_softmax": False}
    folder = frozen("fuse", config, {"index": project.index} | streams)
    metrics = fuse_scores(folder)
    with h5py.File(folder / "fusion.h5") as file:
        kept = ("top1", "top5", "mean_class", "n", "of", "chance")
        return {"scores": file["scores"][:].tolist()} | {key: metrics[key] for key in kept}


def agree(project) -> Results:
    from reaction.attention.maps import agree_maps

    run = formula_run(project)
    kinds = {"learned": False, "gradcam": True}
    maps = {
        kind: formula_maps(project, normalise=normalise, inputs={"run": run}, phase=float(normalise))
        for kind, normalise in kinds.items()
    }
    facts = {"stream": "rgb", "split": "split1", "seed": 0, "scale": "tiny", "part": "test"}
    folder = frozen("agree", facts, {"index": project.index} | maps)
    agree_maps(folder)
    return read_json(folder / "metrics.json")


DETECTOR = {"network": "yowo", "parts": "2d", "width": 0.125, "input": 64, "frames": 2, "poses": 0}


def boxed(project) -> None:
    """A box on every frame of the small project's videos, a little lower each time."""
    from reaction.data.boxes import Boxes, write_boxes
    from reaction.data.index import read_index

    boxes = {}
    for k, video in enumerate(read_index(project.index)):
        at = np.arange(video.frames)
        box = np.stack([10 + 4 * k + 0 * at, 8 + 3 * at, 40 + 4 * k + 0 * at, 40 + 3 * at], axis=1)
        boxes[video.video] = Boxes(at, box.astype(np.float32), 0 * at + k % 2, 0 * at)
    write_boxes(Path(project.index) / "boxes.h5", boxes)
    write_json(f"{project.index}/official.json", {"split1": {"train": 12, "test": 4}})


def train_detector(project) -> Results:
    from reaction.training.detector_run import train_detector_run

    boxed(project)
    training = {"epochs": 1, "batch": 6, "bn_group": 3, "learning_rate": 1e-6, "steps": [1], "factor": 0.5}
    training |= {"warmup_epochs": 0, "weight_decay": 0.0, "clip_gradient": None, "precision": "32-true"}
    seen = {"jitter": 0.2, "hue": 0.1, "saturation": 1.5, "exposure": 1.5, "flip": True}
    facts = {"method": "golden", "stream": "rgb", "split": "split1", "seed": 0, "scale": "tiny", "every": 2}
    config = facts | {"network": DETECTOR, "anchors": "fitted", "loss": "code", "trains": "all", "training": training}
    config |= {"weights": {"source": "none"}, "augmentation": seen, "strides": [1, 2]}
    folder = frozen("train_detector", config, {"index": project.index, "features": project.rgb})
    described = read_json(folder / "config.json") | {"dataset": "small"}
    write_json(folder / "config.json", described)
    train_detector_run(folder, checkpoints="checkpoints/golden")
    columns = ("loss", "box", "confidence", "classes", "learning_rate")
    history = numbers(folder / "history.csv", *columns)
    return {
        "history": history,
        "anchors": read_json(folder / "anchors.json"),
        "n": read_json(folder / "metrics.json")["n"],
    }


def detect(project) -> Results:
    from reaction.evaluation.detected import read_detected
    from reaction.training.detecting import build_detector, detect_run

    boxed(project)
    run = frozen("train_detector", {"network": DETECTOR}, {"index": project.index, "features": project.rgb})
    write_formula(build_detector(DETECTOR, classes=2), run / "model.safetensors")
    write_json(run / "anchors.json", {"anchors": [[0.5, 0.5], [0.8, 0.6], [1.0, 1.2], [1.5, 0.9], [1.8, 1.9]]})
    config = {"split": "split1", "stride": 1, "least_score": 0.005, "suppression": 0.4, "at": "every"}
    inputs = {"index": project.index, "features": project.rgb, "run": str(run)}
    folder = frozen("detect", config, inputs)
    detect_run(folder)
    found = read_detected(folder / "boxes.h5")
    columns = {name: getattr(found, name)[:12].tolist() for name in ("frame", "box", "confidence", "score")}
    return columns | {"videos": list(found.videos), "first": found.first.tolist()}


def found_boxes(project) -> str:
    """boxes.h5 of the annotated boxes, pushed aside, with scores of a formula."""
    from reaction.data.boxes import read_boxes
    from reaction.evaluation.detected import write_detected

    boxed(project)
    folder = frozen("detect", {"least_score": 0.005}, {"index": project.index})
    annotated = read_boxes(Path(project.index) / "boxes.h5")
    rows = []
    for k, video in enumerate(("clip_12", "clip_13", "clip_14", "clip_15")):
        one = annotated[video]
        score = 0.5 + 0.4 * formula((len(one), 2), k)
        rows.append((video, one.frame, one.box + 4 * k, np.ones(len(one)), score))
    write_detected(folder / "boxes.h5", iter(rows), 2)
    return str(folder)


def link(project) -> Results:
    from reaction.evaluation.detected import read_tubes
    from reaction.evaluation.linking import link_detections

    boxes, found = found_boxes(project), {}
    for linker in ("yowo", "road"):
        folder = frozen("link", {"linker": linker}, {"index": project.index, "boxes": boxes}, linker)
        link_detections(folder)
        _, tubes = read_tubes(folder / "tubes.h5")
        found[linker] = [[one.video, one.label, one.start, float(one.score), one.box[-1].tolist()] for one in tubes]
    return found


def evaluate(project) -> Results:
    from reaction.evaluation.detection import evaluate_detections
    from reaction.evaluation.linking import link_detections

    inputs = {"index": project.index, "boxes": found_boxes(project)}
    tubes = frozen("link", {"linker": "yowo"}, inputs)
    link_detections(tubes)
    facts = {"method": "golden", "stream": "rgb", "split": "split1", "seed": 0, "scale": "tiny"}
    config = facts | {"protocol_name": "golden", "resample": "video", "frame": {"padilla": [0.5], "act": [0.5]}}
    folder = frozen("evaluate", config | {"video": {"yowo": [0.2, 0.5]}}, inputs | {"tubes_yowo": str(tubes)})
    metrics = evaluate_detections(folder)
    with h5py.File(folder / "draws.h5") as file:
        draws = np.nan_to_num(file["frame_map@0.5/act"][:20], nan=-1.0).tolist()
    return {"values": metrics["values"], "n": metrics["n"], "of": metrics["of"], "draws": draws}


RULES: dict[str, Callable[..., Results]] = {
    function.__name__: function
    for function in (
        *(fetch, index, frames, flow, train, gradcam, attention_net, attend, agree, score, fuse),
        *(train_detector, detect, link, evaluate),
    )
}


def test_every_rule_has_golden_results():
    assert RULES.keys() == RECIPES.keys() == read_json(GOLDEN).keys()


@pytest.mark.parametrize("rule", RULES)
def test_results_change_only_with_the_recipe(small_project, rule):
    golden = read_json(GOLDEN) if GOLDEN.exists() else {}
    found = json.loads(json.dumps(RULES[rule](small_project)))
    if os.environ.get("REACTION_GOLDEN") == "write" and golden.get(rule, {}).get("recipe") != RECIPES[rule]:
        golden[rule] = {"recipe": RECIPES[rule], "results": found}
        write_text(GOLDEN, json.dumps(rounded(golden), sort_keys=True, separators=(",", ":")).replace('},"', '},\n"'))
        return
    write = "REACTION_GOLDEN=write pytest tests/test_recipes.py"
    recipe = golden[rule]["recipe"]
    assert recipe == RECIPES[rule], f"golden.json has {rule!r} of recipe {recipe}: store the new results with `{write}`"
    different = differences(golden[rule]["results"], found)
    assert not different, f"results changed: raise RECIPES[{rule!r}] and run `{write}`, or undo.\n" + "\n".join(
        different
    )


@pytest.mark.parametrize(
    ("golden", "found", "where"),
    [
        ({"a": [1, 2]}, {"a": [1, 3]}, ["a[1]"]),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.1]}, ["a[1]"]),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0005]}, []),
        ({"a": [1.0]}, {"a": [1.0, 2.0]}, ["a"]),
        ({"a": 0.5}, {"a": float("nan")}, ["a"]),
        ({"a": "x", "b": 1}, {"a": "y"}, [""]),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, ["a.b"]),
    ],
)
def test_differences_are_found_beyond_rounding_and_named(golden, found, where):
    assert [line.split(":")[0] for line in differences(golden, found)] == where


def differences(golden: Any, found: Any, where: str = "") -> list[str]:
    """Places where two results differ, floats by more than TOLERANCE of their size or of 1."""
    if isinstance(golden, dict) and isinstance(found, dict) and golden.keys() == found.keys():
        return [line for key in golden for line in differences(golden[key], found[key], f"{where}.{key}".lstrip("."))]
    if isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        pairs = enumerate(zip(golden, found, strict=True))
        return [line for k, pair in pairs for line in differences(*pair, f"{where}[{k}]")]
    numeric = isinstance(golden, float) and isinstance(found, float)
    same = np.allclose(found, golden, rtol=TOLERANCE, atol=TOLERANCE) if numeric else golden == found
    return [] if same else [f"{where}: {str(golden)[:80]} became {str(found)[:80]}"]


def rounded(value: Any) -> Any:
    """The same with six digits of every float: enough for the tolerance, and small in git."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def frozen(rule: str, config: dict[str, Any], inputs: dict[str, Any], name: str = "golden") -> Path:
    """The folder of an artifact of the rule, with its config.json."""
    folder = Path("results", rule, name)
    write_json(folder / "config.json", {"rule": rule, "name": name, "config": config, "inputs": inputs})
    return folder


def numbers(path: Path, *columns: str) -> list[list[float]]:
    with open(path, newline="") as file:
        return [[float(row[column]) for column in columns] for row in csv.DictReader(file)]


def blocks(picture: np.ndarray) -> list[float]:
    """Means over a grid of 3 x 4 blocks of a picture (H, W): flips of single levels vanish in them."""
    rows = np.array_split(picture.astype(np.float64), 3, axis=0)
    return [block.mean() for row in rows for block in np.array_split(row, 4, axis=1)]


def planes(path: Path) -> list[np.ndarray]:
    """The luma (H, W) of each frame, as it was encoded."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)]


def formula(shape: Sequence[int], phase: float) -> np.ndarray:
    """Values in [-1, 1] that look random and need no generator."""
    steps = np.arange(np.prod(shape), dtype=np.float64) * 0.7 + phase
    return np.sin(steps * steps).reshape(shape)


def filmed() -> Path:
    """A fetched dataset of three videos: a bright square wandering over waves, encoded without loss."""
    from reaction.data.synthetic import encode

    folder = frozen("fetch", {}, {})
    rows, boxes = ["video,class,group,split1"], ["video,frame,x1,y1,x2,y2"]
    for k, (name, label, frames) in enumerate((("a", "left", 6), ("b", "right", 1), ("c", "left", 9))):
        path = folder / f"videos/{label}/{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, np.stack([square_on_waves(k, t) for t in range(frames)]), fps=25)
        rows.append(f"{name},{label},g{k},{'train' if k else 'test'}")
        boxes += [f"{name},{t},{4 + 3 * t},{6 + 2 * k},{24 + 3 * t},{26 + 2 * k}" for t in range(frames)]
    (folder / "videos/right/empty.mp4").touch()
    write_text(folder / "lists/official.csv", "\n".join([*rows, "empty,right,g3,train"]) + "\n")
    write_text(folder / "lists/boxes.csv", "\n".join(boxes) + "\n")
    write_text(folder / "lists/classes.txt", "left\nright\n")
    found = sorted(path for path in (folder / "videos").rglob("*.mp4"))
    lines = [f"{path.relative_to(folder / 'videos')},{path.stat().st_size},{sha256(path)}" for path in found]
    write_text(folder / "videos.csv", "\n".join(["path,bytes,sha256", *lines]) + "\n")
    return folder


def square_on_waves(k: int, t: int) -> np.ndarray:
    """Planar 4:2:0 (3H/2, W) of 64 x 48 pixels in whole numbers."""
    y, x = np.mgrid[:48, :64]
    luma = 90 + (x * (x + 3 * k) // 7 + y * y // 5) % 40
    luma[6 + 2 * k : 26 + 2 * k, 4 + 3 * t : 24 + 3 * t] = 150 + (x + 2 * y)[:20, :20] % 30
    chroma = np.full((24, 64), 128 + 10 * k)
    return np.concatenate([luma, chroma]).astype(np.uint8)


def indexed(videos: Path) -> Path:
    config = {"dataset": "synthetic", "layout": "synthetic", "classes": None, "splits": ["split1"], "missing": "error"}
    return frozen("index", config, {"videos": str(videos)})


def extracted(
    rule: str, config: dict[str, Any], extract: Callable[..., None], picture: Callable[[bytes], np.ndarray]
) -> Results:
    """What a rule stores of the filmed videos: how many items of each, and blocks of every second one."""
    from reaction.data.index import build_index
    from reaction.data.store import Shards

    videos = filmed()
    listed = indexed(videos)
    build_index(listed)
    folder = frozen(rule, config, {"index": str(listed), "videos": str(videos)})
    for shard in range(config["shards"]):
        extract(folder, shard)
    shards = Shards(folder, expect=config)
    lengths = {video: shards.length(video) for video in shards.videos}
    read = {video: shards.read(video, range(0, count, 2)) for video, count in lengths.items()}
    return {"lengths": lengths, "blocks": {name: [blocks(picture(blob)) for blob in read[name]] for name in read}}


def looking_at(project, run: str) -> dict[str, str]:
    return project.features("rgb") | {"run": run}


def formula_run(project, maps: dict[str, Any] | None = None) -> str:
    """A run whose weights come from a formula, so that no change of the training moves them."""
    from reaction.training.networks import MODEL, build_network

    folder = project.run("formula", network=NETWORK, maps=maps or {"source": "constant", "value": 0.1})
    config = read_json(f"{folder}/config.json")["config"]
    write_formula(build_network(config["network"], stream="rgb", classes=2), Path(folder, MODEL))
    return folder


def write_formula(network, path: Path) -> None:
    """Weights of a formula, of a size that keeps activations of order one."""
    import torch

    from reaction.models.weights import write_weights

    state = network.state_dict()
    for n, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            continue
        filled = formula(tuple(value.shape), n)
        if name.endswith(("bn.weight", "running_var")):
            filled = 1 + 0.2 * filled
        elif value.dim() > 1:
            filled = filled * (3 / value[0].numel()) ** 0.5
        else:
            filled = 0.1 * filled
        state[name] = torch.from_numpy(filled).to(value.dtype)
    write_weights(path, state)


def formula_maps(project, *, normalise: bool, inputs: dict[str, str] | None = None, phase: float = 0.0) -> str:
    """Maps of every second frame of every video."""
    from reaction.data.index import read_index
    from reaction.data.store import MapWriter, shard_name

    folder = frozen("gradcam", {}, inputs or {}, f"formula-{normalise}")
    with MapWriter(folder / shard_name(0), {"every": 2, "normalise": normalise}) as writer:
        for k, video in enumerate(read_index(project.index)):
            writer.add(video.video, 0.5 + 0.4 * formula((-(-video.frames // 2), 5, 5), k + phase))
    return str(folder)


def mapped(rule: str, config: dict[str, Any], write: Callable[..., None], inputs: dict[str, str]) -> Results:
    """Which maps a rule writes, how they are described, and some of them."""
    from reaction.data.store import Maps

    folder = frozen(rule, {"layer": LAYER, "every": 2} | config, inputs)
    for shard in range(2):
        write(folder, shard)
    maps = Maps(folder)
    lengths = {video: maps.length(video) for video in maps.videos}
    some = [maps.read(video, count - 1) for video, count in list(lengths.items())[::3]]
    scale = 10 / max(float(np.abs(map).max()) for map in some) if maps.attributes["normalise"] else 1.0
    described = {key: maps.attributes[key] for key in ("every", "normalise", "layer")}
    return {"lengths": lengths, "attributes": described, "maps": [(scale * map).tolist() for map in some]}
