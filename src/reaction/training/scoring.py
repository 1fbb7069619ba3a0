"""The job `score`: a trained run's logits of every view of the videos of one part of a split."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from reaction.clips.loader import TestClips
from reaction.files import atomic, read_json, write_json
from reaction.models.tsn import TSN
from reaction.training.inputs import scored_clips
from reaction.training.job import be_deterministic, device, provenance, tell
from reaction.training.networks import load_run

SECONDS_BETWEEN_LINES = 30


def score_run(folder: Path | str, *, workers: int = 0, threads: int = 1) -> None:
    """Score one part of the split in `folder`: scores.h5 with every view's logits, and provenance.json.

    `part` is `test`, `train` (every training video, those that the run held out among them) or `heldout` (those alone).
    """
    be_deterministic(threads)
    started, folder = time.monotonic(), Path(folder)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    model, run = load_run(inputs["run"])
    clips = scored_clips(config, inputs, run)
    logits = score(model.to(device()), clips, workers=workers, report=tell)
    several = clips.several
    labels = [video.labels[0] if several is None else several.whole(video).tolist() for video in clips.videos]
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
        views = item["clip"].split(model.views_at_once)  # (v, C, H, W)
        maps = item["map"].split(model.views_at_once) if "map" in item else [None] * len(views)
        logits.append(torch.cat([_view_logits(model, *pair, where) for pair in zip(views, maps, strict=True)]))
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES or len(logits) == len(clips):
            told = time.monotonic()
            left = (told - started) / len(logits) * (len(clips) - len(logits))
            report(f"scored {len(logits)}/{len(clips)} videos, {left:.0f} s left")
    return torch.stack(logits).numpy()


def write_scores(
    path: Path,
    videos: Sequence[str],
    labels: Sequence[int] | Sequence[Sequence[float]],
    logits: np.ndarray,
    protocol: Mapping[str, Any],
) -> None:
    """scores.h5: `video`, `label`, `logits` float32 (n, V, classes); attributes `segments` and `crops`.

    `label` is (n,), or (n, classes) zeros and ones where videos have several.
    """
    with atomic(path) as partial, h5py.File(partial, "w", track_order=False) as file:
        file["video"] = np.array(videos, dtype=h5py.string_dtype())
        file["label"] = np.array(labels, dtype=np.int64)
        file["logits"] = logits.astype(np.float32)
        file.attrs["segments"], file.attrs["crops"] = protocol["segments"], protocol["crops"]


def _view_logits(model: TSN, views: Tensor, maps: Tensor | None, where: torch.device) -> Tensor:
    maps = None if maps is None else maps[:, None].to(where)  # (v, 1, 1, H, W)
    return model(views[:, None].to(where), maps).float().cpu()  # (v, classes)
