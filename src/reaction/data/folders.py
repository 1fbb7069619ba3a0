"""Folders that stand for an archive: of clips, of further archives, or of the parts that a server keeps one by one."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from reaction.data.download import download
from reaction.data.unpack import unpack

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip", ".rar")


def take_folder(source: Path | str, destination: Path | str) -> None:
    """Bring the files of a folder to another; archives among them are unpacked into folders of their names.

    Files become hard links where the file system can, since clips of Kinetics fill a disk once and not twice, and
    copies elsewhere. Raises UnpackError for an archive that cannot be unpacked.
    """
    source, destination = Path(source), Path(destination)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        target = destination / path.relative_to(source)
        if stem := _archive_stem(path.name):
            unpack(path, target.with_name(stem))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)


def _archive_stem(name: str) -> str:
    """The name without its ending; empty for what is no archive."""
    ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending)), "")
    return name[: -len(ending)] if ending else ""


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)


def download_parts(urls: Sequence[str], folder: Path | str) -> Path:
    """Download all of `urls` into `folder`, which is there when they all are; parts that came earlier are not repeated.

    Raises FetchError, as `download` does, for the first that cannot be had.
    """
    folder = Path(folder)
    waiting = folder.with_name(f"{folder.name}.parts")
    for place, url in enumerate(urls, start=1):
        target = waiting / Path(urlsplit(url).path).name
        if not target.exists():
            print(f"fetch: {folder.name}: part {place} of {len(urls)}", flush=True)
            download(url, target)
    waiting.rename(folder)
    return folder


def expand(url: str) -> list[str]:
    """The URLs that one with braces stands for, each once: `{0..3}` counts, `{a,b}` lists, one may hold the other.

    A URL without braces stands for itself.
    """
    innermost = re.search(r"\{([^{}]*)\}", url)
    if innermost is None:
        return [url]
    before, after = url[: innermost.start()], url[innermost.end() :]
    if counted := re.fullmatch(r"(\d+)\.\.(\d+)", innermost[1]):
        inside = [str(k) for k in range(int(counted[1]), int(counted[2]) + 1)]
    else:
        inside = innermost[1].split(",")
    return list(dict.fromkeys(url for one in inside for url in expand(f"{before}{one}{after}")))
