"""The command line: what it offers, what it loads, how it fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reaction.cli import UNFINISHED, main
from reaction.files import canonical_json, read_json
from reaction.recipes import RECIPES

HEAVY = {"torch", "cv2", "h5py", "numpy", "av", "decord", "matplotlib", "pydantic"}
COMMANDS = {*RECIPES, "freeze", "table", "convert", "predict", "verify", "ls", "gc"}


def lines_of_help(capsys, *command):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_help_lists_every_rule_with_what_it_does(capsys):
    text = "\n".join(lines_of_help(capsys))
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s+\w+ \w+", text, re.MULTILINE), command


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_a_help_of_its_own(capsys, command):
    assert lines_of_help(capsys, command)[0].startswith(f"usage: reaction {command}")


def test_help_and_freeze_load_no_library(tmp_path):
    script = f"""
import sys
from reaction.cli import main
main(["freeze", {str(tmp_path / "config.json")!r}, "{{}}"])
try:
    main(["--help"])
finally:
    print(*sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: reaction")
    assert done.stderr == "\n"


def test_an_error_is_one_line_on_stderr_and_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (["index", "nowhere"], ["train", "nowhere", "--checkpoints", "checkpoints"], ["ls"]):
        assert main(command) == 1
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith(f"reaction {command[0]}: ")
        assert error.count("\n") == 1
        assert ("nowhere" if "nowhere" in command else "params.yaml") in error


def test_an_archive_that_is_nowhere_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REACTION_MIRROR", raising=False)
    archives = [{"name": "videos.zip", "page": "https://example.org/dataset", "urls": [], "into": "videos"}]
    config = {"dataset": "small", "source": "archives", "archives": archives}
    assert main(["freeze", "folder/config.json", canonical_json({"rule": "fetch", "config": config})]) == 0
    assert main(["fetch", "folder"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "Get it from https://example.org/dataset and put it here: downloads/small/videos.zip" in error


def test_traceback_shows_where_an_error_came_from(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        main(["--traceback", "index", str(tmp_path / "nowhere")])


@pytest.mark.parametrize("command", [[], ["trian"], ["gradcam", "folder"], ["train", "folder"]])
def test_a_wrong_command_line_is_status_2_with_the_usage(capsys, command):
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: reaction")


def test_flow_hands_shard_threads_and_backend_on(monkeypatch):
    calls = []
    monkeypatch.setattr("reaction.data.extract.flow_shard", lambda *given: calls.append(given))
    assert main(["flow", "folder", "--shard", "3"]) == 0
    assert main(["flow", "folder", "--shard", "3", "--threads", "4", "--backend", "torch"]) == 0
    assert calls == [(Path("folder"), 3, 1, "auto"), (Path("folder"), 3, 4, "torch")]


def test_agree_hands_folder_and_threads_on(monkeypatch):
    calls = []
    monkeypatch.setattr("reaction.attention.maps.agree_maps", lambda *given: calls.append(given))
    assert main(["agree", "folder"]) == main(["agree", "folder", "--threads", "4"]) == 0
    assert calls == [(Path("folder"), 1), (Path("folder"), 4)]


def test_a_training_stopped_for_time_is_status_75_and_goes_on(small_project, capsys):
    folder = small_project.run("run")
    command = ["train", folder, "--checkpoints", "checkpoints/run"]
    assert main([*command, "--stop-after", "0"]) == UNFINISHED == 75
    out, error = capsys.readouterr()
    assert out.splitlines()[-1] == "stopped after epoch 1 of 2: run the same command to go on"
    assert error == ""
    assert not Path(folder, "model.safetensors").exists()
    assert main(command) == 0
    assert Path(folder, "model.safetensors").exists()
    assert capsys.readouterr().out.splitlines()[0].startswith("epoch 2/2")


def test_freeze_writes_the_whole_config_or_nothing(tmp_path, monkeypatch, capsys):
    path, before, after = tmp_path / "artifact" / "config.json", {"config": {"epochs": 1}}, {"config": {"epochs": 2}}
    assert main(["freeze", str(path), canonical_json(before)]) == 0
    assert read_json(path) == before

    def killed(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", killed)
    assert main(["freeze", str(path), canonical_json(after)]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert read_json(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_freeze_refuses_what_is_no_json(tmp_path, capsys):
    assert main(["freeze", str(tmp_path / "config.json"), "{'epochs': 1}"]) == 1
    assert capsys.readouterr().err.startswith("reaction freeze: ")
    assert list(tmp_path.iterdir()) == []


def test_freezing_the_same_config_gives_the_same_bytes(tmp_path):
    values = {"b": [1, 2.5, None], "a": {"ü": True}}
    for name, text in (("one", json.dumps(values)), ("two", canonical_json(values))):
        main(["freeze", str(tmp_path / name), text])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(("said", "seen"), [([], "3"), (["--gpus", "0"], ""), (["--gpus", "2"], "3")])
def test_a_command_without_gpus_sees_none(said, seen, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert main(["score", str(tmp_path), *said]) == 1, "an empty folder"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
