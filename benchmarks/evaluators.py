"""AVA's evaluators on synthetic detections, beside a plain Python loop over classes and keyframes.

    python benchmarks/evaluators.py [--keyframes 57000] [--boxes 100] [--actions 60] [--loop 500]

Each keyframe has three people with two or three actions each; its boxes are these people's, shifted a little, or lie
anywhere, and each has a score for each action. Every protocol is timed on all keyframes, without the making of them.
The loop is the public evaluators' way, NumPy within a keyframe and Python around it, and takes hours at full size:
both are timed on the first `--loop` keyframes as well, and must agree. CPU time of one process is what is printed, and
wall time beside it. Leaves with status 1 where a result differs or the loop is not ten times slower.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from reaction.evaluation.ava import PROTOCOLS, ActionScores, AvaProtocol, ava_map
from reaction.evaluation.average_precision import MeanAP
from reaction.evaluation.boxes import Truth, iou

PEOPLE = 3
FASTER = 10  # times, at least


def main() -> int:
    options = _options()
    truth, detections = synthetic(options.keyframes, options.boxes, options.actions)
    few = truth[truth.frame < options.loop], detections[detections.second < options.loop]
    print(f"{options.keyframes} keyframes, {detections.score.size:,} scores; loop on {options.loop} keyframes")
    failed = False
    for protocol in PROTOCOLS.values():
        full, result = timed(lambda protocol=protocol: ava_map(truth, detections, protocol=protocol))
        ours, small = timed(lambda protocol=protocol: ava_map(*few, protocol=protocol))
        theirs, expected = timed(lambda protocol=protocol: by_loop(*few, protocol))
        ratio, agree = theirs[0] / ours[0], np.allclose(small.per_class, expected, equal_nan=True, atol=1e-9)
        failed |= ratio < FASTER or not agree
        print(
            f"{protocol.name:11}: {full[0]:.1f} s CPU, {full[1]:.1f} s wall, mAP {result.mean:.4f}; on few keyframes "
            f"{ours[0]:.2f} s, loop {theirs[0]:.1f} s, ratio {ratio:.0f}, {'equal' if agree else 'DIFFERENT'}",
            flush=True,
        )
    return int(failed)


def synthetic(keyframes: int, boxes: int, actions: int) -> tuple[Truth, ActionScores]:
    """Ground truth and detections; no two scores of an action are likely to be equal."""
    rng = np.random.default_rng(0)
    corner = rng.random((keyframes, PEOPLE, 2)) * 0.6
    people = np.concatenate([corner, corner + 0.1 + 0.3 * rng.random((keyframes, PEOPLE, 2))], axis=2)
    acting = rng.random((keyframes, PEOPLE, actions)) < 2.6 / actions
    frame, person, action = np.nonzero(acting)
    truth = Truth(np.zeros(len(frame), np.int64), frame, people[frame, person], action)
    source = rng.integers(3 * PEOPLE, size=(keyframes, boxes))  # a third of them are someone's
    box = people[np.arange(keyframes)[:, None], source % PEOPLE] + rng.normal(0, 0.03, (keyframes, boxes, 4))
    box[source >= PEOPLE, :2] = rng.random((int((source >= PEOPLE).sum()), 2)) * 0.6
    box[..., 2:] = np.maximum(box[..., 2:], box[..., :2] + 0.05)
    score = rng.random((keyframes * boxes, actions), dtype=np.float32)
    second = np.repeat(np.arange(keyframes), boxes)
    return truth, ActionScores(np.zeros(len(second), np.int64), second, box.reshape(-1, 4).astype(np.float32), score)


def timed(run: Callable[[], MeanAP]) -> tuple[tuple[float, float], MeanAP]:
    """Seconds of CPU and on the wall, and what came out."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    return (time.process_time() - cpu, time.perf_counter() - wall), result


def by_loop(truth: Truth, detections: ActionScores, protocol: AvaProtocol) -> list[float]:
    """The average precision of each action, by a loop over actions and keyframes."""
    score = _fifty_best(detections) if protocol.most_per_keyframe else detections.score
    true_rows, rows = (_rows_of(seconds) for seconds in (truth.frame, detections.second))
    return [_one_action(truth, detections, score[:, c], c, protocol, true_rows, rows) for c in range(score.shape[1])]


def _rows_of(seconds: np.ndarray) -> dict[int, np.ndarray]:
    rows: dict[int, list[int]] = {}
    for row, second in enumerate(seconds.tolist()):
        rows.setdefault(second, []).append(row)
    return {second: np.array(own) for second, own in rows.items()}


def _fifty_best(detections: ActionScores) -> np.ndarray:
    score = np.full_like(detections.score, np.nan)
    for rows in _rows_of(detections.second).values():
        best = np.argsort(-detections.score[rows], axis=None, kind="stable")[:50]
        row, action = rows[best // score.shape[1]], best % score.shape[1]
        score[row, action] = detections.score[row, action]
    return score


def _one_action(
    truth: Truth,
    detections: ActionScores,
    score: np.ndarray,
    action: int,
    protocol: AvaProtocol,
    true_rows: dict[int, np.ndarray],
    rows: dict[int, np.ndarray],
) -> float:
    scores, hits, positives = [], [], 0
    for second, own in rows.items():
        if second not in true_rows and protocol.keyframes != "all":
            continue
        boxes = truth.box[[row for row in true_rows.get(second, ()) if truth.label[row] == action]]
        positives += len(boxes)
        own = own[~np.isnan(score[own])]
        if not protocol.first_listed:
            own = own[np.argsort(-score[own], kind="stable")]
        taken = np.zeros(len(boxes), bool)
        mine, others = np.repeat(detections.box[own], len(boxes), 0), np.tile(boxes, (len(own), 1))
        overlaps = iou(mine.astype(protocol.precision), others.astype(protocol.precision)).reshape(len(own), len(boxes))
        for row, overlap in zip(own, overlaps, strict=True):
            best = int(overlap.argmax()) if len(boxes) else -1
            hit = best >= 0 and overlap[best] >= 0.5 and not taken[best]
            if hit:
                taken[best] = True
            scores.append(score[row])
            hits.append(hit)
    return _area(np.array(scores), np.array(hits), positives)


def _area(scores: np.ndarray, hits: np.ndarray, positives: int) -> float:
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    points = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])  # equal scores count together
    upto = np.cumsum(hits[order])[points]
    envelope = np.maximum.accumulate((upto / (points + 1))[::-1])[::-1]
    return float((np.diff(upto, prepend=0) / positives * envelope).sum())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("keyframes", 57_000), ("boxes", 100), ("actions", 60), ("loop", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
