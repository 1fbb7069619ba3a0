"""UCF101-24 (Soomro et al., 2012): 24 classes of UCF-101 whose actors have boxes, in the corrected annotations.

finalAnnots.mat (Singh et al., ICCV 2017, gurkirt/corrected-UCF101-Annots) has 3,194 videos, 4,458 tubes and 573,862
boxes; testlist01.txt, of UCF-101 or of YOWO, names the 910 of test, and the others are for training. There is no other
split. A video may have several tubes, two of them at a time, and most of its frames may have no box. UCF-101's list has
four more videos of these classes, which nobody annotated: they are left out.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.io import loadmat

from reaction.data.boxes import Boxes
from reaction.data.datasets import DatasetError, Entry, Official

BOX_FILE, TEST_FILE = "finalAnnots.mat", "testlist01.txt"
SIZE = (320, 240)  # of the frames that were annotated
SPLIT = "split1"
UNANNOTATED = 4  # videos of UCF-101's test list


def read_official(lists: Path | str, splits: Sequence[str]) -> Official:
    """The annotated videos; those of testlist01.txt are for test.

    Raises DatasetError when a file is missing or damaged, for another split than split1, and when the two files do not
    name the same videos.
    """
    if others := [split for split in splits if split != SPLIT]:
        raise DatasetError(f"UCF101-24 has no {', '.join(others)}: write `splits: [{SPLIT}]` for it in params.yaml")
    videos = [str(video["name"].item()) for video in _annotations(lists)]
    entries = [Entry(PurePosixPath(name).name, PurePosixPath(name).parent.name, _group(name)) for name in videos]
    classes = sorted({entry.class_name for entry in entries})
    test = set(_test_videos(Path(lists), classes))
    if len(strangers := sorted(test - {entry.video for entry in entries})) > UNANNOTATED:
        raise DatasetError(
            f"{TEST_FILE} names {strangers[0]} and {len(strangers) - 1} more without boxes in {BOX_FILE}: "
            "one of the two is of another version, fetch both again"
        )
    entries.sort(key=lambda entry: (classes.index(entry.class_name), entry.video))
    parts = {entry.video: "test" if entry.video in test else "train" for entry in entries}
    return Official(classes, entries, {SPLIT: parts})


def read_boxes(lists: Path | str, classes: Sequence[str]) -> dict[str, Boxes]:
    """Boxes of the videos whose class is in `classes`, labelled by position there, in frames of SIZE.

    The source counts frames from 1 and gives x, y, width and height, where x and x + width are the first and the last
    column, counted from 1: its authors' scripts cut them at 1 and 320 (`s8_resave_final_remove_last_frame_errors.m`),
    and over all boxes they reach both and lie never beyond. Hence x - 1, y - 1, x + width, y + height.
    """
    boxes = {}
    for video in _annotations(lists):
        name = PurePosixPath(str(video["name"].item()))
        if name.parent.name in classes:
            boxes[name.name] = _video_boxes(name, video["tubes"], list(classes).index(name.parent.name))
    return {video: one for video, one in boxes.items() if len(one)}


def _annotations(lists: Path | str) -> np.ndarray:
    path = _find(Path(lists), BOX_FILE)
    try:
        return loadmat(path)["annot"].ravel()
    except Exception as error:  # a damaged file raises nearly anything
        raise DatasetError(f"{path} is damaged or no {BOX_FILE} ({error!r}): delete it and fetch it again") from error


def _video_boxes(name: PurePosixPath, tubes: np.ndarray, label: int) -> Boxes:
    frames, boxes = [np.empty(0, np.int64)], [np.empty((0, 4), np.float32)]
    for tube in tubes.ravel():
        # Numbers are stored as narrow as they fit: x + width of two uint8 overflows.
        first, last = int(tube["sf"].item()), int(tube["ef"].item())
        corner, sides = np.split(tube["boxes"].astype(np.float32).reshape(-1, 4), 2, axis=1)
        if last - first + 1 != len(corner) or (sides <= 0).any():
            raise DatasetError(
                f"{BOX_FILE}: {name} has a tube of {len(corner)} boxes for frames {first} to {last}, or an empty box: "
                "delete the file and fetch it again"
            )
        frames.append(np.arange(first - 1, last))
        boxes.append(np.concatenate((corner - 1, corner + sides), axis=1))
    frame = np.concatenate(frames)
    tube = np.repeat(np.arange(len(frames) - 1), [len(one) for one in frames[1:]])
    return Boxes(frame, np.concatenate(boxes), np.full_like(frame, label), tube)


def _group(name: str) -> str:
    found = re.fullmatch(r"([^/]+)/v_\w+_(g\d+)_c\d+", name)
    if not found:
        raise DatasetError(f"{BOX_FILE}: expected <Class>/v_<Class>_gNN_cNN, got {name!r}")
    return f"{found[1]}_{found[2]}"


def _test_videos(lists: Path, classes: Sequence[str]) -> Iterator[str]:
    """The list of UCF-101 (all classes, with .avi) and that of YOWO (24 classes, without) say the same."""
    for line in _find(lists, TEST_FILE).read_text(encoding="utf-8").split():
        name = PurePosixPath(line)
        if name.parent.name in classes:
            yield name.name.removesuffix(".avi")


def _find(lists: Path, name: str) -> Path:
    found = sorted(lists.rglob(name))
    if not found:
        raise DatasetError(f"{lists} holds no {name}: fetch the dataset's lists again")
    return found[0]
