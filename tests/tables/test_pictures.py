from pathlib import Path

import matplotlib
import numpy as np
import pytest

from reaction.data.store import MapWriter, ShardWriter, encode_jpeg
from reaction.tables.figures import FigureError
from reaction.tables.pictures import COVER, layer_figure, overlay, overlay_figure, read_frame, read_map

RED = np.full((24, 32, 3), (200, 30, 30), np.uint8)
CAM = np.array([[0, 1], [2, 4]], np.float32)


@pytest.fixture(autouse=True)
def stored(tmp_path, monkeypatch):
    """Two frames of one colour and a Grad-CAM map for both."""
    monkeypatch.chdir(tmp_path)
    with ShardWriter("frames/shard-000.h5", {}) as writer:
        writer.add("golf", [encode_jpeg(RED, 95)] * 2, source_sha256="0")
    for name, cam in (("cams", CAM), ("dead", 0 * CAM)):
        with MapWriter(f"{name}/shard-000.h5", {"every": 2, "normalise": True}) as writer:
            writer.add("golf", cam[None])


def shown(**changed):
    return {"frames": "frames", "maps": "cams", "shown": [{"video": "golf", "frame": 1, "title": "golf"} | changed]}


def test_where_nothing_attends_the_frame_is_grey_and_where_all_does_the_colour_covers_it():
    map = np.zeros((24, 32))
    map[0, 0], map[0, 1] = 1.0, 7.0
    mixed = overlay(RED, map)
    luma = 0.299 * 200 + 0.587 * 30 + 0.114 * 30
    assert mixed[5, 5].tolist() == [round(luma)] * 3
    hottest = np.array(matplotlib.colormaps["inferno"](1.0)[:3])
    expected = (1 - COVER) * luma + COVER * 255 * hottest
    assert mixed[0, 0] == pytest.approx(expected, abs=1)
    assert mixed[0, 1].tolist() == mixed[0, 0].tolist(), "a map above 1 is 1"


def test_frames_and_maps_are_read_as_the_network_reads_them():
    assert read_frame("frames", "golf", 1) == pytest.approx(RED, abs=3)
    map = read_map("cams", "golf", 1, (24, 32))
    assert (map[0, 0], map[-1, -1]) == (0, 1)
    assert map[0, -1] == pytest.approx(0.25)
    assert (read_map("dead", "golf", 0, (24, 32), dead=0.1) == np.float32(0.1)).all()


def test_pictures_are_drawn_with_their_names():
    overlay_figure(shown(), Path("overlay"))
    layers = [{"name": "Mixed_7a", "maps": "cams"}, {"name": "Mixed_7c", "maps": "dead"}]
    lines = [{"name": kind, "layers": layers} for kind in ("Grad-CAM", "learned")]
    layer_figure(shown() | {"lines": lines}, Path("layers"))
    said = Path("layers.svg").read_text()
    for name, times in {"frame": 1, "Mixed_7a": 1, "Mixed_7c": 1, "golf": 1, "Grad-CAM": 1, "learned": 1}.items():
        assert said.count(f"<!-- {name} -->") == times, name
    scale = 1  # the scale of colours is a picture, too
    assert said.count("<image ") == 1 + 2 * 2 + scale, "the frame once, a map for each layer and kind"
    assert Path("overlay.svg").read_text().count("<image ") == 3 + scale
    assert Path("overlay.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"frame": 2}, "no picture to draw: golf has 2 items"), ({"video": "pour"}, "no picture to draw: pour is not in")],
)
def test_what_is_not_stored_is_named(change, message):
    with pytest.raises(FigureError, match=message):
        overlay_figure(shown(**change), Path("overlay"))


def test_one_row_may_have_maps_of_its_own():
    overlay_figure(shown(maps="dead") | {"maps": "none"}, Path("overlay"))
    with pytest.raises(FigureError, match="no map to draw: none holds no shards"):
        overlay_figure(shown() | {"maps": "none"}, Path("overlay"))


def test_of_many_frames_two_stand_abreast():
    five = {"frames": "frames", "maps": "cams", "shown": [shown(title=f"golf {k}")["shown"][0] for k in range(5)]}
    overlay_figure(five, Path("many"))
    said = Path("many.svg").read_text()
    assert [said.count(f"<!-- {name} -->") for name in ("frame", "map", "both")] == [2, 2, 2]
    assert [said.count(f"<!-- golf {k} -->") for k in range(5)] == [1] * 5
    assert said.count("<image ") == 5 * 3 + 1


def test_lines_show_the_same_layers():
    lines = [{"name": kind, "layers": [{"name": kind, "maps": "cams"}]} for kind in ("one", "other")]
    with pytest.raises(FigureError, match=r"layers: every line shows the same layers.*\('one',\), \[\('other',\)\]"):
        layer_figure(shown() | {"lines": lines}, Path("layers"))
