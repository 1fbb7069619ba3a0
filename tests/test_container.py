"""The image of ./Dockerfile, which no engine builds here: its lint, its steps, and a build of what it copies."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NO_CACHE, QUIET, EDITABLE = "--no-cache-dir", "--quiet", "--editable"


@dataclass
class Stage:
    """One FROM of the Dockerfile and its instructions, continued lines joined."""

    name: str
    base: str
    instructions: list[tuple[str, str]]

    def of(self, keyword):
        return [value for name, value in self.instructions if name == keyword]

    @property
    def commands(self):
        return [shlex.split(part) for value in self.of("RUN") for part in re.split(r"\s*&&\s*", value)]


def instructions(text):
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        keyword, _, value = line.partition(" ")
        yield keyword, value.strip()


def read_stages():
    found, arguments = [], []
    for keyword, value in instructions((ROOT / "Dockerfile").read_text()):
        if keyword == "FROM":
            base, _, name = value.partition(" AS ")
            found.append(Stage(name, base, []))
        elif found:
            found[-1].instructions.append((keyword, value))
        else:
            arguments.append((keyword, value))
    return arguments, found


ARGUMENTS, STAGES = read_stages()
BASE, CPU, CUDA, BUILD, FINAL = STAGES


def of_make():
    """The commands that `make` sets its virtual environment up with."""
    asked = ["make", "--dry-run", "--always-make", "--no-print-directory", ".venv/ready"]
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # of the `make test` that runs this: a sub-make prints its folder
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    shown = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    lines = re.sub(r"\\\n\s*", "", shown.stdout).splitlines()
    return [shlex.split(line) for line in lines if "exit 1" not in line and not line.startswith("touch")]


def plain(command, *but):
    """A command without the interpreter's name and without options that change no package."""
    words = ["python" if re.fullmatch(r"python3?", word) else word for word in command]
    return [word for word in words if word not in but]


def test_the_image_is_installed_by_the_steps_of_make():
    ours = [plain(command, NO_CACHE) for command in BUILD.commands if "apt" not in command[0] and command[0] != "rm"]
    makes = [plain(command, QUIET, EDITABLE) for command in of_make()]
    assert len(makes) == 4, makes
    assert ours[: len(makes)] == makes
    assert ours[len(makes) :] == [[".venv/bin/python", "-c", "import reaction.flow._tvl1"]]


def test_the_image_has_what_the_build_made_and_no_compiler():
    assert FINAL is STAGES[-1]
    (copied,) = FINAL.of("COPY")
    (folder,) = set(BUILD.of("WORKDIR")) & set(FINAL.of("WORKDIR"))  # scripts in a .venv begin with its own path
    assert copied == f"--from={BUILD.name} {folder}/.venv ./.venv"
    assert FINAL.of("ENV") == [f"PATH={folder}/.venv/bin:$PATH"]
    installed = [word for stage in (BASE, CPU, CUDA, FINAL) for command in stage.commands for word in command]
    assert not {"g++", "gcc", "build-essential"} & set(installed)
    assert "libarchive-tools" in installed  # what `reaction check` asks for


def test_the_device_is_a_build_argument_and_the_cpu_is_what_one_gets_unasked():
    assert ARGUMENTS == [("ARG", "DEVICE=cpu")]
    assert (CPU.name, CUDA.name) == ("cpu", "cuda")
    assert BUILD.base == FINAL.base == "${DEVICE}"
    assert CPU.base == CUDA.base == BASE.name


def test_only_the_cpu_variant_asks_another_index_and_only_the_other_one_lets_gpus_in():
    assert CPU.of("ENV") == ["PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"]
    (variables,) = CUDA.of("ENV")
    assert variables.split() == ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]
    pinned = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line.startswith("torch==")]
    assert len(pinned) == 1
    assert "+" not in pinned[0]  # torch==x takes either index's build, torch==x+cpu only one


def test_the_python_of_the_image_is_one_the_package_takes():
    version = re.fullmatch(r"python:(\d+)\.(\d+)-slim-bookworm", BASE.base)
    least = re.fullmatch(r">=(\d+)\.(\d+)", PYPROJECT["project"]["requires-python"])
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))


def test_the_workflow_names_this_version_of_the_image():
    tag = f"reaction:{PYPROJECT['project']['version']}"
    container = f'container: os.environ.get("REACTION_CONTAINER", "docker-daemon://{tag}")'
    assert container in (ROOT / "Snakefile").read_text()
    assert f"docker build --tag {tag} " in (ROOT / "docs/cluster.md").read_text()
    assert f"docker build --tag {tag} " in (ROOT / "Dockerfile").read_text()


def copied_into_the_build():
    return [source for value in BUILD.of("COPY") for source in value.split()[:-1]]


def test_the_builder_is_sent_what_is_copied_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied_into_the_build())
    assert not any(fnmatch(name, rule) for name in copied_into_the_build() for rule in rules[1:])
    assert all((ROOT / name).exists() for name in copied_into_the_build())


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no hadolint, which PyPI has for Linux on x86-64 only")
    done = subprocess.run([program, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.slow
def test_what_is_copied_builds_into_a_wheel_with_the_kernel(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no compiler")
    context = tmp_path / "context"
    shutil.copytree(ROOT / "src", context / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    for name in set(copied_into_the_build()) - {"src"}:
        shutil.copy(ROOT / name, context)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, context]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution found" in done.stderr:
        pytest.skip("no index to get the build's requirements from")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(re.fullmatch(r"reaction/flow/_tvl1\..*so", name) for name in names)
    assert "reaction/cli.py" in names
