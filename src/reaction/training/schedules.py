"""Learning rates as functions of progress, so that a resumed run needs no scheduler state."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def learning_rate(
    progress_in_epochs: float,
    *,
    base: float,
    steps: Sequence[float],
    factor: float,
    warmup_epochs: float,
    warmup_from: float = 0.0,
    decay: str = "steps",
    epochs: float | None = None,
) -> float:
    """The learning rate at a point of the training; progress 2.5 is the middle of the third epoch.

    `steps`, the schedule of TSN and the thesis: `base` is multiplied by `factor` once for each of `steps` (epochs)
    already reached; [30] means that epochs 0 to 29 run at `base`. `cosine`: half a period of it, from `base` to 0 after
    all `epochs` (Feichtenhofer et al., SlowFast, section 4; facebookresearch/SlowFast `lr_policy.py`). During the first
    `warmup_epochs` (may be a fraction) the rate rises linearly from `warmup_from` times `base` to what it is then.
    """

    def decayed(progress: float) -> float:
        if decay == "cosine":
            return base * (1 + math.cos(math.pi * progress / epochs)) / 2
        return base * factor ** sum(step <= progress for step in steps)

    if progress_in_epochs >= warmup_epochs:
        return decayed(progress_in_epochs)
    start, end = warmup_from * base, decayed(warmup_epochs if decay == "cosine" else progress_in_epochs)
    return start + (end - start) * (progress_in_epochs / warmup_epochs)


def in_epochs(training: Mapping[str, Any], videos: int) -> dict[str, Any]:
    """A `training` block whose length is given in updates, with epochs of so many videos instead; others as they are.

    Epochs are whole: the nearest number of them, at least one. `steps` stay where they are, within an epoch.
    """
    if "updates" not in training:
        return dict(training)
    per_epoch = max(1, -(-videos // training["batch"]) - (videos % training["batch"] == 1))  # one video is no batch
    rest = {key: value for key, value in training.items() if key != "updates"}
    epochs = max(1, round(training["updates"] / per_epoch))
    return rest | {"epochs": epochs, "steps": [step / per_epoch for step in training["steps"]]}
