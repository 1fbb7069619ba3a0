import csv
import threading
import time
import tracemalloc
from itertools import pairwise

import av
import cv2
import h5py
import numpy as np
import pytest

from reaction.data import extract
from reaction.data.extract import ExtractionError, Progress, flow_shard, frames_shard, target_size
from reaction.data.store import Shards, decode_flow, decode_rgb, shard_name, shard_of
from reaction.files import sha256, write_json
from reaction.flow import TVL1, dequantise, quantise, tvl1
from reaction.flow.front import version

COLUMNS = ("video", "path", "labels", "group", "frames", "fps", "width", "height", "sha256", "decoder")
FAST = {"nscales": 2, "warps": 2, "epsilon": 0.02, "inner_iterations": 60, "outer_iterations": 1, "median": 1}
SHARDS = 2
LENGTHS = {"still": 1, "pair": 2, "long": 21, "another": 5}


def scene(number, width=64, height=48):
    """A smooth texture that moves by (2, 1) pixels a frame."""
    noise = cv2.GaussianBlur(np.random.default_rng(7).normal(size=(120, 160, 3)), (0, 0), 3)
    texture = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    y, x = 60 - number, 80 - 2 * number
    return np.ascontiguousarray(texture[y : y + height, x : x + width])


def write_video(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number))))
        container.mux(stream.encode(None))


def write_index(folder, **changes):
    """index.csv of `LENGTHS`, whose columns `changes` overwrite for the video "long"."""
    folder.mkdir(exist_ok=True)
    with open(folder / "index.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for video, frames in LENGTHS.items():
            path = f"some class/{video}.mp4"
            row = dict(zip(COLUMNS, (video, path, 0, "g", frames, 25.0, 64, 48), strict=False))
            row |= {"sha256": sha256(folder.parent / "fetched" / "videos" / path), "decoder": "pyav"}
            writer.writerow(row | changes if video == "long" else row)


def write_config(folder, modality, **config):
    common = {"modality": modality, "resize": "64x48", "jpeg_quality": 95, "shards": SHARDS}
    flow = (
        {"bound": 20.0, "algorithm": "tvl1", "semantics": "opencv-cuda", "parameters": FAST}
        if modality == "flow"
        else {}
    )
    frozen = {"rule": "frames" if modality == "rgb" else "flow", "recipe": 1, "dataset": "tiny", "name": modality}
    inputs = {"index": "index", "videos": "fetched"}
    write_json(folder / modality / "config.json", frozen | {"config": common | flow | config, "inputs": inputs})
    return folder / modality


@pytest.fixture
def project(tmp_path, monkeypatch):
    for video, frames in LENGTHS.items():
        write_video(tmp_path / "fetched" / "videos" / "some class" / f"{video}.mp4", frames)
    write_index(tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def extract_all(folder, rule):
    for shard in range(SHARDS):
        rule(folder, shard)
    return Shards(folder)


def test_rgb_features_are_the_frames(project):
    stored = extract_all(write_config(project, "rgb"), frames_shard)
    assert stored.videos == sorted(LENGTHS)
    for video, frames in LENGTHS.items():
        assert stored.length(video) == frames
        for number, jpeg in enumerate(stored.read(video, range(frames))):
            assert np.abs(decode_rgb(jpeg).astype(int) - scene(number)).mean() < 4


def test_a_video_is_in_the_shard_of_its_name(project):
    folder = write_config(project, "rgb")
    extract_all(folder, frames_shard)
    for shard in range(SHARDS):
        with h5py.File(folder / shard_name(shard)) as file:
            names = file["video"].asstr()[:].tolist()
            assert names == [video for video in LENGTHS if shard_of(video, SHARDS) == shard]
            assert file["source_sha256"].asstr()[:].tolist() == [
                sha256(project / "fetched" / "videos" / "some class" / f"{name}.mp4") for name in names
            ]


def test_flow_features_are_the_motion(project):
    stored = extract_all(write_config(project, "flow"), flow_shard)
    for video, frames in LENGTHS.items():
        assert stored.length(video) == max(frames - 1, 1)
    for jpeg in stored.read("long", range(20)):
        x, y = np.median(dequantise(decode_flow(jpeg), 20), axis=(1, 2))
        assert abs(x - 2) < 0.25
        assert abs(y - 1) < 0.25


def test_frames_of_another_rate(project):
    """21 frames at 25 a second: of ten a second every second or third is kept, of 50 each is stored twice."""
    tenth = extract_all(write_config(project, "rgb", fps=10), frames_shard)
    for number, picture in zip([1, 3, 6, 8, 11, 13, 16, 18], tenth.pictures("long", range(8)), strict=True):
        assert np.abs(picture.astype(int) - scene(number)).mean() < 4
    assert (tenth.length("long"), tenth.length("still"), tenth.attributes["fps"]) == (8, 1, 10)
    twice = extract_all(write_config(project, "rgb", fps=50), frames_shard)
    stored = twice.read("long", range(42))
    assert twice.length("long") == 42
    assert [one == other for one, other in pairwise(stored)] == [k % 2 == 0 for k in range(41)]


def test_flow_is_between_the_frames_that_are_kept(project):
    """The texture moves by (2, 1) a frame of the video: by twice that a pair, or by nothing between equal frames."""
    half = extract_all(write_config(project, "flow", fps=12.5), flow_shard)
    assert [half.length(video) for video in LENGTHS] == [1, 1, 10, 2]
    for field in half.pictures("long", range(10)):
        assert np.abs(np.median(dequantise(field, 20), axis=(0, 1)) - (4, 2)).max() < 0.4
    twice = extract_all(write_config(project, "flow", fps=50), flow_shard)
    assert twice.length("long") == 41
    motion = [np.median(dequantise(field, 20), axis=(0, 1)) for field in twice.pictures("long", range(41))]
    still = [np.abs(one).max() < 0.1 for one in motion]
    assert still == [k % 2 == 0 for k in range(41)]


def test_a_video_without_a_rate_cannot_be_brought_to_another(project):
    write_index(project / "index", fps=0.0)
    with pytest.raises(ExtractionError, match=r"long\.mp4 of video long: its container says no frame rate"):
        frames_shard(write_config(project, "rgb", fps=25), shard_of("long", SHARDS))


def test_flow_is_that_of_the_whole_video_at_once(project, monkeypatch):
    """21 frames come in three chunks; the truth is computed from all of them in one."""
    monkeypatch.setattr(extract, "PAIRS", dict.fromkeys(("native", "gpu", "torch"), 8))
    stored = extract_all(write_config(project, "flow", jpeg_quality=100), flow_shard)
    with av.open("fetched/videos/some class/long.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    truth = quantise(tvl1(grey, TVL1(**FAST)), 20)
    levels = np.stack([decode_flow(jpeg) for jpeg in stored.read("long", range(20))])
    assert np.abs(levels.astype(int) - truth).max() <= 2


def test_single_frame_has_one_still_field(project):
    stored = extract_all(write_config(project, "flow"), flow_shard)
    (jpeg,) = stored.read("still", [0])
    assert (decode_flow(jpeg) == 128).all()


def test_attributes_are_the_frozen_config(project):
    stored = extract_all(write_config(project, "flow"), flow_shard)
    assert stored.attributes["bound"] == 20.0
    assert stored.attributes["parameters"] == FAST
    assert stored.attributes["rule"] == "flow"
    assert stored.attributes["inputs"] == {"index": "index", "videos": "fetched"}


def test_resizing_follows_the_rule(project):
    stored = extract_all(write_config(project, "rgb", resize="short_side:24"), frames_shard)
    image = decode_rgb(stored.read("pair", [0])[0])
    assert image.shape == (24, 32, 3)
    grey = cv2.cvtColor(scene(0), cv2.COLOR_RGB2GRAY)  # JPEG keeps the chroma at half the size
    small = grey.reshape(24, 2, 32, 2).mean(axis=(1, 3))  # halving bilinearly averages 2x2 pixels
    assert np.abs(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) - small).mean() < 1.5


@pytest.mark.parametrize(("threads", "pairs"), [(1, 64), (2, 64), (2, 1), (1, 7)])
def test_same_bytes_whatever_the_threads_and_the_chunks(project, monkeypatch, threads, pairs):
    folder, shard = write_config(project, "flow"), shard_of("long", SHARDS)
    flow_shard(folder, shard)
    first = sha256(folder / shard_name(shard))
    monkeypatch.setattr(extract, "PAIRS", dict.fromkeys(("native", "gpu", "torch"), pairs))
    flow_shard(folder, shard, threads)
    assert sha256(folder / shard_name(shard)) == first


def test_shard_and_log_say_who_computed_the_flow(project, capsys):
    folder = write_config(project, "flow", shards=1)
    flow_shard(folder, 0, threads=2, backend="torch")
    by, lines = version("torch"), capsys.readouterr().out.splitlines()
    assert Shards(folder).attributes["backend"] == by
    assert lines[0] == f"flow shard 0: opencv-cuda TV-L1 by {by}, threads: 2"
    assert lines[-1].startswith("flow shard 0: 4/4 videos, 26/26 pairs, ")


def test_a_slower_backend_says_so_in_the_log(project, capsys, monkeypatch):
    monkeypatch.setattr(extract, "choose", lambda *_: ("torch", "no native kernel (no compiler): it takes longer"))
    flow_shard(write_config(project, "flow"), 0)
    assert capsys.readouterr().out.splitlines()[1] == "no native kernel (no compiler): it takes longer"


def test_a_backend_that_cannot_do_it_stops_before_the_first_video(project):
    folder = write_config(project, "flow", semantics="opencv5-cpu", parameters={})
    with pytest.raises(ValueError, match=r"opencv cannot be used: OpenCV 4\..* not opencv5-cpu"):
        flow_shard(folder, 0, backend="opencv")
    assert not list(folder.glob("shard-*"))


def test_shards_by_different_backends_are_read_together(project):
    folder = write_config(project, "flow", semantics="opencv-cpu", parameters={"nscales": 1, "warps": 1})
    for shard, backend in enumerate(("torch", "opencv")):
        flow_shard(folder, shard, backend=backend)
    assert Shards(folder, expect={"semantics": "opencv-cpu"}).videos == sorted(LENGTHS)


def failing(calls, error):
    """A function that fails at its third call, whatever it is given."""

    def fail(*_, **__):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return np.zeros((4, 2, 48, 64), np.float32)

    return fail


@pytest.mark.parametrize(
    ("where", "error", "kind", "message"),
    [
        ("cv2.cvtColor", cv2.error("out of memory"), ExtractionError, r"long\.mp4 of video long: out of memory"),
        ("tvl1", ValueError("too small"), ExtractionError, r"long\.mp4 of video long: too small"),
        ("quantise", OSError("no space left"), ExtractionError, r"long\.mp4 of video long: no space left"),
        ("chunks", RuntimeError("a bug"), RuntimeError, "a bug"),
        ("tvl1", RuntimeError("a bug"), RuntimeError, "a bug"),
        ("encode_flow", RuntimeError("a bug"), RuntimeError, "a bug"),
    ],
)
def test_an_error_in_any_thread_names_the_video_and_ends_the_threads(project, monkeypatch, where, error, kind, message):
    folder, before = write_config(project, "flow"), threading.active_count()
    monkeypatch.setattr(extract, "shard_of", lambda video, shards: int(video == "long"))
    monkeypatch.setattr(extract, "PAIRS", dict.fromkeys(("native", "gpu", "torch"), 4))
    fail = failing([1, 1] if where == "chunks" else [], error)
    monkeypatch.setattr(f"reaction.data.extract.{where}", fail)
    if where == "cv2.cvtColor":
        monkeypatch.setattr(extract, "tvl1", lambda *_, **__: np.zeros((4, 2, 48, 64), np.float32))
    with pytest.raises(kind, match=message) as raised:
        flow_shard(folder, 1)
    assert kind is ExtractionError or raised.value.__notes__ == ["(video long)"]
    assert threading.active_count() == before
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_threads_end_with_the_shard(project):
    before = threading.active_count()
    flow_shard(write_config(project, "flow"), 0)
    assert threading.active_count() == before


def test_no_stage_runs_away_from_a_slow_next_one(project, monkeypatch):
    """Chunks of one pair; what is decoded and not yet solved, and solved and not yet encoded, stays at AHEAD."""
    counts, worst = dict.fromkeys(("decoded", "solved", "encoded"), 0), {"decoded": 0, "solved": 0}

    def decoded(path, *, decoder):
        for number in range(200):
            counts["decoded"] += 1
            worst["decoded"] = max(worst["decoded"], counts["decoded"] - counts["solved"])
            yield np.full((1, 32, 32, 3), number, np.uint8)

    def solved(frames, **_):
        time.sleep(0.002 if counts["solved"] < 100 else 0)  # first the solver is the slow one, then the encoder
        counts["solved"] += 1
        worst["solved"] = max(worst["solved"], counts["solved"] - counts["encoded"])
        return np.zeros((1, 2, 32, 32), np.float32)

    def encoded(field, quality):
        time.sleep(0.002 if counts["encoded"] >= 100 else 0)
        counts["encoded"] += 1
        return b"jpeg"

    monkeypatch.setattr(extract, "chunks", decoded)
    monkeypatch.setattr(extract, "tvl1", solved)
    monkeypatch.setattr(extract, "encode_flow", encoded)
    monkeypatch.setattr(extract, "PAIRS", dict.fromkeys(("native", "gpu", "torch"), 1))
    monkeypatch.setattr(extract, "shard_of", lambda video, shards: int(video == "long"))
    write_index(project / "index", frames=200)
    flow_shard(write_config(project, "flow", resize="32x32"), 1)
    assert counts == {"decoded": 200, "solved": 199, "encoded": 199}
    # The one being made, the one being used, the one that was just made of them, and a frame of overlap.
    assert worst["decoded"] <= extract.AHEAD + 4
    assert worst["solved"] <= extract.AHEAD + 2


@pytest.mark.parametrize(("modality", "rule"), [("rgb", frames_shard), ("flow", flow_shard)])
def test_a_killed_shard_is_absent_and_the_next_job_makes_it(project, killed, modality, rule):
    folder = write_config(project, modality, shards=1)
    killed(f"reaction.data.extract.{rule.__name__}", "cv2.imencode", 9, folder, 0)
    assert not list(folder.glob("shard-*"))
    assert len(list(folder.glob(".writing-*"))) == 1
    rule(folder, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "shard-000.h5"]
    assert Shards(folder).videos == sorted(LENGTHS)


@pytest.mark.parametrize(("modality", "rule"), [("rgb", frames_shard), ("flow", flow_shard)])
def test_a_video_of_15_minutes_takes_the_memory_of_a_short_one(project, monkeypatch, modality, rule):
    """Pixels or flow of a frame are 3 kB or 4 kB here; an item's place in the shard is all that may be kept of it."""
    folder = write_config(project, modality, resize="32x32")
    monkeypatch.setattr(extract, "tvl1", lambda frames, **_: np.zeros((len(frames) - 1, 2, 32, 32), np.float32))
    monkeypatch.setattr(extract, "shard_of", lambda video, shards: int(video == "long"))

    def peak(count):
        def decoded(path, *, decoder):
            for first in range(0, count, 16):
                yield np.full((min(16, count - first), 32, 32, 3), first % 251, np.uint8)

        monkeypatch.setattr(extract, "chunks", decoded)
        write_index(project / "index", frames=count)
        tracemalloc.start()
        rule(folder, 1)
        bytes_held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return bytes_held

    peak(1100)  # imports and caches; enough for every stage to have its chunks
    growth = (peak(9100) - peak(1100)) / 8000  # so many that a chunk more or less on its way weighs little
    assert growth < 150, f"{growth * 15 * 60 * 25 / 1e6:.0f} MB for a video of 15 minutes"


def test_other_frame_count_than_indexed(project):
    write_index(project / "index", frames=23)
    folder = write_config(project, "rgb")
    with pytest.raises(ExtractionError, match=r"long\.mp4: 21 frames .* counts 23: re-run `reaction index`"):
        frames_shard(folder, shard_of("long", SHARDS))
    assert not list(folder.glob("shard-*"))


def test_changed_broken_and_missing_videos_are_named(project):
    folder, path = write_config(project, "rgb"), project / "fetched" / "videos" / "some class" / "long.mp4"
    path.write_bytes(b"broken")
    with pytest.raises(ExtractionError, match=r"long\.mp4 has changed since it was indexed"):
        frames_shard(folder, shard_of("long", SHARDS))
    write_index(project / "index")
    with pytest.raises(ExtractionError, match=r"long\.mp4: no frame can be decoded.*although the index counts 21"):
        frames_shard(folder, shard_of("long", SHARDS))
    path.unlink()
    with pytest.raises(ExtractionError, match=r"long\.mp4 of video long is missing"):
        frames_shard(folder, shard_of("long", SHARDS))


def test_shard_that_does_not_exist(project):
    with pytest.raises(ValueError, match="no shard 2"):
        frames_shard(write_config(project, "rgb"), 2)


@pytest.mark.parametrize(
    ("size", "rule", "expected"),
    [
        ((320, 240), "340x256", (340, 256)),
        ((240, 320), "340x256", (340, 256)),
        ((320, 240), "short_side:256", (342, 256)),
        ((240, 320), "short_side:256", (256, 342)),
        ((1280, 720), "short_side:256", (456, 256)),
        ((200, 200), "short_side:255", (255, 255)),
    ],
)
def test_target_size(size, rule, expected):
    assert target_size(*size, rule) == expected


@pytest.mark.parametrize("rule", ["256", "short_side", "340X256", "long_side:256", "340x256 "])
def test_unknown_resize_rule(rule):
    with pytest.raises(ValueError, match=r"340x256.*short_side:256"):
        target_size(320, 240, rule)


@pytest.mark.parametrize("unit", ["frames", "pairs"])
def test_progress_says_how_fast_it_is_and_how_long_it_will_take(monkeypatch, unit):
    clock, lines = [100.0], []
    monkeypatch.setattr("reaction.data.extract.time.monotonic", lambda: clock[0])
    progress = Progress("flow", 3, videos=2, items=3700, unit=unit, report=lines.append)
    progress.done(4)
    assert lines == []
    clock[0] += 10
    progress.done(6)
    progress.video_done()
    assert lines == [f"flow shard 3: 0/2 videos, 10/3700 {unit}, 1.0 {unit}/s, 1:01:30 left"]


def test_chunks_of_a_video_are_about_as_long(project, monkeypatch):
    """20 pairs by at most 8 are 7, 7 and 6."""
    seen = []

    def solved(frames, **_):
        seen.append(len(frames) - 1)
        return np.zeros((len(frames) - 1, 2, 48, 64), np.float32)

    monkeypatch.setattr(extract, "tvl1", solved)
    monkeypatch.setattr(extract, "PAIRS", dict.fromkeys(("native", "gpu", "torch"), 8))
    monkeypatch.setattr(extract, "shard_of", lambda video, shards: int(video == "long"))
    flow_shard(write_config(project, "flow"), 1)
    assert seen == [7, 7, 6]
