"""What a killed Snakemake was unsure of: marks under `.snakemake/incomplete`, one per output of a job that ran.

A file in a folder with a hash is whole if it is there: it was renamed into place. So its mark says nothing, and does
harm: with `rerun-incomplete` Snakemake makes the file again and then leaves out all that hangs below it by `ancient`
inputs, even where that is missing, and reports success (snakemake/snakemake#4166, open in 9.27). Tables and figures
keep their marks: they have plain names, and nothing hangs below them.
"""

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Collection
from pathlib import Path

MARKS = Path(".snakemake/incomplete")


def forget(kinds: Collection[str], marks: Path = MARKS) -> list[str]:
    """Remove the marks of files under `results/<kind>/` of these kinds; their names."""
    found = {path: _file_of(path.relative_to(marks)) for path in marks.rglob("*") if path.is_file()}
    ours = {path: name for path, name in found.items() if name.startswith(tuple(f"results/{kind}/" for kind in kinds))}
    for path in ours:
        path.unlink(missing_ok=True)  # a job that has just ended removes its own
    return sorted(ours.values())


def _file_of(mark: Path) -> str:
    """The file that a mark is about: Snakemake encodes its path, and cuts long ones into folders that begin with @."""
    try:
        return urlsafe_b64decode("".join(part.removeprefix("@") for part in mark.parts)).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""  # not an output's mark
