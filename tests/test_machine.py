import importlib
import types

import pytest

from reaction import machine


@pytest.mark.parametrize(
    ("programs", "gpu", "flow", "expected"),
    [
        ([], False, "no native kernel (no compiler)", ["none of bsdtar", "no native kernel", "no GPU"]),
        (["unar"], False, None, ["no GPU"]),
        (["bsdtar"], True, None, []),
    ],
)
def test_what_is_missing_is_named_with_what_it_costs(monkeypatch, programs, gpu, flow, expected):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(machine, "_gpu", lambda: gpu)
    monkeypatch.setattr(machine, "_flow", lambda: flow)
    lines = list(machine.missing())
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected


def test_a_missing_kernel_is_named_with_what_flow_then_costs(monkeypatch):
    front = importlib.import_module("reaction.flow.tvl1")
    without = types.SimpleNamespace(available=lambda: "no compiler was found when it was installed")
    monkeypatch.setattr(front, "_has_gpu", lambda: False)
    monkeypatch.setattr(front, "import_module", lambda name: without)
    line = next(line for line in machine.missing() if "kernel" in line)
    assert line.startswith("no native kernel (no compiler was found when it was installed): PyTorch")
    assert "about 2.5 pairs a second and core at 320x240 instead of 35" in line
