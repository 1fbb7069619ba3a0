"""An index from files on disk: matching, missing and broken videos, crashing decoders, restricted classes."""

import csv
import json
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from reaction.data import index as indexing
from reaction.data.boxes import read_boxes
from reaction.data.datasets import DatasetError, Entry, Official
from reaction.data.decode import VideoFacts
from reaction.data.fetch import fetch_dataset
from reaction.data.index import (
    SourceFile,
    build_index,
    inspect_all,
    match,
    part_videos,
    read_classes,
    read_index,
    read_split,
    restrict,
)
from reaction.files import read_json, sha256, write_json

LISTS = {
    "wave_test_split1.txt": "Film_wave_0.avi 1\nFilm_wave_1.avi 2\nSea_wave_0.avi 0\n",
    "run_test_split1.txt": "Film_run_0.avi 1\nLet's!_run_[2]&.avi 2\n",
    "run_test_split2.txt": "Film_run_0.avi 2\nLet's!_run_[2]&.avi 1\n",
    "wave_test_split2.txt": "Film_wave_0.avi 2\nFilm_wave_1.avi 1\nSea_wave_0.avi 1\n",
}
FRAMES = {"Film_wave_0": 5, "Film_wave_1": 1, "Sea_wave_0": 7, "Film_run_0": 3, "Let's!_run_[2]&": 4}


def film(path: Path, frames: int, *, codec: str = "mpeg4") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


class Project:
    """A fetched dataset of HMDB-51's form in the current folder, and the folder of an index to build from it."""

    videos, index = Path("results/data/toy/videos-0"), Path("results/data/toy/index-0")

    def __init__(self) -> None:
        for name, text in LISTS.items():
            (self.videos / "lists").mkdir(parents=True, exist_ok=True)
            (self.videos / "lists" / name).write_text(text)
        for video, frames in FRAMES.items():
            film(self.path(video), frames)

    def path(self, video: str, suffix: str = ".avi") -> Path:
        return self.videos / "videos" / video.split("_")[1] / f"{video}{suffix}"

    def build(self, **changes) -> None:
        files = sorted(path for path in (self.videos / "videos").rglob("*") if path.is_file())
        rows = [(path.relative_to(self.videos / "videos"), path.stat().st_size, sha256(path)) for path in files]
        with open(self.videos / "videos.csv", "w", newline="") as file:
            csv.writer(file).writerows([("path", "bytes", "sha256"), *rows])
        config = {"dataset": "toy", "layout": "hmdb51", "classes": None, "splits": ["split1", "split2"]}
        config |= {"missing": "error"} | changes
        write_json(self.index / "config.json", {"config": config, "inputs": {"videos": str(self.videos)}})
        build_index(self.index, threads=1)

    def rows(self, name: str) -> list[dict[str, str]]:
        with open(self.index / name, newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project()


def test_a_whole_dataset(project, capsys):
    write_json(project.videos / "sources.json", {"archives": {"toy.tar": {"file": "toy.tar"}}})
    project.build()
    assert read_json(project.index / "sources.json") == read_json(project.videos / "sources.json")
    videos = read_index(project.index)
    assert [video.video for video in videos] == [
        "Film_run_0",
        "Let's!_run_[2]&",
        "Film_wave_0",
        "Film_wave_1",
        "Sea_wave_0",
    ]
    assert {video.video: video.frames for video in videos} == FRAMES
    assert [video.labels for video in videos] == [(0,), (0,), (1,), (1,), (1,)]
    assert [video.group for video in videos] == ["Film", "Let's!", "Film", "Film", "Sea"]
    assert {(video.width, video.height, video.fps) for video in videos} == {(64, 48, 25.0)}
    assert {video.path for video in videos} >= {"wave/Film_wave_0.avi", "run/Let's!_run_[2]&.avi"}
    assert videos[0].sha256 == sha256(project.path("Film_run_0"))
    assert {video.decoder for video in videos} <= {"decord", "pyav"}
    assert read_classes(project.index) == ["run", "wave"]
    assert [video.video for video in part_videos(project.index, "split1", "test")] == ["Let's!_run_[2]&", "Film_wave_1"]
    assert read_split(project.index, "split1")["Sea_wave_0"] == "unused"
    counts = {"split1": {"train": 2, "test": 2, "unused": 1}, "split2": {"train": 3, "test": 2}}
    assert json.loads((project.index / "official.json").read_text()) == counts
    assert project.rows("quarantine.csv") == project.rows("warnings.csv") == []
    assert not (project.index / "boxes.h5").exists()
    assert "index: toy: 5/5 videos" in capsys.readouterr().out


def test_the_header_is_the_contract(project):
    project.build()
    header = (project.index / "index.csv").read_text().partition("\n")[0]
    assert header == "video,path,labels,group,frames,fps,width,height,sha256,decoder"


def test_missing_videos_are_counted_and_named(project):
    project.path("Film_wave_0").unlink()
    project.path("Film_run_0").unlink()
    with pytest.raises(DatasetError, match="2 of the 5 videos") as raised:
        project.build()
    assert "Film_run_0\n  Film_wave_0\n" in str(raised.value)
    assert "datasets:\n  toy:\n    missing: allow" in str(raised.value)
    assert not (project.index / "index.csv").exists()


def test_missing_videos_may_be_allowed_and_stay_in_the_official_counts(project):
    project.path("Film_wave_1").unlink()
    project.build(missing="allow")
    assert len(read_index(project.index)) == 4
    assert json.loads((project.index / "official.json").read_text())["split1"]["test"] == 2
    assert [video.video for video in part_videos(project.index, "split1", "test")] == ["Let's!_run_[2]&"]
    assert read_split(project.index, "split1")["Film_wave_1"] == "test"


def test_many_missing_videos_do_not_flood_the_message(project, monkeypatch):
    monkeypatch.setattr("reaction.data.index.MISSING_SHOWN", 1)
    project.path("Film_wave_0").unlink()
    project.path("Film_wave_1").unlink()
    with pytest.raises(DatasetError, match=r"2 of the 5 videos(?s:.)*Film_wave_0\n  \.\.\.\n"):
        project.build()


def test_useless_files_are_quarantined_with_their_reason(project):
    project.path("Film_wave_0").write_bytes(b"")
    project.path("Film_run_0").write_bytes(b"no video at all" * 100)
    film(project.videos / "videos/elsewhere/Sea_wave_0.mp4", 2)
    film(project.videos / "videos/wave/Unknown_wave_0.avi", 2)
    (project.videos / "videos/README.txt").write_text("hello")
    project.build()
    reasons = {row["path"]: (row["video"], row["reason"]) for row in project.rows("quarantine.csv")}
    assert reasons["wave/Film_wave_0.avi"] == ("Film_wave_0", "empty file")
    assert reasons["elsewhere/Sea_wave_0.mp4"] == ("Sea_wave_0", "duplicate of wave/Sea_wave_0.avi")
    assert reasons["wave/Unknown_wave_0.avi"] == ("", "not in the official list")
    assert reasons["README.txt"] == ("", "not a video")
    video, reason = reasons["run/Film_run_0.avi"]
    assert video == "Film_run_0"
    assert "no frame" in reason
    assert str(project.videos) not in reason
    assert len(reasons) == 5
    assert [video.video for video in read_index(project.index)] == ["Let's!_run_[2]&", "Film_wave_1", "Sea_wave_0"]


def test_undecodable_videos_are_no_missing_ones(project):
    project.path("Film_run_0").write_bytes(b"no video at all" * 100)
    project.build(missing="error")
    assert len(read_index(project.index)) == 4


def test_a_video_that_breaks_off_is_kept_with_a_warning(project):
    path = project.path("Sea_wave_0")
    film(path, 60)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    project.build()
    assert [row["video"] for row in project.rows("warnings.csv")] == ["Sea_wave_0"]
    assert 0 < next(video.frames for video in read_index(project.index) if video.video == "Sea_wave_0") < 60


def test_nothing_decodable_is_an_error(project):
    for video in FRAMES:
        project.path(video).write_bytes(b"no video at all")
    with pytest.raises(DatasetError, match="none of 5 videos can be decoded"):
        project.build()


def test_another_container_and_another_case_are_found(project):
    project.path("Film_wave_0").unlink()
    film(project.path("Film_wave_0", ".mp4"), 5)
    project.path("Film_run_0").rename(project.videos / "videos/run/FILM_Run_0.AVI")
    project.build()
    paths = {video.video: video.path for video in read_index(project.index)}
    assert paths["Film_wave_0"] == "wave/Film_wave_0.mp4"
    assert paths["Film_run_0"] == "run/FILM_Run_0.AVI"


def test_a_restriction_renumbers_labels_and_ignores_the_rest(project):
    project.path("Film_run_0").unlink()
    project.build(classes=["wave"])
    assert read_classes(project.index) == ["wave"]
    assert {video.labels for video in read_index(project.index)} == {(0,)}
    assert project.rows("quarantine.csv") == []
    assert read_split(project.index, "split1") == {
        "Film_wave_0": "train",
        "Film_wave_1": "test",
        "Sea_wave_0": "unused",
    }
    assert json.loads((project.index / "official.json").read_text())["split1"] == {"train": 1, "test": 1, "unused": 1}


def test_restrictions_keep_the_official_order():
    official = Official(["a", "b", "c"], [Entry("v", "c", "g"), Entry("w", "a", "g")], {"split1": {"v": "train"}})
    kept = restrict(official, ["c", "a"])
    assert kept.classes == ["a", "c"]
    assert kept.entries == official.entries
    with pytest.raises(DatasetError, match="no class is called d; there are a, b, c"):
        restrict(official, ["d"])


def test_matching_ignores_case_and_normalisation_and_prefers_the_class_folder():
    entries = [Entry("v_HandStand_\N{LATIN SMALL LETTER U WITH DIAERESIS}_g01", "Handstand", "g")]
    decomposed = "v_Handstand_u\N{COMBINING DIAERESIS}_g01"
    files = [SourceFile(f"{folder}/{decomposed}.avi", 1, "0") for folder in ("Archery", "HANDSTAND", "Zoo")]
    found, rejected = match(entries, files)
    assert found[entries[0].video].path == f"HANDSTAND/{decomposed}.avi"
    assert [one.path.partition("/")[0] for one in rejected] == ["Archery", "Zoo"]
    with pytest.raises(DatasetError, match="equal but for case"):
        match([Entry("a", "x", "g"), Entry("A", "x", "g")], [])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("function", "call"),
    [("reaction.data.index._Progress.__call__", 2), ("reaction.data.index.write_text", 1), ("os.replace", 3)],
    ids=["while decoding", "between two files", "before a rename"],
)
def test_a_killed_index_leaves_no_index_and_no_workers(project, killed, function, call):
    project.build()
    before = files_of(project.index)
    killed("reaction.data.index.build_index", function, call, project.index)
    assert not (project.index / "index.csv").exists(), "not even that of an earlier run"
    project.build()
    assert files_of(project.index) == before


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], VideoFacts]:
    """Stands in for decode.inspect: takes its process along for names with `crash`, and the first time for `once`."""
    source = """
        import os, signal, time
        from reaction.data.decode import VideoFacts

        def inspect(path):
            first = not path.with_suffix(".seen").exists()
            path.with_suffix(".seen").touch()
            if "crash" in path.name or ("once" in path.name and first):
                os.kill(os.getpid(), signal.SIGSEGV)
            if "bad" in path.name:
                raise RuntimeError(f"{path}: bad")
            return VideoFacts(len(path.name), 25.0, 64, 48, "pyav")
    """
    (tmp_path / "crashing_decoder.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(tmp_path)
    import crashing_decoder

    return crashing_decoder.inspect


def test_a_crashing_decoder_costs_one_video(tmp_path, crashing):
    names = ["a", "crash1", "b", "bad", "c", "once", "d", "crash2", "e"]
    reports, paths = [], {name: tmp_path / name for name in names}
    results = inspect_all(paths, threads=2, inspect=crashing, report=lambda *told: reports.append(told))
    assert list(results) == names
    assert {name: result for name, result in results.items() if isinstance(result, str)} == {
        "crash1": "the decoder crashed on it",
        "crash2": "the decoder crashed on it",
        "bad": "bad",
    }
    assert results["once"].frames == len("once")
    assert dict(reports) == results
    assert len(reports) == len(names)


def test_an_index_that_was_broken_off_goes_on_from_there(project, killed, monkeypatch):
    project.build()
    before = files_of(project.index)
    killed("reaction.data.index.build_index", "reaction.data.index._Progress.__call__", 4, project.index)
    with open(project.index / ".inspected.jsonl", "a") as journal:
        journal.write('{"video": "Film_wave_0", "sha')  # as a kill leaves it
    film(project.path("Film_run_0"), 6)  # another file by now
    asked = []

    def inspect_all(paths, threads, **options):
        asked.extend(paths)
        return original(paths, threads, **options)

    original = indexing.inspect_all
    monkeypatch.setattr(indexing, "inspect_all", inspect_all)
    project.build()
    assert "Film_run_0" in asked
    assert len(asked) == 2
    assert files_of(project.index).keys() == before.keys()
    assert {video.video: video.frames for video in read_index(project.index)} == FRAMES | {"Film_run_0": 6}


def test_reading_an_index_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"index\.csv is missing: run `reaction index`"):
        read_index(tmp_path)


def test_synthetic_videos_and_boxes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = {"videos": 18, "width": 64, "height": 48, "frames": [6, 8], "actor": [14, 18], "groups": 3}
    write_json("videos/config.json", {"config": {"dataset": "toy", "source": "generated", "generator": generator}})
    fetch_dataset(Path("videos"))
    config = {"dataset": "toy", "layout": "synthetic", "classes": None, "splits": ["split1"], "missing": "error"}
    write_json("index/config.json", {"config": config, "inputs": {"videos": "videos"}})
    build_index("index", threads=2)
    videos, boxes = read_index("index"), read_boxes("index/boxes.h5")
    assert len(videos) == len(boxes) == 18
    for video in videos:
        assert boxes[video.video].frame.tolist() == list(range(video.frames))
        assert set(boxes[video.video].label.tolist()) == set(video.labels)


@pytest.fixture
def mirror() -> Path:
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR names no folder with real data")
    return Path(os.environ["REACTION_MIRROR"])


def fetch_and_index(dataset: str, archives: list[dict], **index) -> Path:
    config = {"dataset": dataset, "source": "archives", "mirror": index["layout"], "archives": archives}
    write_json("videos/config.json", {"config": config, "inputs": {}})
    fetch_dataset("videos")
    config = {"dataset": dataset, "classes": None, "splits": ["split1", "split2", "split3"], "missing": "error"} | index
    write_json("index/config.json", {"config": config, "inputs": {"videos": "videos"}})
    build_index("index", threads=2)
    return Path("index")


@pytest.mark.slow
@pytest.mark.real_data
def test_jhmdb21_of_the_mirror(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"JHMDB_video.tar": "videos", "splits": "lists", "JHMDB-GT.pkl": "lists"}
    archives = [{"name": name, "page": "-", "into": into} for name, into in names.items()]
    index = fetch_and_index("jhmdb21", archives, layout="jhmdb21")
    videos = read_index(index)
    assert len(videos) == 928
    assert sum(video.frames for video in videos) == 31_838
    assert (min(video.frames for video in videos), max(video.frames for video in videos)) == (15, 40)
    assert {(video.width, video.height, video.fps) for video in videos} == {(320, 240, 30.0)}
    boxes = read_boxes(index / "boxes.h5")
    assert len(boxes) == 928
    assert sum(map(len, boxes.values())) == 31_852 - (1 + 6 + 7), "three tubes are longer than their clips"
    with open(index / "warnings.csv") as file:
        assert sorted(int(row["warning"].split()[0]) for row in csv.DictReader(file)) == [1, 6, 7]
    assert (index / "quarantine.csv").read_text() == "video,path,reason\n"


@pytest.mark.slow
@pytest.mark.real_data
def test_ucf101_5_of_the_mirror(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"UCF-101_5classes.tar": "videos", "ucfTrainTestlist": "lists"}
    archives = [{"name": name, "page": "-", "into": into} for name, into in names.items()]
    classes = ["BrushingTeeth", "CuttingInKitchen", "JumpingJack", "Lunges", "WallPushups"]
    index = fetch_and_index("ucf101_5", archives, layout="ucf101", classes=classes, missing="allow")
    videos = read_index(index)
    assert len(videos) == 250
    assert (min(video.frames for video in videos), max(video.frames for video in videos)) == (47, 764)
    assert sum(video.frames for video in videos) == 40_944, "packets, headers and three decoders agree"
    assert {round(video.fps, 2) for video in videos} == {25.0, 29.97}
    assert len({video.group for video in videos}) == 5 * 25
    assert (index / "quarantine.csv").read_text() == "video,path,reason\n"
