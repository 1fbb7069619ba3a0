"""Learning rates as functions of progress, so that a resumed run needs no scheduler state."""

from collections.abc import Mapping, Sequence
from typing import Any


def learning_rate(
    progress_in_epochs: float, *, base: float, steps: Sequence[float], factor: float, warmup_epochs: float
) -> float:
    """The step schedule of TSN and the thesis with a linear warm-up, at a point of the training.

    `base` is multiplied by `factor` once for each of `steps` (epochs) already reached: steps [30] means that epochs
    0 to 29 run at `base`. During the first `warmup_epochs` (may be a fraction) the rate rises linearly from 0.
    Progress 2.5 is the middle of the third epoch.
    """
    reached = sum(step <= progress_in_epochs for step in steps)
    warm = min(1.0, progress_in_epochs / warmup_epochs) if warmup_epochs > 0 else 1.0
    return base * factor**reached * warm


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
