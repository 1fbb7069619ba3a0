"""What every job on clips needs: equal numbers each time, a device, lines for its log, how its result came about."""

import csv
import io
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch

from reaction.files import write_text

LIBRARIES = ("torch", "lightning-fabric", "numpy", "opencv-contrib-python-headless", "h5py", "safetensors")


def be_deterministic(threads: int) -> None:
    """The same numbers at the same number of threads; on a GPU as far as its kernels allow, with warnings."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same switch as use_deterministic_algorithms(True, warn_only=True), which imports all of torch.compile: 1.3 s.
    torch.set_deterministic_debug_mode("warn")
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def provenance(seconds: float, threads: int, **more: Any) -> dict[str, Any]:
    """How a result came about, which its numbers must not depend on: time, device, versions, commit."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    versions = {library: version(library) for library in LIBRARIES} | {"python": platform.python_version()}
    processes = int(os.environ.get("WORLD_SIZE", 1))
    facts = {"seconds": round(seconds, 3), "device": name, "threads": threads, "processes": processes}
    return facts | {"versions": versions, "commit": _commit()} | more


def write_rows(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """A CSV file of rows with equal keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def tell(line: str) -> None:
    """A line of the log at once: it is a file, and someone is watching it."""
    print(line, flush=True)


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
