"""The state a killed training goes on from: one file, absent or whole, that refuses to continue another run."""

from pathlib import Path
from typing import Any

import torch

from reaction.files import atomic

LAST = "last.pt"


class CheckpointError(ValueError):
    """A checkpoint that must not be continued."""


def save(path: Path, state: dict[str, Any], *, identity: str) -> None:
    """Write `state` (tensors, numbers, text and containers of these) atomically, under the run's `identity`."""
    with atomic(path) as partial:
        torch.save({"identity": identity, **state}, partial)


def load(path: Path, *, identity: str) -> dict[str, Any] | None:
    """What `save` wrote, on the CPU, or None without a file.

    Raises CheckpointError when the file belongs to another run or cannot be read.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError for damaged files
        raise CheckpointError(f"{path} cannot be read ({error}); delete it to train from the start") from error
    if state.get("identity") != identity:
        found = state.get("identity")
        raise CheckpointError(f"{path} belongs to {found!r}, not to {identity!r}; delete it or train in another folder")
    return state
