"""The lists that `reaction.data.synthetic.generate` writes: official.csv and classes.txt."""

import csv
from collections.abc import Sequence
from pathlib import Path

from reaction.data.datasets import DatasetError, Entry, Official


def read_official(lists: Path, splits: Sequence[str]) -> Official:
    """Read `lists/official.csv` (video, class, group, a column per split) and `lists/classes.txt`.

    Raises DatasetError naming the file for a list that is missing and for a split without a column.
    """
    rows = _read_rows(lists / "official.csv", splits)
    classes = _existing(lists / "classes.txt").read_text(encoding="utf-8").splitlines()
    entries = [Entry(row["video"], row["class"], row["group"]) for row in rows]
    parts = {split: {row["video"]: row[split] for row in rows} for split in splits}
    return Official(classes, entries, parts)


def _read_rows(path: Path, splits: Sequence[str]) -> list[dict[str, str]]:
    with open(_existing(path), encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or []
    missing = [split for split in splits if split not in columns[3:]]
    if missing:
        raise DatasetError(
            f"{path} has no column for {', '.join(missing)}, only {', '.join(columns[3:])}: ask for one of these, "
            "or raise `splits` of the generator and fetch the dataset again"
        )
    return rows


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DatasetError(f"{path} is missing: fetch the dataset again, which generates its videos and lists")
    return path
