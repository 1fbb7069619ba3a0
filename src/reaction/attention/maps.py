"""The jobs `gradcam`, `attention_net`, `attend` and `agree`: from a trained run to attention maps of whole frames.

Grad-CAM maps of the training videos come first (they need the label), then a network that learns to predict them from
the run's features, then that network's maps for every video. All see whole frames resized to the network's input, and
the run sees them with the maps it was trained with: a constant in the first phase, so nothing here is circular. Last,
the test videos' maps are measured against the Grad-CAM maps they stand in for.

What Park's thesis (SNU 2019) leaves unsaid and what was chosen:
- the frame or its augmented view: the whole frame, since maps are made once and stored;
- which frames: every one, or each `every`-th;
- the split 8:2 of the attention network's samples: by groups of videos, since frames of one video are nearly alike;
- its features, where several `layers` are named: those of the last one named, and the target is the combined map;
- its epochs, batch, learning rate and frames a video: keys of its config; the epoch kept is the best held-out one;
- dead targets: left out and counted;
- the distance of learned maps from Grad-CAM: cross-entropy, correlation and IoU, per frame and then averaged.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from reaction.attention.attention_net import AttentionNet, bce_against, constant_bce, entropy_floor
from reaction.attention.gradcam import by_resolution, gradcams, upsample
from reaction.clips.loader import Item, Stream, WholeFrames
from reaction.clips.maps import FrameMaps, StoredMaps
from reaction.data.index import Video, part_videos, read_index
from reaction.data.splits import hold_out
from reaction.data.store import Maps, MapWriter, Shards, shard_name, shard_of
from reaction.files import read_json, write_json
from reaction.models.tsn import TSN
from reaction.models.weights import cpu_copy, write_weights
from reaction.training.inputs import entering_maps, open_features
from reaction.training.job import be_deterministic, device, provenance, write_rows
from reaction.training.networks import load_run, stream_of

NET = "attention_net.safetensors"
FRAMES_AT_ONCE = 32
KEPT = 2**31  # bytes of features that an attention network's training keeps at most
FOCUS = 0.5  # a map's focus is where it is at least half, once it spans 0 to 1


class AttentionError(ValueError):
    """Maps that cannot be computed or learned from what the config names."""


@dataclass(frozen=True)
class Source:
    """A trained run whose features are looked at, and what it reads."""

    model: TSN
    stream: Stream
    input: int
    frames: Shards
    maps: FrameMaps | None
    shards: int

    def enter(self, item: Item) -> Tensor:
        """What the backbone sees (M, C, h, w) of an item of whole frames, on the model's device."""
        where = next(self.model.parameters()).device
        maps = item["map"].to(where) if "map" in item else None
        return self.model.enter(item["clip"].to(where), maps)

    def whole_frames(self, videos: Sequence[Video], every: int) -> WholeFrames:
        """Every `every`-th frame of `videos`, with the maps that enter the run."""
        return WholeFrames(videos, self.frames, stream=self.stream, input=self.input, every=every, maps=self.maps)


def gradcam_shard(folder: Path | str, shard: int, threads: int = 1) -> None:
    """Write one shard of Grad-CAM maps of the run named in `folder`/config.json, before up-sampling and min-max."""
    started, (frozen, source) = time.monotonic(), _open(folder, threads)
    config = frozen["config"]
    layers, labelled = _layers(config), config["label"] == "true"

    def maps_of(item: Item) -> list[Tensor]:
        x = source.enter(item)
        labels = item["label"].to(x.device).expand(len(x)) if labelled else None
        return by_resolution(gradcams(source.model.backbone, x, labels, layers))  # (M, h, w) each

    _write_shard(Path(folder), shard, source, _part(config, frozen["inputs"]), maps_of, frozen, normalise=True)
    _write_provenance(Path(folder) / f"provenance-{shard:03d}.json", started, threads)


def attend_shard(folder: Path | str, shard: int, threads: int = 1) -> None:
    """Write one shard of the maps that the attention network named in `folder`/config.json predicts, of every video."""
    started, (frozen, source) = time.monotonic(), _open(folder, threads)
    inputs, layer = frozen["inputs"], _layers(frozen["config"])[-1]
    net = load_attention_net(Path(inputs["attention_net"])).to(device())

    @torch.no_grad()
    def maps_of(item: Item) -> list[Tensor]:
        return [net(source.model.backbone.features(source.enter(item), layer))[:, 0]]  # (M, h, w)

    _write_shard(Path(folder), shard, source, read_index(inputs["index"]), maps_of, frozen, normalise=False)
    _write_provenance(Path(folder) / f"provenance-{shard:03d}.json", started, threads)


def train_attention_net(folder: Path | str, threads: int = 1) -> None:
    """Train the attention network of `folder`/config.json: its weights, history.csv, metrics.json, provenance.json.

    A share of the groups is held out; the network kept is that of the epoch with the least held-out cross-entropy.
    """
    started, (frozen, source) = time.monotonic(), _open(folder, threads)
    config, inputs = frozen["config"], frozen["inputs"]
    folder, videos = Path(folder), part_videos(inputs["index"], config["split"], "train")
    training, heldout = hold_out(videos, config["holdout"], seed=config["seed"])
    layer = _layers(config)[-1]
    cams = Maps(inputs["gradcam"])
    data = Targets(source, cams, config["frames_per_video"], Features(source, cams, layer, videos))
    torch.manual_seed(config["seed"])
    channels = source.model.backbone.get_submodule(layer).outputs
    net = AttentionNet(channels, config["hidden"], kernel=config["kernel"]).to(device())
    history, best = fit(net, data, training, heldout, config)
    write_weights(folder / NET, best)
    write_rows(folder / "history.csv", history)
    write_json(folder / "metrics.json", summary(history))
    _write_provenance(folder / "provenance.json", started, threads)


@torch.no_grad()
def agree_maps(folder: Path | str, threads: int = 1) -> None:
    """Write metrics.json of `folder`: how far the maps `inputs.learned` are from `inputs.gradcam`, which they imitate.

    Over every frame of the part's videos that has a Grad-CAM map, at the input size of the run both were made from.
    The keys are those of the attention network's own metrics.json; `bce` is what the learned maps score.
    """
    be_deterministic(threads)
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    size = _common_input(inputs["learned"], inputs["gradcam"])
    both = [StoredMaps(Maps(inputs[key]), dead=math.nan) for key in ("learned", "gradcam")]
    columns, dead = [], 0
    for pairs in _pairs(both, _part(config, inputs), size):  # (m, 2, H, W)
        alive = ~pairs.isnan().flatten(1).any(dim=1)
        dead += int((~alive).sum())
        columns.append(_compare(pairs[alive, :1], pairs[alive, 1]))
    averages = _averages(columns, f"every map of {inputs['gradcam']} is dead: there is nothing to agree with")
    facts = {key: config[key] for key in ("stream", "split", "seed", "scale", "part")}
    write_json(folder / "metrics.json", facts | {"entropy_floor": averages.pop("floor")} | averages | {"dead": dead})


def load_attention_net(folder: Path) -> AttentionNet:
    """The network that `train_attention_net` wrote, in evaluation mode on the CPU."""
    path = folder / NET
    if not path.is_file():
        raise AttentionError(f"{path} is missing: `reaction attention_net {folder}` makes it")
    state = load_file(path)
    hidden, channels, kernel, _ = state["conv.weight"].shape
    net = AttentionNet(channels, hidden, kernel=kernel)
    net.load_state_dict(state)
    return net.eval()


class Features:
    """Features (M, C, h, w) at `layer` of the run's whole frames: it is frozen, so a small dataset's are computed once.

    Where those of all `videos` take more than KEPT they are computed anew each time. Which of the two it is depends
    on the data alone, and is part of the result: a convolution's last bits depend on the frames beside.
    """

    def __init__(self, source: Source, cams: Maps, layer: str, videos: Sequence[Video]) -> None:
        self.source, self.layer, self.every = source, layer, int(cams.attributes["every"])
        frames = sum(cams.length(video.video) for video in videos)
        self._kept: dict[str, Tensor] | None = {}
        if frames * self._whole(min(videos, key=lambda video: cams.length(video.video)))[0].nbytes > KEPT:
            self._kept = None

    def of(self, clips: "_ChosenFrames", indices: Sequence[int], alive: Tensor) -> Tensor:
        """Of the chosen frames of some videos, those that are `alive` (M,)."""
        if self._kept is None:
            items = [clips[index] for index in indices]
            return self._compute(
                {key: torch.cat([i[key] for i in items])[alive] for key in ("clip", "map") if key in items[0]}
            )
        chosen = [self._whole(clips.videos[index])[clips.positions[index]] for index in indices]
        return torch.cat(chosen)[alive.to(chosen[0].device)]

    def _whole(self, video: Video) -> Tensor:
        """Of every frame of a video that has a map."""
        if self._kept is not None and video.video in self._kept:
            return self._kept[video.video]
        frames = self.source.whole_frames([video], self.every)
        found = torch.cat([self._compute(item) for item in frames.chunks(0, FRAMES_AT_ONCE)])
        if self._kept is not None:
            self._kept[video.video] = found
        return found

    @torch.no_grad()
    def _compute(self, item: Item) -> Tensor:
        return self.source.model.backbone.features(self.source.enter(item), self.layer)


@dataclass(frozen=True)
class Targets:
    """Features of whole frames and the up-sampled Grad-CAM maps they have to explain."""

    source: Source
    cams: Maps
    frames: int
    features: Features

    def batches(
        self, videos: Sequence[Video], positions: Sequence[np.ndarray], batch: int
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Features (M, C, h, w), targets (M, H, W) in [0, 1] and the number of dead maps left out, batch by batch.

        A batch is some `batch` frames of batch / frames videos.
        """
        clips = _ChosenFrames(self.source, videos, positions, self.cams)
        at_once = max(1, batch // self.frames)
        for first in range(0, len(videos), at_once):
            indices = range(first, min(first + at_once, len(videos)))
            target = torch.cat([clips.targets(index) for index in indices])
            alive = ~target.isnan().any(dim=2).any(dim=1)  # (M,)
            features = self.features.of(clips, indices, alive)
            yield features, target[alive].to(features.device), int((~alive).sum())

    def random(self, videos: Sequence[Video], rng: np.random.Generator) -> list[np.ndarray]:
        """`frames` of each video's maps, or all of a shorter one, at random without repetition."""
        lengths = [self.cams.length(video.video) for video in videos]
        return [np.sort(rng.choice(n, min(n, self.frames), replace=False)) for n in lengths]

    def even(self, videos: Sequence[Video]) -> list[np.ndarray]:
        """`frames` of each video's maps, or all of a shorter one, evenly spaced."""
        lengths = [self.cams.length(video.video) for video in videos]
        return [np.unique(np.linspace(0, n - 1, self.frames).round().astype(np.int64)) for n in lengths]


def fit(
    net: AttentionNet, data: Targets, training: Sequence[Video], heldout: Sequence[Video], config: Mapping[str, Any]
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Adam on the mean binary cross-entropy: history, one row per epoch, and the best epoch's state.

    The positions of an epoch are random, those of the held-out videos fixed and evenly spaced.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=config["learning_rate"])
    history, best = [], {}
    for epoch in range(config["epochs"]):
        rng = np.random.default_rng([config["seed"], epoch])
        order = [training[k] for k in rng.permutation(len(training))]
        losses, dead = [], 0
        net.train()
        for features, target, skipped in data.batches(order, data.random(order, rng), config["batch"]):
            dead += skipped
            if len(target) < 2:  # BatchNorm
                continue
            loss = bce_against(net(features), target)  # (M,)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            losses.append(loss.detach())
        train_bce = torch.cat(losses).mean().item() if losses else math.nan
        row = {"epoch": epoch, "train_bce": train_bce, "train_dead": dead} | measure(
            net, data, heldout, config["batch"]
        )
        best = cpu_copy(net) if not history or row["heldout_bce"] < min(r["heldout_bce"] for r in history) else best
        history.append(row)
        print(" ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    return history, best


@torch.no_grad()
def measure(net: AttentionNet, data: Targets, heldout: Sequence[Video], batch: int) -> dict[str, float]:
    """How well `net` predicts the maps of the held-out videos; cross-entropies in nats per pixel.

    floor: what the targets themselves would score.  constant_bce: the best constant map, chosen knowing the answers.
    correlation: mean over frames of Pearson's r.  iou: of the areas that are at least half, after min-max.
    """
    net.eval()
    columns, dead = [], 0
    for features, target, skipped in data.batches(heldout, data.even(heldout), batch):
        dead += skipped
        if len(target):
            columns.append(_compare(net(features), target))
    averages = _averages(columns, "every held-out Grad-CAM map is dead: the run has learned nothing at this layer")
    return {"heldout_bce": averages.pop("bce")} | averages | {"dead": dead}


def summary(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """metrics.json: the epoch with the least held-out cross-entropy; `n` held-out frames, `dead` ones left out."""
    best = min(history, key=lambda row: row["heldout_bce"])
    names = {"heldout_bce": "heldout_bce", "constant_bce": "constant_bce", "floor": "entropy_floor"}
    names |= {key: key for key in ("correlation", "iou", "n", "dead", "epoch")}
    return {name: best[key] for key, name in names.items()}


class _ChosenFrames(WholeFrames):
    """Whole frames that have a map, `positions` counting maps."""

    def __init__(self, source: Source, videos: Sequence[Video], positions: Sequence[np.ndarray], cams: Maps) -> None:
        every = int(cams.attributes["every"])
        stream, input = source.stream, source.input
        super().__init__(videos, source.frames, stream=stream, input=input, every=every, maps=source.maps)
        self.positions, self.cams = positions, StoredMaps(cams, dead=math.nan)

    def _positions(self, index: int) -> np.ndarray:
        return self.positions[index] * self.every

    def targets(self, index: int) -> Tensor:
        """The up-sampled maps (M, H, W) of one video's frames, NaN where one is dead."""
        video = self.videos[index].video
        frames = self._positions(index).tolist()
        return torch.from_numpy(np.stack([self.cams.at(video, frame, self.input, self.input) for frame in frames]))


def _compare(maps: Tensor, target: Tensor) -> Tensor:
    """Per frame (5, M): cross-entropy, its floor, the target's mean, correlation, IoU of the focus."""
    predicted = upsample(maps[:, 0], *target.shape[-2:])  # (M, H, W)
    scores = (bce_against(maps, target), entropy_floor(target), target.mean((1, 2)))
    return torch.stack((*scores, correlation(predicted, target), focus_iou(predicted, target)))


def _averages(columns: Sequence[Tensor], nothing: str) -> dict[str, float]:
    """Means over the `n` frames of what `_compare` found, and the best constant's cross-entropy."""
    joined = torch.cat(columns, dim=1).double().cpu() if columns else torch.empty(5, 0)
    if not joined.shape[1]:
        raise AttentionError(nothing)
    bce, floor, mean, correlation, iou = joined  # (n,) each
    constant = constant_bce(mean[:, None, None])[1]  # the mean of the frames' means is that of their pixels
    measured = {"bce": bce.mean(), "floor": floor.mean(), "constant_bce": constant}
    measured |= {"correlation": correlation.mean(), "iou": iou.mean()}
    return {key: float(value) for key, value in measured.items()} | {"n": len(bce)}


def correlation(predicted: Tensor, target: Tensor) -> Tensor:
    """Pearson's r over pixels (M,) of maps (M, H, W); 0 where a map is constant."""
    a, b = (maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True) for maps in (predicted, target))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)


def focus_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union (M,) of the areas where maps (M, H, W), scaled to [0, 1] each, are at least half."""
    a, b = (_stretch(maps) >= FOCUS for maps in (predicted, target))
    return (a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1)


def _stretch(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def _open(folder: Path | str, threads: int) -> tuple[dict[str, Any], Source]:
    """What config.json holds, and the run it names; `maps` there says what enters the run, or else the run itself."""
    be_deterministic(threads)
    frozen = read_json(Path(folder) / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    model, run = load_run(inputs["run"])
    run_inputs = read_json(Path(inputs["run"]) / "config.json")["inputs"]
    source = Source(
        model=model.requires_grad_(False).to(device()),
        stream=stream_of(run),
        input=run["network"]["input"],
        frames=open_features(inputs["features"]),
        maps=entering_maps(config.get("maps", run["maps"]), run_inputs.get("maps")),
        shards=config.get("shards") or read_json(Path(inputs["features"]) / "config.json")["config"]["shards"],
    )
    return frozen, source


def _layers(config: Mapping[str, Any]) -> list[str]:
    return config.get("layers") or [config["layer"]]


def _common_input(*folders: str) -> int:
    """The input size in pixels of the run that all these maps were made from."""
    runs = {read_json(Path(folder) / "config.json")["inputs"]["run"] for folder in folders}
    if len(runs) > 1:
        raise AttentionError(f"maps of different runs are not compared: {', '.join(sorted(runs))}")
    return read_json(Path(*runs) / "config.json")["config"]["network"]["input"]


def _pairs(both: Sequence[StoredMaps], videos: Sequence[Video], size: int) -> Iterator[Tensor]:
    """Both kinds of map (m, 2, size, size) of the frames that have one of the last kind, m at a time; dead ones NaN."""
    stored = both[-1].maps
    every = int(stored.attributes["every"])
    for video in (video.video for video in videos):
        for first in range(0, stored.length(video), FRAMES_AT_ONCE):
            frames = [k * every for k in range(stored.length(video))][first : first + FRAMES_AT_ONCE]
            found = [[maps.at(video, frame, size, size) for maps in both] for frame in frames]
            yield torch.from_numpy(np.array(found))


def _part(config: Mapping[str, Any], inputs: Mapping[str, str]) -> list[Video]:
    if config["part"] == "all":
        return read_index(inputs["index"])
    return part_videos(inputs["index"], config["split"], config["part"])


def _write_provenance(path: Path, started: float, threads: int) -> None:
    """How a job went, beside what it made: the same maps twice never take the same time."""
    write_json(path, provenance(time.monotonic() - started, threads))


def _write_shard(
    folder: Path,
    shard: int,
    source: Source,
    videos: Sequence[Video],
    maps_of: Callable[[Item], list[Tensor]],
    frozen: Mapping[str, Any],
    *,
    normalise: bool,
) -> None:
    config = frozen["config"]
    attributes = config | {key: value for key, value in frozen.items() if key != "config"}
    mine = [video for video in videos if shard_of(video.video, source.shards) == shard]
    frames = source.whole_frames(mine, config["every"])
    with MapWriter(
        folder / shard_name(shard), attributes | {"shards": source.shards, "normalise": normalise}
    ) as writer:
        for index, video in enumerate(mine):
            pieces = [[part.cpu().numpy() for part in maps_of(item)] for item in frames.chunks(index, FRAMES_AT_ONCE)]
            writer.add(video.video, *(np.concatenate(part) for part in zip(*pieces, strict=True)))
    print(f"{folder / shard_name(shard)}: maps of {len(mine)} videos", flush=True)
