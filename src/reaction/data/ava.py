"""AVA (Gu et al., CVPR 2018, https://arxiv.org/abs/1705.08421) and annotations in its form: one second, one actor, one
action a line.

- Actions: `video,second,x1,y1,x2,y2,action,person` without a header, corners as fractions of the frame, actions
  numbered from 1 as in the label map; an actor who does three things has three lines. ava_{train,val}_v2.{1,2}.csv.
- Label map: a .pbtxt of `item` or `label` blocks; the official files come in both.
- Excluded seconds: `video,second`.
- Proposals, boxes that a person detector found: lines `video,second,x1,y1,x2,y2,action or nothing,score` as SlowFast
  reads them, or a pickle of `"video,second"` to an array (N, 5) as mmaction2 does.

A line that cannot be right, from labels counted from 0 to pixels for fractions, is an error that names it and what to
do: read as they are, such files train a network whose loss falls and whose mAP stays 0.
"""

import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from reaction.data.boxes import Boxes, load_pickle
from reaction.data.datasets import DatasetError

FPS, START = 30, 900  # AVA's frames, and the second of the film at which they begin
BEYOND = 0.01  # how far outside of the frame rounding may put a corner
UNMATCHED = 0.05  # part of the annotated seconds for which a detector may have found nobody


@dataclass(frozen=True)
class Actions:
    """The lines of a file of actions, N in all.

    video: text (N,). second: int64 (N,). box: float32 (N, 4), x1, y1, x2, y2 as fractions. action: int64 (N,), from 1.
    person: int64 (N,), -1 where the file does not say. line: int64 (N,), from 1.
    """

    path: Path
    video: np.ndarray
    second: np.ndarray
    box: np.ndarray
    action: np.ndarray
    person: np.ndarray
    line: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def where(self, kept: np.ndarray) -> "Actions":
        """Those of the lines for which `kept` (N,) holds."""
        columns = (self.video, self.second, self.box, self.action, self.person, self.line)
        return Actions(self.path, *(column[kept] for column in columns))


def key_frame(second: float, *, fps: float = FPS, start: float = START) -> int:
    """The frame, from 0, of a video that begins at second `start`: (second - 900) x 30 for the official frames."""
    return round((second - start) * fps)


def read_label_map(path: Path | str) -> dict[int, str]:
    """Names of actions by number, from 1, of a .pbtxt."""
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    names: dict[int, str] = {}
    for block in re.findall(r"(?:item|label)\s*\{([^}]*)\}", text):
        name, number = re.search(r'name:\s*"([^"]*)"', block), re.search(r"\b(?:label_)?id:\s*(\d+)", block)
        if not name or not number or int(number[1]) in names:
            raise DatasetError(f"{path}: expected a name and a number of its own in {{{block.strip()}}}")
        names[int(number[1])] = name[1]
    if not names:
        raise DatasetError(f'{path} has no block such as item {{ name: "sit" id: 11 }}: is it a label map?')
    if 0 in names:
        raise DatasetError(f"{path}: {names[0]!r} has number 0; actions are numbered from 1, 0 is the background")
    return names


def read_actions(path: Path | str, names: Mapping[int, str]) -> Actions:
    """The checked lines of a file of actions, whose numbers are those of the label map `names`.

    Raises DatasetError naming the first line that has too few columns, no numbers, pixels for fractions, corners in
    another order or outside of the frame, or an action that `names` does not have.
    """
    path = Path(path)
    rows = list(_lines(path, (7, 8), "video,second,x1,y1,x2,y2,action,person"))
    actions = Actions(
        path=path,
        video=np.array([row[0] for _, row in rows], dtype=object),
        second=_column(path, rows, 1, "second").astype(np.int64),
        box=_corners(path, rows),
        action=_column(path, rows, 6, "action").astype(np.int64),
        person=np.array([int(row[7]) if len(row) > 7 and row[7].strip() else -1 for _, row in rows], np.int64),
        line=np.array([number for number, _ in rows], np.int64),
    )
    _check_numbers(actions, names)
    return actions


def read_excluded(path: Path | str) -> set[tuple[str, int]]:
    """Videos and seconds that annotators found unfit, as (video, second)."""
    return {(row[0], int(row[1])) for _, row in _lines(Path(path), (2,), "video,second")}


def without_excluded(actions: Actions, excluded: Collection[tuple[str, int]]) -> Actions:
    """The lines whose second is not excluded."""
    keys = zip(actions.video, actions.second.tolist(), strict=True)
    return actions.where(np.array([key not in excluded for key in keys], bool))


def read_proposals(path: Path | str) -> dict[tuple[str, int], np.ndarray]:
    """Boxes of a person detector by (video, second): float32 (N, 5), x1, y1, x2, y2 as fractions, and score.

    Reads the lines that SlowFast does from a .csv, and mmaction2's .pkl through a restricted unpickler; an array
    without scores gets 1. Raises DatasetError naming the line or key of boxes that cannot be right.
    """
    path = Path(path)
    return _pickled_proposals(path) if path.suffix == ".pkl" else _listed_proposals(path)


def check_proposals(proposals: Mapping[tuple[str, int], np.ndarray], path: Path | str, actions: Actions) -> None:
    """Raise DatasetError when a file of proposals is of another version or part of the dataset than `actions`.

    Names that tell a version (v2.1, v2.2) have to tell the same one, and nineteen in twenty of the annotated seconds
    need a proposal.
    """
    check_versions(actions.path, path)
    wanted = set(zip(actions.video, actions.second.tolist(), strict=True))
    lacking = sorted(wanted - proposals.keys())
    if len(lacking) > UNMATCHED * len(wanted):
        video, second = lacking[0]
        raise DatasetError(
            f"{path} has boxes for {len(wanted) - len(lacking)} of the {len(wanted)} seconds of {actions.path}, "
            f"none for {video} at {second}: give the proposals of the same part and version"
        )


def check_versions(*paths: Path | str) -> None:
    """Raise DatasetError when the names of files tell different versions of the annotations."""
    found = {str(path): re.search(r"v(\d\.\d)", Path(path).name) for path in paths}
    told = {path: match[1] for path, match in found.items() if match}
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{path} is v{version}" for path, version in told.items())
        raise DatasetError(f"{listed}: boxes, actions and label map have to be of one version")


class Size(Protocol):
    """Of a decoded video: frames, frames a second, pixels."""

    frames: int
    fps: float
    width: int
    height: int


def to_boxes(actions: Actions, sizes: Mapping[str, Size], labels: Mapping[int, int]) -> dict[str, Boxes]:
    """Boxes in pixels on key frames, for the videos in `sizes` and the actions in `labels` (number to position).

    An actor has a row for each of his actions, `tube` being the person. Where the file names no persons, lines of one
    second with the same box are one. A video that holds the last of its seconds begins at 0; one too short for it was
    cut out of a film at 900, as AVA's frames are. Raises DatasetError naming the line of a frame that there is not.
    """
    boxes = {}
    actions = actions.where(np.isin(actions.action, list(labels)))
    for video, rows in _by_video(actions):
        if video in sizes:
            size, mine = sizes[video], actions.where(rows)
            scale = np.array([size.width, size.height] * 2, np.float32)
            label = np.array([labels[action] for action in mine.action.tolist()], np.int64)
            boxes[video] = Boxes(_key_frames(mine, size), mine.box.clip(0, 1) * scale, label, _persons(mine))
    return boxes


def _by_video(actions: Actions) -> Iterator[tuple[str, np.ndarray]]:
    rows: dict[str, list[int]] = {}
    for n, video in enumerate(actions.video):
        rows.setdefault(video, []).append(n)
    return ((video, np.array(lines)) for video, lines in rows.items())


def _key_frames(actions: Actions, size: Size) -> np.ndarray:
    last = key_frame(int(actions.second.max()), fps=size.fps, start=0)
    start = 0 if last < size.frames else START
    frames = np.array([key_frame(second, fps=size.fps, start=start) for second in actions.second.tolist()], np.int64)
    bad = (frames < 0) | (frames >= size.frames)
    if bad.any():
        n = int(bad.argmax())
        raise DatasetError(
            f"{actions.path}:{actions.line[n]}: second {actions.second[n]} of {actions.video[n]} is frame {frames[n]} "
            f"counted from second {start}, of a video of {size.frames}: does the second column count frames, or was "
            "the video cut elsewhere than at second 900? It has to begin at 0 or there"
        )
    return frames


def _persons(actions: Actions) -> np.ndarray:
    if (actions.person >= 0).all():
        return actions.person
    seen: dict[tuple, int] = {}
    keys = zip(actions.second.tolist(), map(tuple, actions.box.tolist()), strict=True)
    return np.array([seen.setdefault(key, len(seen)) for key in keys], np.int64)


def _lines(path: Path, columns: Collection[int], form: str) -> Iterator[tuple[int, list[str]]]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing: fetch the dataset's lists again")
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if row and len(row) not in columns:
                raise DatasetError(f"{path}:{reader.line_num}: expected {form}, got {','.join(row)!r}")
            if row:
                yield reader.line_num, row


def _column(path: Path, rows: list[tuple[int, list[str]]], position: int, what: str) -> np.ndarray:
    """Numbers (N,), float64, of one column; the first line without one is an error."""
    try:
        return np.array([float(row[position]) for _, row in rows])
    except ValueError:
        number, row = next((number, row) for number, row in rows if not _is_number(row[position]))
        header = "; leave out the header" if number == 1 else ""
        raise DatasetError(f"{path}:{number}: {row[position]!r} is no {what}{header}") from None


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text))
    except ValueError:
        return False


def _corners(path: Path, rows: list[tuple[int, list[str]]]) -> np.ndarray:
    box = np.stack([_column(path, rows, k, "coordinate") for k in (2, 3, 4, 5)], axis=1).astype(np.float32)
    _check_boxes(box, lambda n: f"{path}:{rows[n][0]}")
    return box


def _check_boxes(box: np.ndarray, place: Callable[[int], str]) -> None:
    """Raise DatasetError, with the `place` of the first of the boxes (N, 4) that is no box of fractions."""
    problems = (
        (box.max(axis=1, initial=0) > 2, "corners are fractions of the frame, not pixels: divide by width and height"),
        (~np.isfinite(box).all(axis=1), "that is no box: remove the line"),
        (
            (box[:, 2] < box[:, 0]) | (box[:, 3] < box[:, 1]),
            "the order is x1, y1, x2, y2, and 1 lies left of and above 2",
        ),
        ((box < -BEYOND).any(axis=1) | (box > 1 + BEYOND).any(axis=1), "it lies outside of the frame, [0, 1]: cut it"),
    )
    for bad, fix in problems:
        if bad.any():
            n = int(bad.argmax())
            raise DatasetError(f"{place(n)}: box {', '.join(f'{value:g}' for value in box[n])}: {fix}")


def _check_numbers(actions: Actions, names: Mapping[int, str]) -> None:
    unknown = ~np.isin(actions.action, list(names))
    if not unknown.any():
        return
    zero = actions.action == 0
    n = int((zero if zero.any() else unknown).argmax())
    fix = "actions are numbered from 1: add 1 to all of them" if zero.any() else "is it of another version?"
    raise DatasetError(
        f"{actions.path}:{actions.line[n]}: action {actions.action[n]} is not in the label map, which has {len(names)} "
        f"from {min(names)} to {max(names)}; {fix}"
    )


def _listed_proposals(path: Path) -> dict[tuple[str, int], np.ndarray]:
    rows = list(_lines(path, (8,), "video,second,x1,y1,x2,y2,action or nothing,score"))
    score = _column(path, rows, 7, "score")
    table = np.concatenate((_corners(path, rows), score[:, None]), axis=1).astype(np.float32)  # (N, 5)
    second = _column(path, rows, 1, "second").astype(np.int64)
    found: dict[tuple[str, int], list[int]] = {}
    for n, (_, row) in enumerate(rows):
        found.setdefault((row[0], int(second[n])), []).append(n)
    # A file that has actions too repeats a box for each of them.
    return {key: table[lines][_firsts(table[lines])] for key, lines in found.items()}


def _firsts(table: np.ndarray) -> np.ndarray:
    """Positions of the rows that no row before equals."""
    return np.sort(np.unique(table, axis=0, return_index=True)[1])


def _pickled_proposals(path: Path) -> dict[tuple[str, int], np.ndarray]:
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds a {type(content).__name__}, not arrays by 'video,second'")
    proposals = {}
    for key, value in content.items():
        video, _, second = str(key).rpartition(",")
        table = np.asarray(value, np.float32)
        if not video or not second.isdigit() or table.ndim != 2 or table.shape[1] not in (4, 5):
            raise DatasetError(f"{path}: expected (N, 5) under 'video,second', got {table.shape} under {key!r}")
        _check_boxes(table[:, :4], lambda n, key=key: f"{path}: {key!r}, box {n}")
        scores = np.ones((len(table), 5 - table.shape[1]), np.float32)
        proposals[video, int(second)] = np.concatenate((table, scores), axis=1)
    return proposals
