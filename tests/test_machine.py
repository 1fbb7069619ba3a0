import pytest

from reaction import machine


@pytest.mark.parametrize(
    ("programs", "gpu", "expected"),
    [
        ([], False, ["none of bsdtar", "no GPU"]),
        (["unar"], False, ["no GPU"]),
        (["bsdtar"], True, []),
    ],
)
def test_what_is_missing_is_named_with_what_it_costs(monkeypatch, programs, gpu, expected):
    monkeypatch.setattr(machine.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(machine, "_gpu", lambda: gpu)
    lines = list(machine.missing())
    assert [line[: len(start)] for line, start in zip(lines, expected, strict=True)] == expected
