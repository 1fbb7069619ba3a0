"""Annotations of a real dataset."""

import os
from pathlib import Path

import pytest

from reaction.data.boxes import Boxes


@pytest.fixture(scope="session")
def jhmdb_boxes() -> dict[str, Boxes]:
    """J-HMDB-21's 928 tubes, one a clip, by clip; all 21 classes in official order."""
    from reaction.data.datasets import jhmdb21

    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR names no folder with real data")
    lists = Path(os.environ["REACTION_MIRROR"]) / "jhmdb21"
    return jhmdb21.read_boxes(lists, jhmdb21.read_official(lists, ["split1"]).classes)
