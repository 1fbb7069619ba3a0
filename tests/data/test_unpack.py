"""Archives that are good, hostile or broken; rar through whatever program there is."""

import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from reaction.data.unpack import RAR_PROGRAMS, UnpackError, archive_kind, unpack

CONTENT = {"clips/wave/a.avi": b"a" * 5000, "clips/wave/\N{LATIN SMALL LETTER O WITH DIAERESIS}[1]!&#.avi": b"b"}
RAR_TOOL = next((program for program in RAR_PROGRAMS if shutil.which(program)), None)


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_tar(path: Path, *members: tarfile.TarInfo, content: dict[str, bytes] | None = None, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in (content or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in members:
            tar.addfile(member)
    return path


def make_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in content.items():
            bundle.writestr(name, data)
    return path


def make_rar(path: Path, content: dict[str, bytes]) -> Path:
    """A rar of version 4 whose members are stored, by the published layout of its blocks. Folders end in \\."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    blocks = [b"Rar!\x1a\x07\x00", block(0x73, 0, bytes(6))]
    for name, data in content.items():
        stored = name.replace("/", "\\").encode()
        sizes = struct.pack("<IIBII", len(data), len(data), 2, zlib.crc32(data), 0)  # 2: packed on Windows
        how = struct.pack("<BBHI", 20, 0x30, len(stored), 0x20)
        blocks += [block(0x74, 0x8000, sizes + how + stored), data]
    path.write_bytes(b"".join([*blocks, block(0x7B, 0x4000, b"")]))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_every_compression(tmp_path, mode):
    archive = make_tar(tmp_path / "misleading.zip", content=CONTENT, mode=mode)
    unpack(archive, tmp_path / "out")
    assert written(tmp_path / "out") == CONTENT


def test_zip(tmp_path):
    unpack(make_zip(tmp_path / "clips.zip", CONTENT), tmp_path / "out")
    assert written(tmp_path / "out") == CONTENT


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_inside_become_files(tmp_path, kind):
    target = "a.avi" if kind == tarfile.SYMTYPE else "clips/wave/a.avi"
    archive = make_tar(tmp_path / "links.tar", link("clips/wave/same.avi", target, kind), content=CONTENT)
    unpack(archive, tmp_path / "out")
    same = tmp_path / "out/clips/wave/same.avi"
    assert same.read_bytes() == CONTENT["clips/wave/a.avi"]
    assert not same.is_symlink()


@pytest.mark.parametrize(
    "hostile",
    [
        tarfile.TarInfo("../escaped.txt"),
        tarfile.TarInfo("clips/../../escaped.txt"),
        tarfile.TarInfo("/tmp/escaped.txt"),
        link("secrets", "../../../etc/passwd", tarfile.SYMTYPE),
        link("secrets", "/etc/passwd", tarfile.SYMTYPE),
        link("secrets", "/etc/passwd", tarfile.LNKTYPE),
        link("null", "", tarfile.CHRTYPE),
        link("pipe", "", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.linkname}-{member.type!r}",
)
def test_a_tar_that_reaches_outside_is_refused(tmp_path, hostile):
    archive = make_tar(tmp_path / "hostile.tar", hostile)
    with pytest.raises(UnpackError, match=r"hostile\.tar holds .* refused"):
        unpack(archive, tmp_path / "deep" / "out")
    assert written(tmp_path) == {"hostile.tar": archive.read_bytes()}


def test_a_link_followed_by_a_file_through_it_writes_nothing_outside(tmp_path):
    archive = make_tar(tmp_path / "hostile.tar", link("door", str(tmp_path / "outside"), tarfile.SYMTYPE))
    (tmp_path / "outside").mkdir()
    with pytest.raises(UnpackError, match="outside"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt"])
def test_a_zip_that_reaches_outside_is_refused(tmp_path, name):
    with pytest.raises(UnpackError, match="points outside"):
        unpack(make_zip(tmp_path / "hostile.zip", {name: b"x"}), tmp_path / "out")


def test_a_zip_with_a_link_is_refused(tmp_path):
    member = zipfile.ZipInfo("secrets")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as bundle:
        bundle.writestr(member, "/etc/passwd")
    with pytest.raises(UnpackError, match="a link or device"):
        unpack(tmp_path / "hostile.zip", tmp_path / "out")


def test_a_zip_of_an_unknown_compression_is_not_called_damaged(tmp_path):
    archive = make_zip(tmp_path / "large.zip", {"a.avi": b"a"})
    written_by_explorer = archive.read_bytes().replace(
        b"\x14\x00\x00\x00\x08\x00", b"\x14\x00\x00\x00\x09\x00"
    )  # Deflate64
    archive.write_bytes(written_by_explorer)
    with pytest.raises(UnpackError, match=r"large\.zip cannot be read .*compression.*unpack it by hand"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_cut_off_tar_is_damaged(tmp_path, mode):
    noise = {"a.avi": os.urandom(20_000)}
    archive = make_tar(tmp_path / "cut.tar", content=noise, mode=mode)
    archive.write_bytes(archive.read_bytes()[:9_000])
    with pytest.raises(UnpackError, match=r"cut\.tar is damaged.*fetch it again"):
        unpack(archive, tmp_path / "out")


def test_a_cut_off_zip_and_something_else_are_damaged(tmp_path):
    archive = make_zip(tmp_path / "cut.zip", CONTENT)
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UnpackError, match="damaged"):
        unpack(archive, tmp_path / "out")
    (tmp_path / "page.rar").write_text("<html>")
    with pytest.raises(UnpackError, match="no tar, zip or rar"):
        unpack(tmp_path / "page.rar", tmp_path / "out")


def test_kinds_by_content(tmp_path):
    assert archive_kind(make_rar(tmp_path / "a", CONTENT)) == "rar"
    assert archive_kind(make_zip(tmp_path / "b", CONTENT)) == "zip"
    assert archive_kind(make_tar(tmp_path / "c", content=CONTENT)) == "tar"
    (tmp_path / "d").write_bytes(b"")
    assert archive_kind(tmp_path / "d") is None


def test_without_a_rar_program_the_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnpackError, match=r"clips\.rar needs.*`libarchive-tools` \(bsdtar\) or `unar`"):
        unpack(make_rar(tmp_path / "clips.rar", CONTENT), tmp_path / "out")


@pytest.mark.skipif(RAR_TOOL is None, reason="no program reads rar here: install libarchive-tools or unar")
def test_rar_in_rar(tmp_path):
    make_rar(tmp_path / "wave.rar", {"wave/a.avi": b"a" * 3000, "wave/(x)[1]!&#.avi": b"b"})
    make_rar(tmp_path / "run.rar", {"c.avi": b"c"})
    inner = {f"{name}.rar": (tmp_path / f"{name}.rar").read_bytes() for name in ("wave", "run")}
    unpack(make_rar(tmp_path / "hmdb51_org.rar", inner), tmp_path / "out")
    assert written(tmp_path / "out") == {"wave/a.avi": b"a" * 3000, "wave/(x)[1]!&#.avi": b"b", "run/c.avi": b"c"}


@pytest.mark.skipif(RAR_TOOL is None, reason="no program reads rar here: install libarchive-tools or unar")
def test_a_rar_that_reaches_outside_or_is_damaged_is_refused(tmp_path):
    with pytest.raises(UnpackError, match="points outside"):
        unpack(make_rar(tmp_path / "hostile.rar", {"../escaped.txt": b"x"}), tmp_path / "out")
    archive = make_rar(tmp_path / "cut.rar", CONTENT)
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UnpackError, match=r"cannot read .*cut\.rar"):
        unpack(archive, tmp_path / "out")


def pretend_bsdtar(folder: Path, monkeypatch, listing: str, action: str) -> None:
    """A bsdtar on the PATH that lists and extracts what the test says."""
    folder.mkdir()
    program = folder / "bsdtar"
    program.write_text(f'#!/bin/sh\nif [ "$1" = -tf ]; then printf "{listing}"; else cd "$4" && {action}; fi\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_a_rar_program_is_not_trusted(tmp_path, monkeypatch):
    archive = make_rar(tmp_path / "clips.rar", CONTENT)
    pretend_bsdtar(tmp_path / "bin", monkeypatch, "a.avi\\n", "ln -s /etc/passwd a.avi")
    with pytest.raises(UnpackError, match=r"a\.avi, a link or device"):
        unpack(archive, tmp_path / "out")


def test_a_hostile_listing_stops_before_anything_is_extracted(tmp_path, monkeypatch):
    archive = make_rar(tmp_path / "clips.rar", CONTENT)
    pretend_bsdtar(tmp_path / "bin", monkeypatch, "a.avi\\n../b.avi\\n", "echo x > a.avi")
    with pytest.raises(UnpackError, match="points outside"):
        unpack(archive, tmp_path / "out")
    assert written(tmp_path / "out") == {}


def test_nested_archives_with_a_pretended_program(tmp_path, monkeypatch):
    """The path of HMDB-51 where no rar program is installed: one rar per class becomes one folder per class."""
    archive = make_rar(tmp_path / "hmdb51_org.rar", CONTENT)
    inner = make_rar(tmp_path / "inner", CONTENT)
    fill = f'if [ -e "{tmp_path}/begun" ]; then mkdir wave; echo x > wave/a.avi; else cp "{inner}" wave.rar; fi'
    pretend_bsdtar(tmp_path / "bin", monkeypatch, "wave.rar\\n", f'{fill}; : > "{tmp_path}/begun"')
    unpack(archive, tmp_path / "out")
    assert written(tmp_path / "out") == {"wave/a.avi": b"x\n"}
