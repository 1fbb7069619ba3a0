"""AVA's mean average precision at an overlap of 0.5, as the three public evaluators count it, which disagree.

Common to all: boxes in fractions of the frame, a detection whose best truth was taken misses, the area under the
largest precision at each recall, the mean over classes that have truth.

- `activitynet`: google-research/ActivityNet, `get_ava_performance.py` of 2021, the official one. The best 50 detections
  of a keyframe, of all classes together; only keyframes listed in the ground truth; no list of exclusions.
- `slowfast`: facebookresearch/SlowFast, `ava_evaluation/` and `ava_eval_helper.py`. All detections; of two on one truth
  the one listed first hits, whatever their scores; false alarms on keyframes without truth count; excluded keyframes
  are dropped from both sides.
- `mmaction2`: open-mmlab/mmaction2, `ava_utils.py`. All detections; only keyframes with truth; a class without a
  detection does not count in the mean; truths of excluded keyframes still count as missed; overlaps are computed in
  float32, so that an exact 0.5 may fall below; detections without an area are false alarms, where the others drop them.

`activitynet` cuts off equals at the 50th place in the order they come in, as its source does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reaction.evaluation.average_precision import Curve, Draws, MeanAP, PerClass, Ranked
from reaction.evaluation.boxes import (
    Pairs,
    Truth,
    check_boxes,
    check_labels,
    claim,
    frame_ids,
    overlapping,
    place_in_run,
    same_keys,
)

THRESHOLD = 0.5
LARGEST = 2.0  # of a box's coordinates, which may lie a little beyond the frame
SCORES = 1 << 22  # ranked at a time
MINI_EVERY = 4  # SlowFast validates on keyframes of seconds that 4 divides unless AVA.FULL_TEST_ON_VAL is set
# The actions, by number from 1, that ActivityNet evaluates: those of ava_action_list_v2.2_for_activitynet_2019.pbtxt.
EVALUATED = (
    *(1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 20, 22, 24, 26, 27, 28, 29, 30, 34, 36, 37, 38, 41, 43, 45),
    *(46, 47, 48, 49, 51, 52, 54, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 72, 73, 74, 76, 77, 78),
    *(79, 80),
)
ALL_ACTIONS, LAST_ACTION = 80, "watch (a person)"  # of AVA's label map


@dataclass(frozen=True)
class ActionScores:
    """Detected people and a score for each action: video, second int64 (N,), box (N, 4), score (N, C), NaN for none."""

    video: NDArray
    second: NDArray
    box: NDArray
    score: NDArray

    def __post_init__(self) -> None:
        check_boxes(self.box, video=self.video, second=self.second, score=self.score)

    def __len__(self) -> int:
        return len(self.box)

    def __getitem__(self, chosen: NDArray) -> "ActionScores":
        return ActionScores(self.video[chosen], self.second[chosen], self.box[chosen], self.score[chosen])


@dataclass(frozen=True)
class AvaProtocol:
    """One way to count; see the header. `undetected` is the AP of a class with truth and without detections."""

    name: str
    keyframes: Literal["listed", "with truth", "all"]
    excludes: Literal["nothing", "both", "detections"]
    most_per_keyframe: int | None = None
    first_listed: bool = False
    undetected: float = 0.0
    empty_boxes: bool = False
    precision: type = np.float64


ACTIVITYNET = AvaProtocol("activitynet", "listed", "nothing", most_per_keyframe=50)
SLOWFAST = AvaProtocol("slowfast", "all", "both", first_listed=True)
MMACTION2 = AvaProtocol(
    "mmaction2", "with truth", "detections", undetected=float("nan"), empty_boxes=True, precision=np.float32
)
PROTOCOLS = {protocol.name: protocol for protocol in (ACTIVITYNET, SLOWFAST, MMACTION2)}


def ava_map(
    truth: Truth,
    detections: ActionScores,
    *,
    protocol: AvaProtocol,
    part: Literal["full", "mini"] = "full",
    listed: NDArray | None = None,
    excluded: NDArray | None = None,
    draws: Draws | None = None,
) -> MeanAP:
    """Average precision of each of C actions; a truth's `frame` is its second and its label a column of the scores.

    `listed` (M, 2) are keyframes, as video and second, that the ground truth has without an evaluated action, and
    `excluded` (M, 2) those of the official list. `mini` takes every fourth second, and says so in the result's name.
    `draws` of the videos are measured as well.
    """
    check_labels(detections.score.shape[1], truth.label)
    _check_fractions(truth.box, detections.box)
    if part == "mini":
        truth = truth[truth.frame % MINI_EVERY == 0]
        detections = detections[detections.second % MINI_EVERY == 0]
    positives, truth, detections = _counted(truth, detections, protocol, _ids(listed), _ids(excluded))
    if protocol.most_per_keyframe is not None:
        detections = _best(detections, protocol.most_per_keyframe)
    row, label = _hits(truth, detections, protocol)
    measured = PerClass(detections.score.shape[1], float("nan"), draws)
    for action in np.unique(positives.label):
        true_video = positives.video[positives.label == action]
        ranked = Ranked(detections.score[:, action], detections.video, row[label == action], true_video)
        measured.add(action, ranked, Curve.every_point, undetected=protocol.undetected)
    return measured.result(protocol.name if part == "full" else f"{protocol.name}-{part}", THRESHOLD)


def evaluated(classes: Sequence[str]) -> NDArray[np.int64]:
    """Positions of the classes that count: of AVA's 80 actions those that ActivityNet names, of others all."""
    of_ava = len(classes) == ALL_ACTIONS and classes[-1] == LAST_ACTION
    return np.array(EVALUATED, np.int64) - 1 if of_ava else np.arange(len(classes))


def _check_fractions(*boxes: NDArray) -> None:
    for each in boxes:
        if each.max(initial=0) > LARGEST:
            raise ValueError(
                f"a box reaches {each.max():g}: AVA's boxes are fractions of the frame, divide by its size"
            )


def _ids(keyframes: NDArray | None) -> NDArray:
    return np.empty(0, np.int64) if keyframes is None else frame_ids(keyframes[:, 0], keyframes[:, 1])


def _counted(
    truth: Truth, detections: ActionScores, protocol: AvaProtocol, listed: NDArray, excluded: NDArray
) -> tuple[Truth, Truth, ActionScores]:
    """The truths that count as positives, and the truths and detections that are compared."""
    keys, true_keys = frame_ids(detections.video, detections.second), frame_ids(truth.video, truth.frame)
    out, true_out = np.zeros(len(keys), bool), np.zeros(len(true_keys), bool)
    if protocol.keyframes != "all":
        read = true_keys if protocol.keyframes == "with truth" else np.concatenate([true_keys, listed])
        out |= ~np.isin(keys, read)
    if protocol.excludes != "nothing":
        out |= np.isin(keys, excluded)
        true_out |= np.isin(true_keys, excluded)
    if not protocol.empty_boxes:
        out |= (detections.box[:, 2:] <= detections.box[:, :2]).any(axis=1)
    compared = truth[~true_out]
    positives = truth if protocol.excludes == "detections" else compared
    return positives, compared, detections[~out] if out.any() else detections


def _hits(truth: Truth, detections: ActionScores, protocol: AvaProtocol) -> tuple[NDArray, NDArray]:
    """Rows of detections and the actions, both (H,), that hit a truth."""
    pairs = _overlapping(truth, detections, protocol.precision)
    label, actions = truth.label[pairs.truth], detections.score.shape[1]
    scored = ~np.isnan(detections.score[pairs.detection, label])
    pairs, label = pairs[scored], label[scored]
    rank = pairs.detection if protocol.first_listed else -detections.score[pairs.detection, label]
    frames = np.unique(frame_ids(truth.video, truth.frame)[pairs.truth], return_inverse=True)[1]
    of_action = Pairs(pairs.detection * actions + label, pairs.truth, pairs.overlap)
    hit, _ = claim(of_action, rank, frames * actions + label, second_choice=False)
    return hit // actions, hit % actions


def _overlapping(truth: Truth, detections: ActionScores, precision: type) -> Pairs:
    """Pairs that overlap enough. A person with several actions has as many rows of truth, and is compared once."""
    keys, true_keys = frame_ids(detections.video, detections.second), frame_ids(truth.video, truth.frame)
    boxes, true_boxes = (one.box.astype(precision) for one in (detections, truth))
    order = np.lexsort((*true_boxes.T, true_keys))
    other = (np.diff(true_keys[order]) != 0) | (np.diff(true_boxes[order], axis=0) != 0).any(axis=1)
    new = np.r_[True, other][: len(order)]
    people = order[new]
    pairs = overlapping((keys, boxes), (true_keys[people], true_boxes[people]), least=THRESHOLD)
    own, row = same_keys(pairs.truth, np.cumsum(new) - 1)
    return Pairs(pairs.detection[own], order[row], pairs.overlap[own])


def _best(detections: ActionScores, most: int) -> ActionScores:
    """Without the scores that are not among the `most` best of their keyframe; of equals at the limit the first stay.

    A few keyframes at a time, for memory's sake.
    """
    keys = frame_ids(detections.video, detections.second)
    order = np.argsort(keys, kind="stable")
    firsts = np.flatnonzero(np.diff(keys[order])) + 1
    rows = max(1, SCORES // detections.score.shape[1])
    ends = np.searchsorted(firsts, np.arange(rows, len(keys), rows))
    score = np.full_like(detections.score, np.nan)
    for own in np.split(order, np.unique(firsts[ends[ends < len(firsts)]])):
        row, action = _best_of(keys[own], detections.score[own], most)
        score[own[row], action] = detections.score[own[row], action]
    return ActionScores(detections.video, detections.second, detections.box, score)


def _best_of(keys: NDArray, score: NDArray, most: int) -> tuple[NDArray, NDArray]:
    """Rows and actions of the `most` best scores (N, C) of each key (N,).

    A keyframe's `most`-th best person, by the best score, bounds its `most`-th best score from below: few are ranked.
    """
    top = np.fmax.reduce(score, axis=1, initial=-np.inf)
    order = np.lexsort((-top, keys))
    limiting = order[place_in_run(keys[order]) == most - 1]
    own, number = np.unique(keys, return_inverse=True)
    limit = np.full(len(own), -np.inf, score.dtype)
    limit[number[limiting]] = top[limiting]
    row, action = np.nonzero(score >= limit[number][:, None])
    order = np.lexsort((-score[row, action], number[row]))  # stable: equals stay as they came
    chosen = order[place_in_run(number[row[order]]) < most]
    return row[chosen], action[chosen]
