"""Jobs and Snakemake itself are killed at random points: what is there is whole, and the same command finishes.

A job kills itself at one of its own file operations, which an audit hook counts, or after a share of the time that it
takes undisturbed. Snakemake is killed alone, so that its jobs go on without it, or together with them.
"""

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from reaction.files import read_json, write_json

BIN = Path(sys.executable).parent
CRASHES = int(os.environ.get("REACTION_CRASHES", 50))
COMMAND = ("snakemake", "--cores", "2", "results/tables/synthetic.csv")

# Stands for `reaction` in the jobs. Takes the next order, if there is one: {} to live, else the share of the job's file
# operations or of its CPU seconds after which it dies. An alarm that nobody handles ends
# a process as SIGKILL does. Writing config.json, of which there are too many, takes no orders.
JOB = """#!{python}
import atexit, json, os, signal, sys, time
from pathlib import Path
from reaction.cli import main

ORDERS, OWNER = Path({orders!r}), os.getpid()

def taken(rule):
    unnamed = sorted(ORDERS.glob("order-[0-9]*")) if rule != "freeze" else []
    for path in [ORDERS / f"order-{{rule}}", *unnamed]:
        try:
            return json.loads(path.rename(ORDERS / f"taken-{{path.name}}").read_text())
        except FileNotFoundError:
            pass  # by another job, or there was none
    return {{}}

def writes(event, arguments):
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"):
        return True
    return event == "open" and any(name in str(arguments[0]) for name in ("results/", "checkpoints/"))

class Death:
    def __init__(self, rule, order):
        self.rule, self.done, self.note = rule, 0, ORDERS / f"dead-{{OWNER}}"
        usual = json.loads((ORDERS / "usual.json").read_text()).get(rule, {{}})
        self.last = 1 + int(order["operations"] * usual["operations"]) if "operations" in order and usual else None
        if "seconds" in order and usual:
            self.note.write_text(f"{{rule}} at a moment")
            signal.setitimer(signal.ITIMER_PROF, 0.01 + order["seconds"] * usual["seconds"])

    def count(self, event, arguments):
        if os.getpid() == OWNER and writes(event, arguments):
            self.done += 1
            if self.done == self.last:
                self.note.write_text(f"{{self.rule}} at {{event}}")
                os.kill(OWNER, signal.SIGKILL)

    def survived(self):
        if os.getpid() == OWNER:
            self.note.unlink(missing_ok=True)
            facts = {{"operations": self.done, "seconds": time.process_time()}}
            (ORDERS / f"did-{{self.rule}}-{{OWNER}}.json").write_text(json.dumps(facts))

if __name__ == "__main__":  # the index's processes import this file
    death = Death(sys.argv[1], taken(sys.argv[1]))
    atexit.register(death.survived)
    sys.addaudithook(death.count)
    sys.exit(main())
"""


@dataclass
class Crashing:
    """A clone whose jobs take orders to die."""

    clone: object
    orders: Path

    def __post_init__(self):
        self.orders.mkdir(parents=True)
        write_json(self.orders / "usual.json", {})
        job = self.orders / "reaction"
        job.write_text(JOB.format(python=sys.executable, orders=str(self.orders)))
        job.chmod(0o755)

    def start(self, command: tuple[str, ...] = COMMAND) -> subprocess.Popen:
        path = f"{self.orders}:{BIN}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "REACTION_CRASHING": str(self.orders)}
        with (self.clone.folder / "snakemake.log").open("w") as log:
            return subprocess.Popen(
                command, cwd=self.clone.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, command: tuple[str, ...] = COMMAND) -> int:
        """The command's exit status, after the release of a stale lock."""
        self.unlock()
        status = self.start(command).wait()
        assert status or (self.clone.folder / command[-1]).exists(), "a success without what was asked for"
        return status

    def unlock(self) -> None:
        """What docs/cluster.md says of a stale lock."""
        if any((self.clone.folder / ".snakemake/locks").glob("*")):
            self.clone.run("snakemake", "--unlock")

    def said(self) -> str:
        return self.clone.read("snakemake.log")

    def order(self, *orders: dict, **of_rules: dict) -> None:
        """What the next jobs do, in the order in which they start, or the next job of a rule."""
        for path in self.orders.glob("*order-*"):
            path.unlink(missing_ok=True)
        for name, order in [*enumerate(orders), *of_rules.items()]:
            write_json(self.orders / f"order-{name}", order)

    def measure(self) -> None:
        """What an undisturbed job of each rule does, by the jobs so far."""
        usual = {}
        for path in self.orders.glob("did-*"):
            rule, facts = path.name.split("-")[1], read_json(path)
            usual[rule] = {key: max(value, usual.get(rule, {}).get(key, 0)) for key, value in facts.items()}
        write_json(self.orders / "usual.json", usual)

    @property
    def usual(self) -> dict:
        return read_json(self.orders / "usual.json")

    def killed(self) -> list[str]:
        """Which jobs obeyed, and where; each is told once."""
        notes = list(self.orders.glob("dead-*"))
        found = [note.read_text() for note in notes]
        for note in notes:
            note.unlink()
        return found

    def processes(self) -> list[int]:
        """Snakemake and jobs of this clone that are alive, whoever their parent is by now."""
        mark, found = f"REACTION_CRASHING={self.orders}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in folder.joinpath("environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def kill_everything(self) -> None:
        """A power cut."""
        while processes := self.processes():
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)

    def wait_for_orphans(self) -> None:
        while self.processes():
            time.sleep(0.1)


def contents(clone) -> dict[str, bytes]:
    """Every artifact's bytes, without what differs each time: seconds, and how a result came about."""
    found = {}
    for path in sorted((clone.folder / "results").rglob("*")):
        name = str(path.relative_to(clone.folder))
        if path.is_file() and ".writing-" not in name:
            with suppress(FileNotFoundError):  # an orphan's
                found[name] = _timeless(path.name, path.read_bytes())
    return found


def _timeless(name: str, data: bytes) -> bytes:
    if name.startswith("provenance"):
        return json.dumps(sorted(json.loads(data))).encode()
    if name == "history.csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        return json.dumps([{key: value for key, value in row.items() if key != "seconds"} for row in rows]).encode()
    return data


def assert_whole(clone, reference: dict[str, bytes]) -> None:
    found = contents(clone)
    torn = [name for name, data in found.items() if data != reference.get(name)]
    assert not torn, f"neither absent nor whole: {torn}"


# A file of each rule, in rounds: what hangs below a file that is missing is made again with it, which takes long.
ROUNDS = (
    {"frames": "features/*/rgb-*/shard-001.h5", "flow": "features/*/flow-*/shard-000.h5"},
    {"train": "models/*/tsn-flow-*/model.safetensors", "attend": "attention/*/learned-*/shard-000.h5"},
    {"score": "scores/*/st_phase1-rgb-*/scores.h5"},
    {"table": "tables/synthetic.csv"},
)


def lose(clone, patterns: dict[str, str]) -> tuple[str, ...]:
    """Remove one file of each pattern; the command that makes them again."""
    lost = [next((clone.folder / "results").glob(pattern)) for pattern in patterns.values()]
    for path in lost:
        path.unlink()
    return *COMMAND[:-1], *(str(path.relative_to(clone.folder)) for path in lost)


def test_a_job_of_each_kind_is_killed_at_one_of_its_file_operations(made, tmp_path):
    """A training is tried again at once, any other job by the same command."""
    draw, project, reference = random.Random(0), Crashing(made, tmp_path / "orders"), contents(made)
    # Six at least: a folder is made and locked, a file flushed and renamed, the folder listed and removed.
    rules = [rule for patterns in ROUNDS for rule in patterns]
    write_json(project.orders / "usual.json", {rule: {"operations": 6, "seconds": 1} for rule in rules})
    for patterns in ROUNDS:
        command = lose(made, patterns)
        project.order(**{rule: {"operations": draw.random()} for rule in patterns})
        project.run(command)
        assert {line.split()[0] for line in project.killed()} == set(patterns)
        assert_whole(made, reference)
        assert project.run(command) == 0, project.said()
    assert contents(made) == reference


def test_snakemake_is_killed_and_its_lock_is_released_by_one_command(made, tmp_path):
    project, reference = Crashing(made, tmp_path / "orders"), contents(made)
    command = lose(made, ROUNDS[0])
    project.order({})
    snakemake = project.start(command)
    _wait_for(project.orders / "taken-order-0", snakemake)
    project.kill_everything()
    snakemake.wait()
    assert_whole(made, reference)
    project.order()
    assert project.start(command).wait() != 0
    assert "snakemake --unlock" in (made.folder / "docs/cluster.md").read_text()
    assert "--unlock" in project.said(), "Snakemake names the way out"
    assert project.run(command) == 0, project.said()
    assert contents(made) == reference


def test_what_a_killed_snakemake_was_unsure_of_keeps_nothing_from_being_made(made):
    """Its marks made Snakemake repeat a job, leave out all that hangs below, and report success."""
    shard = next(made.folder.glob("results/features/*/flow-*/shard-000.h5")).relative_to(made.folder)
    mark = made.folder / ".snakemake/incomplete" / urlsafe_b64encode(str(shard).encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.write_text('{"external_jobid": null}')
    lost = next(made.folder.glob("results/scores/*/st_phase1-flow-*/scores.h5"))
    lost.unlink()
    (made.folder / COMMAND[-1]).unlink()
    assert made.jobs(*COMMAND) == Counter(score=1, fuse=1, table=1)
    assert lost.exists()


def _wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small(blank, tmp_path_factory):
    """The least that has a job of every rule: one stream tested, a shard of everything."""
    clone = blank.copy(tmp_path_factory.mktemp("small") / "project")
    table = yaml.safe_load(clone.read("params.yaml"))["tables"]["synthetic"]
    less = {"methods": ["st_phase1", "st_attention"], "streams": ["rgb"]}
    clone.edit("tables", "synthetic", value=table | less | {"comparisons": [["st_attention/rgb", "st_phase1/rgb"]]})
    clone.edit("datasets", "synthetic", "shards", value=1)
    return clone


@pytest.mark.slow
def test_the_workflow_survives_crashes_at_random_points(small, tmp_path, capsys):
    """As many as wanted, pass after pass over the whole workflow; REACTION_CRASHES changes the number."""
    undisturbed = Crashing(small.copy(tmp_path / "undisturbed"), tmp_path / "orders")
    assert undisturbed.run() == 0, undisturbed.said()
    undisturbed.measure()
    reference, draw = contents(undisturbed.clone), random.Random(0)
    done, passes, project = Counter(), 0, None
    while done.total() < CRASHES:
        if project is None:
            project = Crashing(small.copy(tmp_path / f"pass-{passes}"), tmp_path / f"orders-{passes}")
            write_json(project.orders / "usual.json", undisturbed.usual)
        crash, status = _crash(project, draw)
        assert_whole(project.clone, reference)
        done.update(crash)
        with capsys.disabled():
            print(f"\n{done.total():3d}  pass {passes}, status {status}: {', '.join(crash)}", end="", flush=True)
        if status == 0:
            _finish(project, reference)
            passes, project = passes + 1, None
    if project is not None:
        _finish(project, reference)
        passes += 1
    with capsys.disabled():
        print(
            f"\n{done.total()} crashes in {passes} passes, every one with the same {len(reference)} files in the end:"
        )
        print("\n".join(f"{count:4d}  {what}" for what, count in sorted(done.items())))


def _crash(project: Crashing, draw: random.Random) -> tuple[list[str], int]:
    """One run of the command with deaths in it: who died where, and its exit status."""
    kind = draw.choice(("operations", "seconds", "snakemake alone", "snakemake and its jobs"))
    if kind in ("operations", "seconds"):
        project.order(*({kind: draw.random()} if draw.random() < 0.5 else {} for _ in range(20)))
        status = project.run()
        return project.killed(), status
    project.order({}, {})
    project.unlock()
    snakemake = project.start()
    _wait_for(project.orders / f"taken-order-{draw.randrange(2)}", snakemake)
    time.sleep(draw.random() * project.usual["train"]["seconds"])
    alive = snakemake.poll() is None
    if kind == "snakemake alone":
        snakemake.kill()
    else:
        project.kill_everything()
    return [kind] if alive else [], snakemake.wait()


def _finish(project: Crashing, reference: dict[str, bytes]) -> None:
    project.order()
    assert project.run() == 0, project.said()
    project.wait_for_orphans()
    assert contents(project.clone) == reference
