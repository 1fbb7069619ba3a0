"""From a table to every artifact it needs: frozen configs, hashes and folders.

An artifact's folder carries a hash of its frozen config: its own parameters, the recipe number of the code that makes
it, and the folders of the artifacts it is made from. A changed parameter is another folder, so nothing stale can be
taken for new, and nothing old is lost. Light on purpose: the Snakefile imports this.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reaction.files import canonical_json
from reaction.params import Attention, Dataset, Method, Params, StreamRecipe, Table
from reaction.recipes import RECIPES

OTHER = {"rgb": "flow", "flow": "rgb"}
KINDS = {
    "fetch": "data",
    "index": "data",
    "frames": "features",
    "flow": "features",
    "train": "models",
    "gradcam": "attention",
    "attention_net": "attention",
    "attend": "attention",
    "score": "scores",
    "fuse": "scores",
}
METRICS = ("metrics.json", "per_class.csv", "confusion.csv", "confusion.png")
FILES = {
    "fetch": ("videos.csv",),
    "index": ("index.csv", "classes.txt", "official.json", "quarantine.csv"),
    "train": ("model.safetensors", "history.csv", "metrics.json", "provenance.json"),
    "attention_net": ("attention_net.safetensors", "history.csv", "metrics.json"),
    "score": ("scores.h5", "provenance.json", *METRICS),
    "fuse": ("fusion.h5", *METRICS),
}


@dataclass(frozen=True, eq=False)
class Artifact:
    """Something the workflow makes: one folder, one rule, one frozen config."""

    rule: str
    dataset: str
    name: str
    config: Mapping[str, Any]
    inputs: Mapping[str, "Artifact"] = field(default_factory=dict)
    shards: int = 0
    hints: Mapping[str, Any] = field(default_factory=dict)  # what changes no result, such as a URL

    @cached_property
    def frozen(self) -> dict[str, Any]:
        """What config.json holds."""
        return self._identity | {"hints": self.hints}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "recipe": RECIPES[self.rule],
            "dataset": self.dataset,
            "name": self.name,
            "config": self.config,
            "inputs": {role: source.folder for role, source in self.inputs.items()},
        }

    @cached_property
    def folder(self) -> str:
        digest = hashlib.sha256(canonical_json(self._identity).encode()).hexdigest()[:8]
        return f"results/{KINDS[self.rule]}/{self.dataset}/{self.name}-{digest}"

    @property
    def files(self) -> list[str]:
        """The files whose presence says that the artifact is made."""
        names = [f"shard-{k:03d}.h5" for k in range(self.shards)] or FILES[self.rule]
        return [f"{self.folder}/{name}" for name in names]

    def files_for(self, shard: str | None) -> list[str]:
        """The files that a job on one shard reads: a video has the same shard number in every sharded artifact."""
        return [self.files[int(shard)]] if shard is not None and self.shards else self.files

    def with_ancestors(self) -> Iterator["Artifact"]:
        for source in self.inputs.values():
            yield from source.with_ancestors()
        yield self


@dataclass(frozen=True)
class Result:
    """One cell of a table: the tested run of a method, or the fusion of its streams."""

    method: str
    stream: str
    split: int
    seed: int
    artifact: Artifact


class Plan:
    """All artifacts that the tables of `params` ask for, by folder; `tables` maps each table to its results."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._made: dict[str, Artifact] = {}
        self.tables = {name: self._results(table) for name, table in params.tables.items()}

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        everything = (one for results in self.tables.values() for one in _ancestry(results))
        return {artifact.folder: artifact for artifact in everything}

    def needed(self, table: str) -> dict[str, Artifact]:
        return {artifact.folder: artifact for artifact in _ancestry(self.tables[table])}

    def _results(self, table: Table) -> list[Result]:
        results = []
        for method in table.methods:
            for split in table.splits:
                for seed in table.seeds:
                    run = _Run(table.dataset, method, split, seed, table.scale, table.protocol)
                    for stream in self.params.methods[method].tested:
                        artifact = self.fusion(run) if stream == "fusion" else self.scores(run, stream)
                        results.append(Result(method, stream, split, seed, artifact))
        return results

    def _once(self, artifact: Artifact) -> Artifact:
        """The first artifact made with this folder, so that equal ones are one object and are hashed once."""
        return self._made.setdefault(artifact.folder, artifact)

    def videos(self, dataset: str) -> Artifact:
        described = self.params.datasets[dataset]
        if described.generator is not None:
            generator = described.generator.model_dump(mode="json") | {"splits": len(described.splits)}
            config, hints = {"dataset": dataset, "source": "generated", "generator": generator}, {}
        else:
            wanted = [one.model_dump(mode="json", include={"name", "into", "sha256"}) for one in described.archives]
            config = {"dataset": dataset, "source": "archives", "archives": wanted}
            found = [one.model_dump(mode="json") for one in described.archives]
            hints = {"mirror": described.mirror, "archives": found}
        return self._once(Artifact("fetch", dataset, "videos", config, hints=hints))

    def index(self, dataset: str) -> Artifact:
        described = self.params.datasets[dataset]
        config = {
            "dataset": dataset,
            "layout": described.layout,
            "classes": list(described.classes) if described.classes else None,
            "splits": [split_name(split) for split in described.splits],
            "missing": described.missing,
        }
        return self._once(Artifact("index", dataset, "index", config, {"videos": self.videos(dataset)}))

    def features(self, dataset: str, feature: str) -> Artifact:
        described = self.params.features[feature]
        shards = self.params.datasets[dataset].shards
        config = described.model_dump(mode="json") | {"shards": shards}
        rule = {"rgb": "frames", "flow": "flow"}[described.modality]
        inputs = {"index": self.index(dataset), "videos": self.videos(dataset)}
        return self._once(Artifact(rule, dataset, feature, config, inputs, shards))

    def run(self, run: "_Run", stream: str) -> Artifact:
        """A trained network."""
        method = self.params.methods[run.method]
        inputs = self._inputs(run, stream)
        if method.init is not None:
            inputs["init"] = self.run(run.of(method.init), stream)
        if method.attention is not None:
            inputs["maps"] = self._maps(run, OTHER[stream], method.attention.train_maps)
        name = f"{run.method}-{stream}-{split_name(run.split)}-seed{run.seed}-{run.scale}"
        return self._once(Artifact("train", run.dataset, name, self._run_config(run, stream), inputs))

    def _inputs(self, run: "_Run", stream: str) -> dict[str, Artifact]:
        feature = self.params.scales[run.scale].features[stream]
        return {"index": self.index(run.dataset), "features": self.features(run.dataset, feature)}

    def _run_config(self, run: "_Run", stream: str) -> dict[str, Any]:
        method, scale = self.params.methods[run.method], self.params.scales[run.scale]
        recipe = method.streams[stream]
        weights = self.params.weights[scale.weights or method.weights]
        return {
            "method": run.method,
            "stream": stream,
            "split": split_name(run.split),
            "seed": run.seed,
            "scale": run.scale,
            "network": {
                "backbone": method.backbone,
                "width": scale.width,
                "input": scale.input,
                "dropout": recipe.dropout if scale.dropout is None else scale.dropout,
                "partial_bn": method.partial_bn and weights.source != "none",
                "segments": method.segments,
                "stack": _stack(recipe, stream, scale.stack),
                "entry": method.map.entry if method.map else None,
                "map_channel": method.map.channel if method.map else None,
            },
            "weights": weights.model_dump(mode="json"),
            "training": _training(recipe, scale),
            "augmentation": {
                "scales": list(scale.crops or recipe.scales),
                "fixed_offsets": recipe.fixed_offsets,
                "flip": recipe.flip,
            },
            "maps": _entering_maps(method, method.attention.train_maps if method.attention else None),
        }

    def _maps(self, run: "_Run", stream: str, kind: str) -> Artifact:
        """Attention maps made by the `stream` net of the method that `run`'s method looks at."""
        return self.learned(run, stream) if kind == "learned" else self.gradcam(run, stream, kind)

    def gradcam(self, run: "_Run", stream: str, kind: str = "gradcam-true") -> Artifact:
        """Grad-CAM maps of the training videos."""
        attention = self._attention(run)
        config = {
            "label": kind.removeprefix("gradcam-"),
            "part": "train",
            "split": split_name(run.split),
            "every": self._every(run),
            "maps": _entering_maps(self.params.methods[attention.source], None),
        }
        return self._looking_at("gradcam", kind, run, stream, config, sharded=True)

    def attention_net(self, run: "_Run", stream: str) -> Artifact:
        """The network that predicts the Grad-CAM maps of one stream."""
        net, epochs = self._attention(run).net, self.params.scales[run.scale].net_epochs
        config = net.model_dump(mode="json") | {"split": split_name(run.split), "seed": run.seed}
        config["epochs"] = epochs or net.epochs
        made_from = {"gradcam": self.gradcam(run, stream)}
        return self._looking_at("attention_net", "attention_net", run, stream, config, made_from)

    def learned(self, run: "_Run", stream: str) -> Artifact:
        """Maps that the attention network predicts, for every video."""
        config = {"every": self._every(run)}
        made_from = {"attention_net": self.attention_net(run, stream)}
        return self._looking_at("attend", "learned", run, stream, config, made_from, sharded=True)

    def _looking_at(
        self,
        rule: str,
        kind: str,
        run: "_Run",
        stream: str,
        config: Mapping[str, Any],
        made_from: Mapping[str, Artifact] | None = None,
        *,
        sharded: bool = False,
    ) -> Artifact:
        """An artifact made by looking at one layer of a trained run of the attention's source method."""
        source = self._attention(run).source
        layer = self.params.scales[run.scale].layer or self._attention(run).layer
        name = f"{kind}-{layer}-{source}-{stream}-{split_name(run.split)}-seed{run.seed}-{run.scale}"
        inputs = self._inputs(run, stream) | {"run": self.run(run.of(source), stream)} | (made_from or {})
        shards = self.params.datasets[run.dataset].shards if sharded else 0
        return self._once(Artifact(rule, run.dataset, name, {"layer": layer} | config, inputs, shards))

    def _attention(self, run: "_Run") -> Attention:
        return self.params.methods[run.method].attention

    def _every(self, run: "_Run") -> int:
        return self.params.scales[run.scale].every or self._attention(run).every

    def scores(self, run: "_Run", stream: str) -> Artifact:
        """Class scores of the test videos."""
        method, protocol = self.params.methods[run.method], self.params.protocols[run.protocol]
        test_maps = method.attention.test_maps if method.attention else None
        config = {
            "method": run.method,
            "stream": stream,
            "split": split_name(run.split),
            "seed": run.seed,
            "protocol": protocol.model_dump(mode="json", include={"segments", "crops", "sampler"}),
            "protocol_name": run.protocol,
            "before_softmax": protocol.before_softmax,
            "maps": _entering_maps(method, test_maps),
        }
        trained = self.run(run, stream)
        inputs = self._inputs(run, stream) | {"run": trained}
        if method.attention is not None:
            inputs["maps"] = self._maps(run, OTHER[stream], method.attention.test_maps)
        return self._once(Artifact("score", run.dataset, f"{trained.name}-{run.protocol}", config, inputs))

    def fusion(self, run: "_Run") -> Artifact:
        """The weighted mean of both streams' scores."""
        protocol = self.params.protocols[run.protocol]
        config = {
            "method": run.method,
            "stream": "fusion",
            "split": split_name(run.split),
            "seed": run.seed,
            "protocol_name": run.protocol,
            "weights": protocol.fusion.model_dump(),
            "before_softmax": protocol.before_softmax,
        }
        streams = {stream: self.scores(run, stream) for stream in ("rgb", "flow")}
        name = f"{run.method}-fusion-{split_name(run.split)}-seed{run.seed}-{run.scale}-{run.protocol}"
        return self._once(Artifact("fuse", run.dataset, name, config, {"index": self.index(run.dataset)} | streams))

    def table_spec(self, name: str) -> dict[str, Any]:
        """What the `table` command needs to know, as JSON."""
        table = self.params.tables[name]
        return {
            "table": name,
            "dataset": table.dataset,
            "scale": table.scale,
            "splits": list(table.splits),
            "protocol": table.protocol,
            "methods": list(table.methods),
            "streams": ["rgb", "flow", "fusion"],
            "papers": papers(table),
            "resample": self.params.datasets[table.dataset].resample,
            "ceilings": _ceilings(self.params.datasets[table.dataset]),
            "comparisons": [list(pair) for pair in table.comparisons],
            "results": [self._cell(table, result) for result in self.tables[name]],
        }

    def figure_spec(self, name: str) -> dict[str, Any]:
        """What the `figure` command draws, as JSON: of every run its history, of every method its classes."""
        curves, per_class = defaultdict(list), defaultdict(list)
        for result in self.tables[name]:
            if result.stream != "fusion":
                curves[f"{result.method}/{result.stream}"].append(result.artifact.inputs["run"].folder)
            if result.stream == self.params.methods[result.method].tested[-1]:
                per_class[f"{result.method}/{result.stream}"].append(result.artifact.folder)
        return {"curves": _drawn(curves), "per_class": _drawn(per_class)}

    def _cell(self, table: Table, result: Result) -> dict[str, Any]:
        why = incomparable(self.params, table, result.method)
        return {
            "method": result.method,
            "stream": result.stream,
            "split": result.split,
            "seed": result.seed,
            "folder": result.artifact.folder,
            "comparable": not why,
            "why": "; ".join(why),
        }


@dataclass(frozen=True)
class _Run:
    dataset: str
    method: str
    split: int
    seed: int
    scale: str
    protocol: str

    def of(self, method: str) -> "_Run":
        return _Run(self.dataset, method, self.split, self.seed, self.scale, self.protocol)


def split_name(split: int) -> str:
    return f"split{split}"


def papers(table: Table) -> list[str]:
    return [f"workflow/papers/{paper}.yaml" for paper in table.papers]


def incomparable(params: Params, table: Table, method: str) -> list[str]:
    """Why a result may not be set against the published number; empty if it may."""
    scale, described = params.scales[table.scale], params.methods[method]
    weights = params.weights[scale.weights or described.weights]
    reasons = []
    if table.scale != "paper":
        reasons.append(f"scale {table.scale}")
    if weights.source == "none":
        reasons.append("no ImageNet weights")
    if params.datasets[table.dataset].classes:
        reasons.append(f"{len(params.datasets[table.dataset].classes)} classes only")
    if described.stands_in:
        reasons.append(described.stands_in)
    return reasons


def _ancestry(results: list[Result]) -> Iterator[Artifact]:
    for result in results:
        yield from result.artifact.with_ancestors()


def _drawn(folders: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """One entry per line or bar; a list, since JSON's keys have no order to keep."""
    return [{"name": name, "folders": found} for name, found in folders.items()]


def _stack(recipe: StreamRecipe, stream: str, override: int | None) -> int:
    return override if override is not None and stream == "flow" else recipe.stack


def _training(recipe: StreamRecipe, scale: Any) -> dict[str, Any]:
    """The recipe's schedule under a scale."""
    kept = {"factor", "momentum", "weight_decay", "clip_gradient", "precision", "holdout"}
    return recipe.model_dump(mode="json", include=kept) | {
        "epochs": scale.epochs or recipe.epochs,
        "steps": list(recipe.steps if scale.steps is None else scale.steps),
        "batch": scale.batch or recipe.batch,
        "learning_rate": scale.learning_rate or recipe.learning_rate,
        "warmup_epochs": recipe.warmup_epochs if scale.warmup_epochs is None else scale.warmup_epochs,
    }


def _entering_maps(method: Method, stored: str | None) -> dict[str, Any] | None:
    """What enters the network as its map: stored maps, the constant before there are any, or nothing."""
    if method.map is None:
        return None
    if stored is None:
        return {"source": "constant", "value": method.map.constant}
    return {"source": stored, "dead": method.map.constant}


def _ceilings(dataset: Dataset) -> dict[str, float] | None:
    """What a stream can know at best, as `reaction.data.synthetic.ceilings` proves, without that module's imports."""
    if dataset.generator is None:
        return None
    appearances, motions = len(dataset.generator.appearances), len(dataset.generator.motions)
    return {"rgb": 1 / motions, "flow": 1 / appearances, "fusion": 1.0}
