"""Unpacks archives from the internet: tar, zip and rar. Only plain files and folders come out, and none outside."""

import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

MAGIC = {
    b"Rar!\x1a\x07": "rar",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "tar",
    b"BZh": "tar",
    b"\xfd7zXZ\x00": "tar",
}
RAR_PROGRAMS: dict[str, tuple[list[str], list[str]]] = {  # how each lists the members, one per line, and extracts them
    "bsdtar": (
        ["bsdtar", "-tf", "{archive}"],
        ["bsdtar", "-xf", "{archive}", "-C", "{destination}", "--no-same-owner", "--no-same-permissions"],
    ),
    "unar": (
        ["lsar", "{archive}"],
        ["unar", "-quiet", "-force-overwrite", "-no-directory", "-output-directory", "{destination}", "{archive}"],
    ),
    "unrar": (["unrar", "lb", "-p-", "{archive}"], ["unrar", "x", "-idq", "-o+", "-p-", "{archive}", "{destination}/"]),
}
NO_RAR_TOOL = (
    "unpacking {archive} needs a program that reads rar, and neither bsdtar, unar nor unrar is on the PATH: "
    "install the Debian package `libarchive-tools` (bsdtar) or `unar`, or put the unpacked folder beside the archive"
)


class UnpackError(ValueError):
    """An archive is damaged, wants to write outside its folder, or no program can read it."""


def archive_kind(path: Path | str) -> str | None:
    """`rar`, `zip`, `tar` (compressed or not), or None, by content: names lie."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start[257:262] == b"ustar":
        return "tar"
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)


def unpack(archive: Path | str, destination: Path | str) -> None:
    """Unpack into the folder `destination`; rar files found inside go into folders of their names, as HMDB-51 needs.

    Links in a tar become copies of what they point to. Raises UnpackError for a member that is absolute, climbs with
    `..`, links to the outside or is a device; for a damaged archive; and where no program reads rar.
    """
    archive, destination = Path(archive), Path(destination)
    kind = archive_kind(archive)
    if kind is None:
        raise UnpackError(f"{archive} is no tar, zip or rar archive: delete it and fetch it again")
    destination.mkdir(parents=True, exist_ok=True)
    try:
        {"tar": _unpack_tar, "zip": _unpack_zip, "rar": _unpack_rar}[kind](archive, destination)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        if getattr(error, "errno", None):  # a full disk; gzip and bz2 raise OSError without a number for damaged data
            raise
        reason = str(error).partition("\n")[0]
        raise UnpackError(f"{archive} is damaged ({reason}): delete it and fetch it again") from error
    except NotImplementedError as error:  # a method of compression that zipfile does not know
        raise UnpackError(f"{archive} cannot be read ({error}): unpack it by hand and put its folder there") from error
    _unpack_nested(destination)


def _inside(archive: Path, name: str) -> PurePosixPath:
    """The member's path, after checking that it stays below the folder it is unpacked into."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UnpackError(f"{archive} holds {name!r}, which points outside its folder: it is refused")
    return path


def _unpack_tar(archive: Path, destination: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            target = destination / _inside(archive, member.name)
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isfile() or member.issym() or member.islnk():
                _write(_open_member(archive, tar, member), target)
            else:
                raise UnpackError(f"{archive} holds {member.name!r}, a device or pipe: it is refused")


def _open_member(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    """`extractfile` looks a link's target up among the members, so nothing outside the archive can be reached."""
    try:
        content = tar.extractfile(member)
    except KeyError:
        content = None
    if content is None:
        raise UnpackError(f"{archive} holds {member.name!r}, a link to {member.linkname!r} outside it: it is refused")
    return content


def _unpack_zip(archive: Path, destination: Path) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            target = destination / _inside(archive, member.filename)
            mode = stat.S_IFMT(member.external_attr >> 16)
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UnpackError(f"{archive} holds {member.filename!r}, a link or device: it is refused")
            if member.flag_bits & 1:
                raise UnpackError(f"{archive} holds {member.filename!r}, which asks for a password")
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                _write(bundle.open(member), target)


def _write(content: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, open(target, "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _unpack_rar(archive: Path, destination: Path) -> None:
    program = next((name for name in RAR_PROGRAMS if shutil.which(name)), None)
    if program is None:
        raise UnpackError(NO_RAR_TOOL.format(archive=archive))
    paths = {"archive": archive.absolute(), "destination": destination.absolute()}
    listing, extracting = ([word.format(**paths) for word in command] for command in RAR_PROGRAMS[program])
    names = _run(archive, listing).splitlines()
    for name in names[1:] if listing[0] == "lsar" else names:  # lsar begins with the archive's own name
        _inside(archive, name)
    _run(archive, extracting)
    _check_written(archive, destination)


def _run(archive: Path, command: list[str]) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # bsdtar refuses names that the locale cannot write
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=environment)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-300:]
        raise UnpackError(f"{command[0]} cannot read {archive} ({reason}): delete it and fetch it again")
    return done.stdout.decode(errors="surrogateescape")


def _check_written(archive: Path, destination: Path) -> None:
    """A rar program has its own idea of safety: whatever it wrote must be a plain file or folder inside."""
    root = destination.resolve()
    for path in destination.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or not path.resolve().is_relative_to(root):
            raise UnpackError(f"{archive} holds {path.relative_to(destination)}, a link or device: it is refused")


def _unpack_nested(folder: Path) -> None:
    for nested in sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".rar" and path.is_file()):
        staging = nested.with_name(f".{nested.name}.unpacking")
        unpack(nested, staging)
        nested.unlink()
        _move(_without_own_folder(staging, nested.stem), nested.with_suffix(""))
        shutil.rmtree(staging, ignore_errors=True)


def _without_own_folder(folder: Path, name: str) -> Path:
    """`brush_hair.rar` holds `brush_hair/...`: one folder of the name is enough."""
    entries = list(folder.iterdir())
    alone = len(entries) == 1 and entries[0].is_dir() and entries[0].name.casefold() == name.casefold()
    return entries[0] if alone else folder


def _move(source: Path, target: Path) -> None:
    if target.exists():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        source.rename(target)
