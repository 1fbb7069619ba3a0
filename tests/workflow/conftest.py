"""A miniature of the project in a temporary clone: the shipped workflow, a dozen videos, nets of a few channels."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def miniature(shipped: dict[str, Any]) -> dict[str, Any]:
    """The shipped parameters, with less of everything."""
    values = deepcopy(shipped)
    synthetic = values["datasets"]["synthetic"]
    synthetic["shards"] = 2
    synthetic["generator"] |= {"videos": 18, "groups": 3, "frames": [9, 11]}
    values["scales"]["tiny"] |= {
        "width": 0.0625,
        "input": 75,
        "epochs": 1,
        "steps": [1],
        "net_epochs": 1,
        "stack": 2,
        "every": 4,
    }
    values["protocols"]["centre"]["segments"] = 2
    values["attention_nets"]["st_attention"] |= {"hidden": 8, "frames_per_video": 2}
    values["tables"] = {"synthetic": values["tables"]["synthetic"] | {"seeds": [0]}}
    values["figures"], values["cost_figures"] = {}, {}
    values["scales"]["tiny_boxes"] |= {"epochs": 1, "steps": [1]}
    values["detection_tables"] = {"synthetic_detection": values["detection_tables"]["synthetic_detection"]}
    return values


@dataclass
class Clone:
    """A working copy of the miniature, and the tools run in it."""

    folder: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        environment.pop("REACTION_MIRROR", None)
        done = subprocess.run(
            command, cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout}")
        return done

    def jobs(self, *command: str) -> Counter[str]:
        """Run `command` and count the jobs that really ran, by rule; writing config.json is not counted."""
        ran = Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", self.run(*command).stdout))
        for rule in ("freeze", "all", "data", "features", "models", "scores", "tables"):
            del ran[rule]
        return ran

    def edit(self, *path: str, value: Any) -> None:
        """Set one parameter in params.yaml."""
        file = self.folder / "params.yaml"
        values = yaml.safe_load(file.read_text())
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        file.write_text(yaml.safe_dump(values, sort_keys=False))

    def read(self, path: str) -> str:
        return (self.folder / path).read_text()

    def clone(self, folder: Path) -> "Clone":
        """What a colleague gets from `git clone`: no results but the tables, no Snakemake records."""
        subprocess.run(["git", "clone", "--quiet", str(self.folder), str(folder)], check=True)
        (folder / ".venv").mkdir()
        (folder / ".venv" / "ready").touch()
        return Clone(folder)

    def copy(self, folder: Path) -> "Clone":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Clone(folder)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)


@pytest.fixture(scope="session")
def blank(tmp_path_factory) -> Clone:
    """The project's files with the miniature's parameters, committed; nothing made yet."""
    folder = tmp_path_factory.mktemp("blank") / "project"
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "results/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    values = miniature(yaml.safe_load((ROOT / "params.yaml").read_text()))
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    clone = Clone(folder)
    clone.run("git", "init", "--quiet")
    clone.run("git", "config", "user.name", "test")
    clone.run("git", "config", "user.email", "test@example.org")
    clone.commit("The miniature")
    return clone


@pytest.fixture(scope="session")
def made_once(blank, tmp_path_factory) -> Clone:
    """The miniature after `dvc repro`, pushed to a remote and committed; do not touch, take `made`."""
    clone = blank.copy(tmp_path_factory.mktemp("made") / "project")
    clone.first_run = clone.jobs("dvc", "repro")
    clone.run("dvc", "remote", "add", "--default", "folder", str(tmp_path_factory.mktemp("remote")))
    clone.run("dvc", "push")
    clone.commit("The miniature, made")
    return clone


@pytest.fixture
def made(made_once, tmp_path) -> Clone:
    """A copy of the finished miniature that a test may change."""
    return made_once.copy(tmp_path / "project")


@pytest.fixture
def pulled(made_once, tmp_path) -> Clone:
    """A fresh clone after `make pull`."""
    clone = made_once.clone(tmp_path / "pulled")
    clone.run("make", "pull", f"BIN={BIN}")
    return clone
