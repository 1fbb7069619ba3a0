import importlib
import subprocess
import types

import pytest

from reaction import machine


@pytest.fixture
def kernel(monkeypatch):
    """A native kernel that is there, whatever was built."""
    monkeypatch.setattr("reaction.flow.choose", lambda semantics: ("native", None))
    monkeypatch.setattr("reaction.flow.native.available", lambda: None)
    monkeypatch.setattr("reaction.flow.native.instruction_sets", lambda: ["avx2", "baseline"])


@pytest.mark.parametrize(
    ("programs", "gpus", "backend", "expected"),
    [
        (
            [],
            [],
            ("torch", "no native kernel (no compiler)"),
            ["none of bsdtar", "no native kernel", "no GPU: networks"],
        ),
        (["unar"], [], ("native", None), ["no GPU: networks"]),
        (["unar", "nvidia-smi"], [], ("native", None), ["no GPU that torch "]),
        (["bsdtar"], ["H200 140 GB"], ("gpu", None), []),
    ],
)
def test_what_is_missing_is_named_with_what_it_costs(monkeypatch, kernel, programs, gpus, backend, expected):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr("reaction.flow.choose", lambda semantics: backend)
    lines = list(machine.missing())
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


def test_a_missing_kernel_is_named_with_what_flow_then_costs(monkeypatch):
    without = types.SimpleNamespace(available=lambda: "no compiler was found when it was installed")
    monkeypatch.setattr("reaction.flow.front._has_gpu", lambda: False)
    monkeypatch.setattr("reaction.flow.front.import_module", lambda name: without)
    monkeypatch.setattr("reaction.flow.native.available", without.available)
    line = next(line for line in machine.missing() if "kernel" in line)
    assert line.startswith("no native kernel (no compiler was found when it was installed): PyTorch")
    assert "about 2.5 pairs a second and core at 320x240 instead of 35" in line


def test_the_kernel_s_instruction_sets_are_named(monkeypatch, kernel):
    assert machine._flow() == machine.Finding("flow", "native (native kernel: avx2, baseline)")
    monkeypatch.setattr("reaction.flow.native.available", lambda: "it was not built")
    assert machine._flow() == machine.Finding("flow", "native (no native kernel)")


def test_without_snakemake_and_decord_both_are_named(monkeypatch, kernel):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    found = {finding.name: finding for finding in machine.installed()}
    assert found["workflow"].cost.startswith("no Snakemake: no table is made")
    assert found["decoders"].cost == "no decord: PyAV decodes every video"
    assert found["decoders"].found.startswith("PyAV ")


def test_gpus_are_listed_with_their_memory(monkeypatch):
    cuda = importlib.import_module("torch").cuda
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    gpu = types.SimpleNamespace(name="NVIDIA H200", total_memory=141e9)
    monkeypatch.setattr(cuda, "get_device_properties", lambda number: gpu)
    assert machine.gpus() == ["NVIDIA H200 141 GB"] * 2
    assert machine._torch().found.startswith("NVIDIA H200 141 GB, NVIDIA H200 141 GB (torch ")


def surroundings(monkeypatch, programs, listed):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(machine.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, *listed))
    return {finding.name: finding for finding in machine.surroundings()}


def test_surroundings_are_cores_memory_slurm_and_dvc_s_remotes(monkeypatch):
    found = surroundings(monkeypatch, ["sbatch", "dvc"], (0, "lab\t/shared/reaction\t(default)\ns3\ts3://bucket\n"))
    assert list(found) == ["cores", "memory", "Slurm", "DVC remote"]
    assert int(found["cores"].found.split()[0]) == machine.cores() >= 1
    assert int(found["memory"].found.removesuffix(" GB")) >= 1
    assert found["DVC remote"].found == "lab /shared/reaction (default), s3 s3://bucket"
    assert not any(finding.cost for finding in found.values())


@pytest.mark.parametrize(("programs", "listed"), [([], ()), (["dvc"], (0, "")), (["dvc"], (253, ""))])
def test_no_cluster_and_no_remote_say_what_is_done_without(monkeypatch, programs, listed):
    found = surroundings(monkeypatch, programs, listed)
    assert found["Slurm"].cost == "no sbatch: jobs run on this machine only, not by profiles/slurm"
    assert "dvc remote add" in found["DVC remote"].cost


def test_free_disk_is_that_of_the_results_wherever_they_are(monkeypatch, tmp_path):
    asked = []
    usage = types.SimpleNamespace(free=5)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: asked.append(folder) or usage)
    assert machine.free_disk(tmp_path) == 5
    (tmp_path / "results").mkdir()
    machine.free_disk(tmp_path)
    assert asked == [tmp_path, tmp_path / "results"]
