import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reaction.data.boxes import Boxes, write_boxes
from reaction.data.index import Video
from reaction.data.store import ShardWriter, encode_jpeg
from reaction.evaluation.detected import write_tubes
from reaction.evaluation.tubes import Tube
from reaction.files import write_json, write_text
from reaction.tables import detection_figures as figures
from reaction.tables.detection_figures import (
    SHARES,
    annotated,
    detection_figures,
    frames_of,
    judged,
    spread,
    write_clip,
)
from reaction.tables.figures import FigureError
from reaction.tables.gains import BETTER, WORSE

CLASSES = ("climb up/down", "golf", "run")
FRAMES, WIDTH, HEIGHT = 12, 320, 240
HEADER = "video,path,labels,group,frames,fps,width,height,sha256,decoder\n"
TRUE = np.array([80, 60, 160, 220.0])


def video(name, label):
    return Video(name, f"{name}.avi", (label,), "g", FRAMES, 24.0, WIDTH, HEIGHT, "0", "pyav")


VIDEOS = [video(f"{name[:4]}_{k}", label) for label, name in enumerate(CLASSES) for k in range(2)]


def boxes_of(label, first=2, last=10):
    frame = np.arange(first, last)
    box = np.tile(TRUE, (len(frame), 1)).astype(np.float32)
    return Boxes(frame, box, np.full(len(frame), label), np.zeros_like(frame))


BOXES = {one.video: boxes_of(one.labels[0]) for one in VIDEOS}


def tube(place, label, score, shift=0.0, start=2, end=10):
    return Tube(place, label, start, np.tile(TRUE + np.array([shift, 0, shift, 0]), (end - start, 1)), score)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Index, boxes, frames of half the size, tubes, metrics and histories of two runs; returns the specification."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{one.video},{one.path},{one.labels[0]},g,{FRAMES},24.0,{WIDTH},{HEIGHT},0,pyav\n" for one in VIDEOS]
    write_text("index/index.csv", HEADER + "".join(rows))
    write_text("index/classes.txt", "\n".join(CLASSES))
    write_boxes("index/boxes.h5", BOXES)
    config = {"modality": "rgb", "resize": "160x120", "jpeg_quality": 95, "shards": 1}
    write_json("frames/config.json", {"config": config})
    grey = np.full((HEIGHT // 2, WIDTH // 2, 3), 100, np.uint8)
    with ShardWriter("frames/shard-000.h5", config) as writer:
        for one in VIDEOS:
            writer.add(one.video, [encode_jpeg(grey + 10 * k, 95) for k in range(FRAMES)], source_sha256="0")
    tubes = [tube(0, 0, 0.9), tube(1, 0, 0.95, shift=70), tube(2, 2, 0.8), tube(2, 1, 0.3), tube(4, 2, 0.6)]
    write_tubes("link/tubes.h5", [one.video for one in VIDEOS], tubes)
    for run, shares in (("one", (0.5, 0.1, 0.2, 0.0, 0.1, 0.1)), ("two", (0.7, 0.1, 0.1, 0.0, 0.0, 0.1))):
        means = ",".join(map(str, shares))
        lines = [f"{name},{means}" for name in ("mean", *CLASSES)]
        write_text(f"{run}/errors.csv", f"class,{','.join(SHARES)}\n" + "\n".join(lines) + "\n")
        aps = [f"frame_map@0.5,act,{name},{shares[0] if name != 'run' else ''},3" for name in CLASSES]
        others = [f"video_map@0.5,act,{name},0.01,3" for name in CLASSES]
        write_text(f"{run}/per_class.csv", "metric,protocol,class,ap,positives\n" + "\n".join(aps + others) + "\n")
        epochs = [f"{k},{3 - k},0.1,0.2,{2.7 - k},0.001,9\n" for k in range(2)]
        write_text(f"{run}/history.csv", "epoch,loss,box,confidence,classes,learning_rate,seconds\n" + "".join(epochs))
    methods = [{"name": "yowo", "folders": ["one", "two"]}, {"name": "yowo_2d", "folders": ["two"]}]
    return {
        "curves": methods,
        "methods": methods,
        "shown": {"index": "index", "features": "frames", "tubes": "link", "boxes": "boxes", "videos": 2},
    }


def test_everything_is_drawn_with_its_names(project):
    detection_figures(project, Path("figures/small"))
    for name in ("curves", "per_class", "errors", "tubes"):
        assert Path(f"figures/small_{name}.png").stat().st_size > 0
    said = {name: Path(f"figures/small_{name}.svg").read_text() for name in ("curves", "per_class", "errors", "tubes")}
    for name in ("loss", "of it: confidence", "yowo", "yowo_2d"):
        assert f"<!-- {name} -->" in said["curves"], name
    assert "<!-- frame_map@0.5 by act (%) -->" in said["per_class"]
    for name in ("localisation", "missed", "yowo, class by class", "golf"):
        assert f"<!-- {name} -->" in said["errors"], name
    for name in ("frame 2", "frame 9", "score 0.90", "score 0.60", "overlap 1.00", "found, wrong"):
        assert f"<!-- {name} -->" in said["tubes"], name
    assert said["tubes"].count("<image ") == 2 * figures.COLUMNS


def test_outlines_are_the_tubes_without_a_frame(project, monkeypatch):
    pictures = []
    monkeypatch.setattr(figures, "_frame", lambda axes, one, number, picture: pictures.append(picture))
    detection_figures(project, Path("small"))
    tubes, outlines = pictures[: len(pictures) // 2], pictures[len(pictures) // 2 :]
    assert all((picture == figures.BLANK).all() for picture in outlines)
    assert not any((picture == figures.BLANK).all() for picture in tubes)


def test_each_class_has_the_clip_of_its_highest_score_right_or_wrong(project):
    detection_figures(project, Path("small"))
    with open("small_clips/clips.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["class"], row["video"], row["true"], row["score"], row["right"]) for row in rows]
    assert found == [
        ("climb up/down", "clim_1", "climb up/down", "0.9500", "0"),
        ("golf", "golf_0", "golf", "0.3000", "1"),
        ("run", "golf_0", "golf", "0.8000", "0"),
    ]
    assert float(rows[0]["overlap"]) == pytest.approx(1 / 15, abs=1e-4)  # of 80 pixels 10 are common and 150 together
    names = sorted(path.name for path in Path("small_clips").iterdir())
    assert names == ["climb_up_down.gif", "clips.csv", "golf.gif", "run.gif"]
    with Image.open("small_clips/golf.gif") as clip:
        assert (clip.size, clip.n_frames) == ((160, 120), 8)
        assert clip.info["duration"] == pytest.approx(1000 / 24, abs=5)


def test_a_tube_is_right_by_class_and_half_an_overlap():
    shifts = {0.0: 1.0, 26.0: 54 / 106, 27.0: 53 / 107}
    for shift, overlap in shifts.items():
        (found,) = judged(VIDEOS, [tube(2, 1, 0.5, shift)], BOXES)
        assert found.overlap == pytest.approx(overlap)
        assert found.right == (overlap >= 0.5)
    (found,) = judged(VIDEOS, [tube(2, 0, 0.5)], BOXES)
    assert (found.overlap, found.right) == (1.0, False)
    assert judged(VIDEOS, [tube(2, 0, 0.5)], {}) == [], "nothing is known of a video without boxes"


def test_the_tubes_shown_do_not_depend_on_how_well_they_went():
    tubes = [tube(place, 0, 0.1 * place) for place in range(len(VIDEOS))] + [tube(3, 2, 0.9), tube(2, 1, 0.9)]
    found = judged(VIDEOS, tubes, BOXES)
    assert [one.tube.score for one in found] == sorted((one.score for one in tubes), reverse=True)
    assert [one.video.video for one in spread(found, 2)] == ["clim_0", "run_0"]
    assert [one.video.video for one in spread(found, 9)] == ["clim_0", "golf_0", "run_0"]
    assert spread(found, 9)[1].tube.score == 0.9, "the best of its video"
    assert spread([], 4) == []


def test_boxes_lie_where_they_are_on_frames_of_another_size(project):
    (found,) = judged(VIDEOS, [tube(2, 1, 0.5, shift=100)], BOXES)
    frames = frames_of(found, "frames", 3)
    assert [number for number, _ in frames] == [2, 6, 9]
    assert (frames[0][1] == 120).mean() > 0.9, "frame 2"
    picture = np.asarray(annotated(found, *frames[0], "golf"))
    orange = np.array([int(WORSE[k : k + 2], 16) for k in (1, 3, 5)])
    edges = np.argwhere((picture[70] == orange).all(axis=-1)).ravel()
    assert (edges.min(), edges.max()) == (90, 129), "180 and 260 of 320 pixels, the last one left out"
    dashes = picture[40:109, 40]
    assert {tuple(pixel) for pixel in dashes} >= {(255, 255, 255), (0, 0, 0)}
    blue = np.array([int(BETTER[k : k + 2], 16) for k in (1, 3, 5)])
    assert not (picture == blue).all(axis=-1).any()


@pytest.mark.parametrize(("left", "right", "column"), [(10.6, 10.7, 11), (160.0, 160.0, 160)])
def test_boxes_thinner_than_a_pixel_of_the_clip_have_one(left, right, column):
    box = np.tile(np.array([2 * left, 60, 2 * right, 220]), (8, 1))
    thin = Tube(2, 1, 2, box, 0.5)
    found = figures.Found(VIDEOS[2], [Tube(2, 1, 2, box)], thin, 1.0, True)
    picture = np.asarray(annotated(found, 2, np.zeros((120, 160, 3), np.uint8), "golf"))
    blue = np.array([int(BETTER[k : k + 2], 16) for k in (1, 3, 5)])
    columns = np.unique(np.argwhere((picture[40:100] == blue).all(axis=-1))[:, 1]).tolist()
    assert columns
    assert all(abs(one - column) <= 1 for one in columns), "a line is two pixels wide"


def test_a_clip_that_is_too_large_has_fewer_colours_then_fewer_frames(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (8, 30, 40, 3), np.uint8)
    pictures, path = [Image.fromarray(one) for one in noise], tmp_path / "clip.gif"
    sizes = []
    for colours in figures.COLOURS:
        sizes.append(len(figures._gif(pictures, 1.0, colours)))
    assert sizes == sorted(sizes, reverse=True)
    for limit, size, frames in ((sizes[0], sizes[0], 8), (sizes[0] - 1, sizes[1], 8), (sizes[-1] - 1, None, 4)):
        monkeypatch.setattr(figures, "CLIP_BYTES", limit)
        write_clip(pictures, 1.0, path)
        assert path.stat().st_size == (size or pytest.approx(sizes[0] / 2, rel=0.3))
        with Image.open(path) as clip:
            assert clip.n_frames == frames
            assert clip.info["duration"] * frames == pytest.approx(1000, abs=80), "as long as before"
    monkeypatch.setattr(figures, "CLIP_BYTES", 100)
    path.unlink()
    with pytest.raises(FigureError, match=r"clip\.gif: a single frame of \(40, 30\) is larger than 100 bytes"):
        write_clip(pictures, 1.0, path)
    assert not path.exists(), "what is too large is never left behind"


def test_frames_alone_have_no_tubes_and_several_classes_no_analysis_of_mistakes(project):
    del project["shown"]["tubes"]
    header = Path("one/errors.csv").read_text().splitlines()[0]
    write_text("one/errors.csv", f"{header}\n")
    detection_figures(project, Path("ava"))
    assert "<!-- no tubes: frames alone are evaluated, each by itself -->" in Path("ava_tubes.svg").read_text()
    assert (
        "<!-- no analysis of mistakes: actors have several classes at a time -->" in Path("ava_errors.svg").read_text()
    )
    assert [path.name for path in Path("ava_clips").iterdir()] == ["clips.csv"]


def test_runs_are_averaged_and_a_class_without_positives_has_no_bar(project):
    found, measure = figures.read_precisions(project["methods"])
    assert measure == "frame_map@0.5 by act"
    assert found["yowo"]["golf"] == pytest.approx(0.6)
    assert found["yowo_2d"]["golf"] == pytest.approx(0.7)
    assert np.isnan(found["yowo"]["run"])
    errors = figures.read_errors(["one", "two"])
    assert list(errors) == ["mean", *CLASSES]
    assert errors["mean"] == pytest.approx(dict(zip(SHARES, (0.6, 0.1, 0.15, 0.0, 0.05, 0.1), strict=True)))


def test_methods_of_different_protocols_show_what_all_of_them_measured(project):
    lines = ["metric,protocol,class,ap,positives", "frame_map@0.5,padilla,golf,0.9,3", "video_map@0.5,act,golf,0.4,3"]
    write_text("two/per_class.csv", "\n".join([*lines, "video_map@0.5,act,swim,0.2,3"]) + "\n")
    found, measure = figures.read_precisions(project["methods"])
    assert measure == "video_map@0.5 by act"
    assert found["yowo"] == pytest.approx(dict(zip(CLASSES, (0.01, 0.205, 0.01), strict=True)) | {"swim": 0.2})
    nothing = {CLASSES[0]: np.nan, "golf": 0.4, "run": np.nan, "swim": 0.2}
    assert found["yowo_2d"] == pytest.approx(nothing, nan_ok=True)
    figures.class_accuracies(found, Path("per_class"), measure)
    write_text("two/per_class.csv", "\n".join(lines[:2]) + "\n")
    assert figures.read_precisions(project["methods"]) == ({}, "")
    detection_figures(project, Path("small"))
    assert "<!-- no evaluator measured all of the methods -->" in Path("small_per_class.svg").read_text()


def test_a_missing_file_is_named(project):
    Path("two/per_class.csv").unlink()
    with pytest.raises(FigureError, match=r"two/per_class\.csv is missing"):
        detection_figures(project, Path("small"))
