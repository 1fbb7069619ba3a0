"""A table of detections as CSV (every field, a row for each evaluator), Markdown and LaTeX (what one reads).

What one reads is wide: ours below each other, evaluators or thresholds side by side; then what is published, in the
same order of metrics; then claims beside what we measured. Every set of splits has its own. With made-up
numbers of ours:

    ## Split 1                            `_sheets`: by set of splits
    ### Ours: frame-mAP at 0.5            `_ours`: a sheet for each kind, what all rows have in common above the first
    Every row: 1 run, 268 videos, chance 4.76.
    | method | padilla               | act                   |           `_wide`, of one threshold
    | yowo   | 52.00 (42.50 - 61.50) | 48.00 (38.50 - 57.50) |
    ### Ours: video-mAP
    | evaluator | method | 0.2   | 0.5   |                               `_wide`, of several
    | yowo      | yowo   | 70.00 | 40.00 |
    | act       | yowo   | 60.00 | 30.00 |
    ### Published                         `_published`: a line for each work
    | work            | stream | video by | video 0.2 | read in                            |
    | YOWO, 16 frames | rgb    | yowo     | 87.80     | paperswithcode, page of 1911.06644 |
    ### Claims beside ours                `_claimed`: a line for each claim that a method answers
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from reaction.files import write_json, write_text
from reaction.tables.claims import Claim, Paper, read_paper
from reaction.tables.compare import Row
from reaction.tables.detection_rows import (
    EVALUATORS,
    MINI,
    SAME,
    STREAM,
    UNSAID,
    DetectionComparison,
    DetectionSpec,
    Evaluated,
    Measure,
    build_comparisons,
    build_rows,
    family_of,
    named_evaluator,
    of_detection,
)
from reaction.tables.render import (
    COMPARED,
    MCNEMAR,
    NUMBERS,
    TableError,
    aligned,
    checked,
    comparisons_legend,
    decimals,
    filled,
    intro,
    of_every_row,
    of_splits,
    read_metrics,
    readable,
    sides,
    tabular,
    tested,
    to_csv,
    to_metrics,
    without,
)

FAMILIES = {"frame_map": "frame", "video_map": "video"}  # as columns call them
# What is said once where all rows have the same.
FACTS = {"runs": "{} run{s}", "n": "{} videos", "chance": "chance {}", "verdict": "{}"}
WORDS = {"evaluator", "method", "verdict", "work", "stream", "frame by", "video by", "read in", "note"}


def detection_table(spec: Mapping[str, Any], destination: Path, metrics: Path | None = None) -> list[Row]:
    """Write `destination` (.csv) with .md, .tex and _comparisons.csv beside it, perhaps `metrics`; return the rows.

    `spec` holds the keys of DetectionSpec, with `table` for its name and `papers` for the claims' files; and `results`,
    a list of method, split, seed, folder, comparable and why. Raises TableError naming the key or file.
    """
    described = checked(DetectionSpec, spec)
    results = [read_evaluated(entry) for entry in spec.get("results", [])]
    _check_draws(results)
    papers = [read_paper(Path(path)) for path in described.claims]
    rows, comparisons = build_rows(described, results, papers), build_comparisons(described, results)
    destination = Path(destination)
    write_text(destination, to_csv(Row, rows))
    write_text(destination.with_suffix(".md"), to_markdown(described, rows, comparisons, papers))
    write_text(destination.with_suffix(".tex"), to_latex(described, rows, papers))
    compared = to_csv(DetectionComparison, comparisons)
    write_text(destination.with_name(f"{destination.stem}_comparisons.csv"), compared)
    if metrics is not None:
        write_json(metrics, to_metrics(_with_evaluator(rows)))
    return rows


def read_evaluated(entry: Mapping[str, Any]) -> Evaluated:
    """One entry of `results` with its metrics.json and draws.h5."""
    entry = {"stream": STREAM} | entry
    metrics, path = read_metrics(entry, "`reaction evaluate`"), Path(entry["folder"]) / "draws.h5"
    if not path.exists():
        raise TableError(f"{path} is missing. Run `reaction evaluate` on {path.parent}.")
    values = {
        (metric, evaluator): value
        for metric, by_evaluator in metrics["values"].items()
        for evaluator, value in by_evaluator.items()
    }
    with h5py.File(path, "r") as file:
        draws = {measure: _draws(file, measure, value) for measure, value in values.items()}
    return Evaluated(**entry, metrics=metrics, values=values, draws=draws)


def _draws(file: h5py.File, measure: Measure, value: float | None) -> NDArray:
    name = "/".join(measure)
    if value is None or not np.isfinite(value):
        raise TableError(f"{file.filename}: {name} has no value, so no class of its test videos has a truth.")
    if name not in file or abs(file[name].attrs["value"] - value) > SAME:
        raise TableError(
            f"{file.filename} and metrics.json beside it do not agree on {name}. Run `reaction evaluate` on the folder."
        )
    return file[name][:]


def _check_draws(results: Sequence[Evaluated]) -> None:
    sizes = {len(draws): result.folder for result in results for draws in result.draws.values()}
    if len(sizes) > 1:
        said = " and ".join(f"{size} ({folder})" for size, folder in sizes.items())
        raise TableError(f"runs have different numbers of draws, {said}. Run `reaction evaluate` on the older one.")


def _with_evaluator(rows: Iterable[Row]) -> list[Row]:
    """The evaluator told with the metric, for readers that have no column for it."""
    return [replace(row, metric=f"{row.metric} by {_evaluator(row)}") for row in rows]


def _evaluator(row: Row) -> str:
    """Of a row of ours."""
    return row.protocol.partition(" (paper: ")[0]


@dataclass(frozen=True)
class Sheet:
    """Cells to read: a title, sentences about all of them, and the columns that hold numbers."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]
    numbers: Container[str]
    said: str = ""


def to_markdown(
    spec: DetectionSpec, rows: Sequence[Row], comparisons: Sequence[DetectionComparison], papers: Sequence[Paper]
) -> str:
    """Of each set of splits what we measured, what is published, and how far they are apart; then what it means."""
    title = spec.name if spec.name == spec.dataset else f"{spec.name}: {spec.dataset}"
    parts = [f"# {title}", intro(spec, {})]
    for splits, sheets in _sheets(spec, rows, papers).items():
        parts.append(f"## {of_splits(splits)}")
        for sheet in sheets:
            parts += [f"### {sheet.title}", *[sheet.said] * bool(sheet.said)]
            parts.append(aligned(sheet.columns, sheet.lines, sheet.numbers))
    if comparisons:
        parts += ["## Against each other", *_compared(spec, comparisons)]
    parts += ["## How to read this", _legend(spec), _evaluators_legend(spec, papers)]
    return "\n\n".join(parts) + "\n"


def to_latex(spec: DetectionSpec, rows: Sequence[Row], papers: Sequence[Paper]) -> str:
    """The same as booktabs tabulars, one after the other; sources and reasons stay outside."""
    comment = [f"{spec.name}. {intro(spec, {})}", _legend(spec), *_evaluators_legend(spec, papers).splitlines()]
    parts = ["".join(f"% {line}\n" for line in comment)]
    for splits, sheets in _sheets(spec, rows, papers).items():
        for sheet in sheets:
            columns, lines = without({"why", "note", "read in", "source"}, sheet.columns, sheet.lines)
            said = f"{of_splits(splits)}. {sheet.title}. {sheet.said}".strip()
            parts.append(tabular(said, columns, [lines], sheet.numbers))
    return "\n".join(parts)


def _sheets(spec: DetectionSpec, rows: Sequence[Row], papers: Sequence[Paper]) -> dict[str, list[Sheet]]:
    """In the rows' order."""
    claims = [claim for _, claim in of_detection(papers, spec.dataset)]
    sheets = {}
    for splits in dict.fromkeys(row.splits for row in rows):
        ours = [row for row in rows if row.splits == splits and row.verdict != "cited"]
        published = [claim for claim in claims if " ".join(map(str, claim.splits)) == splits]
        sheets[splits] = _ours(ours) + _published(published) + _claimed([row for row in ours if row.source])
    return {splits: found for splits, found in sheets.items() if found}


def _ours(rows: Sequence[Row]) -> list[Sheet]:
    """A sheet for frames and one for videos; columns of their own for what is not common to all."""
    measured = [row for row in rows if row.ours is not None]
    methods = dict.fromkeys(row.method for row in measured)
    facts = {method: _facts([row for row in measured if row.method == method]) for method in methods}
    values = {key: list(dict.fromkeys(own[key] for own in facts.values())) for key in FACTS}
    shared = {key: found[0] for key, found in values.items() if len(found) == 1 and found[0]}
    once = [FACTS[key].format(value, s="s" * (value != "1")) for key, value in shared.items()]
    missing = dict.fromkeys(row.method for row in rows if row.method not in facts)
    said = [f"Every row: {', '.join(once)}."] * bool(once) + [f"Not run: {', '.join(missing)}."] * bool(missing)
    own = {method: {key: facts[method][key] for key in FACTS if len(values[key]) > 1} for method in methods}
    families = dict.fromkeys(family_of(row.metric) for row in measured)
    sheets = [_wide(family, [row for row in measured if family_of(row.metric) == family], own) for family in families]
    return [replace(sheet, said=" ".join(said)) for sheet in sheets[:1]] + sheets[1:]


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    """Of how many runs and videos a method's rows are, and what keeps all of them from being compared."""
    reasons = [row.why.split("; ") for row in rows]
    common = [reason for reason in reasons[0] if all(reason in others for others in reasons)]
    alike = all(row.verdict == "not comparable" for row in rows)
    return {
        "runs": str(len(rows[0].runs.split())),
        "n": tested(rows[0]),
        "chance": decimals(rows[0].chance),
        "verdict": f"not comparable ({'; '.join(common)})" if alike else "",
    }


def _wide(family: str, rows: Sequence[Row], facts: Mapping[str, Mapping[str, str]]) -> Sheet:
    """Methods below each other: of one threshold all evaluators side by side, else of each evaluator the thresholds."""
    cells = {(_evaluator(row), row.method, _threshold(row.metric)): _cell(row) for row in rows}
    by, methods, thresholds = (list(dict.fromkeys(places)) for places in zip(*cells, strict=True))
    title = f"Ours: {FAMILIES[family]}-mAP"
    if len(thresholds) == 1:
        title += f" at {thresholds[0]}"
        columns = ["method", *by]
        lines = {(one,): [cells.get((name, one, thresholds[0]), "") for name in by] for one in methods}
    else:
        columns = ["evaluator", "method", *thresholds]
        keys = dict.fromkeys(key[:2] for name in by for key in cells if key[0] == name)
        lines = {key: [cells.get((*key, one), "") for one in thresholds] for key in keys}
    columns += [key for key in FACTS if any(key in own for own in facts.values())]
    return _sheet(title, columns, [[*key, *line, *facts[key[-1]].values()] for key, line in lines.items()])


def _sheet(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Sheet:
    return Sheet(title, *filled(columns, lines), numbers=set(columns) - WORDS)


def _threshold(metric: str) -> str:
    return metric.partition("@")[2]


def _cell(row: Row) -> str:
    deviation = "" if row.ours_std is None else f" ± {row.ours_std:.2f}"
    interval = "" if row.low is None else f" ({row.low:.2f} - {row.high:.2f})"
    return decimals(row.ours) + deviation + interval


def _published(claims: Sequence[Claim]) -> list[Sheet]:
    """Works below each other, each with its metrics side by side."""
    works: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        works.setdefault((claim.method, claim.stream, claim.source), []).append(claim)
    metrics = {family: [] for family in FAMILIES}
    for metric in sorted({claim.metric for claim in claims}, key=_in_order):
        metrics[family_of(metric)].append(metric)
    columns = ["work", "stream", "GFLOPs"]
    for family, name in FAMILIES.items():
        columns += [f"{name} by", *(f"{name} {_threshold(metric)}" for metric in metrics[family])]
    lines = [[*_work(*key[:2], members, metrics), key[2], _notes(members)] for key, members in works.items()]
    return [_sheet("Published", [*columns, "read in", "note"], lines)] * bool(lines)


def _in_order(metric: str) -> tuple[bool, float]:
    """By threshold, means over several last."""
    first, _, last = _threshold(metric).partition(":")
    return bool(last), float(first)


def _work(method: str, stream: str, claims: Sequence[Claim], metrics: Mapping[str, Sequence[str]]) -> list[str]:
    """A published line as far as its numbers go."""
    gflops = dict.fromkeys(f"{claim.gflops:g}" for claim in claims if claim.gflops is not None)
    line = [method, stream, " ".join(gflops)]
    for family, columns in metrics.items():
        own = {claim.metric: claim for claim in claims if family_of(claim.metric) == family}
        by = dict.fromkeys(named_evaluator(claim) or UNSAID for claim in own.values())
        line += [" ".join(by), *(decimals(own[metric].value) if metric in own else "" for metric in columns)]
    return line


def _notes(claims: Sequence[Claim]) -> str:
    """What is noted of all claims of a work, and of some of them with their names."""
    noted: dict[str, list[str]] = {}
    for claim in claims:
        for note in filter(None, claim.note.split("; ")):
            noted.setdefault(note, []).append(f"{FAMILIES[family_of(claim.metric)]} {_threshold(claim.metric)}")
    return "; ".join(
        note if len(names) == len(claims) else f"{', '.join(names)}: {note}" for note, names in noted.items()
    )


def _claimed(rows: Sequence[Row]) -> list[Sheet]:
    """Claims that methods of the table answer, beside the answers."""
    if not rows:
        return []
    columns, lines, shared = readable(_with_evaluator(rows))
    return [Sheet("Claims beside ours", columns, lines, NUMBERS, of_every_row(shared).strip())]


def _compared(spec: DetectionSpec, comparisons: Sequence[DetectionComparison]) -> tuple[str, str]:
    """By the first evaluator of each metric, and what the words mean."""
    shown = [pair for pair in comparisons if pair.protocol == spec.metrics[pair.metric][0]]
    lines = [[pair.metric, pair.protocol, *sides(pair)] for pair in shown]
    cells = aligned(*filled(["metric", "evaluator", *COMPARED], lines), {"difference", MCNEMAR})
    legend = comparisons_legend(spec.resample, shown)
    return cells, f"{legend} By the first evaluator of each metric; the CSV has the others."


def _legend(spec: DetectionSpec) -> str:
    return (
        "Ours: mean over splits and seeds ± standard deviation over the runs (95 % interval of a bootstrap over "
        f"{spec.resample}s, for these trained networks). Published: as printed, by the evaluator that the work names, "
        "where it names one. Numbers of different evaluators do not compare, nor does one split with a mean over "
        "several. A claim of unsaid evaluator stands beside AVA's official one, or the first of the table. Difference: "
        "ours - published (± tolerance). Chance: of someone who knows all boxes and no class, the mean over classes of "
        "their share of the actors. The CSV has all in single rows; its verdict `cited` is of a number that no method "
        "of the table answers."
    )


def _evaluators_legend(spec: DetectionSpec, papers: Sequence[Paper]) -> str:
    """What each evaluator does that the table names, ours or others'."""
    named = {(family_of(metric), evaluator) for metric, evaluator in spec.measures}
    claims = [claim for _, claim in of_detection(papers, spec.dataset)]
    named |= {(family_of(claim.metric), named_evaluator(claim)) for claim in claims}
    lines = []
    for family, sentences in EVALUATORS.items():
        for evaluator, sentence in sentences.items():
            if (family, evaluator) in named:
                lines.append(f"* {FAMILIES[family]}-mAP by `{evaluator}`: {sentence}")
            if (family, evaluator + MINI) in named:
                lines.append(f"* {FAMILIES[family]}-mAP by `{evaluator}{MINI}`: `{evaluator}` on every fourth second.")
    return "\n".join(lines)
