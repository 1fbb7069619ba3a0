"""How far learned attention maps are from the Grad-CAM maps they imitate: one row per method, stream, split and part.

`test` is measured by `reaction agree` against the true label's maps of the test videos, a yardstick that no test may
use; `heldout` by the attention network's own training, on the groups of training videos that it left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from reaction.evaluation import statistics
from reaction.files import read_json

MEASURES = ("bce", "constant_bce", "entropy_floor", "correlation", "iou")
PARTS = ("test", "heldout")
FOUR = {"format": ".4f"}


class AgreementError(ValueError):
    """Metrics of maps that are missing, broken or measured twice."""


@dataclass(frozen=True)
class Measured:
    """The maps of one run: cross-entropies in nats per pixel, correlation and IoU as means over `n` frames."""

    method: str
    stream: str
    split: int
    seed: int
    folder: str
    part: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Agreement:
    """Means over seeds, each seed weighing the same, and their sample deviation; None for a single seed.

    `bce` lies between `entropy_floor`, which no map can beat against soft targets, and `constant_bce`, which the best
    constant map has, chosen for these very frames; `verdict` says in words on which side, seed by seed; `n` frames of
    the seed with the fewest, `dead` ones left out of all seeds together.
    """

    method: str
    stream: str
    split: int
    part: str
    seeds: str
    bce: float = field(metadata=FOUR)
    bce_std: float | None = field(metadata=FOUR)
    constant_bce: float = field(metadata=FOUR)
    entropy_floor: float = field(metadata=FOUR)
    correlation: float = field(metadata=FOUR)
    correlation_std: float | None = field(metadata=FOUR)
    iou: float = field(metadata=FOUR)
    iou_std: float | None = field(metadata=FOUR)
    n: int
    dead: int
    verdict: str
    runs: str


def read_measured(entry: Mapping[str, Any]) -> Measured:
    """An entry of a table's `maps`: method, stream, split, seed, folder and perhaps `part` (else `test`)."""
    part = entry.get("part", "test")
    if part not in PARTS:
        raise AgreementError(f"{entry['folder']}: `part` is one of {', '.join(PARTS)}, not {part!r}")
    path = Path(entry["folder"]) / "metrics.json"
    command = {"test": "agree", "heldout": "attention_net"}[part]
    if not path.exists():
        raise AgreementError(f"{path} is missing. Run `reaction {command} {entry['folder']}`.")
    found = read_json(path)
    metrics = {"bce": found.get("heldout_bce")} | found
    if absent := [key for key in (*MEASURES, "n", "dead") if metrics.get(key) is None]:
        raise AgreementError(f"{path} lacks {', '.join(absent)}. Run `reaction {command} {entry['folder']}` again.")
    expected = {"split": f"split{entry['split']}", "seed": entry["seed"], "part": part}
    for key, value in expected.items():
        if metrics.get(key, value) != value:
            raise AgreementError(f"{path} has {key} {metrics[key]!r}, the table expects {value!r} there.")
    run = {key: entry[key] for key in ("method", "stream", "split", "seed", "folder")}
    return Measured(**run, part=part, metrics=metrics)


def build_agreement(measured: Iterable[Measured]) -> list[Agreement]:
    """One row per method, stream, split and part, in the order in which they first come."""
    rows: dict[tuple, dict[int, Measured]] = {}
    for one in measured:
        seeds = rows.setdefault((one.method, one.stream, one.split, one.part), {})
        if one.seed in seeds:
            raise AgreementError(f"{seeds[one.seed].folder} and {one.folder} measure the maps of one run")
        seeds[one.seed] = one
    return [_row(*key, list(seeds.values())) for key, seeds in rows.items()]


def _row(method: str, stream: str, split: int, part: str, runs: Sequence[Measured]) -> Agreement:
    values = {key: [float(run.metrics[key]) for run in runs] for key in MEASURES}
    return Agreement(
        method=method,
        stream=stream,
        split=split,
        part=part,
        seeds=" ".join(str(run.seed) for run in runs),
        **{key: float(np.mean(found)) for key, found in values.items()},
        **{f"{key}_std": statistics.spread(values[key]) for key in ("bce", "correlation", "iou")},
        n=min(int(run.metrics["n"]) for run in runs),
        dead=sum(int(run.metrics["dead"]) for run in runs),
        verdict=_verdict(values),
        runs=" ".join(run.folder for run in runs),
    )


def _verdict(values: Mapping[str, Sequence[float]]) -> str:
    """Of cross-entropies by measure, seed by seed: whether the maps tell more than the best constant one."""
    constant, floor = np.array(values["constant_bce"]), np.array(values["entropy_floor"])
    gained = constant - np.array(values["bce"])  # (seeds,)
    better = int((gained > 0).sum())
    if better == 0:
        return "no better than a constant map"
    if better < len(gained):
        return f"better than a constant map with {better} of {len(gained)} seeds"
    share = 100 * gained.mean() / (constant - floor).mean()
    return f"better than a constant map: {share:.0f} % of the way to the floor"
