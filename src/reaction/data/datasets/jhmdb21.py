"""J-HMDB-21 (Jhuang et al., ICCV 2013): the split files of HMDB-51's form, and boxes of two sources.

Split files say 1 for training and 2 for test, and leave no clip out. JHMDB-GT.pkl (Kalogeiton et al., ICCV 2017), the
ACT detector's annotation, has one tube per clip, drawn around the annotated puppet. Where it is missing, the official
puppet masks give the boxes: `<class>/<clip>/puppet_mask.mat` of puppet_mask.zip.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from reaction.data.boxes import Boxes, load_pickle
from reaction.data.datasets import DatasetError, Official, hmdb51

BOX_FILE, MASK_FILE = "JHMDB-GT.pkl", "puppet_mask.mat"


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """As `hmdb51.read_official`: classes sorted by name, which is also the order of the labels in JHMDB-GT.pkl."""
    return hmdb51.read_official(lists, splits)


def has_boxes(lists: Path | str) -> bool:
    """Whether there is a source of boxes under `lists`."""
    return any(any(Path(lists).rglob(name)) for name in (BOX_FILE, MASK_FILE))


def read_boxes(lists: Path | str, classes: Sequence[str]) -> dict[str, Boxes]:
    """Boxes of the clips whose class is in `classes`, labelled by position there.

    The pickle counts frames from 1 and gives the first and last column and row that the actor covers, from 0: over
    all 31,852 boxes x1 and y1 go down to 0 and x2, y2 up to 319 and 239, never to 320 and 240, and its authors compute
    areas with (x2 - x1 + 1). We subtract 1 from frames and add 1 to x2 and y2.

    Raises DatasetError when the file is missing, holds executable content or is no such file.
    """
    found = sorted(Path(lists).rglob(BOX_FILE))
    if not found and has_boxes(lists):
        return _masked_boxes(Path(lists), classes)
    if not found:
        raise DatasetError(f"{lists} holds no {BOX_FILE}: fetch the dataset's lists again")
    content = load_pickle(found[0])
    try:
        names, tubes = content["labels"], content["gttubes"]
        clips = {key.rpartition("/")[2]: _clip_boxes(by_label, names, classes) for key, by_label in tubes.items()}
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise DatasetError(f"{found[0]} is not the ACT detector's annotation of J-HMDB: {error!r}") from error
    return {video: boxes for video, boxes in clips.items() if len(boxes.frame)}


def _clip_boxes(by_label: dict[int, list[Any]], names: Sequence[str], classes: Sequence[str]) -> Boxes:
    tubes = [(names[label], tube) for label, tubes in by_label.items() for tube in tubes if names[label] in classes]
    tables = [np.asarray(table, np.float32).reshape(-1, 5) for _, table in tubes]
    table = np.concatenate([np.empty((0, 5), np.float32), *tables])  # (N, 5): frame, x1, y1, x2, y2
    lengths = [len(table) for table in tables]
    return Boxes(
        frame=table[:, 0].astype(np.int64) - 1,
        box=table[:, 1:] + np.array([0, 0, 1, 1], np.float32),
        label=np.repeat(np.array([list(classes).index(name) for name, _ in tubes], np.int64), lengths),
        tube=np.repeat(np.arange(len(tubes), dtype=np.int64), lengths),
    )


def _masked_boxes(lists: Path, classes: Sequence[str]) -> dict[str, Boxes]:
    boxes = {}
    for path in sorted(lists.rglob(MASK_FILE)):
        clip, name = path.parent.name, path.parent.parent.name
        if name in classes:
            boxes[clip] = mask_boxes(_read_mask(path), list(classes).index(name))
    return {clip: one for clip, one in boxes.items() if len(one)}


def _read_mask(path: Path) -> np.ndarray:
    try:
        return loadmat(path)["part_mask"]
    except Exception as error:  # a damaged file raises nearly anything
        raise DatasetError(f"{path} is damaged or no puppet mask ({error!r}): fetch it again") from error


def mask_boxes(mask: np.ndarray, label: int) -> Boxes:
    """The box around all parts of the puppet in each frame of masks (H, W, T); frames without a part have none."""
    rows, columns = mask.any(axis=1), mask.any(axis=0)  # (H, T), (W, T)
    frame = np.flatnonzero(rows.any(axis=0))
    box = np.stack([one for seen in (columns, rows) for one in _extent(seen[:, frame])], axis=1)
    box = box[:, [0, 2, 1, 3]].astype(np.float32)  # x1, x2, y1, y2 to x1, y1, x2, y2
    return Boxes(frame, box, np.full_like(frame, label), np.zeros_like(frame))


def _extent(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First position that is seen and the one behind the last, of each column of (N, T)."""
    return seen.argmax(axis=0), len(seen) - seen[::-1].argmax(axis=0)
