"""Features in params.yaml: at another frame rate, or stored nowhere."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from reaction.params import ParamsError, parse
from reaction.plan import Plan

SHIPPED = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())


def features(feature, **changes):
    """The artifact of a shipped feature, with keys changed, of HMDB-51."""
    values = deepcopy(SHIPPED)
    values["features"][feature] |= changes
    values["detection_tables"] = {}  # boxes are drawn on frames of the videos' own rate
    return Plan(parse(values)).features("hmdb51", feature)


def test_keys_that_nobody_set_are_not_in_the_config():
    usual = features("rgb-340x256")
    assert usual.config == {"modality": "rgb", "resize": "340x256", "jpeg_quality": 95, "shards": 64}
    assert features("rgb-340x256", fps=None, stored=True).folder == usual.folder


def test_a_frame_rate_moves_frames_and_flow():
    for feature in ("rgb-340x256", "flow-340x256"):
        assert features(feature, fps=25).config["fps"] == 25
        assert features(feature, fps=25).folder != features(feature).folder


def test_features_stored_nowhere_are_their_config():
    made = features("rgb-short256-25fps-videos")
    assert made.config == {"modality": "rgb", "resize": "short_side:256", "fps": 25, "stored": False}
    assert made.files == made.files_for(made, None) == [f"{made.folder}/config.json"]
    assert set(made.inputs) == {"index", "videos"}
    assert features("rgb-340x256").files[-1].endswith("/shard-063.h5")


@pytest.mark.parametrize(
    ("feature", "change", "message"),
    [
        ("rgb-340x256", {"stored": False}, "`stored: false` makes no JPEG pictures: leave `jpeg_quality:` out"),
        ("rgb-340x256", {"jpeg_quality": None}, "stored pictures have a `jpeg_quality:`, 95 usually"),
        ("flow-340x256", {"stored": False}, "features.flow-340x256.stored: unknown key"),
        ("rgb-340x256", {"fps": 0}, "features.rgb-340x256.fps: Input should be greater than 0"),
    ],
)
def test_what_features_may_not_say(feature, change, message):
    with pytest.raises(ParamsError, match=message):
        features(feature, **change)
