import re
from pathlib import Path

import pytest

from reaction.models.inception_v3 import LAYERS
from reaction.tables.diagrams import attention_blocks, network_figures, stream_net
from reaction.tables.figures import FigureError

NETWORK = {"backbone": "inception_v3", "width": 1.0, "input": 299, "dropout": 0.5, "partial_bn": False}
NETWORK |= {"segments": 1, "stack": 1, "entry": "concat", "map_channel": "mean"}


def test_the_blocks_are_the_modules_an_image_passes_with_the_sizes_of_the_paper():
    """Szegedy et al. 2016, table 1: 147 x 147 x 64, 73, 71, 35, 17 x 17 x 768, 8 x 8 x 1280 and 2048."""
    net = stream_net("rgb", NETWORK, classes=51)
    shapes = {block.name: block.shape for block in net.blocks}
    assert (net.image, net.entered) == ((3, 299, 299), (4, 299, 299))
    assert [name for name in shapes if name.startswith("Mixed")] == list(LAYERS)
    assert shapes["Conv2d_2b_3x3"] == (64, 147, 147)
    assert shapes["maxpool1"] == (64, 73, 73)
    assert shapes["Mixed_5d"][1:] == (35, 35)
    assert shapes["Mixed_6e"] == (768, 17, 17)
    assert shapes["Mixed_7a"] == (1280, 8, 8)
    assert shapes["Mixed_7c"] == (2048, 8, 8)
    assert (net.blocks[0].name, net.blocks[-1].name, net.blocks[-1].shape) == ("Conv2d_1a_3x3", "fc", (51,))
    assert {block.role for block in net.blocks} == {"conv", "pool", "block", "head"}


def test_a_multiplied_map_adds_no_channel():
    net = stream_net("flow", NETWORK | {"stack": 10, "entry": "multiply"}, classes=51)
    assert net.image == net.entered == (20, 299, 299)


def test_the_attention_network_by_its_own_names():
    blocks = attention_blocks((2048, 8, 8), hidden=512, kernel=3)
    assert [(block.name, block.kind, block.shape) for block in blocks] == [
        ("conv", "Conv2d 3 x 3", (512, 8, 8)),
        ("bn", "BatchNorm2d", (512, 8, 8)),
        ("score", "Conv2d 1 x 1", (1, 8, 8)),
    ]


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("a\nb\nc\nd\ne\n")
    streams = [{"stream": name, "network": NETWORK | {"width": 0.1, "input": 80}} for name in ("rgb", "flow")]
    return {"index": ".", "streams": streams, "layers": ["Mixed_7a", "Mixed_7c"], "net": {"hidden": 8}}


def texts(svg):
    return re.findall(r"<!-- (.*?) -->", Path(svg).read_text())


def test_both_figures_say_what_the_code_says(spec):
    network_figures(spec, Path("networks"))
    said = texts("networks.svg")
    assert all(said.count(name) == 2 for name in (*LAYERS, "fc"))
    assert {"map S, 1 x 80 x 80", "map T, 1 x 80 x 80"} <= set(said)
    said = texts("networks_attention_net.svg")
    assert {"Mixed_7a", "score", "Conv2d 1 x 1", "sigmoid", "learned map", "min-max"} <= set(said)


def test_a_plain_network_is_drawn_without_maps(spec):
    plain = [{"stream": "rgb", "network": NETWORK | {"entry": None, "width": 0.1, "input": 80}}]
    network_figures({"index": ".", "streams": plain}, Path("networks"))
    assert not any("map" in text for text in texts("networks.svg"))
    assert not Path("networks_attention_net.svg").exists()


def test_a_layer_that_no_network_has_is_refused(spec):
    with pytest.raises(FigureError, match="the rgb network has no block Mixed_8x"):
        network_figures(spec | {"layers": ["Mixed_8x"]}, Path("networks"))
