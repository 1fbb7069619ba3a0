"""The jobs `link` and `evaluate` from files to files, with values known by hand."""

import csv
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from reaction.data.boxes import Boxes, write_boxes
from reaction.data.index import Video
from reaction.evaluation import ava
from reaction.evaluation.boxes import iou
from reaction.evaluation.detected import read_tubes, write_detected
from reaction.evaluation.detection import DRAWS, DetectionError, draw, evaluate_detections
from reaction.evaluation.linking import link_detections
from reaction.files import read_json, write_json, write_text

FRAMES, WIDTH, HEIGHT, LINKERS = 24, 160, 120, ("yowo", "act", "road", "multisports")
FACTS = {"method": "yowo", "stream": "rgb", "split": "split1", "seed": 0, "scale": "tiny"}
FRAME = {name: [0.5] for name in ("padilla", "act", "gurkirt", "multisports")}
VIDEO = {name: [0.2, "0.5:0.95"] for name in LINKERS}


def video(k: int, fps: float = 25.0, frames: int = FRAMES) -> Video:
    """Videos come in groups of two."""
    return Video(f"v{k}", f"v{k}.avi", (0,), f"g{k // 2}", frames, fps, WIDTH, HEIGHT, "0", "pyav")


def write_index(videos: list[Video], annotated: dict[str, Boxes], classes: list[str]) -> None:
    Path("index").mkdir(exist_ok=True)
    with open("index/index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(vars(videos[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(one) | {"labels": "|".join(map(str, one.labels))} for one in videos)
    write_text("index/classes.txt", "".join(f"{name}\n" for name in classes))
    write_json("index/official.json", {"split1": {"train": 9, "test": 5}})
    write_boxes("index/boxes.h5", annotated)


def walk(speed: float) -> np.ndarray:
    left = 10 + speed * np.arange(FRAMES)
    return np.stack([left, np.full(FRAMES, 20.0), left + 30, np.full(FRAMES, 70.0)], axis=1).astype(np.float32)


def detect(found: dict[str, tuple], classes: int, confidence: dict[str, np.ndarray] | None = None) -> None:
    """boxes.h5 of frames, boxes and scores, by a detector that is sure of all boxes, or has the `confidence`."""
    write_json("boxes/config.json", {"config": {"least_score": 0.005}})
    sure = {name: np.ones(len(frame), np.float32) for name, (frame, _, _) in found.items()} | (confidence or {})
    rows = ((name, frame, box, sure[name], score) for name, (frame, box, score) in found.items())
    write_detected("boxes/boxes.h5", rows, classes)


def scores(label: int, value: float, count: int = FRAMES) -> np.ndarray:
    """(n, 2): of one class, and next to nothing of the other."""
    table = np.full((count, 2), 0.001, np.float32)
    table[:, label] = value
    return table


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """Four tested videos of six, the first two of class 0, the others of class 1, and who finds everything in them."""
    monkeypatch.chdir(tmp_path)
    none, frame = np.zeros(FRAMES, np.int64), np.arange(FRAMES)
    annotated = {f"v{k}": Boxes(frame, walk(1 + k / 4), none + k // 2, none) for k in range(4)}
    write_index([video(k) for k in range(6)], annotated, ["sit", "run"])
    return {name: (frame, one.box, scores(int(one.label[0]), 0.9)) for name, one in annotated.items()}


def run(found: dict[str, tuple], classes: int = 2, **settings: object) -> dict:
    """Detect, link in every way, evaluate."""
    detect(found, classes)
    inputs = {"index": "index", "boxes": "boxes"}
    for name in LINKERS:
        frozen = {"rule": "link", "dataset": "own", "config": FACTS | {"linker": name}, "inputs": dict(inputs)}
        write_json(f"tubes_{name}/config.json", frozen)
        link_detections(f"tubes_{name}")
    config = FACTS | {"protocol_name": "every", "frame": FRAME, "video": VIDEO} | settings
    inputs |= {f"tubes_{name}": f"tubes_{name}" for name in LINKERS}
    write_json("map/config.json", {"rule": "evaluate", "dataset": "own", "config": config, "inputs": inputs})
    return evaluate_detections("map")


def test_who_finds_everything_has_all(project):
    metrics = run(project)
    assert metrics == read_json("map/metrics.json")
    assert {key: metrics[key] for key in FACTS} == FACTS
    assert (metrics["n"], metrics["of"], metrics["classes"], metrics["chance"]) == (4, 5, 2, 0.5)
    assert metrics["protocol"] == {"protocol_name": "every", "frame": FRAME, "video": VIDEO}
    assert metrics["values"]["frame_map@0.5"] == dict.fromkeys(FRAME, 1.0)
    for metric in ("video_map@0.2", "video_map@0.5:0.95"):
        ours = metrics["values"][metric]
        assert ours == pytest.approx({"yowo": 2 / 2.00001, "act": 1, "road": 1, "multisports": 1}, abs=1e-12)
    with h5py.File("map/draws.h5") as file:
        for metric, by in metrics["values"].items():
            assert set(file[metric]) == set(by)
            for name, value in by.items():
                stored = file[metric][name]
                assert stored.shape == (DRAWS,)
                assert stored.attrs["value"] == value
                there = stored[:][~np.isnan(stored[:])]
                assert (np.abs(there - 1) < 2e-5).all()
                assert len(there) > 0.99 * DRAWS  # of a few only training videos are drawn


def wrong_and_sure(project: dict[str, tuple]) -> dict[str, tuple]:
    """The last video's actor, who does class 1, is taken to do class 0, more surely than those who do."""
    frame, box, _ = project["v3"]
    return project | {"v3": (frame, box, scores(0, 0.95))}


def test_values_by_hand(project):
    """Of class 0 a third of what is found is wrong, and comes first; of class 1 a half is missing.

    YOWO and ROAD link scores of 0.001 as well: of class 1 in the last video, where it is, and in two where it is not.
    """
    metrics = run(wrong_and_sure(project))
    rounded, straight = (2 / 3 + 1 / 2) / 2, (1 / 3 + 1 / 2) / 2
    of_boxes = {"padilla": rounded, "act": straight, "gurkirt": rounded, "multisports": rounded}
    assert metrics["values"]["frame_map@0.5"] == pytest.approx(of_boxes)
    of_tubes = {
        "yowo": (2 / 3 + 1 / 2 + 1 / 2 * 2 / 4) / 2 * 2 / 2.00001,
        "act": straight,
        "road": (1 / 3 + 1 / 2 + 1 / 2 * (1 + 2 / 4) / 2) / 2,
        "multisports": rounded,
    }
    assert metrics["values"]["video_map@0.2"] == pytest.approx(of_tubes)
    assert metrics["values"]["video_map@0.5:0.95"] == pytest.approx(of_tubes)
    table = Path("map/per_class.csv").read_text().splitlines()
    assert table[0] == "metric,protocol,class,ap,positives"
    assert "frame_map@0.5,act,sit,0.3333,48" in table
    assert "video_map@0.5:0.95,multisports,run,0.5000,2" in table
    assert Path("map/errors.csv").read_text().splitlines() == [
        "class,precision,localisation,classification,time,other,missed",
        "mean,0.4167,0.0000,0.3333,0.0000,0.0000,0.2500",
        "sit,0.3333,0.0000,0.6667,0.0000,0.0000,0.0000",
        "run,0.5000,0.0000,0.0000,0.0000,0.0000,0.5000",
    ]


def test_draws_are_of_all_videos_or_groups_and_the_same_for_all_runs(project):
    indexed = [video(k) for k in range(8)]
    of_all, of_two = draw(indexed, indexed, "group"), draw(indexed, indexed[3:5], "group")
    assert of_all.times.shape == (DRAWS, 4)
    assert (of_all.times.sum(axis=1) == 4).all()
    assert of_two.times.tolist() == of_all.times[:, [1, 2]].tolist()
    assert (of_all.unit.tolist(), of_two.unit.tolist()) == ([0, 0, 1, 1, 2, 2, 3, 3], [0, 1])
    by_video = draw(indexed, indexed, "video").times
    assert by_video.shape == (DRAWS, 8)
    assert by_video.mean() == 1
    assert by_video.var() == pytest.approx(1 - 1 / 8, abs=0.05)  # as of drawing 8 of 8 with replacement

    run(wrong_and_sure(project), resample="group")
    times = draw([video(k) for k in range(6)], [video(k) for k in range(4)], "group").times
    with h5py.File("map/draws.h5") as file:
        drawn = file["frame_map@0.5/multisports"][:]
    for (first, second), value in zip(times.tolist(), drawn, strict=True):
        # Of class 0 there are 48 boxes for each time that the first group is drawn, and half as many taken for it.
        each = ([2 * first / (2 * first + second)] if first else []) + ([1 / 2] if second else [])
        assert value == pytest.approx(np.mean(each) if each else np.nan, nan_ok=True)


def test_nothing_detected_and_videos_without_truth(project):
    nothing = np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty((0, 2), np.float32)
    metrics = run(dict.fromkeys(project, nothing))
    assert {value for by in metrics["values"].values() for value in by.values()} == {0.0}
    assert all(Path(f"tubes_{name}/tubes.h5").exists() for name in LINKERS)
    # Video v4 has no box: what is found there is wrong, but for padilla, who does not look.
    metrics = run(project | {"v4": wrong_and_sure(project)["v3"]})
    half = (2 / 3 + 1) / 2
    assert metrics["values"]["frame_map@0.5"] == pytest.approx(
        {"padilla": 1, "act": (1 / 3 + 1) / 2, "gurkirt": half, "multisports": half}
    )


def test_tubes_are_as_boxes_are(project):
    """Linked in ACT's numbers or not, a tube has the detected boxes; one without a width has a pixel there."""
    frame, box, score = project["v0"]
    thin = box.copy()
    thin[5, 2] = thin[5, 0]
    run(project | {"v1": (frame, thin, score)})
    for name in LINKERS:
        videos, tubes = read_tubes(f"tubes_{name}/tubes.h5")
        assert videos == ("v0", "v1", "v2", "v3")
        best = {one.video: one for one in sorted(tubes, key=lambda one: one.score)}
        assert best[0].box.tolist() == box.tolist()
        assert best[0].start == 0
        assert best[0].score == pytest.approx(0.9, abs=1e-6)


def test_untrimmed_videos_have_their_tubes_trimmed_in_time(project):
    """An actor of no action is linked as well, and cut off; not so where videos are short, nor by YOWO."""
    frame, box, score = project["v0"]
    score = score.copy()
    score[:8] = 0.2
    detect({"v0": (frame, box, score)}, 2)
    for untrimmed, start in ((True, 9), (False, 0)):  # a frame late, as the source
        config = {"linker": "road", "untrimmed": untrimmed}
        write_json("tubes/config.json", {"config": config, "inputs": {"index": "index", "boxes": "boxes"}})
        link_detections("tubes")
        _, tubes = read_tubes("tubes/tubes.h5")
        best = max(tubes, key=lambda one: one.score)
        assert (best.label, best.start, best.end) == (0, start, FRAMES)


def test_yowo_links_by_the_class_whatever_the_confidence(project):
    """Half as confident: scores are half as high, of YOWO's tubes as high as before. No confidence is no score."""
    sure = {"v0": np.full(FRAMES, 0.5, np.float32), "v1": np.r_[0, np.ones(FRAMES - 1)].astype(np.float32)}
    products = {name: (*project[name][:2], project[name][2] * sure[name][:, None]) for name in sure}
    detect(products, 2, sure)
    best = {}
    for name in LINKERS:
        frozen = {"config": {"linker": name}, "inputs": {"index": "index", "boxes": "boxes"}}
        write_json(f"tubes_{name}/config.json", frozen)
        link_detections(f"tubes_{name}")
        _, tubes = read_tubes(f"tubes_{name}/tubes.h5")
        best[name] = {video: max(one.score for one in tubes if one.video == video) for video in (0, 1)}
    assert best["yowo"] == pytest.approx({0: 0.9, 1: 0.9 * (FRAMES - 1) / FRAMES}, abs=1e-6)
    for name in ("act", "multisports", "road"):
        assert best[name][0] == pytest.approx(0.45, abs=1e-6)


def test_actions_on_key_frames(tmp_path, monkeypatch):
    """Two actors of several actions at seconds 3 to 6 of a video of 30 frames a second: all found, all 1."""
    monkeypatch.chdir(tmp_path)
    frame = np.repeat(np.arange(3, 7) * 30, 3)
    people = np.array([[10, 10, 60, 90], [10, 10, 60, 90], [90, 10, 140, 90]], np.float32)
    label = np.tile([0, 2, 2], 4)
    annotated = {name: Boxes(frame, np.tile(people, (4, 1)), label, np.tile([0, 0, 1], 4)) for name in ("v0", "v1")}
    write_index([video(k, 30.0, 300) for k in range(2)], annotated, ["sit", "run", "talk"])
    score = np.tile(np.array([[0.8, 0.1, 0.7], [0.1, 0.2, 0.9]], np.float32), (4, 1))
    columns = np.repeat(np.arange(3, 7) * 30, 2), np.tile(people[1:], (4, 1)), score
    detect({"v0": columns, "v1": columns}, 3)
    names = [*ava.PROTOCOLS, "activitynet-mini"]
    config = FACTS | {"protocol_name": "ava", "ava": names}
    write_json("map/config.json", {"config": config, "inputs": {"index": "index", "boxes": "boxes"}})
    metrics = evaluate_detections("map")
    assert metrics["values"] == {"frame_map@0.5": dict.fromkeys(names, 1.0)}
    assert metrics["chance"] == (1 / 2 + 2 / 2) / 2  # one of two actors sits, both talk, nobody runs
    table = Path("map/per_class.csv").read_text().splitlines()
    assert "frame_map@0.5,activitynet,talk,1.0000,16" in table
    assert "frame_map@0.5,activitynet-mini,talk,1.0000,4" in table  # second 4 alone
    assert "frame_map@0.5,slowfast,run,,0" in table
    assert Path("map/errors.csv").read_text() == "class,precision,localisation,classification,time,other,missed\n"
    assert "frame" not in metrics["protocol"]
    ignorant = {name: (*columns[:2], np.full_like(score, 0.5)) for name in ("v0", "v1")}
    detect(ignorant, 3)
    again = evaluate_detections("map")
    assert again["values"] == {"frame_map@0.5": dict.fromkeys(names, metrics["chance"])}


def test_sixty_of_avas_actions_count(tmp_path, monkeypatch):
    """A key frame that shows an action which does not count is listed all the same, but has no truth for mmaction2."""
    monkeypatch.chdir(tmp_path)
    names = [f"action {i}" for i in range(1, 80)] + [ava.LAST_ACTION]
    counted = ava.evaluated(names)
    assert len(set(counted.tolist())) == len(counted) == 60
    assert 1 not in counted  # crawling, number 2
    assert ava.evaluated(names[:3]).tolist() == [0, 1, 2]
    box = np.tile(np.array([[10, 10, 60, 90]], np.float32), (2, 1))
    frame, label = np.array([90, 120]), np.array([2, 1])
    write_index([video(0, 30.0, 300)], {"v0": Boxes(frame, box, label, np.array([0, 0]))}, names)
    score = np.zeros((2, 80), np.float32)
    score[:, 2], score[1, 1] = [0.5, 0.9], 0.99
    detect({"v0": (frame, box, score)}, 80)
    config = FACTS | {"protocol_name": "ava", "ava": list(ava.PROTOCOLS)}
    write_json("map/config.json", {"config": config, "inputs": {"index": "index", "boxes": "boxes"}})
    metrics = evaluate_detections("map")
    assert metrics["values"]["frame_map@0.5"] == {"activitynet": 0.5, "slowfast": 0.5, "mmaction2": 1.0}
    assert (metrics["classes"], metrics["chance"]) == (60, 0.5)  # of two actors one does what counts
    assert len(Path("map/per_class.csv").read_text().splitlines()) == 1 + 3 * 60


def test_what_does_not_belong_together(project):
    run(project)
    frame, box, score = project["v0"]
    detect({"other": (frame, box, score)}, 2)
    with pytest.raises(DetectionError, match=r"boxes/boxes.h5 has other, which index/index.csv does not"):
        evaluate_detections("map")
    with pytest.raises(DetectionError, match="has other, which"):
        link_detections("tubes_act")
    detect({"v0": (frame, box, score[:, :1])}, 1)
    with pytest.raises(DetectionError, match="scores for 1 classes, index lists 2"):
        evaluate_detections("map")
    detect({"v0": (frame + 1, box, score)}, 2)
    with pytest.raises(DetectionError, match="has frame 24 of v0, which has 24"):
        link_detections("tubes_act")
    with pytest.raises(DetectionError, match=r"tubes_\w+/tubes.h5 and boxes/boxes.h5 are of different videos"):
        evaluate_detections("map")
    write_json("map/config.json", {"config": FACTS | {"video": VIDEO}, "inputs": {"index": "index", "boxes": "boxes"}})
    with pytest.raises(DetectionError, match=r"config.json has no inputs.tubes_act"):
        evaluate_detections("map")
    detect({"v5": (frame, box, score)}, 2)
    with pytest.raises(DetectionError, match="no box of the 1 videos"):
        evaluate_detections("map")
    write_json("tubes/config.json", {"dataset": "own", "config": {"linker": "best"}, "inputs": {}})
    with pytest.raises(DetectionError, match="the linker 'best': there are yowo, act, multisports, road"):
        link_detections("tubes")


def test_a_true_tube_with_a_gap(project):
    none = np.zeros(2, np.int64)
    gap = Boxes(np.array([3, 5]), walk(1)[[3, 5]], none, none)
    run(project)
    write_boxes("index/boxes.h5", {"v0": gap})
    with pytest.raises(DetectionError, match=r"index/boxes.h5, v0: .* goes from frame 3 to 5; split it there"):
        evaluate_detections("map")


def unbroken(boxes: Boxes) -> bool:
    """Whether every box overlaps the next by a half."""
    return bool((iou(boxes.box[:-1], boxes.box[1:]) >= 0.5).all())


@pytest.mark.real_data
def test_everything_found_on_jhmdb(project, jhmdb_boxes):
    """Some of J-HMDB's annotated boxes, with scores that say nothing: all are found, whoever links and measures.

    Actors so fast that they leave half of their box behind within a frame are left out: all but YOWO lose them.
    """
    slow = [name for name, one in sorted(jhmdb_boxes.items()) if unbroken(one)]
    assert len(slow) == 912
    annotated = {name: jhmdb_boxes[name] for name in slow[::12]}
    lengths = {name: int(one.frame.max()) + 1 for name, one in annotated.items()}
    videos = [replace(video(k), video=name, frames=frames) for k, (name, frames) in enumerate(lengths.items())]
    classes = np.unique([one.label[0] for one in annotated.values()])
    assert len(classes) > 15
    write_index(videos, annotated, [f"class {i}" for i in range(21)])
    rng, found = np.random.default_rng(0), {}
    for name, one in annotated.items():
        score = np.zeros((len(one), 21), np.float32)
        score[np.arange(len(one)), one.label] = 0.2 + 0.8 * rng.random(len(one))
        found[name] = (one.frame, one.box, score)
    values = run(found, 21)["values"]
    assert values["frame_map@0.5"] == pytest.approx(dict.fromkeys(FRAME, 1.0) | {"gurkirt": len(classes) / 21})
    expected = {"yowo": len(classes) / 21, "act": 1, "road": len(classes) / 21, "multisports": 1}
    assert values["video_map@0.5:0.95"] == pytest.approx(expected, abs=1e-5)
