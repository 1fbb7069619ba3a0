"""The index of a dataset: every official video decoded once, with labels, groups and splits.

Beside index.csv, splits/<split>.csv, classes.txt and perhaps boxes.h5 and spans.csv (when a video shows each of its
classes) it writes quarantine.csv (files left out, and why), warnings.csv (what was odd about files kept), official.json
(how many videos the official lists name per split and part, so that a number can say n of N) and sources.json (the
archives that the videos came from, by `fetch`).
"""

import csv
import importlib
import json
import os
import time
import unicodedata
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from multiprocessing import get_context, parent_process
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any

from reaction.data import boxes as annotation
from reaction.data import decode
from reaction.data.boxes import Boxes
from reaction.data.datasets import DatasetError, Entry, Official, ava, jhmdb21, ucf101_24
from reaction.files import atomic, read_json, write_json, write_text

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts"}
MISSING_SHOWN = 20
COUNTED = ("kinetics400",)  # layouts of so many videos that their frames are counted without decoding all of them
JOURNAL = ".inspected.jsonl"
ANNOTATED_SIZE = {"ucf101_24": ucf101_24.SIZE}  # where copies of other sizes go round


@dataclass(frozen=True)
class Video:
    """One row of index.csv.

    `path` is relative to the `videos` folder of the fetched dataset; `frames` were counted by decoding with `decoder`;
    `labels` are positions in classes.txt, from 0.
    """

    video: str
    path: str
    labels: tuple[int, ...]
    group: str
    frames: int
    fps: float
    width: int
    height: int
    sha256: str
    decoder: str


def read_index(folder: Path | str) -> list[Video]:
    """The decodable videos of the index in `folder`, in official order."""
    return [_parse_video(row) for row in _read_csv(Path(folder) / "index.csv")]


def _parse_video(row: dict[str, str]) -> Video:
    return Video(
        video=row["video"],
        path=row["path"],
        labels=tuple(int(label) for label in row["labels"].split("|")),
        group=row["group"],
        frames=int(row["frames"]),
        fps=float(row["fps"]),
        width=int(row["width"]),
        height=int(row["height"]),
        sha256=row["sha256"],
        decoder=row["decoder"],
    )


def read_split(folder: Path | str, split: str) -> dict[str, str]:
    """Part ("train", "test" or "unused") of each official video in `split`, those without a usable file included."""
    return {row["video"]: row["part"] for row in _read_csv(Path(folder) / "splits" / f"{split}.csv")}


def read_classes(folder: Path | str) -> list[str]:
    """Class names in official order: label k is the k-th, from 0."""
    return (Path(folder) / "classes.txt").read_text(encoding="utf-8").splitlines()


def part_videos(folder: Path | str, split: str, part: str) -> list[Video]:
    """The indexed videos that `split` puts into `part`, in official order."""
    parts = read_split(folder, split)
    return [video for video in read_index(folder) if parts.get(video.video) == part]


def read_spans(folder: Path | str) -> dict[str, list[tuple[int, float, float]]]:
    """Of each video with known times the labels, and from which second to which it shows each of them."""
    spans = defaultdict(list)
    for row in _read_csv(Path(folder) / "spans.csv"):
        spans[row["video"]].append((int(row["label"]), float(row["start"]), float(row["end"])))
    return dict(spans)


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing: run `reaction index` for this dataset first")
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class SourceFile:
    """One row of videos.csv: a file of the fetched dataset, `path` relative to its `videos` folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Rejected:
    """One row of quarantine.csv; `video` is empty for a file that no official list names."""

    video: str
    path: str
    reason: str


def build_index(folder: Path | str, threads: int = 1) -> None:
    """Write the index that `folder`/config.json describes, decoding on `threads` processes.

    Raises DatasetError when official lists cannot be read, when official videos are missing and the config does not
    allow it, and when no video can be decoded.
    """
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    config, source = frozen["config"], Path(frozen["inputs"]["videos"])
    (folder / "index.csv").unlink(missing_ok=True)  # written last: it says that all the others belong together
    official = read_official(config["layout"], source / "lists", config["splits"])
    kept = restrict(official, config["classes"])
    files = [SourceFile(row["path"], int(row["bytes"]), row["sha256"]) for row in _read_csv(source / "videos.csv")]
    found, rejected = match(official.entries, files)
    found = {entry.video: found[entry.video] for entry in kept.entries if entry.video in found}
    names = {entry.video for entry in kept.entries}
    rejected = [one for one in rejected if not one.video or one.video in names]
    _check_missing(kept, found, config, source)
    facts = _inspected(folder, config, found, source / "videos", threads)
    if (source / "sources.json").exists():  # not of generated videos
        write_json(folder / "sources.json", read_json(source / "sources.json"))
    videos = _videos(kept, found, facts)
    boxes = _read_boxes(config["layout"], source / "lists", kept, videos)
    warnings = [(one.video, one.path, facts[one.video].warning) for one in videos if facts[one.video].warning]
    if boxes is not None:
        boxes, changes = _fit_boxes(boxes, videos, kept, ANNOTATED_SIZE.get(config["layout"]))
        annotation.write_boxes(folder / "boxes.h5", boxes)
        warnings += changes
    failed = [_failed(video, found[video], reason) for video, reason in facts.items() if isinstance(reason, str)]
    _write_index(folder, kept, videos, rejected + failed, warnings)


def _inspected(
    folder: Path, config: dict[str, Any], found: Mapping[str, SourceFile], videos: Path, threads: int
) -> dict[str, decode.VideoFacts | str]:
    """`inspect_all` of the files found, less those that an index here had done when it was broken off."""
    known = _read_journal(folder / JOURNAL, found)
    paths = {video: videos / file.path for video, file in found.items() if video not in known}
    progress = _Progress(config["dataset"], len(paths))
    inspect = decode.count if config["layout"] in COUNTED else decode.inspect
    with open(folder / JOURNAL, "a", encoding="utf-8") as journal:

        def report(video: str, facts: decode.VideoFacts | str) -> None:
            if isinstance(facts, decode.VideoFacts):  # what failed may do better next time
                line = {"video": video, "sha256": found[video].sha256, "facts": asdict(facts)}
                journal.write(f"{json.dumps(line)}\n")
                journal.flush()
            progress()

        facts = known | inspect_all(paths, threads, inspect=inspect, report=report)
    return {video: facts[video] for video in found}


def _read_journal(path: Path, found: Mapping[str, SourceFile]) -> dict[str, decode.VideoFacts]:
    """What is already known of files that are still the same."""
    known = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # it was being written
        if line["video"] in found and found[line["video"]].sha256 == line["sha256"]:
            known[line["video"]] = decode.VideoFacts(**line["facts"])
    return known


def read_official(layout: str, lists: Path | str, splits: Sequence[str]) -> Official:
    """The official lists of the dataset that the module `reaction.data.datasets.<layout>` reads."""
    return importlib.import_module(f"reaction.data.datasets.{layout}").read_official(Path(lists), splits)


def restrict(official: Official, classes: Sequence[str] | None) -> Official:
    """Keep only the videos of `classes`, in official order whatever the order of `classes`; None keeps all."""
    if classes is None:
        return official
    if unknown := sorted(set(classes) - set(official.classes)):
        raise DatasetError(f"no class is called {', '.join(unknown)}; there are {', '.join(official.classes)}")
    entries = [entry for entry in official.entries if set(_classes(entry)) & set(classes)]
    names = {entry.video for entry in entries}
    splits = {
        split: {video: part for video, part in parts.items() if video in names}
        for split, parts in official.splits.items()
    }
    return Official([name for name in official.classes if name in classes], entries, splits)


def _classes(entry: Entry) -> tuple[str, ...]:
    return (entry.class_name, *entry.also)


def match(entries: Iterable[Entry], files: Iterable[SourceFile]) -> tuple[dict[str, SourceFile], list[Rejected]]:
    """The file of each official video, by its name without folder and extension; and the files that are of no use.

    Case and Unicode normalisation of names are ignored, since file systems and repackers change them. Of several files
    for one video one that is not empty is taken, then one that replaces a corrupt one (a folder `replacement...`), then
    the one in the folder of its class, then the one spelled as the lists do.
    """
    entry_of = _by_key(list(entries))
    candidates: dict[Entry, list[SourceFile]] = defaultdict(list)
    rejected = []
    for file in files:
        name = PurePosixPath(file.path)
        if name.suffix.lower() not in VIDEO_SUFFIXES:
            rejected.append(Rejected("", file.path, "not a video"))
        elif _key(name.stem) not in entry_of:
            rejected.append(Rejected("", file.path, "not in the official list"))
        else:
            candidates[entry_of[_key(name.stem)]].append(file)
    found = {}
    for entry, several in candidates.items():
        best, *others = sorted(several, key=lambda file: _rank(entry, file))
        found[entry.video] = best
        rejected += [Rejected(entry.video, file.path, f"duplicate of {best.path}") for file in others]
    return found, sorted(rejected, key=lambda one: one.path)


def _by_key(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The entries by name, and by those aliases that only one of them has."""
    entry_of: dict[str, Entry] = {}
    for entry in entries:
        if (other := entry_of.setdefault(_key(entry.video), entry)) is not entry:
            raise DatasetError(f"the official lists name both {other.video} and {entry.video}, equal but for case")
    aliases = Counter(_key(entry.alias) for entry in entries)
    for entry in entries:
        if entry.alias and aliases[_key(entry.alias)] == 1:
            entry_of.setdefault(_key(entry.alias), entry)
    return entry_of


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _rank(entry: Entry, file: SourceFile) -> tuple[bool, bool, bool, bool, str]:
    path = PurePosixPath(file.path)
    repairs = any(folder.startswith("replacement") for folder in path.parts[:-1])
    elsewhere = _key(path.parent.name) != _key(entry.class_name)
    return not file.bytes, not repairs, elsewhere, path.stem != entry.video, file.path


def _check_missing(official: Official, found: Mapping[str, SourceFile], config: dict[str, Any], source: Path) -> None:
    missing = [entry.video for entry in official.entries if entry.video not in found]
    if not missing or config["missing"] == "allow":
        return
    shown = "\n  ".join(missing[:MISSING_SHOWN]) + ("\n  ..." if len(missing) > MISSING_SHOWN else "")
    raise DatasetError(
        f"{len(missing)} of the {len(official.entries)} videos of the official lists are not under {source / 'videos'}:"
        f"\n  {shown}\nFetch the dataset again, or write in params.yaml\n\n"
        f"datasets:\n  {config['dataset']}:\n    missing: allow\n\nand every number will say of how many videos it is."
    )


def inspect_all(
    paths: Mapping[str, Path],
    threads: int,
    *,
    inspect: Callable[[Path], decode.VideoFacts] = decode.inspect,
    report: Callable[[str, decode.VideoFacts | str], None] = lambda video, facts: None,
) -> dict[str, decode.VideoFacts | str]:
    """Facts of each video, or the reason why there are none, found on `threads` processes; `report` is told each.

    Decoders are C code and crash on some damaged files. When one takes its process along, the videos that were being
    decoded are tried once more, each in a process of its own, and only those that crash again are given up.
    """
    results: dict[str, decode.VideoFacts | str] = {}
    waiting = deque(paths.items())
    while waiting:
        suspects = _inspect_until_crash(waiting, results, threads, inspect, report)
        for video, path in suspects:
            if _inspect_until_crash(deque([(video, path)]), results, 1, inspect, report):
                results[video] = "the decoder crashed on it"
                report(video, results[video])
    return {video: results[video] for video in paths}


def _inspect_until_crash(
    waiting: deque[tuple[str, Path]],
    results: dict[str, decode.VideoFacts | str],
    threads: int,
    inspect: Callable[[Path], decode.VideoFacts],
    report: Callable[[str, decode.VideoFacts | str], None],
) -> list[tuple[str, Path]]:
    """Move videos from `waiting` to `results`; return those under way when a process died, none if none did."""
    running: dict[Future, tuple[str, Path]] = {}
    with ProcessPoolExecutor(threads, mp_context=get_context("spawn"), initializer=_die_with_parent) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < 2 * threads:
                    running[pool.submit(_facts_or_reason, inspect, waiting[0][1])] = waiting[0]
                    waiting.popleft()
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    video, facts = running[done][0], done.result()
                    del running[done]  # and not before: what a crash interrupts is tried again
                    results[video] = facts
                    report(video, facts)
        except BrokenProcessPool:
            return list(running.values())
    return []


def _die_with_parent() -> None:
    """A killed job's pool would wait for work for ever: a worker holds the pipe it waits on open itself."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _facts_or_reason(inspect: Callable[[Path], decode.VideoFacts], path: Path) -> decode.VideoFacts | str:
    try:
        return inspect(path)
    except Exception as error:  # whatever is wrong with one video must not cost the other thousands
        return str(error).removeprefix(f"{path}: ") or type(error).__name__


def _read_boxes(layout: str, lists: Path, official: Official, videos: Iterable[Video]) -> dict[str, Boxes] | None:
    match layout:
        case "jhmdb21":
            return jhmdb21.read_boxes(lists, official.classes) if jhmdb21.has_boxes(lists) else None
        case "ucf101_24":
            return ucf101_24.read_boxes(lists, official.classes)
        case "ava":
            return ava.read_boxes(lists, official.classes, {video.video: video for video in videos})
        case "synthetic":
            labels = {entry.video: official.classes.index(entry.class_name) for entry in official.entries}
            return annotation.read_boxes_csv(lists / "boxes.csv", labels)
    return None


def _videos(
    official: Official, found: Mapping[str, SourceFile], facts: Mapping[str, decode.VideoFacts | str]
) -> list[Video]:
    videos = [_video(official, e, found[e.video], facts[e.video]) for e in official.entries if _decoded(facts, e)]
    if not videos:
        reason = next(iter(facts.values()), "there is none")
        raise DatasetError(f"none of {len(official.entries)} videos can be decoded, for reasons such as: {reason}")
    return videos


def _write_index(
    folder: Path,
    official: Official,
    videos: list[Video],
    rejected: list[Rejected],
    warnings: list[tuple[str, str, str]],
) -> None:
    _write_csv(folder / "quarantine.csv", ("video", "path", "reason"), [asdict(one).values() for one in rejected])
    _write_csv(folder / "warnings.csv", ("video", "path", "warning"), warnings)
    for split, parts in official.splits.items():
        rows = [(entry.video, parts[entry.video]) for entry in official.entries if entry.video in parts]
        _write_csv(folder / "splits" / f"{split}.csv", ("video", "part"), rows)
    write_json(folder / "official.json", {split: Counter(parts.values()) for split, parts in official.splits.items()})
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in official.classes))
    if spans := list(_spans(official)):
        _write_csv(folder / "spans.csv", ("video", "label", "start", "end"), spans)
    _write_csv(folder / "index.csv", [field.name for field in fields(Video)], map(_row, videos))
    (folder / JOURNAL).unlink()


def _spans(official: Official) -> Iterator[tuple[str, int, float, float]]:
    for entry in official.entries:
        for span in entry.spans:
            if span.class_name in official.classes:
                yield entry.video, official.classes.index(span.class_name), span.start, span.end


def _decoded(facts: Mapping[str, decode.VideoFacts | str], entry: Entry) -> bool:
    return isinstance(facts.get(entry.video), decode.VideoFacts)


def _failed(video: str, file: SourceFile, reason: str) -> Rejected:
    return Rejected(video, file.path, reason if file.bytes else "empty file")


def _video(official: Official, entry: Entry, file: SourceFile, facts: decode.VideoFacts) -> Video:
    return Video(
        video=entry.video,
        path=file.path,
        labels=tuple(official.classes.index(name) for name in _classes(entry) if name in official.classes),
        group=entry.group,
        frames=facts.frames,
        fps=facts.fps,
        width=facts.width,
        height=facts.height,
        sha256=file.sha256,
        decoder=facts.decoder,
    )


def _fit_boxes(
    boxes: Mapping[str, Boxes], videos: Iterable[Video], official: Official, annotated: tuple[int, int] | None
) -> tuple[dict[str, Boxes], list[tuple[str, str, str]]]:
    """Boxes of the indexed videos, checked, without those of frames a video does not have, and in its own size.

    And a warning for each video whose boxes were changed. `annotated` is the size they were drawn on, where it may be
    another than a user's copy has.
    """
    fitted, warnings = {}, []
    for video in videos:
        if video.video not in boxes:
            continue
        one, size = boxes[video.video].before(video.frames), (video.width, video.height)
        if lost := len(boxes[video.video]) - len(one):
            text = f"{lost} boxes lie behind its last frame ({video.frames} frames) and were cut off"
            warnings.append((video.video, video.path, text))
        if annotated and annotated != size:
            one = one.resized(annotated, size)
            text = f"boxes were drawn on {annotated[0]} x {annotated[1]} pixels and scaled to {size[0]} x {size[1]}"
            warnings.append((video.video, video.path, text))
        annotation.check(video.video, one, width=video.width, height=video.height, classes=len(official.classes))
        fitted[video.video] = one
    return fitted, warnings


def _row(video: Video) -> list[Any]:
    return list(asdict(replace(video, labels="|".join(map(str, video.labels)))).values())


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with atomic(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


class _Progress:
    """Called once per video; prints a line every few seconds and at the end."""

    def __init__(self, dataset: str, total: int, every: float = 5.0) -> None:
        self.dataset, self.total, self.every, self.done = dataset, total, every, 0
        self.began = self.told = time.monotonic()

    def __call__(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.told >= self.every or self.done == self.total:
            self.told = now
            rate = self.done / max(now - self.began, 1e-3)
            left = (self.total - self.done) / rate
            print(
                f"index: {self.dataset}: {self.done}/{self.total} videos, {rate:.1f}/s, {left:.0f} s left", flush=True
            )
