"""What this machine lacks, and what that costs: printed after the install, which works without any of it."""

import importlib.util
import shutil
from collections.abc import Iterator

from reaction.data.unpack import RAR_PROGRAMS


def missing() -> Iterator[str]:
    """One line for each thing that is not here."""
    if not any(map(shutil.which, RAR_PROGRAMS)):
        yield f"none of {', '.join(RAR_PROGRAMS)}: HMDB-51 and UCF-101 come as rar (apt install libarchive-tools)"
    if importlib.util.find_spec("decord") is None:
        yield "no decord: PyAV decodes every video"
    if note := _flow():
        yield note
    if not _gpu():
        yield "no GPU: networks train on the CPU, which is enough for the scales `tiny` and `small`"


def _flow() -> str | None:
    from reaction.flow import choose

    return choose("opencv-cuda")[1]


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()
