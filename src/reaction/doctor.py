"""`reaction doctor`: what this machine has, what tables need of it, and whether it can make them.

A table cannot be made here, and the exit status is 1, where its run would end in an error however long one waits: no
Snakemake, no program for an archive that is rar, no weights file where only a person can get it, too small a disk.
Slowness is no such reason: a missing GPU, kernel or cluster is named with what it costs.

The estimates count what params.yaml asks for and is not there yet; reaction.costs has what each costs, and from where.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from reaction.artifacts import KINDS, Artifact
from reaction.costs import Need, archives, cost, local
from reaction.data.fetch import Archive
from reaction.data.unpack import archive_kind
from reaction.machine import cores, free_disk, gpus, has_workflow, installed, rar_program, surroundings
from reaction.params import load
from reaction.plan import Plan


def doctor(tables: Sequence[str]) -> int:
    """Print the report on `tables`, or on those under `reproduce:`; 1 if one of them cannot be made here, else 0."""
    params = load()
    known = [*params.tables, *params.detection_tables]
    if unknown := [name for name in tables if name not in known]:
        raise ValueError(f"params.yaml has no table {unknown[0]}, only {', '.join(known)}")
    plan, names = Plan(params), list(tables or params.reproduce)
    for finding in (*surroundings(), *installed()):
        print(f"{finding.name:13} {finding.found}" + (f"\n{'':13} {finding.cost}" if finding.cost else ""))
    whole = needs(plan, *names)
    print(f"{'free disk':13} {free_disk() / 1e9:.0f} GB, and {_gigabytes(whole.disk)} GB to be written\n")
    print("\n".join(rows(plan, names)))
    if len(names) == 1:
        print("\n" + "\n".join(stages(plan, names[0])))
    reasons = list(obstacles(plan, *names))
    print("\n" + "\n".join(reasons or [f"{', '.join(names)}: can be made here, {_days(whole)}"]))
    return 1 if reasons else 0


def rows(plan: Plan, tables: Sequence[str]) -> Iterator[str]:
    """A Markdown table of what each of `tables` still needs; see docs/scale.md for what that leaves out."""
    yield "| table | disk, GB | CPU hours without a GPU | or CPU hours | and hours of a P100 |"
    yield "|---|--:|--:|--:|--:|"
    for name in tables:
        need = needs(plan, name)
        hours = (_two(value / 3600) for value in (need.cpu, need.beside, need.gpu))
        yield f"| `{name}` | {_gigabytes(need.disk)} | {' | '.join(hours)} |"


def stages(plan: Plan, table: str) -> Iterator[str]:
    """The same of one table by rule; a job makes a shard or a run."""
    todo = _todo(plan, (table,))
    yield "| rule | jobs | disk, GB | CPU hours without a GPU | or CPU hours | and hours of a P100 |"
    yield "|---|--:|--:|--:|--:|--:|"
    for rule in KINDS:
        if not (mine := [made for made in todo if made.rule == rule]):
            continue
        jobs = sum(round(max(made.shards, 1) * _absent(made)) for made in mine)
        need = sum((cost(made, plan.params) * _absent(made) for made in mine), Need())
        hours = (_two(value / 3600) for value in (need.cpu, need.beside, need.gpu))
        yield f"| `{rule}` | {jobs:,} | {_gigabytes(need.disk)} | {' | '.join(hours)} |"


def needs(plan: Plan, *tables: str) -> Need:
    """What is still to be made for tables costs, in total: what they share counts once."""
    return sum((cost(made, plan.params) * _absent(made) for made in _todo(plan, tables)), Need())


def obstacles(plan: Plan, *tables: str) -> Iterator[str]:
    """Why what is still to be made for tables cannot be made here, one line each."""
    todo, whole = _todo(plan, tables), needs(plan, *tables)
    if todo and not has_workflow():
        yield "Snakemake is not installed: pip install --requirement requirements.lock"
    if whole.disk > (free := free_disk()):
        yield f"the disk is too small: {_gigabytes(whole.disk)} GB are to be written, {_gigabytes(free)} GB are free"
    rar = {one.name for made in todo if made.rule == "fetch" for one in archives(made) if _is_rar(made, one)}
    if rar and rar_program() is None:
        yield f"no program here unpacks {', '.join(sorted(rar))}: apt install libarchive-tools"
    for made in todo:
        for one in archives(made) if made.rule == "fetch" else ():
            if not one.urls and local(made, one) is None:
                yield f"downloads/{made.dataset}/{one.name} is not there, and nothing downloads it: see {one.page}"
    for path in sorted(_weights(todo)):
        yield f"{path} is not there, and nothing downloads it: see `weights:` in params.yaml"


def _todo(plan: Plan, tables: Sequence[str]) -> list[Artifact]:
    """What tables need and what is not there, or not whole; each once."""
    needed = {folder: made for table in tables for folder, made in plan.needed(table).items()}
    return [made for made in needed.values() if _absent(made)]


def _weights(todo: Sequence[Artifact]) -> set[str]:
    """Files of weights that runs start from, that only a person can get, and that are not there."""
    trained = [made for made in todo if made.rule in ("train", "train_detector")]
    starts = [made.config["weights"] for made in trained if "init" not in made.inputs]
    return {one["path"] for one in starts if one["source"] == "file" and not Path(one["path"]).is_file()}


def _is_rar(made: Artifact, archive: Archive) -> bool:
    found = local(made, archive)
    if found is None:
        return archive.name.endswith(".rar")
    return found.is_file() and archive_kind(found) == "rar"


def _absent(made: Artifact) -> float:
    """The share of an artifact's files that are not there yet."""
    return sum(not Path(file).exists() for file in made.files) / len(made.files)


def _days(whole: Need) -> str:
    """How long this machine takes with its cores, and one GPU taken for a P100, busy all the time."""
    seconds = max(whole.beside / cores(), whole.gpu) if gpus() else whole.cpu / cores()
    hours = seconds / 3600
    return f"in about {_two(hours / 24)} days" if hours > 48 else f"in about {_two(hours)} hours"


def _gigabytes(bytes: float) -> str:
    return _two(bytes / 1e9)


def _two(value: float) -> str:
    """Two significant digits."""
    return f"{float(f'{value:.2g}'):,.2f}".rstrip("0").rstrip(".") if value < 10 else f"{float(f'{value:.2g}'):,.0f}"
