"""Folders of clips and of archives, and folders that are downloaded part by part."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from reaction.data import folders
from reaction.data.download import FetchError
from reaction.data.folders import download_parts, expand, take_folder
from reaction.data.unpack import UnpackError


def clips(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"clip {name}")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def source(tmp_path) -> Path:
    """Flat clips, clips by class, a class as an archive and a part with clips of several classes."""
    folder = tmp_path / "train"
    clips(folder, "a_000001_000011.mp4", "riding a bike/b_000001_000011.mp4")
    clips(tmp_path / "abseiling", "abseiling/c_000001_000011.mp4")
    with zipfile.ZipFile(folder / "abseiling.zip", "w") as bundle:
        bundle.write(tmp_path / "abseiling/abseiling/c_000001_000011.mp4", "abseiling/c_000001_000011.mp4")
    clips(tmp_path / "part", "d_000001_000011.mp4")
    with tarfile.open(folder / "part_0.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "part/d_000001_000011.mp4", "./d_000001_000011.mp4")
    return folder


def test_clips_are_taken_and_archives_unpacked(source, tmp_path):
    take_folder(source, tmp_path / "videos/train")
    assert files(tmp_path / "videos") == [
        "train/a_000001_000011.mp4",
        "train/abseiling/abseiling/c_000001_000011.mp4",
        "train/part_0/d_000001_000011.mp4",
        "train/riding a bike/b_000001_000011.mp4",
    ]
    taken = tmp_path / "videos/train/a_000001_000011.mp4"
    assert taken.read_text() == "clip a_000001_000011.mp4"
    assert taken.stat().st_ino == (source / taken.name).stat().st_ino, "it takes the disk once"


def test_files_are_copied_where_links_cannot_be(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    take_folder(source, tmp_path / "videos")
    taken = tmp_path / "videos/a_000001_000011.mp4"
    assert taken.read_text() == "clip a_000001_000011.mp4"
    assert taken.stat().st_ino != (source / taken.name).stat().st_ino


def test_a_link_among_the_clips_becomes_what_it_points_to(source, tmp_path):
    clips(tmp_path / "elsewhere", "e.mp4")
    (source / "e_000001_000011.mp4").symlink_to(tmp_path / "elsewhere/e.mp4")
    take_folder(source, tmp_path / "videos")
    assert not (tmp_path / "videos/e_000001_000011.mp4").is_symlink()
    assert (tmp_path / "videos/e_000001_000011.mp4").read_text() == "clip e.mp4"


def test_a_damaged_archive_is_named(source, tmp_path):
    (source / "part_1.tar.gz").write_bytes(b"half of it")
    with pytest.raises(UnpackError, match=r"part_1\.tar\.gz is no tar, zip or rar archive"):
        take_folder(source, tmp_path / "videos")


def test_parts_are_downloaded_once_and_the_folder_is_there_when_all_are(tmp_path, monkeypatch, capsys):
    asked, down = [], ["part_1.tar.gz"]

    def download(url, target):
        asked.append(url)
        if target.name in down:
            raise FetchError("the server answered 503")
        clips(target.parent, target.name)

    monkeypatch.setattr(folders, "download", download)
    urls = expand("https://host/train/part_{0..2}.tar.gz")
    with pytest.raises(FetchError, match="503"):
        download_parts(urls, tmp_path / "train")
    assert not (tmp_path / "train").exists()
    down.clear()
    assert download_parts(urls, tmp_path / "train") == tmp_path / "train"
    assert files(tmp_path / "train") == ["part_0.tar.gz", "part_1.tar.gz", "part_2.tar.gz"]
    assert asked == [urls[0], urls[1], urls[1], urls[2]]
    assert "fetch: train: part 3 of 3" in capsys.readouterr().out


def test_braces_count_and_list():
    assert expand("https://host/a.zip") == ["https://host/a.zip"]
    assert expand("h/{val,test}/p_{9..10}.tar") == [
        "h/val/p_9.tar",
        "h/val/p_10.tar",
        "h/test/p_9.tar",
        "h/test/p_10.tar",
    ]
    kinetics = expand("https://host/400/{train/part_{0..241}.tar.gz,replacement.tgz}")
    assert len(kinetics) == len(set(kinetics)) == 243
    assert {"https://host/400/train/part_241.tar.gz", "https://host/400/replacement.tgz"} <= set(kinetics)
