"""The ceilings of the synthetic dataset rest on exact symmetries; each is checked on pictures and on decoded files."""

import csv
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from reaction.data import synthetic
from reaction.data.datasets import DatasetError
from reaction.data.datasets.synthetic import read_official
from reaction.data.synthetic import Generator

TINY = {"videos": 36, "groups": 3, "frames": [9, 13], "width": 96, "height": 72, "actor": [20, 26], "seed": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.generate(TINY, folder)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return synthetic.read_generator(TINY)


def decode(path: Path, pixels: str) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format=pixels) for frame in container.decode(video=0)])


def video_path(folder: Path, video: str) -> Path:
    return next((folder / "videos").glob(f"*/{video}.*"))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def to_rgb(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """BT.601 limited range without rounding: (H, W), (2, H/2, W/2) -> (H, W, 3)."""
    cb, cr = chroma.repeat(2, axis=1).repeat(2, axis=2).astype(float) - 128
    y = (luma.astype(float) - 16) * 255 / 219
    return np.stack([y + 1.5960 * cr, y - 0.3918 * cb - 0.8130 * cr, y + 2.0172 * cb], axis=-1)


def test_defaults_make_216_videos_of_six_classes_with_ceilings_of_a_half_and_a_third():
    generator = Generator()
    assert generator.classes == ["red_rise", "red_fall", "green_rise", "green_fall", "blue_rise", "blue_fall"]
    assert generator.scenes == 36
    assert synthetic.ceilings(generator) == {"rgb": 1 / 2, "flow": 1 / 3, "fusion": 1.0}
    as_json = json.loads(json.dumps(asdict(generator)))
    assert synthetic.read_generator(as_json) == generator


def test_appearance_is_invisible_in_grey():
    scene = synthetic.draw_scene(Generator(), 3)
    luma = synthetic.render_luma(scene)
    grey, colour = {}, {}
    for appearance in synthetic.HUES:
        rgb = to_rgb(luma[0], synthetic.render_chroma(scene, appearance)[0])
        assert np.array_equal(rgb, rgb.clip(0, 255)), "a clipped colour would change grey"
        colour[appearance] = rgb
        grey[appearance] = cv2.cvtColor(rgb.round().astype(np.uint8), cv2.COLOR_RGB2GRAY).astype(int)
    assert max(np.abs(grey[name] - grey["red"]).max() for name in grey) <= 1
    assert np.abs(colour["red"] - colour["green"]).max() > 60


def test_files_hold_exactly_the_composed_pictures_in_both_orders(folder, tiny):
    for number in (0, 4):
        scene = synthetic.draw_scene(tiny, number)
        luma, suffixes = synthetic.render_luma(scene), set()
        for film in synthetic.films(tiny, number):
            planes = decode(folder / film.path, "yuv420p")  # (n, 3H/2, W)
            chroma = synthetic.render_chroma(scene, film.appearance).reshape(len(luma), -1, scene.width)
            composed = np.concatenate([luma, chroma], axis=1)
            assert np.array_equal(planes, composed[::-1] if film.motion == "fall" else composed)
            suffixes.add(Path(film.path).suffix)
        assert suffixes == {".mp4" if number else ".avi"}


def test_decord_and_pyav_decode_the_same_frames_and_fall_is_rise_backwards(folder):
    decord = pytest.importorskip("decord")
    for clip in ("g01_c01", "g02_c02"):
        rise, fall = (video_path(folder, f"green_{motion}_{clip}") for motion in synthetic.MOTIONS)
        frames = decode(rise, "rgb24")
        assert np.array_equal(frames, decode(fall, "rgb24")[::-1])
        reader = decord.VideoReader(str(rise), num_threads=1)
        assert np.array_equal(frames, np.stack([reader.next().asnumpy() for _ in range(len(reader))]))


def test_evenly_spaced_test_frames_are_symmetric_in_time():
    for frames in Generator(frames=(3, 41), actor=(10, 20)).frame_counts:
        centres = [int(frames / 25 / 2 + frames / 25 * segment) for segment in range(25)]
        assert Counter(centres) == Counter(frames - 1 - centre for centre in centres)


def test_boxes_contain_the_actor_tightly(folder, tiny):
    boxes: dict[str, list[list[int]]] = {}
    for row in rows(folder / "lists/boxes.csv"):
        assert int(row["frame"]) == len(boxes.setdefault(row["video"], []))
        boxes[row["video"]].append([int(row[key]) for key in ("x1", "y1", "x2", "y2")])
    assert len(boxes) == 36
    for number in range(3):
        scene = synthetic.draw_scene(tiny, number)
        changed = synthetic.render_luma(scene) != synthetic.render_luma(scene, actor=False)  # (n, H, W)
        seen = np.array([extent(mask) for mask in changed])
        for film in synthetic.films(tiny, number):
            slack = np.array(boxes[film.video]) - (seen[::-1] if film.motion == "fall" else seen)
            assert slack[:, :2].max() <= 0
            assert slack[:, 2:].min() >= 0
            assert np.abs(slack).max() <= 2


def extent(mask: np.ndarray) -> list[int]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_actor_rises_against_the_pan_of_the_camera():
    generator = Generator(clutter=0)
    for number in range(3):
        scene = synthetic.draw_scene(generator, number)
        first, second = synthetic.render_luma(scene)[:2]
        flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 5, 5, 1.1, 0)  # (H, W, 2)
        x1, y1, x2, y2 = synthetic.actor_boxes(scene)[0]
        inside = np.zeros(first.shape, bool)
        inside[y1 + 6 : y2 - 6, x1 + 6 : x2 - 6] = True
        outside = np.ones(first.shape, bool)
        outside[max(y1 - 12, 0) : y2 + 12, max(x1 - 12, 0) : x2 + 12] = False
        pan = scene.camera[0] - scene.camera[1]
        assert np.median(flow[outside], axis=0) == pytest.approx(pan, abs=0.15)
        assert np.hypot(*pan) <= generator.camera
        rise = scene.actor.centre[1] - scene.actor.centre[0]
        assert -synthetic.SPEED[1] <= rise[1] <= -synthetic.SPEED[0]
        assert np.median(flow[inside], axis=0) == pytest.approx(rise, abs=0.3)


def test_clutter_says_nothing_about_the_appearance(tiny):
    hues = Counter()
    for number in range(200):
        scene = synthetic.draw_scene(Generator(videos=1200), number)
        for disc in scene.clutter:
            hues[round(disc.hue - scene.surroundings.palette_shift)] += 1
            assert disc.radius == pytest.approx(scene.actor.radius / 3)
    total = sum(hues.values())
    assert set(hues) == {110, 230, 350}
    assert all(abs(count / total - 1 / 3) < 4 * np.sqrt(2 / 9 / total) for count in hues.values())


def test_splits_hold_out_whole_groups_and_their_tests_share_the_groups_out():
    generator = Generator()
    tested = Counter()
    for split in range(3):
        held = [group for group in range(12) if synthetic.parts(generator, group)[split] == "test"]
        assert len(held) == 4
        tested.update(held)
    assert tested == Counter(range(12))


def test_official_lists_read_back(folder, tiny):
    official = read_official(folder / "lists", ["split1", "split3"])
    assert official.classes == tiny.classes
    assert Counter(entry.class_name for entry in official.entries) == Counter(dict.fromkeys(tiny.classes, 6))
    assert Counter(entry.group for entry in official.entries) == Counter({"g01": 12, "g02": 12, "g03": 12})
    assert sorted(path.stem for path in folder.glob("videos/*/*")) == sorted(entry.video for entry in official.entries)
    for split, held in (("split1", "g01"), ("split3", "g03")):
        for entry in official.entries:
            assert official.splits[split][entry.video] == ("test" if entry.group == held else "train")


def test_read_official_names_the_file_and_the_split_it_lacks(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"official\.csv has no column for split4, only split1, split2, split3"):
        read_official(folder / "lists", ["split1", "split4"])
    with pytest.raises(DatasetError, match=r"official\.csv is missing: fetch"):
        read_official(tmp_path, ["split1"])


def test_same_seed_same_bytes_and_another_seed_other_videos(tmp_path):
    config = TINY | {"videos": 18}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic.generate(config | {"seed": seed}, tmp_path / name)
    paths = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(paths) == 18 + 3
    assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in paths)
    videos = [path for path in paths if path.parts[0] == "videos"]
    assert all((tmp_path / "a" / path).read_bytes() != (tmp_path / "c" / path).read_bytes() for path in videos)


def test_a_group_shares_its_background_and_another_has_its_own(tiny):
    shared = [synthetic.draw_scene(tiny, number).surroundings for number in (0, 3, 1)]
    assert np.array_equal(shared[0].luma.frequency, shared[1].luma.frequency)
    assert shared[0].palette_shift == shared[1].palette_shift != shared[2].palette_shift


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"video": 3}, r"unknown \['video'\]; the fields are"),
        ({"appearances": ["red", "mauve"]}, r"appearances: got \['red', 'mauve'\]; give .* 'blue'"),
        ({"motions": ["rise", "rise"]}, r"motions: got .* out of \['rise', 'fall'\]"),
        ({"videos": 100}, "give a multiple of the 6 classes, at least 72 for 12 groups"),
        ({"groups": 2}, "2 groups do not make 3 splits; give at least 3"),
        ({"width": 127}, "127x96 has an odd side"),
        ({"frames": [4, 4]}, "holds no odd number"),
        ({"height": 64}, "needs a picture of at least 50x87, got 128x64"),
    ],
)
def test_errors_name_the_field_and_what_is_allowed(config, message):
    with pytest.raises(ValueError, match=message):
        synthetic.read_generator(config)
