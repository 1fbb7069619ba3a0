"""Files that are absent or whole: atomic writes, canonical JSON, digests."""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` when the block ends, and vanishes when the block raises.

    The temporary file has the same name in a temporary folder beside its place: `torch.save` puts the file's name into
    its bytes, and a rename is atomic only within one file system. What a killed writer of `path` left behind is removed
    by the next one; several may write at the same time, and the last one wins.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".writing-{path.name}-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        _remove_if_abandoned(leftover)
    folder, lock = _locked_folder(path.parent, prefix)
    try:
        partial = folder / path.name
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """A new folder, and the lock that says its writer is alive: the system drops it with the process, however it ends.

    Another writer may take the folder for abandoned before it is locked; then there is a next one.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks, where nothing is ever taken for abandoned
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
            os.close(lock)


def _remove_if_abandoned(folder: Path) -> None:
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def _flush(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def write_text(path: Path | str, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def canonical_json(value: Any) -> str:
    """The same text for the same value: sorted keys, no spaces, no NaN. What artifact hashes are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
