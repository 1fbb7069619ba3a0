"""Kinetics-400 (Kay et al., arXiv:1705.06950): train.csv, val.csv and test.csv, one row per clip of a YouTube video.

Columns: label, youtube_id, time_start, time_end, split, and in some copies is_cc. The lists name 246,534, 19,906 and
39,805 clips; videos vanish from YouTube, so nobody has them all. split1 is tested on the validation list, as nearly
everybody's numbers are, and split2 on the test list, as those of Carreira & Zisserman (CVPR 2017). The test list was
first given out without labels; the present one has them.

A clip's file is called <youtube_id>_<time_start>_<time_end> with six digits each, or by its id alone, which is as good:
no id is listed twice. Every clip is a group of its own.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from reaction.data.datasets import DatasetError, Entry, Official

LISTS = {"train": ("train",), "val": ("val", "validate"), "test": ("test",)}
TESTED = {"split1": "val", "split2": "test"}  # the list that is "test" to the rest of the project
COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """Read the lists anywhere under `lists`, also as kinetics_train.csv; those that no split needs may be missing.

    Classes are sorted by name. Raises DatasetError, which names the file, for a list that is missing, has no labels or
    has a class that nobody trains on, and for a split that there is not.
    """
    lists = Path(lists)
    if unknown := sorted(set(splits) - set(TESTED)):
        raise DatasetError(f"Kinetics-400 has no {unknown[0]}, only {', '.join(TESTED)}: correct `splits:`")
    train = _read(lists, "train")
    classes = sorted({entry.class_name for entry in train})
    entries = {entry.video: entry for entry in train}
    parts = {}
    for split in splits:
        tested = _read(lists, TESTED[split])
        if strange := sorted({entry.class_name for entry in tested} - set(classes)):
            raise DatasetError(f"{_find(lists, TESTED[split])}: no training clip is of class {strange[0]!r}")
        entries |= {entry.video: entry for entry in tested}
        parts[split] = {entry.video: "train" for entry in train} | {entry.video: "test" for entry in tested}
    label = {name: place for place, name in enumerate(classes)}
    order = sorted(entries.values(), key=lambda entry: (label[entry.class_name], entry.video))
    return Official(classes, order, parts)


def _find(lists: Path, part: str) -> Path:
    names = [f"{prefix}{name}.csv" for prefix in ("", "kinetics_", "kinetics400_") for name in LISTS[part]]
    for name in names:
        if found := sorted(lists.rglob(name)):
            return found[0]
    raise DatasetError(f"{lists} holds none of {', '.join(names)}: fetch the dataset's lists again")


def _read(lists: Path, part: str) -> list[Entry]:
    path = _find(lists, part)
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise DatasetError(f"{path} has no column {missing[0]!r}: get the list that has {', '.join(COLUMNS)}")
        return [_entry(path, row, line) for line, row in enumerate(reader, start=2)]


def _entry(path: Path, row: dict[str, str], line: int) -> Entry:
    try:
        times = [int(float(row[key])) for key in ("time_start", "time_end")]
    except (TypeError, ValueError):
        raise DatasetError(f"{path}:{line}: {row['time_start']!r} and {row['time_end']!r} are no seconds") from None
    video = f"{row['youtube_id']}_{times[0]:06d}_{times[1]:06d}"
    return Entry(video, row["label"], row["youtube_id"], alias=row["youtube_id"])
