"""Claims beside our runs: one row per method, stream and set of splits, with an interval and a verdict.

Every value is computed here from the scores, never copied from metrics.json, so that a table cannot disagree with the
scores it stands on.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Literal, Self, TypeVar

import numpy as np
from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from reaction.evaluation import statistics
from reaction.evaluation.classification import label_ranks
from reaction.evaluation.fuse import Predictions
from reaction.evaluation.multi_label import mean_average_precision
from reaction.tables.claims import Claim, Metric, Paper, left_out, reproducible

Verdict = Literal["reproduced", "differs", "not run", "not comparable", "cited", ""]
ORACLE = "oracle: its maps know the true label"
ENOUGH = 0.95  # of the official test videos: videos vanish from YouTube, and no two papers have had the same ones
UNMEASURED = dict.fromkeys(("ours", "ours_std", "n", "of", "low", "high", "chance"))


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TableSpec:
    """What a table shows, in this order: methods, then streams.

    `resample` says what a bootstrap draws, and `ceilings` are the fractions that a stream alone cannot exceed.
    `split_sets` fixes which sets of splits are shown, one after the other: nothing else is, not even a claim, and
    numbers of one split and means over several never stand in one block. `metric` is what rows without a claim, and
    comparisons, are measured by.
    """

    name: str
    dataset: str
    scale: str
    splits: tuple[int, ...]
    protocol: str
    methods: tuple[str, ...]
    streams: tuple[str, ...]
    claims: tuple[str, ...] = ()
    resample: Literal["video", "group"] = "video"
    ceilings: dict[str, float] | None = None
    comparisons: tuple[tuple[str, str], ...] = ()
    split_sets: tuple[tuple[int, ...], ...] | None = None
    metric: Metric = "top1"

    @model_validator(mode="after")
    def _sets_of_known_splits(self) -> Self:
        for splits in self.split_sets or ():
            if not splits or not set(splits) <= set(self.splits):
                raise ValueError(f"split_sets has {list(splits)}, of splits {list(self.splits)}")
        return self


@dataclass(frozen=True)
class Tested:
    """One tested run. `why` says what keeps it from being compared with a paper when `comparable` is false.

    An `oracle` was told the answer in some way and is never comparable.
    """

    method: str
    stream: str
    split: int
    seed: int
    folder: str
    metrics: Mapping[str, Any]
    _: KW_ONLY
    comparable: bool = True
    why: str = ""
    oracle: bool = False

    @property
    def videos(self) -> int:
        """How many were tested."""
        return self.metrics["n"]


AnyRun = TypeVar("AnyRun", bound=Tested)


@dataclass(frozen=True)
class Result(Tested):
    """A run that gave each video scores of its classes.

    `groups` names each video's group where videos of one group depend on each other; empty where they do not.
    """

    predictions: Predictions
    groups: tuple[str, ...] = ()

    @property
    def videos(self) -> int:
        return len(self.predictions.videos)

    @property
    def protocol(self) -> str:
        """By which protocol it was tested, if its metrics say so."""
        return self.metrics.get("protocol", {}).get("protocol_name", "")

    @property
    def units(self) -> tuple[str, ...]:
        """What a bootstrap draws with each video: its group, or the video alone."""
        return self.groups or self.predictions.videos


@dataclass(frozen=True)
class Row:
    """Accuracies, their deviation and interval, chance and tolerance are in per cent; `difference` is ours - published.

    `ours` is the mean over splits of the mean over seeds, `ours_std` the deviation over all runs, `n` the tested videos
    of all splits and `of` those on the official lists, `low` and `high` the 95 % bootstrap interval of `ours` over
    videos or their groups. None where there is nothing to say.
    """

    method: str
    stream: str
    dataset: str
    splits: str
    protocol: str
    metric: Metric
    published: float | None
    source: str
    ours: float | None
    ours_std: float | None
    n: int | None
    of: int | None
    low: float | None
    high: float | None
    chance: float | None
    difference: float | None
    tolerance: float | None
    verdict: Verdict
    why: str
    runs: str


@dataclass(frozen=True)
class Comparison:
    """`first` minus `second` in points, with its paired 95 % bootstrap interval over the n videos of both and `seeds`.

    Of one seed the interval holds for these networks alone; of several (in every split) it counts what others would
    give. `runs` are pairs of equal split and seed, and `difference_std` is the deviation of their differences, empty
    for a single pair. `gained` and `lost` count, over all runs, the videos that only `first` or `second` has right;
    `mcnemar` is the p-value of McNemar's exact test for these networks, of several runs combined by
    `statistics.combined_p`, and `mcnemar_runs` says both of every run. They are empty where videos are drawn by groups,
    since the test takes videos for independent.
    """

    first: str
    second: str
    splits: str
    metric: Metric
    difference: float | None = None
    difference_std: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    runs: int = 0
    seeds: int = 0
    gained: int | None = None
    lost: int | None = None
    mcnemar: float | None = field(default=None, metadata={"format": ".3g"})
    mcnemar_runs: str = ""
    words: str = "not run"


def build_rows(spec: TableSpec, results: Sequence[Result], papers: Iterable[Paper]) -> list[Row]:
    """The table's rows: of each method and stream the first split, the splits that ran, and whatever a paper claims.

    With `split_sets` they are all rows of the first set, then all of the next. A claim is matched by method, stream,
    dataset, splits and metric. In a table of one paper alone its claims that none of our methods can answer come last,
    under its own names. Raises ValueError on two results for one run.
    """
    check_unique(results)
    papers = list(papers)
    claims = reproducible(papers, spec.dataset)
    rows = [
        (splits, row)
        for method in spec.methods
        for stream in spec.streams
        for splits, row in _rows_of_stream(spec, method, stream, _select(results, method, stream), claims)
    ]
    rows += [
        (claim.splits, _row(spec, claim.method, claim.stream, claim.splits, [], (paper, claim)))
        for paper, claim in (left_out(papers[0], spec.dataset) if len(papers) == 1 else ())
    ]
    if spec.split_sets is None:
        return [row for _, row in rows]
    return [row for shown in spec.split_sets for splits, row in rows if splits == shown]


def _select(results: Iterable[Result], method: str, stream: str) -> list[Result]:
    return [result for result in results if (result.method, result.stream) == (method, stream)]


def check_unique(results: Iterable[Tested]) -> None:
    """Raises ValueError on two results for one run."""
    seen: dict[tuple, str] = {}
    for result in results:
        run = (result.method, result.stream, result.split, result.seed)
        if run in seen:
            raise ValueError(f"{seen[run]} and {result.folder} are both {run}: a table takes one result per run")
        seen[run] = result.folder


def _rows_of_stream(
    spec: TableSpec, method: str, stream: str, results: Sequence[Result], claims: Sequence[tuple[Paper, Claim]]
) -> list[tuple[tuple[int, ...], Row]]:
    asked = [
        found for found in claims if method in found[1].reproduced_by.method and found[1].reproduced_by.stream == stream
    ]
    if not results and not asked:  # a stream that other methods of the table have
        return []
    ran = tuple(split for split in spec.splits if any(result.split == split for result in results))
    usual = {spec.splits[:1], *(found[1].splits for found in asked)} | ({ran} if len(ran) > 1 else set())
    sets = usual if spec.split_sets is None else set(spec.split_sets)
    rows = []
    for splits in sorted(sets, key=lambda numbers: (len(numbers), numbers)):
        complete = set(splits) <= set(ran)
        members = [result for result in results if result.split in splits] if complete else []
        matching = [found for found in asked if found[1].splits == splits]
        rows += [(splits, _row(spec, method, stream, splits, members, found)) for found in matching or [None]]
    return rows


def _row(
    spec: TableSpec,
    method: str,
    stream: str,
    splits: tuple[int, ...],
    results: Sequence[Result],
    found: tuple[Paper, Claim] | None,
) -> Row:
    claim = found[1] if found else None
    metric = claim.metric if claim else spec.metric
    measured = _measured(results, splits, metric)
    judged, reasons = judge(results, splits, found, measured["ours"])
    reasons += [_ceiling(spec, stream, measured["low"]), _swept(results)]
    return Row(
        method=method,
        stream=stream,
        dataset=spec.dataset,
        splits=" ".join(map(str, splits)),
        protocol=_protocol(spec, claim, results),
        metric=metric,
        **measured,
        **judged,
        why="; ".join(filter(None, reasons)),
        runs=" ".join(result.folder for result in results),
    )


def _ceiling(spec: TableSpec, stream: str, low: float | None) -> str:
    ceiling = 100 * (spec.ceilings or {}).get(stream, 1.0)
    if ceiling >= 100 or low is None:
        return ""
    # alone: maps from the other stream may lift a method above it; a hair of slack for rounding, as in `_verdict`
    if low > ceiling + 1e-9:
        return f"above the {ceiling:.2f} that this stream alone can know"
    return f"this stream alone can know {ceiling:.2f}"


def _swept(results: Sequence[Result]) -> str:
    """The weights that held-out videos chose for a fusion, and in how many of its runs."""
    protocols = [result.metrics.get("protocol", {}) for result in results]
    chosen = Counter(
        ", ".join(f"{stream} {weight:g}" for stream, weight in protocol["weights"].items())
        for protocol in protocols
        if "swept_on" in protocol
    )
    return f"weights swept: {'; '.join(f'{weights} ({n})' for weights, n in chosen.most_common())}" if chosen else ""


def _protocol(spec: TableSpec, claim: Claim | None, results: Sequence[Result]) -> str:
    ours = " ".join(dict.fromkeys(result.protocol or spec.protocol for result in results)) or spec.protocol
    if claim is None:
        return ours
    return f"{ours} (paper: {claim.protocol})" if results else claim.protocol


def _measured(results: Sequence[Result], splits: Sequence[int], metric: Metric) -> dict[str, float | int | None]:
    if not results:
        return UNMEASURED
    values = [_value([result], metric) for result in results]
    return in_per_cent(results, splits, _value(results, metric), values, _interval(results, metric))


def in_per_cent(
    results: Sequence[Tested],
    splits: Sequence[int],
    ours: float,
    values: Sequence[float],
    interval: statistics.Interval | None,
) -> dict[str, float | int | None]:
    """What a row says of its runs, whose `values` have the mean `ours`, all fractions."""
    n, of = counts(results, splits)
    deviation = statistics.spread(values)
    return {
        "ours": 100 * ours,
        "ours_std": None if deviation is None else 100 * deviation,
        "n": n,
        "of": of,
        "low": 100 * interval.low if interval else None,
        "high": 100 * interval.high if interval else None,
        "chance": 100 * results[0].metrics["chance"],
    }


def counts(results: Sequence[Tested], splits: Sequence[int]) -> tuple[int, int]:
    """Tested and official videos, each split once however many seeds ran on it."""
    per_split = [[result for result in results if result.split == split] for split in splits]
    tested = sum(min(result.videos for result in members) for members in per_split)
    return tested, sum(max(result.metrics["of"] for result in members) for members in per_split)


def _positions(results: Iterable[Result]) -> dict[str, int]:
    units = dict.fromkeys(unit for result in results for unit in result.units)
    return {unit: position for position, unit in enumerate(units)}


def _mean(results: Sequence[Result], metric: Metric, positions: Mapping[str, int]) -> statistics.Statistic:
    """The mean over splits of the mean over seeds, for draws over the union of all runs' units."""
    terms = []
    for result, weight in zip(results, weights(results), strict=True):
        where = np.array([positions[unit] for unit in result.units])
        terms.append((weight, where, _run_statistic(result, metric)))
    return lambda drawn: sum(weight * statistic(drawn[:, where]) for weight, where, statistic in terms)


def weights(results: Sequence[Tested]) -> list[float]:
    """Of each run in the mean over splits of the mean over seeds."""
    runs_of = Counter(result.split for result in results)
    return [1 / (len(runs_of) * runs_of[result.split]) for result in results]


def _hits(result: Result, metric: Metric = "top1") -> np.ndarray:
    places = 5 if metric == "top5" else 1
    return label_ranks(result.predictions.scores, result.predictions.labels) < places


def _run_statistic(result: Result, metric: Metric) -> statistics.Statistic:
    predictions = result.predictions
    if metric == "map":
        return mean_average_precision(predictions.scores, predictions.labels)
    if metric == "mean_class":
        return statistics.class_accuracy(_hits(result), predictions.labels)
    return statistics.accuracy(_hits(result, metric))


def _value(results: Sequence[Result], metric: Metric) -> float:
    positions = _positions(results)
    return float(_mean(results, metric, positions)(np.ones((1, len(positions))))[0])


def _interval(results: Sequence[Result], metric: Metric) -> statistics.Interval | None:
    positions = _positions(results)
    if len(positions) < 2:
        return None
    if metric == "map":
        found = statistics.bootstrap(_mean(results, metric, positions), len(positions))
        return found if found.high > found.low else None  # a perfect ranking tells a bootstrap nothing
    hits = np.concatenate([_hits(result, metric) for result in results])
    if hits.all() or not hits.any():  # every draw gives the same value: only the exact interval says anything
        return statistics.exact_binomial(len(positions) if hits.all() else 0, len(positions))
    return statistics.bootstrap(_mean(results, metric, positions), len(positions))


def judge(
    results: Sequence[Tested], splits: Sequence[int], found: tuple[Paper, Claim] | None, ours: float | None
) -> tuple[dict[str, Any], list[str]]:
    """What a row says of the claim that was `found` beside `ours`, in per cent, and why."""
    claim = found[1] if found else None
    difference = ours - claim.value if results and claim else None
    verdict, reasons = _verdict(results, splits, claim, difference)
    said = {
        "published": claim.value if claim else None,
        "source": f"{found[0].paper}, {claim.source}" if found else "",
        "difference": difference,
        "tolerance": claim.tolerance if claim else None,
        "verdict": verdict,
    }
    return said, [*reasons, claim.note if claim else ""]


def _verdict(
    results: Sequence[Tested], splits: Sequence[int], claim: Claim | None, difference: float | None
) -> tuple[Verdict, list[str]]:
    if not results:
        told = claim.not_run if claim else None
        return "not run", [told or "no scores of split " + " ".join(map(str, splits))]
    reasons = _obstacles(results)
    n, of = counts(results, splits)
    absent = [f"{n} of {of} videos tested"] if n < of else []
    if reasons or n < ENOUGH * of:
        return "not comparable", reasons + absent
    if claim is None:
        return "", ["no published number", *absent]
    # a hair of slack, so that a difference of exactly the tolerance does not fail by rounding
    return ("reproduced" if abs(difference) <= claim.tolerance + 1e-9 else "differs"), absent


def _obstacles(results: Sequence[Tested]) -> list[str]:
    reasons = [ORACLE for result in results if result.oracle]
    reasons += [result.why or "not comparable" for result in results if not result.comparable]
    return list(dict.fromkeys(reasons))


def build_comparisons(spec: TableSpec, results: Sequence[Result]) -> list[Comparison]:
    """Our own runs, `method/stream` each, against each other over the splits and seeds that both sides ran.

    With `split_sets` once per set, of which both sides have to have run every split. Raises ValueError on any other
    name.
    """
    cells = {f"{method}/{stream}": (method, stream) for method in spec.methods for stream in spec.streams}
    for side in (side for pair in spec.comparisons for side in pair):
        if side not in cells:
            raise ValueError(f"table {spec.name}: `comparisons` has {side!r}, which is none of {', '.join(cells)}")
    runs = {name: _select(results, *cell) for name, cell in cells.items()}
    return [
        _compare(runs[first], runs[second], first, second, splits, spec.metric)
        for splits in spec.split_sets or [None]
        for first, second in spec.comparisons
    ]


def _compare(
    first: Sequence[Result],
    second: Sequence[Result],
    first_name: str,
    second_name: str,
    splits: tuple[int, ...] | None = None,
    metric: Metric = "top1",
) -> Comparison:
    """Of the runs of both sides on `splits`, or on whichever splits both ran."""
    sides = paired(first, second, splits)
    ran = sorted({r.split for r in sides[0]})
    names = Comparison(first_name, second_name, " ".join(map(str, ran if splits is None else splits)), metric)
    if not ran or (splits is not None and ran != sorted(splits)):
        return names
    return replace(names, **_compared(*sides, metric), **({} if metric == "map" else _mcnemar(*sides)))


def paired(
    first: Sequence[AnyRun], second: Sequence[AnyRun], splits: Sequence[int] | None
) -> tuple[list[AnyRun], list[AnyRun]]:
    """The runs that both sides have of a split and seed, on `splits` or on whichever there are."""
    shared = {(r.split, r.seed) for r in first} & {(r.split, r.seed) for r in second}
    shared = {(split, seed) for split, seed in shared if splits is None or split in splits}
    first, second = ([r for r in side if (r.split, r.seed) in shared] for side in (first, second))
    return first, second


def _compared(first: Sequence[Result], second: Sequence[Result], metric: Metric) -> dict[str, Any]:
    """Difference, interval, n and words of two sides with the same runs."""
    positions = _positions([*first, *second])
    sides = _mean(first, metric, positions), _mean(second, metric, positions)
    once = np.ones((1, len(positions)))
    difference = float((sides[0](once) - sides[1](once))[0])
    n = len({video for result in (*first, *second) for video in result.predictions.videos})
    gains = differences(first, second, lambda result: _value([result], metric))
    seeds = statistics.seed_error(gains)
    known = apart(difference, gains) | {"n": n}
    if len(positions) < 2:
        return known | {"words": "too few videos to say"}
    interval = statistics.paired_bootstrap(*sides, len(positions), seeds)
    if interval.high - interval.low < 1e-9:  # but for rounding every draw gives the same difference
        interval = statistics.unanimous(difference, len(positions))
    low, high = max(-100.0, 100 * interval.low), min(100.0, 100 * interval.high)  # two seeds may allow more
    size = f"n = {n}" + (f" in {len(positions)} groups" if first[0].groups else "")
    size += f" and {known['seeds']} seeds" if seeds else ""
    words = in_words(100 * difference, low, high, size) + _oracles(first, second)
    return known | {"low": low, "high": high, "words": words}


def differences(
    first: Sequence[AnyRun], second: Sequence[AnyRun], value: Callable[[AnyRun], float]
) -> list[list[float]]:
    """What the first side gains, a fraction: of each split a list, with each pair of runs of equal seed."""
    partner = {(result.split, result.seed): result for result in second}
    gains: dict[int, list[float]] = {}
    for one in first:
        gains.setdefault(one.split, []).append(value(one) - value(partner[one.split, one.seed]))
    return list(gains.values())


def apart(difference: float, gains: Sequence[Sequence[float]]) -> dict[str, float | int | None]:
    """How far two sides are apart, in points, and of how many runs: from the fractions that `differences` gives."""
    deviation = statistics.spread([one for of_split in gains for one in of_split])
    return {
        "difference": 100 * difference,
        "difference_std": None if deviation is None else 100 * deviation,
        "runs": sum(map(len, gains)),
        "seeds": min(map(len, gains)),
    }


def in_words(difference: float, low: float, high: float, size: str) -> str:
    """A difference in points and its interval, as a sentence; `size` says of how many videos."""
    if low <= 0 <= high:
        return f"no difference shown at {size}: {-low + 0.0:.2f} lower to {high:.2f} higher is possible"
    direction = "higher" if difference > 0 else "lower"
    nearest, farthest = sorted((abs(low), abs(high)))
    return f"{direction} by {abs(difference):.2f} ({nearest:.2f} to {farthest:.2f}) at {size}"


def _oracles(*sides: Sequence[Result]) -> str:
    """A reminder of a side that was told the answer."""
    told = [f"{side[0].method}/{side[0].stream}" for side in sides if any(result.oracle for result in side)]
    return f"; {' and '.join(told)} know{'s' if len(told) == 1 else ''} the true label" if told else ""


def _mcnemar(first: Sequence[Result], second: Sequence[Result]) -> dict[str, Any]:
    """McNemar's test of each split and seed, and of all of them together; nothing where videos come in groups."""
    if any(result.groups for result in (*first, *second)):
        return {}
    partner = {(result.split, result.seed): result for result in second}
    tests = [(result, _paired_test(result, partner[result.split, result.seed])) for result in first]
    told = (f"split {r.split} seed {r.seed}: {t.gained} to {t.lost}, p = {t.p:.3g}" for r, t in tests)
    return {
        "gained": sum(test.gained for _, test in tests),
        "lost": sum(test.lost for _, test in tests),
        "mcnemar": statistics.combined_p([test.p for _, test in tests]),
        "mcnemar_runs": "; ".join(told),
    }


def _paired_test(first: Result, second: Result) -> statistics.McNemar:
    """On the videos that both runs have tested."""
    right = dict(zip(second.predictions.videos, _hits(second), strict=True))
    pairs = [
        (hit, right[video]) for video, hit in zip(first.predictions.videos, _hits(first), strict=True) if video in right
    ]
    return statistics.mcnemar(*np.array(pairs, dtype=bool).reshape(-1, 2).T)
