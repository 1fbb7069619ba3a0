"""UCF-101 (Soomro et al., 2012): classInd.txt, trainlist0<n>.txt and testlist0<n>.txt, with CRLF line ends.

The class of a video is the folder in its path, spelled as in classInd.txt:
`HandstandPushups/v_HandStandPushups_g01_c01` is of class HandstandPushups, whatever its own name says.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from reaction.data.datasets import DatasetError, Entry, Official


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """Read the lists anywhere under `lists`; `splits` are named "split1" to "split3".

    A video's group is the number the organisers gave: 25 per class, and only within a class do equal numbers mean equal
    people and scenery, so `group` carries the class too (`Archery_g07`).

    Raises DatasetError when a list is missing, names an unknown class, or puts a video into both parts.
    """
    lists = Path(lists)
    classes = _read_classes(_find(lists, "classInd.txt"))
    spelling = {name.casefold(): name for name in classes}
    entries: dict[str, Entry] = {}
    parts: dict[str, dict[str, str]] = {}
    for split in splits:
        parts[split] = {}
        for part in ("train", "test"):
            for entry in _read_list(_find(lists, f"{part}list{int(split.removeprefix('split')):02d}.txt"), spelling):
                if entry.video in parts[split]:
                    raise DatasetError(f"{lists}: {split} lists {entry.video} twice")
                parts[split][entry.video] = part
                entries[entry.video] = entry
    order = sorted(entries.values(), key=lambda entry: (classes.index(entry.class_name), entry.video))
    return Official(classes, order, parts)


def _find(lists: Path, name: str) -> Path:
    found = sorted(lists.rglob(name))
    if not found:
        raise DatasetError(f"{lists} holds no {name}: fetch the dataset's lists again")
    return found[0]


def _read_classes(path: Path) -> list[str]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    matches = [re.fullmatch(r"\s*(\d+)\s+(\S+)\s*", line) for line in lines]
    if not all(matches):
        raise DatasetError(f"{path}: expected '<number> <Class>', got {lines[matches.index(None)].strip()!r}")
    return [match[2] for match in sorted(matches, key=lambda match: int(match[1]))]


def _read_list(path: Path, spelling: dict[str, str]) -> Iterator[Entry]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name = PurePosixPath(line.split()[0])
        class_name = spelling.get(name.parent.name.casefold())
        group = re.search(r"_(g\d+)_c\d+$", name.stem)
        if class_name is None or group is None:
            raise DatasetError(f"{path}:{number}: expected '<Class>/v_<Class>_gNN_cNN.avi', got {line.strip()!r}")
        yield Entry(name.stem, class_name, f"{class_name}_{group[1]}")
