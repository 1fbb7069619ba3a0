"""`reaction doctor`: what is still to be made, what stands in the way, and docs/scale.md, which has every table."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from reaction import doctor as module
from reaction.cli import main
from reaction.costs import SIZES
from reaction.data import unpack
from reaction.doctor import Need, doctor, needs, obstacles, rows, stages
from reaction.machine import Finding
from reaction.params import load
from reaction.plan import Plan

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
    return module.cost(artifact, plan.params)


def make(artifact, files=None):
    for file in map(Path, artifact.files[:files]):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


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
    """What stands in the way of a table."""
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


def test_branches_and_films_that_only_a_person_can_get_stand_in_the_way(plan):
    (branches,) = reasons(plan, "ucf101_24")
    assert branches.startswith("downloads/weights/yowo_branches.safetensors is not there")
    films, again = reasons(plan, "ava")
    assert films.startswith("downloads/ava/videos_15min is not there, and nothing downloads it: see https://")
    assert again == branches
    Path("downloads/ava/trainval").mkdir(parents=True)
    assert reasons(plan, "ava") == [branches]
    assert reasons(plan, "jhmdb21_detection_small") == reasons(plan, "synthetic_detection") == []


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


def test_the_stages_of_a_table_are_all_of_it(plan):
    lines = [[float(cell.replace(",", "")) for cell in row.split("|")[2:7]] for row in list(stages(plan, "hmdb51"))[2:]]
    jobs, *sums = (sum(column) for column in zip(*lines, strict=True))
    whole = needs(plan, "hmdb51")
    assert jobs == sum(max(made.shards, 1) for made in plan.needed("hmdb51").values())
    assert sums == pytest.approx(
        [whole.disk / 1e9, *(s / 3600 for s in (whole.cpu, whole.beside, whole.gpu))], rel=0.05
    )


def test_the_page_prints_what_every_table_needs(plan):
    tables = [*plan.params.tables, *plan.params.detection_tables]
    staged = [row for table in ("hmdb51", "jhmdb21_small", "ucf101_24") for row in stages(plan, table)]
    expected = [*rows(plan, tables), *staged]
    absent = [row for row in expected if row not in PAGE.read_text().splitlines()]
    assert not absent, "docs/scale.md should have\n" + "\n".join(expected)
