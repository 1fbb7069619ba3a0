"""A table of networks without results: parameters, and what one sees of a video (Carreira & Zisserman 2017, table 1).

Nothing is trained for it and no video is needed: networks are built without memory, and footprints follow from the
methods and protocols of params.yaml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from reaction.clips.loader import Stream
from reaction.files import write_text
from reaction.tables.claims import PublishedNetwork, read_paper
from reaction.training.networks import build_network, stream_of
from reaction.verify import agrees

MEASURES = ("train_rgb", "train_flow", "train_seconds", "test_rgb", "test_flow", "test_seconds")


def network_table(spec: Mapping[str, Any], csv: Path) -> None:
    """Write `csv`, and a .md beside it: a row per method, ours and what the paper says of it."""
    paper = read_paper(Path(spec["paper"]))
    published = {one.method: one for one in paper.networks if one.table == spec["claims"]}
    rows = [_row(one, published[one["method"]], spec["classes"], spec["fps"]) for one in spec["rows"]]
    write_text(csv, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    shown = pd.DataFrame([_shown(row) for row in rows])
    write_text(csv.with_suffix(".md"), shown.to_markdown(index=False, disable_numparse=True) + "\n")


def _row(described: Mapping[str, Any], published: PublishedNetwork, classes: int, fps: int) -> dict[str, Any]:
    ours = {"parameters": sum(_parameters(one, classes) for one in described["streams"])} | footprint(described, fps)
    same = agrees(ours["parameters"], published.parameters) and all(
        abs(ours[measure] - getattr(published, measure)) < 0.005 for measure in MEASURES
    )
    row = {"method": described["method"], "name": published.name}
    for measure in ("parameters", *MEASURES):
        row |= dict(zip(_pair(measure), (ours[measure], getattr(published, measure)), strict=True))
    return row | {"source": published.source, "verdict": "equal" if same else "differs"}


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A row to read: ours, and behind it what the paper says where it is written otherwise."""
    cells = {"network": row["name"]}
    for measure in ("parameters", *MEASURES):
        ours, published = (f"{row[key]:,}" if not isinstance(row[key], str) else row[key] for key in _pair(measure))
        cells[measure.replace("_", " ")] = ours if ours == published else f"{ours} ({published})"
    return cells | {"source": row["source"], "": row["verdict"]}


def _pair(measure: str) -> tuple[str, str]:
    return measure, f"published {measure}"


def footprint(described: Mapping[str, Any], fps: int) -> dict[str, float]:
    """Frames and fields of flow that all streams of a method see at once, and the seconds that they reach over.

    In training it is one input; in a test it is all views of the protocol.
    """
    measured = dict.fromkeys(MEASURES, 0)
    protocol = described["protocol"]
    for one in described["streams"]:
        trained, tested = stream_of(one), stream_of(one, protocol.get("stack"))
        for phase, stream, views in (("train", trained, 1), ("test", tested, protocol["segments"])):
            for part in stream.parts:
                measured[f"{phase}_{part.modality}"] += views * part.items
            seconds = views * _reach(stream) / fps
            measured[f"{phase}_seconds"] = max(measured[f"{phase}_seconds"], round(seconds, 2))
    return measured


def _reach(stream: Stream) -> int:
    """Frames from one input to the next that follows it without a gap."""
    return max(part.stride * part.items for part in stream.parts)


def _parameters(run: Mapping[str, Any], classes: int) -> int:
    with torch.device("meta"):
        network = build_network(run["network"], stream=run["stream"], classes=classes)
    return sum(parameter.numel() for parameter in network.parameters())
