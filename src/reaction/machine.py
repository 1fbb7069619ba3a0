"""What this machine has, and what the things cost that it lacks: in short after the install, in full by the doctor."""

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from reaction.data.unpack import RAR_PROGRAMS

NO_GPU = "no GPU: networks train on the CPU, which is enough for the scales `tiny` and `small`"
NO_REMOTE = "no DVC remote: results are neither shared nor kept elsewhere (dvc remote add --default NAME PLACE)"


@dataclass(frozen=True)
class Finding:
    """Something that a machine has or lacks; `cost` says what doing without it costs, or without all of it."""

    name: str
    found: str
    cost: str | None = None


def missing() -> Iterator[str]:
    """One line for each thing that is not here and that an install on this machine could have had."""
    yield from (finding.cost for finding in installed() if finding.cost)


def installed() -> Iterator[Finding]:
    """The software, and the GPU that it can use."""
    yield _workflow()
    yield _rar()
    yield _decoders()
    yield _flow()
    yield _torch()


def surroundings() -> Iterator[Finding]:
    """The hardware, the cluster and the place where results are shared."""
    yield Finding("cores", f"{cores()} ({platform.machine()})")
    yield Finding("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB")
    yield _slurm()
    yield _remote()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def gpus() -> list[str]:
    """Name and memory of each."""
    import torch

    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{gpu.name} {gpu.total_memory / 1e9:.0f} GB" for gpu in found]


def rar_program() -> str | None:
    """The program that unpacks rar archives here."""
    return next(filter(shutil.which, RAR_PROGRAMS), None)


def has_workflow() -> bool:
    """Whether Snakemake is installed."""
    return importlib.util.find_spec("snakemake") is not None


def _workflow() -> Finding:
    if has_workflow():
        return Finding("workflow", f"Snakemake {_version('snakemake')}, DVC {_version('dvc')}")
    return Finding("workflow", "none", "no Snakemake: no table is made (pip install --requirement requirements.lock)")


def _rar() -> Finding:
    if program := rar_program():
        return Finding("rar archives", program)
    cost = f"none of {', '.join(RAR_PROGRAMS)}: HMDB-51 and UCF-101 come as rar (apt install libarchive-tools)"
    return Finding("rar archives", "none", cost)


def _decoders() -> Finding:
    if importlib.util.find_spec("decord") is None:
        return Finding("decoders", f"PyAV {_version('av')}", "no decord: PyAV decodes every video")
    return Finding("decoders", f"decord {_version('decord')}, PyAV {_version('av')}")


def _flow() -> Finding:
    from reaction.flow import choose, native

    backend, cost = choose("opencv-cuda")
    if native.available() is None:
        return Finding("flow", f"{backend} (native kernel: {', '.join(native.instruction_sets())})", cost)
    return Finding("flow", f"{backend} (no native kernel)", cost)


def _torch() -> Finding:
    build = f"torch {_version('torch')}"
    if found := gpus():
        return Finding("GPUs", f"{', '.join(found)} ({build})")
    if shutil.which("nvidia-smi"):
        cost = f"no GPU that {build} can use, though nvidia-smi is here: PyPI's own torch is the CUDA build"
        return Finding("GPUs", f"none ({build})", cost)
    return Finding("GPUs", f"none ({build})", NO_GPU)


def _slurm() -> Finding:
    if shutil.which("sbatch"):
        return Finding("Slurm", "sbatch")
    return Finding("Slurm", "none", "no sbatch: jobs run on this machine only, not by profiles/slurm")


def _remote() -> Finding:
    """DVC's remotes, by its own account."""
    if program := shutil.which("dvc"):
        listed = subprocess.run([program, "remote", "list"], capture_output=True, text=True, check=False)
        if listed.returncode == 0 and listed.stdout.strip():
            return Finding("DVC remote", ", ".join(" ".join(line.split()) for line in listed.stdout.splitlines()))
    return Finding("DVC remote", "none", NO_REMOTE)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(version unknown)"


def free_disk(folder: Path = Path()) -> int:
    """Bytes that may still be written where results go."""
    results = folder / "results"
    return shutil.disk_usage(results if results.exists() else folder).free
