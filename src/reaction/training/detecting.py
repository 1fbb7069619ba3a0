"""The job `detect`: what a trained detector finds in every frame of the test videos, or in the annotated ones."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from reaction.clips.keyframes import Around, Bank, TestKeyFrames
from reaction.data.boxes import read_boxes
from reaction.data.index import Video, part_videos, read_classes
from reaction.data.store import Shards
from reaction.evaluation.detected import write_detected
from reaction.files import read_json, write_json
from reaction.models.weights import read_weights
from reaction.models.yowo import YOWO, Detections, decode, detect
from reaction.training.job import be_deterministic, device, provenance, tell
from reaction.training.networks import MODEL, RunError

ANCHORS = "anchors.json"
CLIPS_AT_ONCE = 16  # their frames overlap, so that many are read in one go
SECONDS_BETWEEN_LINES = 30

Found = tuple[str, NDArray, NDArray, NDArray, NDArray]


def build_detector(network: Mapping[str, Any], *, classes: int) -> YOWO:
    """The untrained detector that a run's `network` block describes; draws from torch's global generator."""
    parts = {key: network[key] for key in ("backbone_3d", "parts", "attention", "width") if key in network}
    return YOWO(classes=classes, **parts)


@dataclass(frozen=True)
class Detector:
    """A trained detector and what it has to be told. anchors: (A, 2) in cells. config: the run's own parameters."""

    network: YOWO
    anchors: Tensor
    config: Mapping[str, Any]

    @property
    def around(self) -> Around:
        """Which frames its clips have."""
        return Around(self.config["network"]["frames"], "last")

    @property
    def bank(self) -> Bank | None:
        """Which other clips stand for a clip, if any do."""
        network = self.config["network"]
        return Bank(network["bank"]) if "bank" in network else None

    @property
    def poses(self) -> int | None:
        """How many of the first classes exclude each other; None where all do."""
        network = self.config["network"]
        return network["poses"] if network.get("several") else None

    @property
    def classes(self) -> int:
        """How many it tells apart."""
        return self.network.conv_final.out_channels // len(self.anchors) - 5

    @property
    def input(self) -> int:
        """Pixels a side that it sees."""
        return self.config["network"]["input"]

    @torch.no_grad()
    def detect(
        self,
        clips: Tensor,
        *others: Tensor,
        width: int,
        height: int,
        least_score: float = 0.005,
        suppression: float = 0.4,
    ) -> list[Detections]:
        """The actors in the key frames, of `width` x `height`, of clips (K, 3, T, h, w) in [-1, 1].

        A detector with a bank is given the bank's clips (E, 3, 8, h, w) and weights (K, E) as well.
        """
        where = next(self.network.parameters()).device
        output = self.network(*(each.to(where) for each in (clips, *others))).float().cpu()
        predictions = decode(output, self.anchors, poses=self.poses)
        limits = {"width": width, "height": height, "threshold": least_score, "overlap": suppression}
        return [detect(predictions, image, **limits) for image in range(len(clips))]


def load_detector(folder: Path | str) -> Detector:
    """The trained detector of a run, in evaluation mode on the CPU. Raises RunError where it has not been trained."""
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    if frozen["rule"] != "train_detector":
        raise RunError(f"{folder} was made by `{frozen['rule']}`: it is no detector")
    if not (folder / MODEL).is_file():
        raise RunError(f"{folder / MODEL} is missing: `reaction train_detector {folder}` makes it")
    state, anchors = read_weights(folder / MODEL), torch.tensor(read_json(folder / ANCHORS)["anchors"])
    classes = state["conv_final.weight"].shape[0] // len(anchors) - 5
    network = build_detector(frozen["config"]["network"], classes=classes)
    network.load_state_dict(state)
    return Detector(network.eval(), anchors, frozen["config"])


def detect_run(folder: Path | str, *, workers: int = 0, threads: int = 1) -> None:
    """Write boxes.h5 and provenance.json of the detections in `folder`."""
    be_deterministic(threads)
    started, folder = time.monotonic(), Path(folder)
    frozen = read_json(folder / "config.json")
    config, inputs = frozen["config"], frozen["inputs"]
    detector = load_detector(inputs["run"])
    detector.network.to(device())
    videos = part_videos(inputs["index"], config["split"], "test")
    if not videos:
        raise RunError(f"{inputs['index']} has no test videos in {config['split']}")
    clips = TestKeyFrames(
        videos,
        Shards(inputs["features"]),
        around=detector.around,
        input=detector.input,
        bank=detector.bank,
        batch=CLIPS_AT_ONCE,
        stride=config["stride"],
        at=_key_frames(inputs["index"]) if config["at"] == "annotated" else None,
    )
    limits = {key: config[key] for key in ("least_score", "suppression")}
    found = detections(detector, clips, videos, limits, workers=workers, report=tell)
    count = write_detected(folder / "boxes.h5", found, len(read_classes(inputs["index"])))
    facts = {"workers": workers, "boxes": count, "frames": sum(len(some) for _, some in clips.pieces)}
    write_json(folder / "provenance.json", provenance(time.monotonic() - started, threads, **facts))


def detections(
    detector: Detector,
    clips: TestKeyFrames,
    videos: Sequence[Video],
    limits: Mapping[str, float],
    *,
    workers: int = 0,
    report: Callable[[str], None] = print,
) -> Iterator[Found]:
    """Of each video in turn its name, frames (n,), boxes (n, 4) in its own pixels, confidences (n,), scores (n, C)."""
    place, parts = 0, []
    told = started = time.monotonic()
    for done, item in enumerate(DataLoader(clips, batch_size=None, num_workers=workers), start=1):
        while place < int(item["index"]):
            yield _joined(videos[place], parts, detector)
            place, parts = place + 1, []
        size = {"width": videos[place].width, "height": videos[place].height}
        seen = [item[name] for name in ("clip", "bank", "weight") if name in item]
        for frame, one in zip(item["frame"].tolist(), detector.detect(*seen, **size, **limits), strict=True):
            parts.append((np.full(len(one.box), frame), one.box.numpy(), one.confidence.numpy(), one.score.numpy()))
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES or done == len(clips):
            told = time.monotonic()
            left = (told - started) / done * (len(clips) - done)
            report(f"detected in {place + 1}/{len(videos)} videos, {left:.0f} s left")
    while place < len(videos):  # videos without key frames are in the file as well
        yield _joined(videos[place], parts, detector)
        place, parts = place + 1, []


def _joined(video: Video, parts: Sequence[tuple[NDArray, ...]], detector: Detector) -> Found:
    nothing = (np.empty(0, np.int64), np.empty((0, 4)), np.empty(0), np.empty((0, detector.classes)))
    return video.video, *(np.concatenate(columns) for columns in zip(nothing, *parts, strict=True))


def _key_frames(index: str) -> dict[str, list[int]]:
    """The annotated frames of each video: AVA's films have boxes once a second."""
    return {video: np.unique(boxes.frame).tolist() for video, boxes in read_boxes(Path(index) / "boxes.h5").items()}
