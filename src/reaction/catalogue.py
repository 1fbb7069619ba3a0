"""What stands under results/: list it, and remove what params.yaml no longer asks for."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reaction.artifacts import KINDS
from reaction.files import read_json
from reaction.params import load
from reaction.plan import Plan


@dataclass(frozen=True)
class Entry:
    """One artifact folder on disk."""

    folder: Path
    rule: str
    bytes: int
    asked_for: bool


def entries(results: Path, asked_for: set[str]) -> Iterator[Entry]:
    """Artifact folders below `results`: those with a config.json, and none else."""
    for kind in sorted(set(KINDS.values())):
        for config in sorted(results.glob(f"{kind}/*/*/config.json")):
            folder = config.parent
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            yield Entry(folder, read_json(config)["rule"], size, folder.as_posix() in asked_for)


def list_artifacts(results: Path = Path("results")) -> None:
    """Print every artifact: its rule, its size, whether params.yaml asks for it."""
    for entry in entries(results, set(Plan(load()).artifacts)):
        mark = " " if entry.asked_for else "unused"
        print(f"{entry.rule:14}{_readable(entry.bytes):>10}  {mark:7}{entry.folder}")


def collect_garbage(*, delete: bool, results: Path = Path("results")) -> None:
    """Remove artifacts that no table of params.yaml asks for; without `delete`, only list them."""
    unused = [entry for entry in entries(results, set(Plan(load()).artifacts)) if not entry.asked_for]
    for entry in unused:
        print(f"{_readable(entry.bytes):>10}  {entry.folder}")
        if delete:
            shutil.rmtree(entry.folder)
    total = _readable(sum(entry.bytes for entry in unused))
    print(
        f"{len(unused)} artifacts, {total} "
        + ("removed" if delete else "would go; `reaction gc --delete` removes them")
    )


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
