"""What `make` says where it cannot go on; tests/workflow runs what it does."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def make(tmp_path):
    """Runs `make` in a folder that has the Makefile and the files that the set-up depends on; its status and words."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "CMakeLists.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(["make", *arguments], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout

    return run


def stand_in(path: Path, script: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("lacks", "words"), [("version_info", "needs Python 3.11 or later"), ("ensurepip", "apt install python3-venv")]
)
def test_a_python_that_will_not_do_is_refused_before_anything_is_made(make, tmp_path, lacks, words):
    python = stand_in(tmp_path / "python", f'case "$2" in *{lacks}*) exit 1;; esac')
    status, said = make(".venv/ready", f"PYTHON={python}")
    assert status != 0
    assert words in said
    assert not (tmp_path / ".venv").exists()


def test_pulling_what_nobody_shared_says_so(make, tmp_path):
    stand_in(tmp_path / "bin/dvc", "exit 0")
    pull = ("pull", "BIN=bin", "--assume-old", ".venv/ready")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/ready").touch()
    assert "there is no dvc.lock" in make(*pull)[1]
    (tmp_path / "dvc.lock").touch()
    status, said = make(*pull)
    assert status != 0
    assert "dvc remote add --default" in said
