"""HMDB-51 (Kuehne et al., ICCV 2011): `<class>_test_split<n>.txt`, one line per clip: `<name>.avi <part>`.

Three things of the official files are not as one would guess:

- Part 0 is a clip that the split leaves out: each class has 70 training and 30 test clips in a split.
- No clip name occurs in two classes (6,766 names, also when case is ignored), so a name alone identifies a clip.
- Some copies bring a class_list.txt. It names the same classes in another order (`kick_ball` before `kick`). We sort
  the names of the split files instead, so that labels are the same with any copy of the lists, and the same as in
  public label maps.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from reaction.data.datasets import DatasetError, Entry, Official

PARTS = {"0": "unused", "1": "train", "2": "test"}


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """Read the split files anywhere under `lists`; `splits` are named "split1" to "split3".

    A clip's group is the film it was cut from, the part of its name before `_<class>_`. Clips of one film may belong to
    several classes.

    Raises DatasetError when a class has no list for a split, a clip is listed twice, or a line cannot be read.
    """
    files = {split: _find_lists(Path(lists), split) for split in splits}
    classes = sorted({name for found in files.values() for name in found})
    parts = {split: _read_split(files[split], classes, split) for split in splits}
    class_of = {video: name for listed in parts.values() for video, (name, _) in listed.items()}
    entries = [Entry(video, name, source_film(video, name)) for video, name in class_of.items()]
    entries.sort(key=lambda entry: (classes.index(entry.class_name), entry.video))
    named = {split: {video: part for video, (_, part) in listed.items()} for split, listed in parts.items()}
    return Official(classes, entries, named)


def source_film(video: str, class_name: str) -> str:
    """`TrumanShow` of `TrumanShow_wave_f_nm_np1_fr_med_26`. The last occurrence counts: titles name actions too."""
    film, found, _ = video.rpartition(f"_{class_name}_")
    if not found:
        raise DatasetError(f"{video} does not contain its class {class_name}: the film it comes from cannot be told")
    return film


def _find_lists(lists: Path, split: str) -> dict[str, Path]:
    number = split.removeprefix("split")
    pattern = re.compile(rf"([^.].*)_test_split{re.escape(number)}\.txt")  # macOS packs a ._<name> beside each file
    matches = ((pattern.fullmatch(path.name), path) for path in sorted(lists.rglob("*.txt")))
    files = {match[1]: path for match, path in matches if match}
    if not files:
        raise DatasetError(f"{lists} holds no <class>_test_split{number}.txt: fetch the dataset's lists again")
    return files


def _read_split(files: dict[str, Path], classes: Sequence[str], split: str) -> dict[str, tuple[str, str]]:
    listed: dict[str, tuple[str, str]] = {}
    for class_name in classes:
        if class_name not in files:
            raise DatasetError(f"class {class_name} has no list for {split}: fetch the dataset's lists again")
        for video, part in _read_list(files[class_name]):
            if video in listed:
                raise DatasetError(f"{files[class_name]} lists {video} again, already listed in {listed[video][0]}")
            listed[video] = (class_name, part)
    return listed


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, part = line.strip().rpartition(" ")
        if part not in PARTS or not name:
            raise DatasetError(f"{path}:{number}: expected '<name>.avi 0|1|2', got {line!r}")
        yield Path(name.strip()).stem, PARTS[part]
