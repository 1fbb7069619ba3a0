"""A dataset small enough for tests that train: made of arrays, stored as the workflow stores it."""

import copy
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

WIDTH, HEIGHT, SHARDS = 104, 96, 2
RGB = {"modality": "rgb", "resize": f"{WIDTH}x{HEIGHT}", "jpeg_quality": 95, "shards": SHARDS}
FLOW = RGB | {"modality": "flow", "bound": 20.0}


RUN = {
    "method": "small",
    "stream": "rgb",
    "split": "split1",
    "seed": 0,
    "scale": "tiny",
    "network": {
        "backbone": "inception_v3",
        "width": 0.0625,
        "input": 80,
        "dropout": 0.2,
        "partial_bn": False,
        "segments": 2,
        "stack": 1,
        "entry": None,
        "map_channel": None,
    },
    "weights": {"source": "none", "path": None, "url": None, "sha256": None},
    "training": {
        "epochs": 2,
        "batch": 6,
        "learning_rate": 0.01,
        "steps": [1],
        "factor": 0.1,
        "warmup_epochs": 0,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_gradient": 20.0,
        "precision": "32-true",
        "holdout": 0.0,
    },
    "augmentation": {"scales": [1.0, 0.875], "fixed_offsets": True, "flip": True},
    "maps": None,
}


@dataclass(frozen=True)
class SmallProject:
    """A project in the current folder: 12 training and 4 test videos, 2 classes, 8 groups, features of both streams."""

    index: str = "results/data/small/index-0"
    rgb: str = "results/features/small/rgb-0"
    flow: str = "results/features/small/flow-0"

    def features(self, stream: str) -> dict[str, str]:
        if stream == "joint":
            return {"index": self.index, "features": self.rgb, "flow_features": self.flow}
        return {"index": self.index, "features": getattr(self, stream)}

    def freeze(self, rule: str, name: str, config: dict, inputs: dict) -> str:
        """The folder of a new artifact, with its config.json."""
        from reaction.files import write_json

        kind = {"train": "models", "score": "scores"}.get(rule, "attention")
        folder = f"results/{kind}/small/{name}"
        frozen = {"rule": rule, "recipe": 1, "dataset": "small", "name": name, "config": config, "inputs": inputs}
        write_json(f"{folder}/config.json", frozen)
        return folder

    def run(self, name: str, *, stream: str = "rgb", inputs: dict | None = None, **changes) -> str:
        """The folder of a run to train; `changes` replace values of config.json, whole or by key."""
        config = copy.deepcopy(RUN) | {"stream": stream}
        for key, value in changes.items():
            config[key] = config[key] | value if isinstance(config.get(key), dict) else value
        return self.freeze("train", name, config, self.features(stream) | (inputs or {}))

    def with_several_labels(self) -> None:
        """Every third video is of the third class as well, and shows it from its fourth picture on alone."""
        rows = [_row(k) for k in range(16)]
        own = [(row["labels"], 2) if k % 3 == 0 else (row["labels"],) for k, row in enumerate(rows)]
        _write_csv(
            Path(self.index, "index.csv"),
            [r | {"labels": "|".join(map(str, o))} for r, o in zip(rows, own, strict=True)],
        )
        spans = [
            {"video": row["video"], "label": label, "start": 3 / 25 if label == 2 else 0.0, "end": 1.0}
            for row, labels in zip(rows, own, strict=True)
            for label in labels
        ]
        _write_csv(Path(self.index, "spans.csv"), spans)
        Path(self.index, "classes.txt").write_text("left\nright\nlate\n")


@pytest.fixture
def small_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallProject:
    monkeypatch.chdir(tmp_path)
    project = SmallProject()
    rows = [_row(k) for k in range(16)]
    _write_index(Path(project.index), rows)
    _write_features(Path(project.rgb), RGB, rows)
    _write_features(Path(project.flow), FLOW, rows)
    return project


def _row(k: int) -> dict:
    names = {"video": f"clip_{k:02d}", "path": f"clip_{k:02d}.avi", "labels": k % 2, "group": f"g{k // 2}"}
    facts = {"frames": 4 + k % 3, "fps": 25.0, "width": WIDTH, "height": HEIGHT}
    return names | facts | {"sha256": "0", "decoder": "pyav"}


def _write_index(folder: Path, rows: list[dict]) -> None:
    (folder / "splits").mkdir(parents=True)
    _write_csv(folder / "index.csv", rows)
    parts = [{"video": row["video"], "part": "train" if k < 12 else "test"} for k, row in enumerate(rows)]
    _write_csv(folder / "splits/split1.csv", parts)
    (folder / "classes.txt").write_text("left\nright\n")


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_features(folder: Path, config: dict, rows: list[dict]) -> None:
    from reaction.data.store import ShardWriter, shard_name, shard_of
    from reaction.files import write_json

    write_json(folder / "config.json", {"config": config})
    for shard in range(SHARDS):
        with ShardWriter(folder / shard_name(shard), config) as writer:
            for k, row in enumerate(rows):
                if shard_of(row["video"], SHARDS) == shard:
                    blobs = _encoded(k, row["frames"], config["modality"])
                    writer.add(row["video"], blobs, source_sha256=row["sha256"])


def _encoded(k: int, frames: int, modality: str) -> list[bytes]:
    from reaction.data.store import encode_flow, encode_jpeg

    if modality == "rgb":
        return [encode_jpeg(picture, 95) for picture in _pictures(k, frames)]
    return [encode_flow(picture.transpose(2, 0, 1)[:2], 95) for picture in _pictures(k, frames - 1)]


def _pictures(k: int, count: int) -> np.ndarray:
    """A bright square on faint noise, wandering down, in a half of the picture that its class says: (n, H, W, 3)."""
    rng = np.random.default_rng(k)
    pictures = rng.integers(100, 156, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    left = rng.integers(4, 20) + (WIDTH // 2) * (k % 2)
    top = rng.integers(4, 40)
    for i, picture in enumerate(pictures):
        picture[top + 3 * i : top + 3 * i + 28, left : left + 28] = (250, 240, 20)
    return pictures
