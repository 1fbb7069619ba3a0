"""Whether a table that stands in results/tables shows what params.yaml asks for: a record beside it says.

Tables and their figures are in git, the runs behind them are not. In a fresh clone Snakemake has times to go by, which
are those of the clone, and no word on what a table was made from: a changed parameter would leave it standing, with
"nothing to be done", and a paper's file that git wrote last would bring days of training for nothing. So the record
decides. Where it is another than today's, the table and its curves are made the oldest of all files, older than any
input; where it is the same, the times of claims and tables do not count.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from reaction.files import canonical_json, read_json, sha256
from reaction.plan import Plan
from reaction.specs import papers

OLDEST = 1  # s since 1970; to Snakemake 0 is no time at all


def record_of(table: str) -> str:
    """The record's file, beside the table."""
    return f"results/tables/{table}.json"


def made_from(plan: Plan, table: str) -> dict[str, Any]:
    """What a table shows: what params.yaml says of it, the artifacts that it reads, the files of claims.

    It knows nothing of how the code writes a table, so that a release of the code makes no committed table stale.
    """
    folders = sorted({one.folder for one in plan.asked(table)})
    return {
        "table": (plan.params.tables | plan.params.detection_tables)[table].model_dump(
            mode="json", exclude_defaults=True
        ),
        "results": hashlib.sha256(canonical_json(folders).encode()).hexdigest(),
        "papers": {file: sha256(file) for file in papers(plan, table)},
    }


def set_back(plan: Plan) -> list[str]:
    """Make the tables the oldest files of which params.yaml asks for something else by now; their names.

    Their curves too, unless it is only a claim that changed. What an earlier call set back for parameters that are what
    they were again gets a time of today. A table without a record is Snakemake's to judge.
    """
    stale = []
    for table in plan.tables | plan.detections:
        record, curves = record_of(table), f"results/figures/{table}_curves.svg"
        if not Path(record).exists():
            continue
        was, now = read_json(record), made_from(plan, table)
        if was != now:
            stale.append(table)
            _set_time(OLDEST, record, *([curves] if was | {"papers": now["papers"]} != now else []))
        elif is_set_back(record):
            _set_time(time.time(), record, curves)
    return stale


def is_set_back(file: str) -> bool:
    """Whether `set_back` found this file stale, now or in an earlier run that did not come to make it again."""
    return Path(file).exists() and Path(file).stat().st_mtime == OLDEST


def _set_time(seconds: float, *files: str) -> None:
    for file in filter(os.path.exists, files):
        os.utime(file, (seconds, seconds))
