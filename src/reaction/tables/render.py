"""A table as CSV (every field), Markdown and LaTeX (what one reads), and the comparisons beside it."""

import csv
import io
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from reaction.data.index import read_index
from reaction.evaluation.fuse import read_predictions
from reaction.files import read_json, write_json, write_text
from reaction.tables.agreement import Agreement, build_agreement, read_measured
from reaction.tables.claims import read_paper
from reaction.tables.compare import Comparison, Result, Row, TableSpec, build_comparisons, build_rows

COLUMNS = ("method", "stream", "splits", "metric", "published", "source", "ours", "95 %", "n", "chance")
VERDICT_COLUMNS = ("difference", "verdict", "why")
MCNEMAR = "McNemar p (these runs)"
COMPARED = ("ours", "against", "splits", "difference", MCNEMAR, "in words")
MAPS = ("method", "stream", "split", "part", "bce", "floor", "constant", "correlation", "IoU", "n", "verdict")
SAID_ONCE = ("splits", "metric", "n", "chance", "verdict")  # where all rows have the same, it is said above them
NUMBERS = {"published", "ours", "95 %", "n", "chance", "difference", "low", "high"}


Spec = TypeVar("Spec")


class TableError(ValueError):
    """A table's specification, or a folder it names, that cannot be used."""


def table(spec: Mapping[str, Any], destination: Path, metrics: Path | None = None) -> list[Row]:
    """Write `destination` (.csv) with .md, .tex and _comparisons.csv beside it, perhaps `metrics`; return the rows.

    `spec` holds the keys of TableSpec, with `table` for its name and `papers` for the claims' files; `results`, a list
    of method, stream, split, seed, folder, comparable, why and perhaps oracle; and perhaps `maps`, a list
    of method, stream, split, seed, folder and part, which gives _maps.csv too. A table of several datasets holds such
    specifications as `parts`. Raises TableError naming the key or file.
    """
    destination = Path(destination)
    parts = [_part(one) for one in spec.get("parts", [spec])]
    rows = [row for part in parts for row in part.rows]
    maps = [row for part in parts for row in part.maps]
    write_text(destination, to_csv(Row, rows))
    write_text(
        destination.with_suffix(".md"),
        "\n".join(to_markdown(part.spec, part.rows, part.comparisons, part.maps) for part in parts),
    )
    write_text(destination.with_suffix(".tex"), "\n".join(to_latex(part.spec, part.rows) for part in parts))
    comparisons = [pair for part in parts for pair in part.comparisons]
    write_text(destination.with_name(f"{destination.stem}_comparisons.csv"), to_csv(Comparison, comparisons))
    if maps:
        write_text(destination.with_name(f"{destination.stem}_maps.csv"), to_csv(Agreement, maps))
    if metrics is not None:
        write_json(metrics, to_metrics(rows))
    return rows


@dataclass(frozen=True)
class _Part:
    """A table's rows on one dataset."""

    spec: TableSpec
    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    maps: Sequence[Agreement]


def _part(spec: Mapping[str, Any]) -> _Part:
    checked = read_spec(spec)
    results = [read_result(entry, checked.resample) for entry in spec.get("results", [])]
    rows = build_rows(checked, results, [read_paper(Path(path)) for path in checked.claims])
    maps = build_agreement(read_measured(entry) for entry in spec.get("maps", []))
    return _Part(checked, rows, build_comparisons(checked, results), maps)


def read_spec(spec: Mapping[str, Any]) -> TableSpec:
    """The checked specification of a table, without its results."""
    return checked(TableSpec, spec)


def checked(kind: type[Spec], spec: Mapping[str, Any]) -> Spec:
    """A specification as its `kind`. Raises TableError naming table and key."""
    renamed = {{"table": "name", "papers": "claims"}.get(key, key): value for key, value in spec.items()}
    for key in ("results", "maps"):
        renamed.pop(key, None)
    try:
        return kind(**renamed)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise TableError(f"table {spec.get('table')}: {problems}") from error


def read_result(entry: Mapping[str, Any], resample: str = "video") -> Result:
    """One entry of `results` with its metrics.json and scores, which have to be of that stream, split and seed."""
    metrics, folder = read_metrics(entry, "`reaction score` or `reaction fuse`"), Path(entry["folder"])
    predictions = read_predictions(folder)
    groups = _groups(folder, predictions.videos) if resample == "group" else ()
    return Result(**entry, metrics=metrics, predictions=predictions, groups=groups)


def read_metrics(entry: Mapping[str, Any], made_by: str) -> dict[str, Any]:
    """The metrics.json of an entry of `results`, which has to be of its stream, split and seed."""
    path = Path(entry["folder"]) / "metrics.json"
    if not path.exists():
        raise TableError(f"{path} is missing. Run {made_by} on {entry['folder']}.")
    metrics = read_json(path)
    expected = {"stream": entry["stream"], "split": f"split{entry['split']}", "seed": entry["seed"]}
    for key, value in expected.items():
        if metrics[key] != value:
            raise TableError(f"{path} has {key} {metrics[key]!r}, the table expects {value!r} there.")
    return metrics


def _groups(folder: Path, videos: Sequence[str]) -> tuple[str, ...]:
    index = read_json(folder / "config.json")["inputs"]["index"]
    group_of = {video.video: video.group for video in read_index(index)}
    if absent := set(videos) - set(group_of):
        raise TableError(f"{folder} scored {min(absent)!r}, which {index}/index.csv does not list. Score it again.")
    return tuple(group_of[video] for video in videos)


def to_csv(kind: type, rows: Sequence[Row] | Sequence[Comparison] | Sequence[Agreement]) -> str:
    """All fields; numbers with two decimals or as their field's `format` says, nothing where there is no value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = {field.name: field.metadata.get("format", ".2f") for field in fields(kind)}
    writer.writerow(columns)
    writer.writerows([decimals(getattr(row, name), form) for name, form in columns.items()] for row in rows)
    return text.getvalue()


def decimals(value: object, form: str = ".2f") -> str:
    """A cell: empty for None, numbers as `form` says, never a zero with a sign."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    shown = f"{value:{form}}"
    # a small negative number rounds to -0.00
    return shown.removeprefix("-") if float(shown) == 0 else shown


def to_metrics(rows: Iterable[Row]) -> dict[str, Any]:
    """What we measured, in per cent, by dataset, method and stream: the same names whatever the runs are called."""
    found: dict[str, Any] = {}
    for row in rows:
        if row.ours is not None:
            streams = found.setdefault(row.dataset, {}).setdefault(row.method, {})
            streams.setdefault(row.stream, {})[f"{row.metric} on split {row.splits}"] = round(row.ours, 2)
    return found


def to_markdown(
    spec: TableSpec, rows: Sequence[Row], comparisons: Sequence[Comparison], maps: Sequence[Agreement] = ()
) -> str:
    """A title, what all rows share, the rows as aligned tables, what they mean, the comparisons in words, the maps.

    Columns that are empty or the same in all rows are left out; of `split_sets` each is a table of its own.
    """
    columns, lines, shared = readable(rows)
    title = spec.name if spec.name == spec.dataset else f"{spec.name}: {spec.dataset}"
    parts = [f"# {title}", intro(spec, shared)]
    for title, block in _blocks(spec, rows, lines):
        parts += [title] * bool(title) + [aligned(*without({"splits"} if title else set(), columns, block))]
    parts.append(_legend(spec, rows))
    if comparisons:
        parts.append("## Against each other")
        parts.append(aligned(*filled(COMPARED, [sides(pair) for pair in comparisons]), {"difference", MCNEMAR}))
        parts.append(comparisons_legend(spec.resample, comparisons))
    if maps:
        parts.append("## Learned attention maps")
        parts += [aligned(MAPS, [_maps_cells(row) for row in maps], set(MAPS[4:-1])), _maps_legend()]
    return "\n\n".join(parts) + "\n"


def readable(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], dict[str, str]]:
    """The columns that differ between rows, their cells, and what all rows have in common."""
    columns, lines = filled((*COLUMNS, *VERDICT_COLUMNS), [_cells(row) for row in rows])
    if len(rows) < 2:
        return columns, lines, {}
    where = {column: place for place, column in enumerate(columns)}
    values = {column: {line[where[column]] for line in lines} for column in SAID_ONCE if column in where}
    shared = {column: found.pop() for column, found in values.items() if len(found) == 1}
    if "why" in where:
        reasons = [line[where["why"]].split("; ") for line in lines]
        common = [reason for reason in reasons[0] if all(reason in others for others in reasons)]
        for line, own in zip(lines, reasons, strict=True):
            line[where["why"]] = "; ".join(reason for reason in own if reason not in common)
        shared |= {"why": "; ".join(common)} if common else {}
    return *filled(*without(set(shared) - {"why"}, columns, lines)), shared


def without(
    dropped: set[str], columns: Sequence[str], lines: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Without the `dropped` columns."""
    kept = [place for place, column in enumerate(columns) if column not in dropped]
    return [columns[place] for place in kept], [[line[place] for place in kept] for line in lines]


def _blocks(spec: TableSpec, rows: Sequence[Row], lines: Sequence[list[str]]) -> list[tuple[str, list[list[str]]]]:
    """The rows' cells under a title for each of `split_sets`, or all of them without one."""
    if spec.split_sets is None or len(spec.split_sets) < 2:
        return [("", list(lines))]
    blocks = []
    for splits in spec.split_sets:
        name = " ".join(map(str, splits))
        chosen = [line for row, line in zip(rows, lines, strict=True) if row.splits == name]
        blocks.append((f"## {of_splits(name)}", chosen))
    return blocks


def of_splits(splits: str) -> str:
    """A title for the rows of these splits."""
    return f"Mean over splits {', '.join(splits.split())}" if " " in splits else f"Split {splits}"


def intro(spec: TableSpec, shared: Mapping[str, str]) -> str:
    """Of what the table is, and what holds for every row of it."""
    return (
        f"Dataset {spec.dataset}, scale {spec.scale}, protocol {spec.protocol}; all in per cent.{of_every_row(shared)}"
    )


def of_every_row(shared: Mapping[str, str]) -> str:
    """What holds for every row, after a space."""
    said = {"splits": "split{s} {}", "metric": "{}", "n": "{} videos", "chance": "chance {}", "verdict": "{}"}
    facts = [said[column].format(value, s="s" * (" " in value)) for column, value in shared.items() if column in said]
    why = f" ({shared['why']})" if "why" in shared else ""
    return f" Every row: {', '.join(facts)}{why}." if facts or why else ""


def sides(pair: Comparison) -> list[str]:
    """The cells of COMPARED."""
    p = decimals(pair.mcnemar, ".2g")
    spread = "" if pair.difference_std is None else f" ± {pair.difference_std:.2f} ({pair.runs})"
    return [pair.first, pair.second, pair.splits, _signed(pair.difference) + spread, p, pair.words]


def comparisons_legend(resample: str, comparisons: Sequence[Comparison]) -> str:
    """What the words and columns of comparisons mean, whose bootstrap draws videos or groups."""
    seeds = {pair.seeds for pair in comparisons if pair.runs}
    several = max(seeds, default=0) > 1
    drawn = f"{resample}s and seeds allows" if several else f"{resample}s allows, for these trained networks"
    lines = [
        f"In words: what the 95 % interval of a paired bootstrap over {drawn}; of twenty comparisons without a "
        "difference one shows some by chance."
    ]
    if several:
        lines.append("The mean over seeds is drawn from Student's t, as wide as these seeds lie apart.")
    if several and 1 in seeds:
        lines.append("Where the words name no seeds there is one, and they are about these networks alone.")
    if any(pair.difference_std is not None for pair in comparisons):
        lines.append("Difference: ± standard deviation over (pairs of runs with equal split and seed).")
    if any(pair.mcnemar is not None for pair in comparisons):
        lines.append(
            f"{MCNEMAR}: exact and two-sided, over the videos that one side alone has right; of several runs twice the "
            "mean of their p, a cautious bound that holds however much they depend on each other. It says nothing of "
            "other seeds. The CSV has every run's."
        )
    return " ".join(lines)


def _maps_cells(row: Agreement) -> list[str]:
    names = [row.method, row.stream, str(row.split), row.part]
    seeds = len(row.seeds.split())
    spread = [f"{value:.3f}" + ("" if std is None else f" ± {std:.3f} ({seeds})") for value, std in _spread(row)]
    floor, constant = f"{row.entropy_floor:.3f}", f"{row.constant_bce:.3f}"
    return [*names, spread[0], floor, constant, *spread[1:], str(row.n), row.verdict]


def _spread(row: Agreement) -> list[tuple[float, float | None]]:
    return [(row.bce, row.bce_std), (row.correlation, row.correlation_std), (row.iou, row.iou_std)]


def _maps_legend() -> str:
    return (
        "Learned attention maps against the true label's Grad-CAM maps, on test videos or on the groups held out from "
        "the attention network's training: cross-entropy in nats per pixel, between its floor and that of the best "
        "constant map, which is chosen for these very frames; Pearson's correlation and the IoU of the areas above "
        "half, means over n frames; ± over (seeds). Held-out rows are optimistic: these groups chose the network's "
        "epoch, and the stream looked at has trained on them, unless it held them out as well. Methods that read the "
        "same maps share the first one's rows."
    )


def filled(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns that no line fills."""
    kept = [place for place in range(len(columns)) if any(line[place] for line in lines)]
    return [columns[place] for place in kept], [[line[place] for place in kept] for line in lines]


def _legend(spec: TableSpec, rows: Sequence[Row]) -> str:
    """What the columns mean that there are."""
    lines = []
    if any(row.ours_std is not None for row in rows):
        lines.append("Ours: mean over splits and seeds ± standard deviation over (runs).")
    if any(row.low is not None for row in rows):
        lines.append(f"95 %: bootstrap over {spec.resample}s, for these trained networks.")
    if any(row.difference is not None for row in rows):
        lines.append("Difference: ours - published (± tolerance).")
    lines.append("The CSV adds the papers' protocols and the folders of the runs.")
    return " ".join(lines)


def _cells(row: Row) -> list[str]:
    interval = "" if row.low is None else f"{row.low:.2f} - {row.high:.2f}"
    shown = [row.method, row.stream, row.splits, row.metric, decimals(row.published), row.source, _ours(row)]
    difference = _signed(row.difference) + (f" (± {row.tolerance:g})" if row.difference is not None else "")
    return [*shown, interval, tested(row), decimals(row.chance), difference, row.verdict, row.why]


def tested(row: Row) -> str:
    """On how many videos, and of how many."""
    return "" if row.n is None else str(row.n) if row.n == row.of else f"{row.n} of {row.of}"


def _ours(row: Row) -> str:
    if row.ours is None or row.ours_std is None:
        return decimals(row.ours)
    return f"{row.ours:.2f} ± {row.ours_std:.2f} ({len(row.runs.split())})"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:+.2f}"


def aligned(columns: Sequence[str], lines: Sequence[Sequence[str]], numbers: Container[str] = NUMBERS) -> str:
    """Lines of cells as a Markdown table, `numbers` to the right."""
    cells = [list(columns), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    for place, column in enumerate(columns):
        width = max(3, *(len(line[place]) for line in cells))  # GitHub wants a dash beside the colon
        for line in cells:
            line[place] = line[place].rjust(width) if column in numbers else line[place].ljust(width)
    rule = [
        "-" * (len(cell) - 1) + (":" if column in numbers else "-")
        for column, cell in zip(columns, cells[0], strict=True)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (cells[0], rule, *cells[1:]))


def to_latex(spec: TableSpec, rows: Sequence[Row]) -> str:
    """A booktabs tabular, without its floating environment, a rule between `split_sets`; `why` stays outside."""
    columns, lines, shared = readable(rows)
    blocks = [without({"why"}, columns, block) for _, block in _blocks(spec, rows, lines)]
    comment = f"{spec.name}. {intro(spec, shared)} {_legend(spec, rows)}"
    return tabular(comment, blocks[0][0], [block for _, block in blocks])


def tabular(
    comment: str, columns: Sequence[str], blocks: Sequence[Sequence[Sequence[str]]], numbers: Container[str] = NUMBERS
) -> str:
    """Cells as a booktabs tabular under a comment, `numbers` to the right, a rule between blocks of lines."""
    alignment = "".join("r" if column in numbers else "l" for column in columns)
    head = [f"% {comment}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    body = [" & ".join(map(_escaped, columns)) + r" \\"]
    for block in blocks:
        body += [r"\midrule", *(" & ".join(map(_escaped, line)) + r" \\" for line in block)]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(text: str) -> str:
    symbols = {"±": r"$\pm$", "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = "".join(f"\\{letter}" if letter in "&%$#_{}" else symbols.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped.replace(" - ", "--"))
