"""A Slurm of two nodes on this machine, for the time of the tests: Debian's daemons, loopback only, nothing stays.

Its nodes claim the cores, memory and GPUs that the rules ask for, so that the shipped profile is tested as it is. It
keeps no accounts: `scontrol show job` remembers every job instead.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# The one place where the plugin finds it: it drops every SLURM_ variable of a job, SLURM_CONF with them.
CONF = Path("/etc/slurm/slurm.conf")
OURS = "# Written by the tests of reaction in"
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
NODES = ("node1", "node2")

# `config_overrides`: a node has what this says. `SlurmdTimeout`: for how long a silent node does not count as lost;
# `cred_expire`: how long its jobs wait before they are started again. `OverTimeLimit`: minutes of grace at a wall, for
# slow machines shall see the same as fast ones.
CONFIGURATION = """{ours} {work}
ClusterName=reaction
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation={work}/state
SlurmdSpoolDir={work}/%n
SlurmctldPidFile={work}/slurmctld.pid
SlurmdPidFile={work}/%n.pid
SlurmctldLogFile={work}/slurmctld.log
SlurmdLogFile={work}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SlurmdTimeout=10
OverTimeLimit=5
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5
MinJobAge=3600
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16821 CPUs=8 RealMemory=40000 Gres=gpu:2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16822 CPUs=8 RealMemory=40000 Gres=gpu:2
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# A GPU is any device file to Slurm.
DEVICES = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def _shared():
    """tests/workflow/conftest.py, whose miniature is run here too."""
    spec = importlib.util.spec_from_file_location("miniature", Path(__file__).parents[1] / "workflow/conftest.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shared = _shared()
blank = shared.blank


def wait_for(what: str, ready: Callable[[], object], seconds: float = 60):
    """What `ready` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {seconds:.0f} s")
        time.sleep(0.2)
    return found


def output(*command: str) -> str:
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout


class Cluster:
    """The daemons, and what one does to them."""

    wait_for = staticmethod(wait_for)

    def __init__(self, work: Path) -> None:
        self.work = work

    def start(self) -> None:
        (self.work / "state").mkdir(parents=True)
        CONF.parent.mkdir(exist_ok=True)
        text = CONFIGURATION.format(ours=OURS, work=self.work, host=socket.gethostname().split(".")[0])
        CONF.write_text(text)
        CONF.with_name("gres.conf").write_text(f"{OURS} {self.work}\n{DEVICES}")
        self._start_munge()
        output("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)

    def _start_munge(self) -> None:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        output("install", "-d", "-o", "munge", "-g", "munge", "-m", "0755", "/run/munge")
        output("runuser", "-u", "munge", "--", "munged", "--force", "--pid-file=/run/munge/munged.pid")
        (self.work / "munged.pid").symlink_to("/run/munge/munged.pid")

    def start_node(self, node: str) -> None:
        output("slurmd", "-N", node)
        wait_for(f"{node} up", lambda: self.state(node) in ("idle", "mixed", "allocated"))

    def state(self, node: str) -> str:
        """`idle`, `mixed`, `allocated`, `down`, ...; a `*` behind it says that the node does not answer."""
        return subprocess.run(["sinfo", "-h", "-n", node, "-o", "%T"], text=True, capture_output=True).stdout.strip()

    def cut_off(self, node: str) -> list[str]:
        """What a power cut does to a node: its daemon, and every process of its jobs, end at once. Those jobs' ids."""
        jobs = output("squeue", "-h", "-t", "R", "-w", node, "-o", "%i").split()
        self._kill(self.work / f"{node}.pid", signal.SIGKILL)
        for pid in _processes(jobs):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return jobs

    def jobs(self) -> list[dict[str, str]]:
        """Every job so far, by Slurm's own record; Comment has the rule and its wildcards."""
        lines = output("scontrol", "show", "job", "--oneliner").splitlines()
        pairs = [[word.split("=", 1) for word in line.split() if "=" in word] for line in lines]
        return [dict(words) for words in pairs if words]

    def stop(self) -> None:
        """End every job and daemon, and remove the configuration: with it alone, each snakemake would wait for them."""
        running = subprocess.run(["squeue", "-h", "-o", "%i"], text=True, capture_output=True).stdout.split()
        for node in NODES:
            self._kill(self.work / f"{node}.pid", signal.SIGTERM)
        self._kill(self.work / "slurmctld.pid", signal.SIGTERM)
        self._kill(self.work / "munged.pid", signal.SIGTERM)
        for pid in _processes(running):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in (CONF, CONF.with_name("gres.conf")):
            if path.exists() and path.read_text().startswith(OURS):
                path.unlink()

    def _kill(self, file: Path, number: int) -> None:
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int(file.read_text())
            os.kill(pid, number)
            with suppress(AssertionError):
                wait_for(f"the end of {file.stem}", lambda: not Path(f"/proc/{pid}/exe").exists(), seconds=10)


def _processes(jobs: list[str]) -> list[int]:
    """The processes of these jobs on this machine: Slurm's own, which bear the job in their title, and the jobs'."""
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if _job_of(folder) in jobs]


def _job_of(process: Path) -> str | None:
    with suppress(OSError):
        title = process.joinpath("cmdline").read_bytes().decode(errors="replace")
        if title.startswith("slurmstepd: ["):
            return title.removeprefix("slurmstepd: [").partition(".")[0]
        variables = process.joinpath("environ").read_bytes().split(b"\0")
        if b"SLURM_CLUSTER_NAME=reaction" in variables:
            return next((v.decode().partition("=")[2] for v in variables if v.startswith(b"SLURM_JOB_ID=")), None)
    return None


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """Two idle nodes; skipped with the reason where that cannot be had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")  # which `su` leaves out
        _skip_where_impossible()
        cluster = Cluster(tmp_path_factory.mktemp("cluster"))
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # by itself it would leave the daemons behind
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _skip_where_impossible() -> None:
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"no {', '.join(lacking)}: `make test-slurm` installs Debian's Slurm")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    if CONF.exists():
        first = CONF.read_text().partition("\n")[0]
        if not first.startswith(OURS):
            pytest.skip(f"this machine has a Slurm of its own: {CONF}")
        Cluster(Path(first.removeprefix(OURS).strip())).stop()  # an earlier test was killed
