"""Jobs that are killed in the middle, as by a machine that goes down."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import reaction

SCRIPT = """
import os, pkgutil, signal, sys

def kill_at(name, call):
    owner = pkgutil.resolve_name(name.rpartition(".")[0])
    function, calls = getattr(owner, name.rpartition(".")[2]), []

    def counting(*arguments, **keywords):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)

    setattr(owner, name.rpartition(".")[2], counting)

if __name__ == "__main__":
    job, name, call, *arguments = sys.argv[1:]
    run = pkgutil.resolve_name(job)
    kill_at(name, int(call))
    run(*(int(one) if one.isdigit() else one for one in arguments))
"""


@pytest.fixture
def killed() -> Callable[..., None]:
    """Runs a job in a process of its own, killed without warning at the `call`-th call of a function."""

    def run(job: str, name: str, call: int, *arguments: object) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(reaction.__file__).parents[1])}
        command = [sys.executable, "-c", SCRIPT, job, name, str(call), *map(str, arguments)]
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        assert process.wait() == -signal.SIGKILL, f"{name} was not called {call} times"
        _wait_for_the_end_of(process.pid)

    return run


def _wait_for_the_end_of(group: int) -> None:
    deadline = time.monotonic() + 20
    while alive := _alive(group):
        assert time.monotonic() < deadline, f"the killed job's processes {alive} live on"
        time.sleep(0.02)


def _alive(group: int) -> list[int]:
    """The processes of a group, but for zombies that nobody has collected."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has ended meanwhile
        if int(of_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found
