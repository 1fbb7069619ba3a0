"""Charades (Sigurdsson et al., ECCV 2016, arXiv:1604.01753): 9,848 videos of people at home, 157 actions, many at once.

Wanted under the lists: Charades_v1_train.csv and Charades_v1_test.csv, one row per video, and Charades_v1_classes.txt,
all of Charades.zip. The test list, 1,863 videos, is what everybody calls the validation list: of the challenge's own
test no actions are public. Columns of use: id, subject (who is filmed, the group) and actions, `c092 11.90 21.20;...`:
class and seconds. A video's classes are those of all its actions.

Videos without any action are left out. In the official measure (Charades_v1_classify.m) they come behind all others,
so that without them the numbers are the same; in training there is nothing that they are said to show.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from reaction.data.datasets import DatasetError, Entry, Official, Span

CLASSES = "Charades_v1_classes.txt"
LISTS = {"train": "Charades_v1_train.csv", "test": "Charades_v1_test.csv"}
COLUMNS = ("id", "subject", "actions")
SPLIT = "split1"


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """The videos with actions, those for training first, each list in its own order; classes in official order.

    Raises DatasetError for a file that is missing, a line that cannot be right, a video in both lists, and a split
    other than split1.
    """
    if others := [split for split in splits if split != SPLIT]:
        raise DatasetError(
            f"Charades has no {', '.join(others)}: write `splits: [{SPLIT.removeprefix('split')}]` for it"
        )
    lists = Path(lists)
    classes = _read_classes(_find(lists, CLASSES))
    entries, parts = [], {}
    for part, name in LISTS.items():
        for entry in _read(_find(lists, name), classes):
            if entry.video in parts:
                raise DatasetError(f"{name} names {entry.video} a second time: fetch the dataset's lists again")
            parts[entry.video] = part
            entries.append(entry)
    return Official(classes, entries, {SPLIT: parts})


def _read_classes(path: Path) -> list[str]:
    """Names by number: lines are `c000 Holding some clothes`, from c000 on."""
    lines = path.read_text(encoding="utf-8").splitlines()
    classes = []
    for line in filter(str.strip, lines):
        code, _, name = line.strip().partition(" ")
        if code != f"c{len(classes):03d}" or not name or name in classes:
            raise DatasetError(f"{path}: expected c{len(classes):03d} and a name of its own, got {line!r}")
        classes.append(name)
    return classes


def _read(path: Path, classes: Sequence[str]) -> list[Entry]:
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise DatasetError(f"{path} has no column {missing[0]!r}: get the list that has {', '.join(COLUMNS)}")
        return [_entry(path, row, classes) for row in reader if row["actions"].strip()]


def _entry(path: Path, row: dict[str, str], classes: Sequence[str]) -> Entry:
    spans = tuple(_span(path, row["id"], action, classes) for action in row["actions"].split(";"))
    first, *also = sorted({span.class_name for span in spans}, key=classes.index)
    return Entry(row["id"], first, row["subject"], tuple(also), spans=spans)


def _span(path: Path, video: str, action: str, classes: Sequence[str]) -> Span:
    found = re.fullmatch(r"c(\d{3}) (\d+(?:\.\d+)?) (\d+(?:\.\d+)?)", action.strip())
    if not found or int(found[1]) >= len(classes):
        raise DatasetError(
            f"{path}: {video} has the action {action!r}, not one of c000 to c{len(classes) - 1:03d} with its seconds"
        )
    return Span(classes[int(found[1])], float(found[2]), float(found[3]))


def _find(lists: Path, name: str) -> Path:
    found = sorted(lists.rglob(name))
    if not found:
        raise DatasetError(f"{lists} holds no {name}: fetch the dataset's lists again")
    return found[0]
