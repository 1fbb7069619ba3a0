"""Rows of a table of detections: mean average precisions of ours by several evaluators beside published ones.

Evaluators differ by points on the same boxes, so a number is nothing without the name of its evaluator: each has rows
of its own, and a claim stands beside the row of the evaluator that its `protocol` names first. Where a paper names none
(`unsaid`) that is AVA's official one, or the first that the table lists, and the row says so. A single split and the
mean over several are never in one row.

Values and their bootstrap draws come from the folders of `evaluate`. All runs of a dataset share what is drawn, so
draws are averaged, and taken from each other, one by one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, field_validator, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from reaction.evaluation import statistics
from reaction.evaluation.ava import ACTIVITYNET
from reaction.tables.claims import Claim, ClaimError, Paper, reproducible
from reaction.tables.compare import (
    UNMEASURED,
    Comparison,
    Row,
    Tested,
    apart,
    check_unique,
    counts,
    differences,
    in_per_cent,
    in_words,
    judge,
    paired,
    weights,
)

STREAM = "rgb"  # what detectors of ours see
UNSAID = "unsaid"
MINI = "-mini"  # of an evaluator's name: AVA's validation on every fourth second
EVALUATORS = {
    "frame_map": {
        "padilla": "Object-Detection-Metrics as YOWO calls it. Annotated frames alone; boxes of whole pixels, one "
        "pixel added; a detection whose best box is taken misses; area under the largest precision.",
        "act": "ACT's and MOC's. All frames; one pixel added; a detection whose best box is taken may take the next; "
        "area under the raw curve, by trapezoids.",
        "gurkirt": "3D-RetinaNet's. All frames; nothing added; a detection whose best box is taken may take the next; "
        "area under the largest precision.",
        "multisports": "MultiSports'. All frames; nothing added; a detection whose best box is taken misses; area "
        "under the largest precision.",
        "activitynet": "AVA's official one. The best 50 detections of a key frame, of all classes together; key frames "
        "that the ground truth lists; nothing excluded.",
        "slowfast": "PySlowFast's. All detections; false alarms on key frames without truth count, though our "
        "detectors are asked about annotated ones alone; excluded key frames are dropped; of two on one box the one "
        "listed first hits.",
        "mmaction2": "mmaction2's. All detections; key frames with truth; a class without a detection does not count; "
        "boxes of excluded key frames count as missed, though our indices have none.",
    },
    "video_map": {
        "yowo": "YOWO's. Best paths through whole videos by the class alone, whatever the confidence, never trimmed in "
        "time; tubes suppressed at 0.3; one pixel "
        "added; area under the largest precision.",
        "act": "ACT's and MOC's. Boxes linked greedily, the best first; tubes suppressed at 0.3; one pixel added; area "
        "under the raw curve, by trapezoids.",
        "road": "ROAD's as 3D-RetinaNet has it. Boxes linked online, tubes trimmed in time; nothing suppressed; one "
        "pixel added; area under the raw curve, by trapezoids.",
        "multisports": "MultiSports'. Boxes linked greedily; nothing suppressed, nothing added; a tube whose best "
        "truth is taken misses; area under the largest precision.",
    },
}
"""What evaluators of frames and of tubes do, in short: see `reaction.evaluation`."""
SAME = 1e-9  # fractions that differ by less differ by rounding
FLAT = 1e-4  # draws this close together show nothing but `yowo`'s 0.00001 truths too many

Measure = tuple[str, str]
"""A metric, such as video_map@0.5, and the evaluator it is measured by."""
Found = tuple[Paper, Claim]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class DetectionSpec:
    """What a table shows, in this order: methods, then metrics, then each metric's evaluators."""

    name: str
    dataset: str
    scale: str
    splits: tuple[int, ...]
    protocol: str
    methods: tuple[str, ...]
    metrics: dict[str, tuple[str, ...]]
    claims: tuple[str, ...] = ()
    resample: Literal["video", "group"] = "video"
    comparisons: tuple[tuple[str, str], ...] = ()

    @field_validator("metrics", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        """Pairs keep their order in canonical JSON, where keys are sorted."""
        return dict(value)

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        for metric, evaluators in self.metrics.items():
            known = EVALUATORS.get(family_of(metric), {})
            for evaluator in evaluators:
                if evaluator.removesuffix(MINI) not in known:
                    raise ValueError(f"metrics has {evaluator!r} of {metric!r}, which is none of {', '.join(known)}")
        for side in (side for pair in self.comparisons for side in pair):
            if side not in self.methods:
                raise ValueError(f"comparisons has {side!r}, which is none of {', '.join(self.methods)}")
        return self

    @property
    def measures(self) -> list[Measure]:
        """Each metric by each of its evaluators."""
        return [(metric, evaluator) for metric, evaluators in self.metrics.items() for evaluator in evaluators]


@dataclass(frozen=True)
class Evaluated(Tested):
    """A run whose boxes and tubes are measured: fractions, and those of each bootstrap draw (draws,), maybe NaN."""

    values: Mapping[Measure, float]
    draws: Mapping[Measure, NDArray]


@dataclass(frozen=True)
class DetectionComparison(Comparison):
    """As its base, by the evaluator `protocol`; `n` counts the videos of each split, and there is no McNemar's test."""

    protocol: str = ""


def named_evaluator(claim: Claim) -> str | None:
    """The evaluator that a claim's protocol begins with; None where it begins with `unsaid`.

    Raises ClaimError on any other word.
    """
    word = claim.protocol.partition(",")[0].strip()
    known = EVALUATORS.get(family_of(claim.metric), {})
    if word != UNSAID and word not in known:
        raise ClaimError(
            f"{claim.method}, {claim.metric}: protocol {claim.protocol!r} begins neither with {UNSAID!r} nor with one "
            f"of {', '.join(known)}."
        )
    return None if word == UNSAID else word


def family_of(metric: str) -> str:
    """Whether of frames or of videos, or neither."""
    return metric.partition("@")[0]


def _measure(spec: DetectionSpec, claim: Claim) -> Measure:
    """Where a claim stands."""
    listed = spec.metrics.get(claim.metric, ())
    official = next((one for one in (ACTIVITYNET.name, *listed) if one in listed), UNSAID)
    return claim.metric, named_evaluator(claim) or official


def build_rows(spec: DetectionSpec, results: Sequence[Evaluated], papers: Sequence[Paper]) -> list[Row]:
    """For each set of splits: each method's rows, then the numbers of works that no method of the table answers.

    The sets are the first split, others that ran, all of the table, and what papers claim. Raises ValueError on two
    results for one run.
    """
    check_unique(results)
    answered = _answered(spec, papers)
    others = [found for found in of_detection(papers, spec.dataset) if found not in answered]
    own = _own_sets(spec, results)
    rows = []
    for splits in sorted(own | {claim.splits for _, claim in (*answered, *others)}, key=_few_first):
        measures = spec.measures if splits in own else []
        for method in spec.methods:
            members = [result for result in results if result.method == method and result.split in splits]
            complete = {result.split for result in members} == set(splits)
            asked = [found for found in answered if method in found[1].reproduced_by.method]
            asked = [found for found in asked if found[1].splits == splits]
            rows += _rows_of_method(spec, method, splits, members if complete else [], measures, asked)
        rows += [_cited(spec, *found) for found in others if found[1].splits == splits]
    return rows


def of_detection(papers: Iterable[Paper], dataset: str) -> list[Found]:
    """The claims of mean average precisions on a dataset, ours to answer or not."""
    claims = [(paper, claim) for paper in papers for claim in paper.claims if claim.dataset == dataset]
    return [(paper, claim) for paper, claim in claims if family_of(claim.metric) in EVALUATORS]


def _answered(spec: DetectionSpec, papers: Sequence[Paper]) -> list[Found]:
    """The claims that a method of the table answers."""
    asked = [found for found in reproducible(papers, spec.dataset) if family_of(found[1].metric) in EVALUATORS]
    by_ours = [found for found in asked if set(found[1].reproduced_by.method) & set(spec.methods)]
    return [found for found in by_ours if found[1].reproduced_by.stream == STREAM]


def _few_first(splits: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return len(splits), splits


def _own_sets(spec: DetectionSpec, results: Iterable[Evaluated]) -> set[tuple[int, ...]]:
    """Each split that ran, the first in any case, and all together: a mean over some of them is nobody's number."""
    return {spec.splits[:1], spec.splits} | {(result.split,) for result in results}


def _rows_of_method(
    spec: DetectionSpec,
    method: str,
    splits: tuple[int, ...],
    results: Sequence[Evaluated],
    measures: Sequence[Measure],
    asked: Sequence[Found],
) -> list[Row]:
    claimed = [(_measure(spec, claim), (paper, claim)) for paper, claim in asked]
    rows = []
    for measure in dict.fromkeys([*measures, *(measure for measure, _ in claimed)]):
        beside = [found for place, found in claimed if place == measure]
        rows += [_row(spec, method, splits, results, measure, found) for found in beside or [None]]
    return rows


def _row(
    spec: DetectionSpec,
    method: str,
    splits: tuple[int, ...],
    results: Sequence[Evaluated],
    measure: Measure,
    found: Found | None,
) -> Row:
    runs = results if all(measure in result.values for result in results) else []
    measured = _measured(runs, splits, measure)
    judged, reasons = judge(runs, splits, found, measured["ours"])
    if results and not runs:
        reasons = ["its protocol does not measure this", *reasons[1:]]
    reasons.append("evaluator unsaid" if found and named_evaluator(found[1]) is None else "")
    return Row(
        method=method,
        stream=STREAM,
        dataset=spec.dataset,
        splits=" ".join(map(str, splits)),
        protocol=measure[1] + (f" (paper: {found[1].protocol})" if found else ""),
        metric=measure[0],
        **measured,
        **judged,
        why="; ".join(filter(None, reasons)),
        runs=" ".join(result.folder for result in runs),
    )


def _cited(spec: DetectionSpec, paper: Paper, claim: Claim) -> Row:
    """A number of others, under their own name."""
    return Row(
        method=claim.method,
        stream=claim.stream,
        dataset=spec.dataset,
        splits=" ".join(map(str, claim.splits)),
        protocol=claim.protocol,
        metric=claim.metric,
        published=claim.value,
        source=f"{paper.paper}, {claim.source}",
        **UNMEASURED,
        difference=None,
        tolerance=None,
        verdict="cited",
        why="; ".join(filter(None, [claim.not_run, claim.note])),
        runs="",
    )


def _measured(results: Sequence[Evaluated], splits: Sequence[int], measure: Measure) -> dict[str, float | int | None]:
    if not results:
        return UNMEASURED
    values = [result.values[measure] for result in results]
    return in_per_cent(results, splits, _mean(results, measure), values, _interval(_mean_draws(results, measure)))


def _mean(results: Sequence[Evaluated], measure: Measure) -> float:
    """Over splits of the mean over seeds."""
    return sum(weight * result.values[measure] for result, weight in zip(results, weights(results), strict=True))


def _mean_draws(results: Sequence[Evaluated], measure: Measure) -> NDArray:
    return sum(weight * result.draws[measure] for result, weight in zip(results, weights(results), strict=True))


def _interval(draws: NDArray, seeds: statistics.SeedError | None = None) -> statistics.Interval | None:
    """None where all draws give the same, which says nothing of what others would give."""
    known = draws[~np.isnan(draws)]
    if len(known) == 0 or (np.ptp(known) < FLAT and (seeds is None or seeds.error < FLAT)):
        return None
    return statistics.of_draws(draws, seeds, np.random.default_rng(0))


def build_comparisons(spec: DetectionSpec, results: Sequence[Evaluated]) -> list[DetectionComparison]:
    """Methods of ours against each other by every evaluator, on each set of splits that both sides ran whole."""
    runs = {method: [result for result in results if result.method == method] for method in spec.methods}
    return [
        _compare(DetectionComparison(*pair, " ".join(map(str, splits)), metric, protocol=evaluator), *chosen, splits)
        for splits in sorted(_own_sets(spec, results), key=_few_first)
        for pair in spec.comparisons
        for chosen in [paired(runs[pair[0]], runs[pair[1]], splits)]
        for metric, evaluator in spec.measures
    ]


def _compare(
    names: DetectionComparison, first: Sequence[Evaluated], second: Sequence[Evaluated], splits: tuple[int, ...]
) -> DetectionComparison:
    measure = names.metric, names.protocol
    if {result.split for result in first} != set(splits) or any(measure not in r.values for r in (*first, *second)):
        return names
    difference = _mean(first, measure) - _mean(second, measure)
    gains = differences(first, second, lambda result: result.values[measure])
    seeds = statistics.seed_error(gains)
    known = apart(difference, gains) | {"n": counts([*first, *second], splits)[0]}
    size = f"n = {known['n']}" + (f" and {known['seeds']} seeds" if seeds else "")
    interval = _interval(_mean_draws(first, measure) - _mean_draws(second, measure), seeds)
    if interval is None:
        return replace(names, **known, words=f"the same in every draw at {size}, which tells a bootstrap nothing")
    low, high = max(-100.0, 100 * interval.low), min(100.0, 100 * interval.high)
    return replace(names, **known, low=low, high=high, words=in_words(100 * difference, low, high, size))
