import pytest
import torch

from reaction.training import checkpoint


def state():
    return {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "history": [{"epoch": 0, "loss": 0.5}]}


def test_what_is_saved_comes_back(tmp_path):
    checkpoint.save(tmp_path / "last.pt", state(), identity="run-0a1b2c3d")
    loaded = checkpoint.load(tmp_path / "last.pt", identity="run-0a1b2c3d")
    assert torch.equal(loaded["model"]["weight"], state()["model"]["weight"])
    assert loaded["history"] == state()["history"]


def test_the_same_state_is_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        checkpoint.save(tmp_path / folder / "last.pt", state(), identity="run")
    assert (tmp_path / "a/last.pt").read_bytes() == (tmp_path / "b/last.pt").read_bytes()


def test_no_file_is_no_state(tmp_path):
    assert checkpoint.load(tmp_path / "last.pt", identity="run") is None


def test_another_runs_state_is_refused_naming_both(tmp_path):
    checkpoint.save(tmp_path / "last.pt", state(), identity="tsn-rgb-11111111")
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt.*tsn-rgb-11111111.*tsn-rgb-22222222"):
        checkpoint.load(tmp_path / "last.pt", identity="tsn-rgb-22222222")


def test_a_damaged_state_names_the_file_and_the_way_out(tmp_path):
    checkpoint.save(tmp_path / "last.pt", state(), identity="run")
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt.*delete it"):
        checkpoint.load(tmp_path / "last.pt", identity="run")


def test_a_state_that_executes_code_is_refused(tmp_path):
    torch.save({"identity": "run", "model": torch.nn.Linear(1, 1)}, tmp_path / "last.pt")
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path / "last.pt", identity="run")


def test_a_failed_save_keeps_the_old_state(tmp_path):
    checkpoint.save(tmp_path / "last.pt", state(), identity="run")
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path / "last.pt", {"model": lambda: None}, identity="run")
    assert checkpoint.load(tmp_path / "last.pt", identity="run")["history"] == state()["history"]
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
