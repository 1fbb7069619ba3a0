"""The job `link`: a detector's boxes as tubes, each in the way of one protocol of video-mAP (`video_map`).

- `yowo`: three best paths through the whole video for each class, of all boxes (`link_viterbi`).
- `act`: for each class paths of the ten best boxes of every frame (`link_tubelets`), as tubelets of one frame, since
  that is what a detector of boxes finds. In the numbers of ACT's files, which count the last pixel.
- `multisports`: the same in MultiSports' numbers.
- `road`: actors, whatever they do, are linked by their best class, of at most 20 boxes a frame with scores above 0.025;
  then their ten best actions (`link_online`). As 3D-RetinaNet's commands have it, tubes of `untrimmed` videos, those of
  UCF101-24, are trimmed in time, each by the actor's score and without smoothing, and boxes of one path overlap by 0.25
  there and by 0.5 elsewhere.

Scores are boxes.h5's: of YOWO the confidence times the class's probability. Its own evaluation ranks tubes by the
probability alone. Tubes are stored as boxes are, half-open.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reaction.data.index import read_index
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


class LinkError(ValueError):
    """Detections that cannot be linked."""


def link_detections(folder: Path | str) -> int:
    """Write tubes.h5 into `folder` from the boxes.h5 that its config.json names; returns how many tubes there are.

    Raises LinkError for boxes of videos, or of frames, that the index does not have, and for an unknown linker.
    """
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    inputs, name = frozen["inputs"], frozen["config"]["linker"]
    linkers = {"yowo": by_viterbi, "act": by_act, "multisports": by_multisports}
    linkers["road"] = partial(by_road, untrimmed=frozen["config"].get("untrimmed", False))
    if name not in linkers:
        raise LinkError(f"{folder}/config.json has the linker {name!r}: there are {', '.join(linkers)}")
    detected = read_detected(Path(inputs["boxes"]) / "boxes.h5")
    lengths = _lengths(detected, Path(inputs["index"]), Path(inputs["boxes"]))
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


def _lengths(detected: Detected, index: Path, boxes: Path) -> list[int]:
    """How many frames each video has."""
    frames = {video.video: video.frames for video in read_index(index)}
    if strangers := [video for video in detected.videos if video not in frames]:
        raise LinkError(f"{boxes}/boxes.h5 has {strangers[0]}, which {index}/index.csv does not: detect again")
    lengths = [frames[video] for video in detected.videos]
    for video, (name, length) in enumerate(zip(detected.videos, lengths, strict=True)):
        if (last := detected.frame[detected.rows(video)].max(initial=-1)) >= length:
            raise LinkError(f"{boxes}/boxes.h5 has frame {last} of {name}, which has {length}: detect again")
    return lengths


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
