"""Gets a dataset's archives from the user, a mirror or the internet, and unpacks them."""

import csv
import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

from reaction.data.download import FetchError, check_content, download
from reaction.data.folders import download_parts, expand, take_folder
from reaction.data.unpack import archive_kind, unpack
from reaction.files import atomic, canonical_json, read_json, sha256, write_json


@dataclass(frozen=True)
class Archive:
    """One archive to get, or a folder in place of one; the keys of an entry under `archives:` in params.yaml.

    `bytes` and `sha256` are those of the file called `name`. A URL may carry its own digest as `#sha256=...`, for a
    copy packed in another way. One with braces stands for the files of a folder: see `reaction.data.folders.expand`.
    """

    name: str
    page: str
    urls: Sequence[str] = ()
    alternates: Sequence[str] = ()
    bytes: int | None = None
    sha256: str | None = None
    into: str = "videos"

    def expected(self, url: str) -> tuple[int | None, str | None]:
        """Bytes and sha256 of what `url` (or a file of that name) should hold, None where unknown."""
        digest = re.fullmatch(r"sha256=([0-9a-f]{64})", urldefrag(url).fragment)
        own = _file_name(url) == self.name
        return (self.bytes if own else None), (digest[1] if digest else self.sha256 if own else None)

    def names(self) -> list[str]:
        """What it may be called in a folder, the most wanted first."""
        single = [url for url in self.urls if len(expand(url)) == 1]
        return list(dict.fromkeys([self.name, *self.alternates, *map(_file_name, single)]))


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def fetch_dataset(folder: Path | str, downloads: Path | str = "downloads") -> None:
    """Fill `folder` by its config.json: `videos/`, `lists/`, sources.json and, when all is there, videos.csv.

    An archive is looked for in `downloads/<dataset>/`, then in `$REACTION_MIRROR/<mirror>/`, then at its URLs, which
    are downloaded to `downloads/<dataset>/` and resumed there.

    Raises FetchError for an archive that is nowhere, with what was tried and where to put it; UnpackError for one that
    cannot be unpacked.
    """
    folder = Path(folder)
    frozen = read_json(folder / "config.json")
    config = frozen["config"] | frozen.get("hints", {})  # the hints say where the archives may be
    (folder / "videos.csv").unlink(missing_ok=True)
    staging = folder / ".unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    if config["source"] == "generated":
        from reaction.data.synthetic import generate

        generate(config["generator"], staging)
    else:
        _unpack_archives(config, Path(downloads), staging, folder / "sources.json")
    _install(staging, folder)
    _write_manifest(folder)


def _places(config: dict[str, Any], downloads: Path) -> list[Path]:
    """Folders to look into. The first is where downloads go and where the user is asked to put files."""
    mirror = config.get("mirror") or config["dataset"]
    places = [downloads / config["dataset"], downloads / mirror]
    if os.environ.get("REACTION_MIRROR"):
        places.append(Path(os.environ["REACTION_MIRROR"]) / mirror)
    return list(dict.fromkeys(places))


def _locate_all(archives: Sequence[Archive], places: Sequence[Path]) -> list[tuple[Archive, Path]]:
    """Look for every archive before complaining, so that one run tells all that is to be done by hand."""
    found, errors = [], []
    for archive in archives:
        try:
            found.append((archive, _locate(archive, places)))
        except FetchError as error:
            errors.append(str(error))
    if errors:
        raise FetchError("\n\n".join([*errors, "Then run the same command again: it goes on from there."]))
    return found


def _locate(archive: Archive, places: Sequence[Path]) -> Path:
    """The archive's file, or its unpacked folder, downloading it if need be."""
    for place in places:
        for name in archive.names():
            if (place / name).exists():
                print(f"fetch: {archive.name}: taking {place / name}", flush=True)
                _check_own(place / name, *archive.expected(name))
                return place / name
    errors = []
    for url in archive.urls:
        size, digest = archive.expected(url)
        try:
            if len(parts := expand(url)) > 1:
                return download_parts(parts, places[0] / archive.name)
            return download(url, places[0] / _file_name(url), size=size, digest=digest)
        except FetchError as error:
            errors.append(f"  {url}: {error}")
            print(f"fetch: {errors[-1].strip()}", flush=True)
    raise FetchError(_nowhere(archive, places, errors))


def _nowhere(archive: Archive, places: Sequence[Path], errors: Sequence[str]) -> str:
    looked = [f"  {place}/ has none of {', '.join(archive.names())}" for place in places]
    mirror = "" if os.environ.get("REACTION_MIRROR") else "  the environment variable REACTION_MIRROR names no mirror\n"
    return (
        f"{archive.name} is nowhere to be had. Tried:\n{mirror}"
        + "\n".join([*looked, *errors])
        + f"\nGet it from {archive.page} and put it here: {places[0] / archive.name}"
    )


def _check_own(path: Path, size: int | None, digest: str | None) -> None:
    """Compare a file the user or the mirror has with what is known about it; a folder is taken as it is."""
    if path.is_dir():
        return
    try:
        check_content(path, size=size, digest=digest)
    except FetchError as error:
        raise FetchError(f"{path}: {error}. Delete it, or put the right file there, and run again") from None


def _unpack_archives(config: dict[str, Any], downloads: Path, staging: Path, sources: Path) -> None:
    found = _locate_all([Archive(**one) for one in config["archives"]], _places(config, downloads))
    for archive, path in found:
        print(f"fetch: unpacking {path}", flush=True)
        _unpack_one(path, staging / archive.into)
    came = {"archives": {archive.name: _source(path) for archive, path in found}, "unpacked": _digest(staging)}
    _check_as_before(sources, came)
    write_json(sources, came)


def _digest(folder: Path) -> str:
    """One sha256 of all files in a folder, their paths and their bytes."""
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()


def _check_as_before(sources: Path, came: dict[str, Any]) -> None:
    """The name of a folder does not say which of several archives was taken, so the videos that came first stay.

    Otherwise an index, features and tables made from one archive would go on with the videos of another.
    """
    if not sources.exists() or (before := read_json(sources)).get("unpacked") in (None, came["unpacked"]):
        return
    was, now = (_named(one["archives"]) for one in (before, came))
    raise FetchError(
        f"{sources.parent} was made from {was}; now there is {now}, with other files. Put the first back, or delete "
        f"{sources.parent} and all that was made from it (`reaction ls` lists it)"
    )


def _named(archives: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{one['file']} ({one.get('sha256', 'folder')[:12]})" for one in archives.values())


def _unpack_one(path: Path, destination: Path) -> None:
    destination.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        take_folder(path, destination / path.name)
    elif archive_kind(path):
        unpack(path, destination)
    else:
        shutil.copyfile(path, destination / path.name)


def _install(staging: Path, folder: Path) -> None:
    """Rename what was unpacked into its place: a kill before leaves no half of a dataset."""
    for name in ("videos", "lists"):
        (staging / name).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)
        (staging / name).rename(folder / name)
    shutil.rmtree(staging)


def _source(path: Path) -> dict[str, Any]:
    """Which file an archive was, so that results can be traced to bytes."""
    return {"file": path.name} | ({} if path.is_dir() else {"bytes": path.stat().st_size, "sha256": sha256(path)})


def _write_manifest(folder: Path) -> None:
    videos = folder / "videos"
    with atomic(folder / "videos.csv") as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("path", "bytes", "sha256"))
        for path in sorted(path for path in videos.rglob("*") if path.is_file()):
            rows.writerow((path.relative_to(videos).as_posix(), path.stat().st_size, sha256(path)))
