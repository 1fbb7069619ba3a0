"""What artifacts cost, by closed forms and by the networks themselves; docs/scale.md, which prints the costs."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reaction import costs as module
from reaction.costs import ANY_3D, DETECTORS, NETWORKS, PICTURES, SIZES
from reaction.params import load
from reaction.plan import Plan
from reaction.training.detecting import build_detector
from reaction.training.networks import build_network, stream_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"


@pytest.fixture(scope="module")
def plan():
    return Plan(load(ROOT / "params.yaml"))


def made_for(plan, table, rule, name):
    """The artifact of a table whose name begins like this."""
    (found,) = [one for one in plan.needed(table).values() if one.rule == rule and one.name.startswith(name)]
    return found


def cost(plan, artifact):
    return module.cost(artifact, plan.params)


# What the networks of clips see: stream, pictures of a clip, frames of a joint one.
CLIPS = {
    "inception_v1": ("flow", 10, 1),
    "convnet_lstm": ("rgb", 25, 1),
    "c3d": ("rgb", 16, 1),
    "two_stream_joint": ("joint", 10, 1),
    "fused3d": ("joint", 10, 5),
    "i3d": ("rgb", 64, 1),
    "slow": ("rgb", 4, 1),
    "fast": ("rgb", 32, 1),
    "slowfast": ("rgb", 32, 1),
    "i3d_resnet": ("rgb", 8, 1),
}


@pytest.mark.parametrize("key", NETWORKS, ids=str)
def test_a_network_has_the_size_that_its_costs_are_for(key):
    backbone, width, input = key
    stream, stack, frames = CLIPS.get(backbone, ("rgb", 1, 1))
    clip = min(stack, 16) if width < 1 and backbone in ("convnet_lstm", "i3d") else stack
    classes = 51 if backbone not in CLIPS else 400 if width == 1 else 21
    described = {"backbone": backbone, "width": width, "input": input, "dropout": 0.5, "partial_bn": False}
    described |= {"segments": 1, "stack": clip, "frames": frames, "entry": None, "map_channel": None}
    channels = stream_of({"stream": stream, "network": described}).channels
    with torch.device("meta"):
        model = build_network(described, stream=stream, classes=classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 1, channels, input, input))
    assert counter.get_total_flops() / 2 == pytest.approx(NETWORKS[key].macs, rel=0.03)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(NETWORKS[key].parameters, rel=0.03)


def counted(described):
    """Multiply-adds and parameters of a detector that config.json describes."""
    frames, input = described["frames"], described["input"]
    with torch.device("meta"):
        model = build_detector(described, classes=24).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, frames, input, input))
    return counter.get_total_flops() / 2, sum(weight.numel() for weight in model.parameters())


def described(backbone, width, input, frames, parts="2d+3d+cfam"):
    one = {"backbone_3d": backbone, "width": width, "input": input, "frames": frames}
    return one | {"parts": parts, "attention": "code"}


@pytest.mark.parametrize("key", DETECTORS, ids=str)
def test_a_detector_has_the_size_that_its_costs_are_for(key):
    one = module._detector(described(*key), key[3])
    assert (one.train, one.forward) == pytest.approx((DETECTORS[key].train, DETECTORS[key].forward))
    assert (one.macs, one.parameters) == pytest.approx(counted(described(*key)), rel=0.03)


@pytest.mark.parametrize("parts", ["2d", "3d", "2d+3d", "2d+3d+cfam"])
@pytest.mark.parametrize("frames", [8, 16, 32])
def test_a_detector_of_other_parts_or_frames_is_taken_by_its_multiply_adds(frames, parts):
    one = described("resnext101", 1.0, 224, frames, parts)
    assert module._detector(one, frames).macs == pytest.approx(counted(one)[0], rel=0.04)


def test_every_detector_of_the_shipped_tables_is_one_that_was_measured_or_of_its_parts(plan):
    runs = [one.config["network"] for one in plan.artifacts.values() if one.rule == "train_detector"]
    known = {key[:3] for key in DETECTORS}
    assert {(one.get("backbone_3d", ANY_3D), one["width"], one["input"]) for one in runs} <= known


def test_every_network_and_picture_of_the_shipped_tables_was_measured(plan):
    runs = [one.config["network"] for one in plan.artifacts.values() if one.rule == "train"]
    assert {(one["backbone"], one["width"], one["input"]) for one in runs} <= set(NETWORKS)
    sizes = [one.config["resize"] for one in plan.artifacts.values() if one.rule in ("frames", "flow")]
    assert [module._pictures(size)[1] for size in sizes] == pytest.approx([1.0] * len(sizes), rel=0.01)


def test_every_shipped_dataset_has_a_size_and_its_splits(plan):
    for name, described in plan.params.datasets.items():
        size = module._size(name, plan.params)
        assert len(size.train) == len(size.test) == len(described.splits)
        assert all(train + test <= size.videos for train, test in zip(size.train, size.test, strict=True))
    assert set(SIZES) <= set(plan.params.datasets)
    synthetic = module._size("synthetic", plan.params)
    assert (synthetic.train, synthetic.test, synthetic.classes) == ((144,) * 3, (72,) * 3, 6)


def test_a_dataset_of_unknown_size_is_an_error_that_says_where_it_goes(plan, monkeypatch):
    monkeypatch.delitem(SIZES, "jhmdb21")
    with pytest.raises(ValueError, match="add it to SIZES of"):
        cost(plan, made_for(plan, "jhmdb21_small", "fetch", "videos"))


@pytest.mark.real_data
@pytest.mark.skipif("REACTION_MIRROR" not in os.environ, reason="REACTION_MIRROR is not set")
def test_the_official_lists_have_the_splits_of_the_sizes():
    mirror = Path(os.environ["REACTION_MIRROR"])
    for split in (1, 2, 3):
        lists = [mirror / f"ucf101/ucfTrainTestlist/{part}list0{split}.txt" for part in ("train", "test")]
        train, test = (sum(bool(line.strip()) for line in file.read_text().splitlines()) for file in lists)
        assert (train, test) == (SIZES["ucf101"].train[split - 1], SIZES["ucf101"].test[split - 1])
        flags = Counter()
        for file in (mirror / "hmdb51/testTrainMulti_7030_splits").glob(f"*_split{split}.txt"):
            flags += Counter(line.split()[1] for line in file.read_text().splitlines() if line.strip())
        assert (flags["1"], flags["2"]) == (SIZES["hmdb51"].train[split - 1], SIZES["hmdb51"].test[split - 1])


def test_training_costs_epochs_times_videos_times_segments(plan):
    tsn = cost(plan, made_for(plan, "hmdb51", "train", "tsn-flow-split1"))
    images = 3570 * 340 * 3  # of five fields each
    assert tsn.cpu == pytest.approx(images * (0.42 + 5 * 0.001) + module.JOB)
    assert tsn.beside == pytest.approx(images * 5 * 0.001 + module.JOB)
    assert tsn.gpu == pytest.approx(images / 142)
    assert tsn.disk == pytest.approx(4 * 21.9e6)


def test_a_reduced_scale_leaves_the_gpu_alone(plan):
    small = cost(plan, made_for(plan, "jhmdb21_small", "train", "st_phase1-rgb"))
    assert small.gpu == 0
    assert small.cpu == small.beside == pytest.approx(660 * 32 * (0.0055 + 0.0002) + module.JOB)


def test_features_cost_frames_times_what_one_costs_and_every_shard_starts_once(plan):
    frames, flow = (made_for(plan, "ucf101", rule, "") for rule in ("frames", "flow"))
    assert cost(plan, frames).disk == pytest.approx(2.48e6 * 25.7e3)
    assert cost(plan, flow).cpu == pytest.approx(2.48e6 * 0.036 + 128 * module.EXTRACT)
    assert cost(plan, flow).gpu == 0


def test_maps_are_of_the_part_s_frames_or_of_all(plan):
    gradcam = cost(plan, made_for(plan, "jhmdb21_small", "gradcam", "gradcam-true-Mixed_6e-st_phase1-rgb"))
    attend = cost(plan, made_for(plan, "jhmdb21_small", "attend", "learned-Mixed_6e-st_phase1-rgb"))
    assert gradcam.disk == pytest.approx(31838 * 660 / 928 / 5 * module.MAP)
    assert attend.disk == pytest.approx(31838 / 5 * module.MAP)


def test_scores_cost_views_and_hold_their_logits(plan):
    scores = cost(plan, made_for(plan, "hmdb51", "score", "tsn-rgb-split1"))
    assert scores.disk == 1530 * 250 * 51 * 4
    assert scores.gpu == pytest.approx(1530 * 250 / 142 / 3)


def test_a_detector_learns_from_annotated_frames_and_is_asked_about_all(plan):
    trained, detected = (
        made_for(plan, "ucf101_24", *one) for one in (("train_detector", "yowo_16f-"), ("detect", "boxes-yowo_16f-"))
    )
    one, clips = cost(plan, trained), 478_863 * 2284 / 3194 * 10
    assert clips == pytest.approx(340_336 * 10, rel=0.01)  # counted in the annotations
    assert one.cpu == pytest.approx(clips * (5.4 + 0.015) + module.JOB)
    assert one.gpu == pytest.approx(clips * 43.5 / 5.71 / 142)
    assert one.disk == 4 * 121.1e6
    frames = 555_157 * 910 / 3194
    assert cost(plan, detected).cpu == pytest.approx(frames * (1.4 + 0.015 / 3) + module.JOB)
    assert cost(plan, detected).disk == pytest.approx(frames * 20 * (8 + 16 + 4 * 24))
    small = cost(plan, made_for(plan, "jhmdb21_detection_small", "train_detector", "yowo_narrow"))
    assert small.gpu == 0
    assert small.beside == small.cpu


def test_films_are_asked_about_their_key_frames(plan):
    detected = cost(plan, made_for(plan, "ava", "detect", "boxes-yowo_16f-"))
    assert detected.cpu == pytest.approx(64 * 897 * (1.4 + 0.015) + module.JOB)
    measured = cost(plan, made_for(plan, "ava", "evaluate", "map-yowo_16f-"))
    assert measured.cpu == pytest.approx(64 * 897 * 3 * module.MEASURE + module.EXTRACT)


def test_last_layers_or_a_bank_cost_a_part_of_a_training_step(plan):
    trained = [made_for(plan, "jhmdb21_detection", "train_detector", name) for name in ("yowo_16f-", "yowo_lfb-")]
    clips = 31838 * 660 / 928 * 10
    plain, bank = (cost(plan, one).gpu / clips * 142 * 5.71e9 for one in trained)
    assert plain == pytest.approx(module.LATE * 43.5e9)
    assert bank == pytest.approx(module.LATE * (5.47e9 + 4 * (43.5e9 - 5.47e9)))  # 64 frames instead of 16


def test_tubes_and_their_measures_cost_frames_times_evaluators(plan):
    frames = 31838 * 268 / 928
    links = [one for one in plan.needed("jhmdb21_detection_small").values() if one.rule == "link"]
    assert [cost(plan, one).cpu for one in links] == [pytest.approx(frames * module.LINK + module.EXTRACT)] * 4
    measured = cost(plan, made_for(plan, "jhmdb21_detection_small", "evaluate", ""))
    assert measured.cpu == pytest.approx(frames * 8 * module.MEASURE + module.EXTRACT)


def test_an_unmeasured_network_or_picture_is_taken_by_its_operations_or_pixels():
    half = module._network({"backbone": "inception_v3", "width": 0.5, "input": 299})
    whole = NETWORKS["inception_v3", 1.0, 299]
    assert (half.train, half.parameters) == (whole.train / 4, whole.parameters / 4)
    assert module._pictures("170x256") == (PICTURES[19200], 170 * 256 / 19200)
    assert module._pictures("short_side:256") == (PICTURES[87040], pytest.approx(256 * 256 * 4 / 3 / 87040))


def cells(*values):
    return " | ".join(f"{round(value, 6):g}" if value else "–" for value in values)


def test_the_page_prints_the_costs_that_are_used():
    lines = PAGE.read_text().splitlines()
    for (backbone, width, input), one in NETWORKS.items():
        seconds = (one.train, one.forward, one.gradcam, one.attention_net, one.load)
        numbers = cells(one.macs / 1e9, one.parameters / 1e6, *(1000 * value for value in seconds))
        assert f"| `{backbone}` | {width:g} | {input} | {numbers} |" in lines
    for (backbone, width, input, frames), one in DETECTORS.items():
        numbers = cells(one.macs / 1e9, one.parameters / 1e6, *(1000 * v for v in (one.train, one.forward, one.load)))
        assert f"| `{backbone}` | {width:g} | {input} | {frames} | {numbers} |" in lines
    for pixels, one in PICTURES.items():
        numbers = cells(1000 * one.frame, one.frame_bytes / 1000, 1000 * one.field, one.field_bytes / 1000)
        assert any(line.endswith(f" | {pixels:,} | {numbers} |") for line in lines), pixels
