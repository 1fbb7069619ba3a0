"""AVA (Gu et al., CVPR 2018) v2.1 and v2.2, and a user's own annotations in its form: see `reaction.data.ava`.

Wanted under the lists: one file of actions each for training and for test, told by `train` and by `val` or `test` in
their names, one label map, and perhaps files of excluded seconds, whose actions are left out. The official archives
ava_v2.{1,2}.zip have them all under their names. Proposals, frame lists and ActivityNet's label map of the 60 classes
that are evaluated may lie beside them. A video is in one part, and its classes are all that its actors do.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from reaction.data import ava
from reaction.data.boxes import Boxes
from reaction.data.datasets import DatasetError, Entry, Official

SPLIT = "split1"
PARTS = {"train": "train", "val": "test", "test": "test"}
OTHERS = re.compile(r"excluded|predicted|detection|proposal|box|frame|activitynet|included", re.IGNORECASE)


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """The annotated videos, in the order of their names, and the actions of the label map, in the order of numbers.

    Raises DatasetError for a file that is missing or there in several versions, a video in both parts, a line that
    cannot be right, and a split other than split1.
    """
    if others := [split for split in splits if split != SPLIT]:
        raise DatasetError(f"AVA has no {', '.join(others)}: write `splits: [{SPLIT}]` for it in params.yaml")
    names = ava.read_label_map(_label_map(Path(lists)))
    parts: dict[str, str] = {}
    done: dict[str, set[int]] = {}
    for part, actions in _read_parts(Path(lists), names).items():
        for video, action in zip(actions.video, actions.action.tolist(), strict=True):
            if parts.setdefault(video, part) != part:
                raise DatasetError(
                    f"{actions.path} has {video}, which is for {parts[video]} too: leave it in one of them"
                )
            done.setdefault(video, set()).add(action)
    entries = []
    for video in sorted(done):
        first, *also = (names[action] for action in sorted(done[video]))
        entries.append(Entry(video, first, video, tuple(also)))
    return Official([names[number] for number in sorted(names)], entries, {SPLIT: parts})


def read_boxes(lists: Path | str, classes: Sequence[str], sizes: Mapping[str, ava.Size]) -> dict[str, Boxes]:
    """Boxes of the videos in `sizes`, less those of excluded seconds, labelled by position in `classes`."""
    lists = Path(lists)
    names = ava.read_label_map(_label_map(lists))
    labels = {number: list(classes).index(name) for number, name in names.items() if name in classes}
    excluded = set().union(*(ava.read_excluded(path) for path in sorted(lists.rglob("*excluded*.csv"))))
    boxes: dict[str, Boxes] = {}
    for actions in _read_parts(lists, names).values():
        boxes |= ava.to_boxes(ava.without_excluded(actions, excluded), sizes, labels)
    return boxes


def _read_parts(lists: Path, names: Mapping[int, str]) -> dict[str, ava.Actions]:
    found: dict[str, list[Path]] = {"train": [], "test": []}
    for path in sorted(lists.rglob("*.csv")):
        if (told := re.search("train|val|test", path.name)) and not OTHERS.search(path.name):
            found[PARTS[told[0]]].append(path)
    train = _only_one(found["train"], lists, "file of actions for training, such as ava_train_v2.2.csv")
    test = _only_one(found["test"], lists, "file of actions for test, such as ava_val_v2.2.csv")
    ava.check_versions(_label_map(lists), train, test)
    return {"train": ava.read_actions(train, names), "test": ava.read_actions(test, names)}


def _label_map(lists: Path) -> Path:
    paths = [path for path in sorted(lists.rglob("*.pbtxt")) if not OTHERS.search(path.name)]
    return _only_one(paths, lists, "label map, such as ava_action_list_v2.2.pbtxt")


def _only_one(paths: Sequence[Path], lists: Path, what: str) -> Path:
    if len(paths) == 1:
        return paths[0]
    listed = ": " + ", ".join(map(str, paths)) if paths else ""
    raise DatasetError(f"{lists} has {len(paths)} instead of one {what}{listed}")
