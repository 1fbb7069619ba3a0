"""`reaction doctor`: its estimates, what it says stands in the way, and docs/scale.md, which prints them."""

import os
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reaction import doctor as module
from reaction.cli import main
from reaction.data import unpack
from reaction.doctor import NETWORKS, PICTURES, SIZES, Need, doctor, needs, obstacles, rows, stages
from reaction.machine import Finding
from reaction.params import load
from reaction.plan import Plan
from reaction.training.networks import build_network, stream_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"


PLAN = Plan(load(ROOT / "params.yaml"))


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The shipped plan, in a folder that has params.yaml and nothing else, on a machine that lacks nothing."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REACTION_MIRROR", raising=False)
    monkeypatch.setattr(module, "has_workflow", lambda: True)
    monkeypatch.setattr(module, "rar_program", lambda: "bsdtar")
    monkeypatch.setattr(module, "free_disk", lambda: 10**12)
    monkeypatch.setattr(module, "cores", lambda: 2)
    monkeypatch.setattr(module, "gpus", list)
    monkeypatch.setattr(module, "surroundings", lambda: [Finding("cores", "2")])
    monkeypatch.setattr(module, "installed", lambda: [Finding("GPUs", "none", "no GPU: a pity")])
    return PLAN


def made_for(plan, table, rule, name):
    """The artifact of a table whose name begins like this."""
    (found,) = [one for one in plan.needed(table).values() if one.rule == rule and one.name.startswith(name)]
    return found


def cost(plan, artifact):
    return module._cost(artifact, plan.params)


def make(artifact, files=None):
    for file in map(Path, artifact.files[:files]):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


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
        needs(plan, "jhmdb21_small")


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


def test_an_unmeasured_network_or_picture_is_taken_by_its_operations_or_pixels():
    half = module._network({"backbone": "inception_v3", "width": 0.5, "input": 299})
    whole = NETWORKS["inception_v3", 1.0, 299]
    assert (half.train, half.parameters) == (whole.train / 4, whole.parameters / 4)
    assert module._pictures("170x256") == (PICTURES[19200], 170 * 256 / 19200)
    assert module._pictures("short_side:256") == (PICTURES[87040], pytest.approx(256 * 256 * 4 / 3 / 87040))


def test_what_is_there_costs_nothing_more(plan):
    flow, before = made_for(plan, "jhmdb21_small", "flow", "flow"), needs(plan, "jhmdb21_small")
    make(flow, files=4)  # of 16 shards
    assert before.disk - needs(plan, "jhmdb21_small").disk == pytest.approx(cost(plan, flow).disk / 4)
    for artifact in plan.needed("jhmdb21_small").values():
        make(artifact)
    assert needs(plan, "jhmdb21_small") == Need()


def test_what_tables_share_counts_once(plan):
    larger = "park2019_jhmdb21_small"  # has every run of the other
    one, both = needs(plan, larger), needs(plan, "jhmdb21_small", larger)
    assert (both.cpu, both.disk) == (pytest.approx(one.cpu), pytest.approx(one.disk))


def archive(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"0" * 1000)


def test_an_archive_at_hand_is_unpacked_and_one_that_is_not_is_downloaded_as_well(plan, monkeypatch, tmp_path):
    fetch = made_for(plan, "jhmdb21_small", "fetch", "videos")
    assert cost(plan, fetch).disk == 2 * SIZES["jhmdb21"].bytes
    archive(tmp_path / "mirror/jhmdb21/JHMDB_video.zip", "a.mp4")
    monkeypatch.setenv("REACTION_MIRROR", str(tmp_path / "mirror"))
    assert cost(plan, fetch).disk == (tmp_path / "mirror/jhmdb21/JHMDB_video.zip").stat().st_size


def reasons(plan, table):
    return list(obstacles(plan, table))


def test_nothing_stands_in_the_way_of_a_machine_that_has_everything(plan):
    assert reasons(plan, "hmdb51") == reasons(plan, "synthetic") == []


def test_a_rar_archive_without_a_program_stands_in_the_way(plan, monkeypatch):
    monkeypatch.setattr(module, "rar_program", lambda: None)
    (reason,) = reasons(plan, "hmdb51")
    assert reason == "no program here unpacks hmdb51_org.rar, test_train_splits.rar: apt install libarchive-tools"
    assert reasons(plan, "synthetic") == reasons(plan, "jhmdb21_small") == []
    Path("downloads/hmdb51/testTrainMulti_7030_splits").mkdir(parents=True)
    archive(Path("downloads/hmdb51/hmdb51_org.zip"), "a.avi")
    assert reasons(plan, "hmdb51") == []
    rar = next(magic for magic, kind in unpack.MAGIC.items() if kind == "rar")
    Path("downloads/hmdb51/hmdb51_org.rar").write_bytes(rar + bytes(600))
    assert reasons(plan, "hmdb51") == ["no program here unpacks hmdb51_org.rar: apt install libarchive-tools"]


def test_a_rar_that_is_unpacked_already_stands_in_no_way(plan, monkeypatch):
    monkeypatch.setattr(module, "rar_program", lambda: None)
    make(made_for(plan, "hmdb51", "fetch", "videos"))
    assert reasons(plan, "hmdb51") == []


def test_a_small_disk_and_an_absent_snakemake_stand_in_the_way(plan, monkeypatch):
    monkeypatch.setattr(module, "free_disk", lambda: 10**7)
    monkeypatch.setattr(module, "has_workflow", lambda: False)
    first, second = reasons(plan, "hmdb51")
    assert first.startswith("Snakemake is not installed")
    assert re.fullmatch(r"the disk is too small: \d+ GB are to be written, 0.01 GB are free", second)


def test_weights_that_only_a_person_can_get_stand_in_the_way(plan):
    (reason,) = reasons(plan, "simonyan2014_hmdb51")
    path = Path("downloads/weights/cnn_m_2048.safetensors")
    assert reason.startswith(f"{path} is not there, and nothing downloads it")
    path.parent.mkdir(parents=True)
    path.touch()
    assert reasons(plan, "simonyan2014_hmdb51") == []


def test_the_report_names_what_is_there_what_is_needed_and_the_verdict(plan, capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["cores         2", "GPUs          none", "              no GPU: a pity", lines[3]]
    assert re.fullmatch(r"free disk     1000 GB, and 0\.\d+ GB to be written", lines[3])
    assert "\n".join(rows(plan, ["synthetic"])) in "\n".join(lines)
    assert re.fullmatch(r"synthetic: can be made here, in about 0\.\d+ hours", lines[-1])


def test_a_table_that_cannot_be_made_is_status_1_with_the_reasons_last(plan, monkeypatch, capsys):
    monkeypatch.setattr(module, "rar_program", lambda: None)
    assert main(["doctor", "hmdb51", "synthetic"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "`hmdb51`" in "\n".join(lines)
    assert "`synthetic`" in "\n".join(lines)
    assert lines[-1].startswith("no program here unpacks hmdb51_org.rar")


def test_a_gpu_shortens_what_is_left(plan, monkeypatch, capsys):
    doctor(["hmdb51"])
    without = capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(module, "gpus", lambda: ["NVIDIA H200 141 GB"])
    doctor(["hmdb51"])
    verdicts = (without, capsys.readouterr().out.splitlines()[-1])
    days = [float(re.search(r"about ([\d.]+) days", line)[1]) for line in verdicts]
    assert days[0] > 10 * days[1]


def test_an_unknown_table_is_one_line_that_lists_the_known_ones(plan, capsys):
    assert main(["doctor", "hmdb52"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("reaction doctor: params.yaml has no table hmdb52, only synthetic, hmdb51")
    assert error.count("\n") == 1


def test_the_report_runs_on_this_machine(tmp_path, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) in (0, 1)
    names = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert {"cores", "memory", "Slurm", "DVC remote", "decoders", "flow", "GPUs", "free disk"} <= set(names)


def cells(*values):
    return " | ".join(f"{round(value, 6):g}" if value else "–" for value in values)


def test_the_page_prints_the_costs_that_are_used():
    lines = PAGE.read_text().splitlines()
    for (backbone, width, input), one in NETWORKS.items():
        seconds = (one.train, one.forward, one.gradcam, one.attention_net, one.load)
        numbers = cells(one.macs / 1e9, one.parameters / 1e6, *(1000 * value for value in seconds))
        assert f"| `{backbone}` | {width:g} | {input} | {numbers} |" in lines
    for pixels, one in PICTURES.items():
        numbers = cells(1000 * one.frame, one.frame_bytes / 1000, 1000 * one.field, one.field_bytes / 1000)
        assert any(line.endswith(f" | {pixels:,} | {numbers} |") for line in lines), pixels


def test_the_stages_of_a_table_are_all_of_it(plan):
    lines = [[float(cell.replace(",", "")) for cell in row.split("|")[2:7]] for row in list(stages(plan, "hmdb51"))[2:]]
    jobs, *sums = (sum(column) for column in zip(*lines, strict=True))
    whole = needs(plan, "hmdb51")
    assert jobs == sum(max(made.shards, 1) for made in plan.needed("hmdb51").values())
    assert sums == pytest.approx(
        [whole.disk / 1e9, *(s / 3600 for s in (whole.cpu, whole.beside, whole.gpu))], rel=0.05
    )


def test_the_page_prints_what_every_table_needs(plan):
    expected = [*rows(plan, list(plan.params.tables)), *stages(plan, "hmdb51"), *stages(plan, "jhmdb21_small")]
    absent = [row for row in expected if row not in PAGE.read_text().splitlines()]
    assert not absent, "docs/scale.md should have\n" + "\n".join(expected)
