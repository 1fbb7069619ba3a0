"""From a table to every artifact it needs: frozen configs, hashes and folders.

An artifact's folder carries a hash of its frozen config: its own parameters, the recipe number of the code that makes
it, and the folders of the artifacts it is made from. A changed parameter is another folder, so nothing stale can be
taken for new, and nothing old is lost. Light on purpose: the Snakefile imports this.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from reaction.artifacts import Artifact, Result, Run, split_name
from reaction.params import (
    READS,
    Attention,
    Figures,
    Method,
    Params,
    Protocol,
    Scale,
    StreamRecipe,
    Table,
    Weights,
    of_row,
)
from reaction.plan_detection import detection_results

OTHER = {"rgb": "flow", "flow": "rgb"}
CLIPS = ("convnet_lstm", "c3d", "i3d")  # networks that take a clip, whose `stack` is its length


class Plan:
    """All artifacts that the tables of `params` ask for, by folder.

    `tables` maps each table to its results, and `detections` each table of detections.
    """

    def __init__(self, params: Params) -> None:
        self.params = params
        self._made: dict[str, Artifact] = {}
        self._rounds_made: dict[tuple[Run, str, int], Artifact] = {}
        self.tables = {
            name: [result for part in table.parts for result in self._results(part)]
            for name, table in params.tables.items()
        }
        self.detections = {name: detection_results(self, table) for name, table in params.detection_tables.items()}

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        seen: set[str] = set()
        asked = [one for name in self.tables | self.detections for one in self.asked(name)]
        asked += [one for name in self.params.figures for one in self.drawn(name)]
        return {artifact.folder: artifact for one in asked for artifact in one.with_ancestors(seen)}

    def asked(self, table: str) -> list[Artifact]:
        """The artifacts that a table reads."""
        if table in self.detections:
            return [one.artifact for one in self.detections[table]]
        return [one.artifact for one in (*self.tables[table], *self.agreements(table))]

    def needed(self, table: str) -> dict[str, Artifact]:
        """Those, and all that they are made from, by folder."""
        seen: set[str] = set()
        return {artifact.folder: artifact for one in self.asked(table) for artifact in one.with_ancestors(seen)}

    @property
    def figures(self) -> list[str]:
        """The figures of the tables under `reproduce:`."""
        return [name for name, one in self.params.figures.items() if one.table in self.params.reproduce]

    def reproduced(self) -> list[Artifact]:
        """What the tables under `reproduce:` and their figures are made from."""
        seen: set[str] = set()
        asked = [one for table in self.params.reproduce for one in self.asked(table)]
        asked += [one for name in self.figures for one in self.drawn(name)]
        return [artifact for one in asked for artifact in one.with_ancestors(seen)]

    def agreements(self, name: str) -> list[Result]:
        """How far the learned maps are from what they imitate, of every stream whose maps the table's rows read.

        Maps that several methods read are measured once, under the first one's name.

        Twice each: `agree` measured it on the test videos, `attention_net` on the training videos that it held out.
        """
        table, found = self.params.tables[name], {}
        for result in self.tables[name] if table.maps else ():
            run = self._run_of(table, result)
            method, stream = self.params.methods[run.method], OTHER.get(result.stream)
            if stream and _reads(method, result.stream) and self.params.protocols[run.protocol].maps == "learned":
                measured = (self.agreement(run, stream), self.attention_net(run, stream))
                rows = [replace(result, stream=stream, artifact=one) for one in measured]
                found.setdefault(measured[0].folder, rows)
        return [one for both in found.values() for one in both]

    def _run_of(self, table: Table, result: Result) -> "Run":
        method, protocol = of_row(result.method, table.protocol)
        return Run(result.artifact.dataset, method, result.split, result.seed, table.scale, protocol)

    def _results(self, table: Table) -> list[Result]:
        results = []
        for row in table.methods:
            method, protocol = of_row(row, table.protocol)
            for split in table.splits:
                for seed in table.seeds:
                    run = Run(table.dataset, method, split, seed, table.scale, protocol)
                    for stream in shown(self.params.methods[method], table):
                        artifact = self.fusion(run) if stream == "fusion" else self.scores(run, stream)
                        results.append(Result(row, stream, split, seed, artifact))
        return results

    def once(self, artifact: Artifact) -> Artifact:
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
        return self.once(Artifact("fetch", dataset, "videos", config, hints=hints))

    def index(self, dataset: str) -> Artifact:
        described = self.params.datasets[dataset]
        config = {
            "dataset": dataset,
            "layout": described.layout,
            "classes": list(described.classes) if described.classes else None,
            "splits": [split_name(split) for split in described.splits],
            "missing": described.missing,
        }
        return self.once(Artifact("index", dataset, "index", config, {"videos": self.videos(dataset)}))

    def features(self, dataset: str, feature: str) -> Artifact:
        described = self.params.features[feature]
        config = described.model_dump(mode="json")
        shards = self.params.datasets[dataset].shards if config.get("stored", True) else 0
        config |= {"shards": shards} if shards else {}
        rule = {"rgb": "frames", "flow": "flow"}[described.modality]
        inputs = {"index": self.index(dataset), "videos": self.videos(dataset)}
        return self.once(Artifact(rule, dataset, feature, config, inputs, shards))

    def run(self, run: "Run", stream: str) -> Artifact:
        """A trained network."""
        method = self.params.methods[run.method]
        if stream in method.runs:
            return self.run(run.of(method.runs[stream]), stream)
        if method.alternation is not None:
            return self._round(run, stream, self._rounds(run) - 1)
        inputs = self.inputs_of(run, stream) | self._others_inputs(run, stream)
        if method.init is not None:
            elsewhere = method.init_on.model_dump() if method.init_on else {}
            inputs["init"] = self.run(replace(run, method=method.init, **elsewhere), stream)
        train_maps = _reads(method, stream)
        if train_maps is not None:
            inputs["maps"] = self._maps(run, OTHER[stream], train_maps)
        task = _other_task(method, stream, run.dataset)
        config = self._run_config(run, stream, train_maps) | ({"multi_task": task} if task else {})
        return self.once(Artifact("train", run.dataset, _run_name(run, stream), config, inputs))

    def _rounds(self, run: "Run") -> int:
        """How many rounds an alternation has; its streams train for equally many epochs."""
        method, scale = self.params.methods[run.method], self.params.scales[run.scale]
        epochs = scale.epochs or method.streams["rgb"].epochs
        return -(-epochs // method.alternation.epochs_per_round)

    def _round(self, run: "Run", stream: str, number: int) -> Artifact:
        """One round of a stream in an alternation (Park 2019, Algorithm 1), which goes on from the round before.

        rgb comes first: it reads the maps of the flow net of the round before, and flow those of this round's rgb net.
        """
        key = (run.tested_by(""), stream, number)  # every round asks for two before it
        if key not in self._rounds_made:
            self._rounds_made[key] = self._make_round(run, stream, number)
        return self._rounds_made[key]

    def _make_round(self, run: "Run", stream: str, number: int) -> Artifact:
        method = self.params.methods[run.method]
        looked_at = (OTHER[stream], number if stream == "flow" else number - 1)
        reads = _reads(method, stream) if looked_at[1] >= 0 else None
        inputs = self.inputs_of(run, stream)
        if number:
            inputs["init"] = self._round(run, stream, number - 1)
        if reads is not None:
            inputs["maps"] = self._gradcam_of(self._round(run, *looked_at), run, looked_at[0], reads, as_trained=True)
        config = self._run_config(run, stream, reads)
        epochs, length = config["training"]["epochs"], method.alternation.epochs_per_round
        own = {"epochs": min(length, epochs - number * length), "first_epoch": number * length}
        config["training"] |= {key: value for key, value in own.items() if value or key == "epochs"}
        return self.once(Artifact("train", run.dataset, f"{_run_name(run, stream)}-round{number}", config, inputs))

    def inputs_of(self, run: "Run", stream: str) -> dict[str, Artifact]:
        """What every artifact of a stream is made from."""
        features = self.params.scales[run.scale].features
        if run.scale == "paper" and run.method in self.params.methods:
            features = features | (self.params.methods[run.method].features or {})
        read = [self.features(run.dataset, features[part]) for part in READS[stream]]
        roles = ("features", "flow_features")  # the second of `joint`, which reads both
        return {"index": self.index(run.dataset)} | dict(zip(roles, read, strict=False))

    def _others_inputs(self, run: "Run", stream: str) -> dict[str, Artifact]:
        """What a stream reads that learns from another dataset as well."""
        if (task := _other_task(self.params.methods[run.method], stream, run.dataset)) is None:
            return {}
        inputs = self.inputs_of(replace(run, dataset=task["dataset"]), stream)
        return {f"other_{role}": source for role, source in inputs.items()}

    def _run_config(self, run: "Run", stream: str, train_maps: str | None) -> dict[str, Any]:
        method, scale = self.params.methods[run.method], self.params.scales[run.scale]
        recipe = method.streams[stream]
        weights = self._weights(run, stream)
        several = {"labels": recipe.labels} if self.params.datasets[run.dataset].multi_label else {}
        return {
            "method": run.method,
            "stream": stream,
            "split": split_name(run.split),
            "seed": run.seed,
            "scale": run.scale,
            "network": self.network(run, stream),
            "weights": weights.model_dump(mode="json"),
            "training": _training(recipe, scale),
            "augmentation": _augmentation(recipe, scale),
            "maps": _entering_maps(method, train_maps),
        } | (_started(method, recipe) | several)

    def network(self, run: "Run", stream: str) -> dict[str, Any]:
        """What `reaction.training.networks.build_network` builds, and how a video enters it."""
        method, scale = self.params.methods[run.method], self.params.scales[run.scale]
        recipe, weights = method.streams[stream], self._weights(run, stream)
        return {
            "backbone": method.backbone,
            "width": scale.width,
            "input": scale.input or method.input,
            "dropout": recipe.dropout if scale.dropout is None else scale.dropout,
            "partial_bn": method.partial_bn and weights.source != "none",
            "segments": method.segments,
            "stack": _stack(method, stream, scale),
            "entry": method.map.entry if method.map else None,
            "map_channel": method.map.channel if method.map else None,
        } | _unusual(method, recipe)

    def _weights(self, run: "Run", stream: str) -> Weights:
        method, scale = self.params.methods[run.method], self.params.scales[run.scale]
        return self.params.weights[scale.weights or method.streams[stream].weights or method.weights]

    def _maps(self, run: "Run", stream: str, kind: str, part: str = "train") -> Artifact:
        """Attention maps made by the `stream` net that `run`'s method looks at: learned ones know every part."""
        return self.learned(run, stream) if kind == "learned" else self.gradcam(run, stream, kind, part)

    def gradcam(self, run: "Run", stream: str, kind: str = "gradcam-true", part: str = "train") -> Artifact:
        """Grad-CAM maps of the training videos, or of the test videos to set others against."""
        return self._gradcam_of(self._looked_at(run, stream), run, stream, kind, part)

    def _gradcam_of(
        self, trained: Artifact, run: "Run", stream: str, kind: str, part: str = "train", *, as_trained: bool = False
    ) -> Artifact:
        """Maps of a net with the constant entering it, or `as_trained`: with the maps that it was trained with."""
        config = {
            "label": kind.removeprefix("gradcam-"),
            "part": part,
            "split": split_name(run.split),
            "every": self._every(run),
        }
        config |= {} if as_trained else {"maps": self._seen_with(run)}
        return self._looking_at("gradcam", kind, run, stream, trained, config, sharded=True)

    def attention_net(self, run: "Run", stream: str) -> Artifact:
        """The network that predicts the Grad-CAM maps of one stream."""
        net, scale = self.attention(run).net, self.params.scales[run.scale]
        config = net.model_dump(mode="json") | {"split": split_name(run.split), "seed": run.seed}
        config["epochs"] = scale.net_epochs or net.epochs
        config["hidden"] = max(1, round(net.hidden * scale.width))
        config |= self._entering(run)
        made_from = {"gradcam": self.gradcam(run, stream)}
        trained = self._looked_at(run, stream)
        return self._looking_at("attention_net", "attention_net", run, stream, trained, config, made_from)

    def learned(self, run: "Run", stream: str) -> Artifact:
        """Maps that the attention network predicts, for every video."""
        config = {"every": self._every(run)} | self._entering(run)
        made_from = {"attention_net": self.attention_net(run, stream)}
        trained = self._looked_at(run, stream)
        return self._looking_at("attend", "learned", run, stream, trained, config, made_from, sharded=True)

    def agreement(self, run: "Run", stream: str) -> Artifact:
        """How far the learned maps of the test videos are from the Grad-CAM maps they imitate."""
        facts = {"stream": stream, "split": split_name(run.split), "seed": run.seed, "scale": run.scale}
        made_from = {"learned": self.learned(run, stream), "gradcam": self.gradcam(run, stream, part="test")}
        trained, config = self._looked_at(run, stream), facts | {"part": "test"}
        return self._looking_at("agree", "agree", run, stream, trained, config, made_from)

    def _looked_at(self, run: "Run", stream: str) -> Artifact:
        """The trained run whose features the maps come from: of another method, or the last round of an alternation."""
        source = self.attention(run).source
        return self.run(run.of(source) if source else run, stream)

    def _seen_with(self, run: "Run") -> dict[str, Any] | None:
        """What enters a net looked at for a test: the constant, since maps of test videos would need each other."""
        return _entering_maps(self.params.methods[self.attention(run).source or run.method], None)

    def _entering(self, run: "Run") -> dict[str, Any]:
        """The same, to be said where the net itself was trained with maps."""
        looked_at = self.params.methods[self.attention(run).source or run.method]
        return {"maps": self._seen_with(run)} if looked_at.attention else {}

    def _looking_at(
        self,
        rule: str,
        kind: str,
        run: "Run",
        stream: str,
        trained: Artifact,
        config: Mapping[str, Any],
        made_from: Mapping[str, Artifact] | None = None,
        *,
        sharded: bool = False,
    ) -> Artifact:
        """An artifact made by looking at one layer, or several, of a trained run."""
        layers, own = self.layers(run), self.params.scales[run.scale].map_shards
        name = f"{kind}-{'+'.join(layers)}-{trained.name}"
        inputs = self.inputs_of(run, stream) | {"run": trained} | (made_from or {})
        shards = (own or self.params.datasets[run.dataset].shards) if sharded else 0
        where = {"layer": layers[0]} if len(layers) == 1 else {"layers": layers}
        where |= {"shards": own} if own and sharded else {}
        return self.once(Artifact(rule, run.dataset, name, where | config, inputs, shards))

    def layers(self, run: "Run") -> list[str]:
        """The layers that a run's maps come from, at its scale."""
        given = self.params.scales[run.scale].layers or {}
        return [given.get(layer, layer) for layer in self.attention(run).layers]

    def attention(self, run: "Run") -> Attention:
        """Of a method that has one."""
        return self.params.methods[run.method].attention

    def _every(self, run: "Run") -> int:
        return self.params.scales[run.scale].every or self.attention(run).every

    def scores(self, run: "Run", stream: str, part: str = "test") -> Artifact:
        """Class scores of the test videos, or of the training videos that decide how streams are fused."""
        method, protocol = self.params.methods[run.method], self.params.protocols[run.protocol]
        if stream in method.runs:
            return self.scores(run.of(method.runs[stream]), stream, part)
        reads = protocol.maps if _reads(method, stream) and protocol.maps != "constant" else None
        config = {
            "method": run.method,
            "stream": stream,
            "split": split_name(run.split),
            "seed": run.seed,
            "protocol": views(protocol),
            "protocol_name": run.protocol,
            "before_softmax": protocol.before_softmax,
            "maps": _entering_maps(method, reads),
        } | _pooled(protocol)
        name = f"{_run_name(run, stream)}-{run.protocol}"
        if part != "test":
            config["part"], name = part, f"{name}-{part}"
        inputs = self.inputs_of(run, stream) | {"run": self.run(run, stream)}
        if reads is not None:
            inputs["maps"] = self._maps(run, OTHER[stream], reads, "test" if part == "test" else "train")
        return self.once(Artifact("score", run.dataset, name, config, inputs))

    def fusion(self, run: "Run") -> Artifact:
        """The streams' scores in one: a weighted mean, or an SVM's."""
        method, protocol = self.params.methods[run.method], self.params.protocols[run.protocol]
        config = {
            "method": run.method,
            "stream": "fusion",
            "split": split_name(run.split),
            "seed": run.seed,
            "protocol_name": run.protocol,
            "before_softmax": protocol.before_softmax,
        } | _fusing(protocol)
        streams = tuple(protocol.fusion or protocol.sweep or method.streams)
        scores = {stream: self.scores(run, stream) for stream in streams}
        if taken := {one: of.config["method"] for one, of in scores.items() if one in method.runs}:
            config["runs"] = taken
        if part := "heldout" if protocol.sweep else "train" if protocol.svm else None:
            scores |= {f"{part}_{stream}": self.scores(run, stream, part) for stream in streams}
        name = f"{run.method}-fusion-{split_name(run.split)}-seed{run.seed}-{run.scale}-{run.protocol}"
        return self.once(Artifact("fuse", run.dataset, name, config, {"index": self.index(run.dataset)} | scores))

    def runs(self, table: Table, row: str) -> list["Run"]:
        """A row's runs, one for each split and seed."""
        method, protocol = of_row(row, table.protocol)
        return [
            Run(table.dataset, method, split, seed, table.scale, protocol)
            for split in table.splits
            for seed in table.seeds
        ]

    def maps_shown(self, run: "Run", figures: Figures) -> tuple[list[Artifact], list[Artifact]]:
        """Of each method in `layers` the true label's Grad-CAM maps of the test videos, and the learned maps."""
        looking = [run.of(row) for row in figures.layers]
        gradcam = [self.gradcam(one, "rgb", part="test") for one in looking]
        return gradcam, [self.learned(one, "rgb") for one in looking]

    def drawn(self, name: str) -> list[Artifact]:
        """The artifacts that the figures of the thesis read."""
        figures = self.params.figures[name]
        table = self.params.tables[figures.table]
        run = Run(table.dataset, "", table.splits[0], table.seeds[0], table.scale, table.protocol)
        both = (figures.before, figures.after)
        fused = [self.fusion(one) for row in both for one in self.runs(table, row)]
        trained = [self.run(run.of(row), stream) for row in (*both, figures.end_to_end) for stream in ("rgb", "flow")]
        maps = [self.learned(run.of(figures.after), "rgb")]
        maps += [one for of_kind in self.maps_shown(run, figures) for one in of_kind]
        return [self.inputs_of(run, "rgb")["features"], *fused, *trained, *maps]


def _stack(method: Method, stream: str, scale: Scale) -> int:
    stack = method.streams[stream].stack
    if method.backbone in CLIPS:
        return min(stack, scale.clip or stack)
    return scale.stack if scale.stack is not None and stream == "flow" else stack


def views(protocol: Protocol) -> dict[str, Any]:
    """What of a protocol says which views a video gets."""
    views = protocol.model_dump(mode="json", include={"segments", "crops", "sampler"})
    return views | protocol.model_dump(mode="json", include={"stack", "crop", "input"}, exclude_none=True)


def _training(recipe: StreamRecipe, scale: Scale) -> dict[str, Any]:
    """The recipe's schedule under a scale."""
    kept = {"factor", "momentum", "weight_decay", "clip_gradient", "precision", "holdout"}
    kept |= recipe.model_dump(include={"bn_group", "decay", "warmup_from", "precise_bn"}, exclude_defaults=True).keys()
    length = {"updates": recipe.updates} if recipe.updates and not scale.epochs else None
    batch = scale.batch or recipe.batch
    scaled = recipe.learning_rate * (batch / recipe.rate_batch if recipe.rate_batch else 1)
    return recipe.model_dump(mode="json", include=kept) | {
        **(length or {"epochs": scale.epochs or recipe.epochs}),
        "steps": list(recipe.steps if scale.steps is None else scale.steps),
        "batch": batch,
        "learning_rate": scale.learning_rate or scaled,
        "warmup_epochs": recipe.warmup_epochs if scale.warmup_epochs is None else scale.warmup_epochs,
    }


def _augmentation(recipe: StreamRecipe, scale: Scale) -> dict[str, Any]:
    unusual = {"jitter": recipe.jitter} if recipe.jitter else {}
    if recipe.short_sides and not scale.crops:
        unusual |= {"short_sides": list(recipe.short_sides)}
    scales = list(scale.crops or recipe.scales)
    return {"scales": scales, "fixed_offsets": recipe.fixed_offsets, "flip": recipe.flip} | unusual


def shown(method: Method, table: Table) -> list[str]:
    """What a table has rows of: the method's streams and their fusion, or those of them that it names."""
    return [stream for stream in method.tested if table.streams is None or stream in table.streams]


def _run_name(run: Run, stream: str) -> str:
    return f"{run.method}-{stream}-{split_name(run.split)}-seed{run.seed}-{run.scale}"


def _reads(method: Method, stream: str) -> str | None:
    """The kind of maps that a stream is trained with; None where it keeps the constant map, or has no map."""
    if method.attention is None or stream not in method.attention.streams:
        return None
    return method.attention.train_maps


def _other_task(method: Method, stream: str, dataset: str) -> dict[str, str] | None:
    """What a stream learns beside its own dataset, if anything."""
    if method.multi_task is None or stream not in method.multi_task.streams:
        return None
    return {"dataset": method.multi_task.other(dataset), "split": split_name(method.multi_task.split)}


def _unusual(method: Method, recipe: StreamRecipe) -> dict[str, Any]:
    """Options that are written down only where they are taken, so that runs without them keep their hash."""
    consensus = {} if method.consensus == "average" else {"consensus": method.consensus}
    seen = recipe.model_dump(mode="json", include={"mean_flow", "stride", "frames", "short"}, exclude_defaults=True)
    paths = {"pathways": method.pathways.model_dump(mode="json", exclude_none=True)} if method.pathways else {}
    return consensus | seen | paths


def _started(method: Method, recipe: StreamRecipe) -> dict[str, Any]:
    """What a run does otherwise than train all of a network: written down only where it does."""
    new = {"new_classifier": True} if method.init_on else {}
    return new | ({} if recipe.trains == "all" else {"trains": recipe.trains})


def _pooled(protocol: Protocol) -> dict[str, str]:
    """What a class has of the views, where it is not their mean."""
    return {} if protocol.views == "mean" else {"views": protocol.views}


def _fusing(protocol: Protocol) -> dict[str, Any]:
    if protocol.fusion is not None:
        return {"weights": dict(protocol.fusion)} | _pooled(protocol)
    if protocol.sweep is not None:
        return {"sweep": {stream: list(weights) for stream, weights in protocol.sweep.items()}}
    return {"svm": protocol.svm.model_dump(exclude_defaults=True)}


def _entering_maps(method: Method, stored: str | None) -> dict[str, Any] | None:
    """What enters the network as its map: stored maps, the constant before there are any, or nothing."""
    if method.map is None:
        return None
    if stored is None:
        return {"source": "constant", "value": method.map.constant}
    return {"source": stored, "dead": method.map.constant}
