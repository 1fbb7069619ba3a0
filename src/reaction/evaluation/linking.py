"""The job `link`: a detector's boxes as tubes, each in the way of one protocol of video-mAP (`video_map`).

- `yowo`: three best paths through the whole video for each class, of all boxes (`link_viterbi`).
- `act`: for each class paths of the ten best boxes of every frame (`link_tubelets`), as tubelets of one frame, since
  that is what a detector of boxes finds. In the numbers of ACT's files, which count the last pixel.
- `multisports`: the same in MultiSports' numbers.
- `road`: actors, whatever they do, are linked by their best class, of at most 20 boxes a frame with scores above 0.025;
  then their ten best actions (`link_online`). As 3D-RetinaNet's commands have it, tubes of `untrimmed` videos, those of
  UCF101-24, are trimmed in time, each by the actor's score and without smoothing, and boxes of one path overlap by 0.25
  there and by 0.5 elsewhere.

`yowo` links and ranks by the class's probability alone, whatever the detector's confidence, as YOWO's code does. The
others take the score, the product of both; of a detector without a confidence that is the same. Tubes are stored as
boxes are, half-open.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reaction.data.index import Video, read_index
from reaction.evaluation import link_tubelets
from reaction.evaluation.boxes import as_counted
from reaction.evaluation.detected import Detected, read_detected, write_tubes
from reaction.evaluation.link_online import OnlineLinker, trimmed_tubes
from reaction.evaluation.link_viterbi import viterbi_class_paths
from reaction.evaluation.tubes import Tube
from reaction.files import read_json

SECONDS_BETWEEN_LINES = 30
LEAST_SCORE = 0.005  # of a path of `act` and `multisports`
ROAD_BOXES, ROAD_SCORE = 20, 0.025

Linker = Callable[[NDArray, NDArray, NDArray, int, int], Iterator[Tube]]
"""From frames (n,), boxes (n, 4), scores (n, C), the length and the place of a video to its tubes."""


class DetectionError(ValueError):
    """Detections, tubes or annotations that are missing or do not belong together."""


def link_detections(folder: Path | str) -> int:
    """Write tubes.h5 into `folder` from the boxes.h5 that its config.json names; returns how many tubes there are.

    Raises DetectionError for boxes of videos, or of frames, that the index does not have, and for an unknown linker.
    """
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    inputs, name = frozen["inputs"], frozen["config"]["linker"]
    linkers = {"yowo": by_viterbi, "act": by_act, "multisports": by_multisports}
    linkers["road"] = partial(by_road, untrimmed=frozen["config"].get("untrimmed", False))
    if name not in linkers:
        raise DetectionError(f"{folder}/config.json has the linker {name!r}: there are {', '.join(linkers)}")
    detected = read_detected(Path(inputs["boxes"]) / "boxes.h5")
    lengths = _lengths(detected, Path(inputs["index"]), Path(inputs["boxes"]))
    detected = of_classes_alone(detected) if name == "yowo" else detected
    tubes = link(detected, lengths, linkers[name], report=partial(print, flush=True))
    write_tubes(folder / "tubes.h5", detected.videos, tubes)
    return len(tubes)


def link(
    detected: Detected, lengths: list[int], linker: Linker, *, report: Callable[[str], None] = print
) -> list[Tube]:
    """The tubes of all videos, which have `lengths` frames."""
    started = told = time.monotonic()
    tubes: list[Tube] = []
    for video, length in enumerate(lengths):
        rows = detected.rows(video)
        tubes += linker(detected.frame[rows], detected.box[rows], detected.score[rows], length, video)
        if time.monotonic() - told >= SECONDS_BETWEEN_LINES or video + 1 == len(lengths):
            told = time.monotonic()
            left = (told - started) / (video + 1) * (len(lengths) - video - 1)
            report(f"linked {video + 1}/{len(lengths)} videos, {len(tubes)} tubes, {left:.0f} s left")
    return tubes


def of_classes_alone(detected: Detected) -> Detected:
    """With probabilities of classes for scores, which are these times the confidence."""
    sure = detected.confidence[:, None]  # (N, 1)
    alone = np.divide(detected.score, sure, out=np.zeros_like(detected.score), where=sure > 0)
    return replace(detected, score=alone)


def indexed(detected: Detected, index: Path, boxes: Path) -> list[Video]:
    """The detected videos as the folder `index` has them. Raises DetectionError where it lacks one of `boxes`."""
    known = {video.video: video for video in read_index(index)}
    if strangers := [video for video in detected.videos if video not in known]:
        raise DetectionError(f"{boxes}/boxes.h5 has {strangers[0]}, which {index}/index.csv does not: detect again")
    return [known[video] for video in detected.videos]


def _lengths(detected: Detected, index: Path, boxes: Path) -> list[int]:
    """How many frames each video has."""
    videos = indexed(detected, index, boxes)
    for place, video in enumerate(videos):
        if (last := detected.frame[detected.rows(place)].max(initial=-1)) >= video.frames:
            raise DetectionError(
                f"{boxes}/boxes.h5 has frame {last} of {video.video}, which has {video.frames}: detect again"
            )
    return [video.frames for video in videos]


def by_viterbi(frame: NDArray, box: NDArray, score: NDArray, frames: int, video: int) -> Iterator[Tube]:
    """Tubes as `yowo` links them."""
    for label, paths in enumerate(viterbi_class_paths(frame, box, score, frames)):
        yield from (path.tube(video, label) for path in paths)


def by_act(frame: NDArray, box: NDArray, score: NDArray, frames: int, video: int) -> Iterator[Tube]:
    """Tubes as `act` links them."""
    for tube in _by_tubelets(frame, as_counted(box, 1.0), score, frames, video, edge=1.0):
        yield replace(tube, box=tube.box + np.array([0, 0, 1, 1]))


def by_multisports(frame: NDArray, box: NDArray, score: NDArray, frames: int, video: int) -> Iterator[Tube]:
    """Tubes as `multisports` links them."""
    return _by_tubelets(frame, box, score, frames, video, edge=0.0)


def _by_tubelets(
    frame: NDArray, box: NDArray, score: NDArray, frames: int, video: int, *, edge: float
) -> Iterator[Tube]:
    tubelets = link_tubelets.Tubelets(frame, box[:, None], frames, edge=edge)
    able = score.max(axis=0, initial=0) >= LEAST_SCORE  # the mean score of no path exceeds that of its best box
    for label in np.flatnonzero(able).tolist():
        yield from (path.tube(video, label) for path in tubelets.paths(score[:, label], least_score=LEAST_SCORE))


def by_road(
    frame: NDArray, box: NDArray, score: NDArray, frames: int, video: int, *, untrimmed: bool
) -> Iterator[Tube]:
    """Tubes as `road` links them, trimmed in time where videos are `untrimmed`."""
    linker = OnlineLinker(overlap=0.25 if untrimmed else 0.5, gap=4, cost="score")
    actor = score.max(axis=1, initial=0)
    for place in range(frames):
        own = np.flatnonzero((frame == place) & (actor > ROAD_SCORE))
        own = own[np.argsort(-actor[own], kind="stable")[:ROAD_BOXES]]
        if len(own):
            linker.update(place, box[own], actor[own], score[own])
    for path in linker.paths():
        yield from trimmed_tubes(path, video, alpha=0.0 if untrimmed else None, by_actor=True)
