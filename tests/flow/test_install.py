"""What an install gives with a compiler and without, and whether the kernel is that of these sources."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from reaction.flow import native

ROOT = Path(__file__).parents[2]
BUILDABLE = shutil.which("c++") and Path(sysconfig.get_paths()["include"], "Python.h").is_file()


@pytest.mark.skipif(not BUILDABLE, reason="no C++ compiler, or no headers of Python")
def test_where_the_kernel_can_be_built_it_is_there():
    assert native.available() is None


def test_an_absent_kernel_says_what_it_takes(monkeypatch):
    import reaction.flow

    monkeypatch.delattr(reaction.flow, "_tvl1", raising=False)
    monkeypatch.setitem(sys.modules, "reaction.flow._tvl1", None)
    assert native.available().startswith("it was not built: that takes GCC 9 or Clang 10 and Python's headers")


@pytest.mark.skipif(native.available() is not None, reason="no native kernel")
def test_a_kernel_of_other_sources_is_not_used(monkeypatch):
    monkeypatch.setattr(native, "_sources", lambda: "0123456789ab")
    assert native.available().startswith("it was built from other sources")


def built_wheel(folder, **environment):
    """The names of the files in a wheel of this package's sources, and the sources that it must have."""
    package = folder / "source" / "src"
    shutil.copytree(ROOT / "src", package, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md"):
        shutil.copy(ROOT / name, package.parent)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(package.parent)]
    if all(importlib.util.find_spec(name) for name in ("scikit_build_core", "nanobind")):
        command.append("--no-build-isolation")
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if "No matching distribution found" in output or "No module named pip" in output:
        pytest.skip("neither scikit-build-core and nanobind nor an index to get them from")
    assert done.returncode == 0, output
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    return files, {str(path.relative_to(package)) for path in package.rglob("*") if path.suffix in (".py", ".cu")}


@pytest.mark.slow
def test_a_wheel_has_the_kernel_and_the_gpu_s_source(tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no compiler")
    files, sources = built_wheel(tmp_path)
    assert "reaction/flow/tvl1.cu" in sources
    assert sources <= files
    assert [name for name in files if name.startswith("reaction/flow/_tvl1.") and name.endswith(".so")]


def test_without_a_compiler_all_but_the_kernel_is_installed(tmp_path):
    files, sources = built_wheel(tmp_path, CC="/bin/false", CXX="/bin/false")
    assert sources <= files
    assert not [name for name in files if name.endswith(".so")]
