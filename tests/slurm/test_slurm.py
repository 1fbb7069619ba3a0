"""The miniature on a real Slurm, through the shipped profile; a node is lost in the middle of training.

`make test-slurm` prints what happens as it goes: the submitted jobs, the lost node, the job that starts again.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

# What a site would edit, and less patience than a big cluster needs.
SITE = [
    "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1",
    "--seconds-between-status-checks", "1", "--latency-wait", "10", "--max-jobs-per-timespan", "100/1s",
]  # fmt: skip
THROUGH_SLURM = ["snakemake", "--workflow-profile", "profiles/slurm", *SITE]
TABLES = ["results/tables/synthetic.csv", "results/tables/synthetic_long.csv"]
EPOCHS = 300  # half a minute; the first checkpoint comes after ten seconds
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
LOCAL = {"freeze", "table", "total"}


@pytest.fixture(scope="module")
def project(blank, tmp_path_factory):
    """The miniature, and a second table whose trainings are long enough to lose a node."""
    clone = blank.copy(tmp_path_factory.mktemp("project") / "project")
    values = yaml.safe_load(clone.read("params.yaml"))
    clone.edit("scales", "long", value=values["scales"]["tiny"] | {"epochs": EPOCHS, "steps": [EPOCHS]})
    table = values["tables"]["synthetic"] | {"methods": ["tsn"], "scale": "long", "comparisons": []}
    clone.edit("tables", "synthetic_long", value=table)
    # Tsn is in the long one; one stream has a job of every rule but fuse, which the long one has.
    less = {"methods": ["st_phase1", "st_attention"], "streams": ["rgb"]}
    less["comparisons"] = [["st_attention/rgb", "st_phase1/rgb"]]
    clone.edit("tables", "synthetic", value=values["tables"]["synthetic"] | less)
    return clone


@contextmanager
def running(clone, *command: str):
    """`command` in the background, its output in run.log; ended with its jobs if the test fails meanwhile."""
    with (clone.folder / "run.log").open("w") as log:
        process = subprocess.Popen(command, cwd=clone.folder, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()  # at SIGTERM it would wait for its jobs
                process.wait()
                subprocess.run(["scancel", "--user", "root"], check=True)


def test_a_node_is_lost_in_the_middle_of_training(cluster, project, tmp_path, say):
    undisturbed, clone = project.copy(tmp_path / "undisturbed"), project.copy(tmp_path / "disturbed")
    alone = undisturbed.jobs("snakemake", "--cores", "2", TABLES[1])
    say(f"undisturbed, without Slurm: {alone.total()} jobs, of the table whose training will lose its node")
    planned = clone.run("snakemake", "--dry-run", *TABLES).stdout

    with running(clone, *THROUGH_SLURM, *TABLES) as snakemake:
        run = cluster.wait_for("a checkpoint", lambda: _checkpoint(clone, snakemake), seconds=600).parent.name
        job = next(entry for entry in cluster.jobs() if entry["Comment"] == f"rule_train_wildcards_synthetic_{run}")
        number, node = job["JobId"], job["NodeList"]
        lost = cluster.cut_off(node)
        assert number in lost
        say(f"{node} is cut off, with its jobs {', '.join(lost)}; job {number} was training {run}")
        cluster.wait_for("Slurm's notice", lambda: _job(cluster, number)["Restarts"] == "1")
        say(f"Slurm takes {node} for {cluster.state(node)}; job {number} is {_job(cluster, number)['JobState']} again")
        cluster.start_node(node)
        say(f"{node} is back: {cluster.state(node)}")
        snakemake.wait(timeout=900)
    assert snakemake.returncode == 0, clone.read("run.log")

    record = cluster.jobs()
    for entry in record:
        say("  ".join([entry["JobId"], entry["JobState"], entry["NodeList"], entry["Restarts"], entry["Comment"]]))
    counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", planned, flags=re.MULTILINE)}
    assert Counter(_rule(entry) for entry in record) == {rule: counts[rule] for rule in counts.keys() - LOCAL}
    assert {entry["JobState"] for entry in record} == {"COMPLETED"}
    assert {entry["NodeList"] for entry in record} == {"node1", "node2"}
    resumed = clone.read(f"logs/train/synthetic/{run}.log").partition("\n")[0]
    say(f"the first line of its log: {resumed}")
    assert 1 < int(resumed.removeprefix("epoch ").partition("/")[0]) <= EPOCHS
    assert _results(undisturbed).items() <= _results(clone).items()
    say(f"{len(_results(undisturbed))} files of weights and tables are the same as undisturbed, byte for byte")


def test_two_processes_stop_before_their_wall_and_go_on(cluster, project, tmp_path, say):
    """`gpu: 2` is torchrun with two processes; a wall of a minute leaves time for one epoch in each job."""
    clone = project.copy(tmp_path / "project")
    clone.edit("scales", "long", "epochs", value=3)
    clone.edit("scales", "long", "steps", value=[3])
    planned = clone.run("snakemake", "--dry-run", TABLES[1]).stdout
    model = re.search(r"results/models/synthetic/tsn-rgb-\S+-long-\w+/model.safetensors", planned)[0]
    clone.run("snakemake", "--cores", "2", model, "--until", "frames")
    before = {job["JobId"] for job in cluster.jobs()}
    clone.run(*THROUGH_SLURM, model, "--set-resources", "train:gpu=2", "train:runtime=1")

    trained = [job for job in cluster.jobs() if job["JobId"] not in before]
    for job in trained:
        say("  ".join([job["JobId"], job["JobState"], job["NodeList"], job["TresPerJob"], job["Comment"]]))
    assert {_rule(job) for job in trained} == {"train"}
    assert [job["JobState"] for job in trained] == ["FAILED"] * 2 + ["COMPLETED"]
    assert {(job["TresPerJob"], job["NumNodes"], job["TimeLimit"]) for job in trained} == {
        ("gres:gpu:2", "1", "00:01:00")
    }
    run = (clone.folder / model).parent
    assert '"processes": 2' in (run / "provenance.json").read_text()
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 3


def _checkpoint(clone, snakemake) -> Path | None:
    """The state of a long training that is not at its end."""
    assert snakemake.poll() is None, clone.read("run.log")
    return next(iter(clone.folder.glob("checkpoints/synthetic/*-long-*/last.pt")), None)


def _job(cluster, number: str) -> dict[str, str]:
    return next(entry for entry in cluster.jobs() if entry["JobId"] == number)


def _rule(job: dict[str, str]) -> str:
    return job["Comment"].removeprefix("rule_").partition("_wildcards")[0]


def _results(clone) -> dict[str, bytes]:
    files = [*clone.folder.glob("results/models/*/*/model.safetensors"), *clone.folder.glob("results/tables/*.csv")]
    return {str(file.relative_to(clone.folder)): file.read_bytes() for file in files}


@pytest.fixture
def say(capsys):
    started = time.monotonic()

    def tell(line: str) -> None:
        with capsys.disabled():
            print(f"\n{time.monotonic() - started:6.1f} s  {line}", end="", flush=True)

    return tell
