"""Artifacts: what the workflow makes, each a folder named by the hash of its frozen config. See `reaction.plan`."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from reaction.files import canonical_json
from reaction.recipes import RECIPES

KINDS = {
    "fetch": "data",
    "index": "data",
    "frames": "features",
    "flow": "features",
    "train": "models",
    "train_detector": "models",
    "gradcam": "attention",
    "attention_net": "attention",
    "attend": "attention",
    "agree": "attention",
    "score": "scores",
    "fuse": "scores",
    "detect": "detections",
    "link": "detections",
    "evaluate": "detections",
}
METRICS = ("metrics.json", "per_class.csv", "confusion.csv", "confusion.png")
FILES = {
    "fetch": ("videos.csv",),
    "index": ("index.csv", "classes.txt", "official.json", "quarantine.csv"),
    "train": ("model.safetensors", "history.csv", "metrics.json", "provenance.json"),
    "attention_net": ("attention_net.safetensors", "history.csv", "metrics.json", "provenance.json"),
    "agree": ("metrics.json",),
    "score": ("scores.h5", "provenance.json", *METRICS),
    "fuse": ("fusion.h5", *METRICS),
    "train_detector": ("model.safetensors", "anchors.json", "history.csv", "metrics.json", "provenance.json"),
    "detect": ("boxes.h5", "provenance.json"),
    "link": ("tubes.h5",),
    "evaluate": ("metrics.json", "per_class.csv", "errors.csv", "draws.h5"),
}
UNSTORED = ("config.json",)  # of features that are decoded from the videos when they are read


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
        names = [f"shard-{k:03d}.h5" for k in range(self.shards)] or FILES.get(self.rule, UNSTORED)
        return [f"{self.folder}/{name}" for name in names]

    @property
    def provenance(self) -> list[str]:
        """The files that say what it took to make this, of a rule that writes them."""
        names = [f"provenance-{k:03d}.json" for k in range(self.shards)] or ["provenance.json"]
        return [f"{self.folder}/{name}" for name in names]

    def files_for(self, reader: "Artifact", shard: str | None) -> list[str]:
        """The files that a job reads which makes one shard of `reader`, or all of it.

        A video has the same shard number in every artifact of as many shards.
        """
        alike = shard is not None and self.shards == reader.shards
        return [self.files[int(shard)]] if alike else self.files

    def with_ancestors(self, seen: set[str] | None = None) -> Iterator["Artifact"]:
        """What this is made from and itself, each once, in an order in which they can be made; `seen` are left out."""
        seen = set() if seen is None else seen
        if self.folder in seen:
            return
        seen.add(self.folder)
        for source in self.inputs.values():
            yield from source.with_ancestors(seen)
        yield self


@dataclass(frozen=True)
class Result:
    """One cell of a table: the tested run of a method, or the fusion of its streams."""

    method: str
    stream: str
    split: int
    seed: int
    artifact: Artifact


@dataclass(frozen=True)
class Run:
    """What is trained and how it is tested; a stream of it makes artifacts."""

    dataset: str
    method: str
    split: int
    seed: int
    scale: str
    protocol: str

    def of(self, method: str) -> "Run":
        return replace(self, method=method)

    def tested_by(self, protocol: str) -> "Run":
        return replace(self, protocol=protocol)


def split_name(split: int) -> str:
    return f"split{split}"
