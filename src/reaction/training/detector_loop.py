"""Training of a detector: Adam on the region loss of clips around key frames (YOWO; wei-tim/YOWO `main.py`).

A batch goes through the network in groups of `bn_group` clips, which BatchNorm normalises together, and their gradients
are added up: the code's accumulation. Losses are sums over the batch, as there.

Choices and deviations:
- the code steps after the first group of an epoch as well, when nothing has been accumulated yet; not here;
- weight decay is a part of the gradient that Adam scales (PyTorch's Adam), of all parameters, as in the code;
- one process: several GPUs would each keep BatchNorm statistics of their own, and the papers used one.

Epochs, checkpoints and what ends a training early are those of `reaction.training.loop`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from reaction.clips.keyframes import Batch, collate
from reaction.training import checkpoint
from reaction.training.loop import Session, State, TrainingError, derived_seed, epoch_batches, launch, load
from reaction.training.region_loss import Losses
from reaction.training.schedules import learning_rate

TERMS = ("loss", "box", "confidence", "classes")


@dataclass(frozen=True, kw_only=True)
class DetectorRecipe:
    """How a detector is optimised.

    batch: clips per update.  bn_group: clips that go through the network at once.  steps: epochs after which the rate
    is multiplied by `factor`.  clip_gradient: largest norm of the gradient, None for no limit.  precision: Fabric's.
    """

    epochs: int
    batch: int
    bn_group: int
    learning_rate: float
    steps: Sequence[float]
    factor: float
    warmup_epochs: float
    weight_decay: float
    clip_gradient: float | None
    precision: str

    def rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs."""
        schedule = {"steps": self.steps, "factor": self.factor, "epochs": self.epochs}
        return learning_rate(progress, base=self.learning_rate, warmup_epochs=self.warmup_epochs, **schedule)


def train_detector(
    model: nn.Module,
    clips: Dataset,
    loss: Callable[[Tensor, Batch], Losses],
    recipe: DetectorRecipe,
    *,
    seed: int,
    checkpoints: Path,
    identity: str,
    workers: int = 0,
    stop_after: float | None = None,
    report: Callable[[str], None] = print,
) -> list[dict[str, float]]:
    """Train `model` in place on TrainKeyFrames; the history, whose losses are means over the clips of an epoch.

    `loss` takes predictions (B, A (5 + C), h, w) and the batch. Rows, errors and `checkpoints` as `loop.train`.
    """
    fabric = launch(recipe.precision)
    if fabric.world_size > 1:
        raise TrainingError(f"a detector trains in one process, not in {fabric.world_size}: give the job one GPU")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    network, optimizer = fabric.setup(model, adam)
    session = Session(State(model, adam, fabric), checkpoints / checkpoint.LAST, identity, stop_after, report)
    with session.epochs(0, recipe.epochs) as epochs:
        for epoch in epochs:
            clips.set_epoch(epoch)
            batches = epoch_batches(len(clips), recipe.batch, seed=seed, epoch=epoch)
            network.train()
            torch.manual_seed(derived_seed(seed, epoch))  # dropout
            progress = session.begin(epoch, len(batches), TERMS)
            parts = [groups(batch, recipe.bn_group) for batch in batches]
            first = progress.step
            loaded = load(clips, [group for some in parts[first:] for group in some], workers, fabric, collate)
            for step, some in enumerate(parts[first:], first):
                rate = recipe.rate(epoch + (step + 0.5) / len(batches))
                for settings in adam.param_groups:
                    settings["lr"] = rate
                sums = sum(_learn(network, loss, next(loaded), fabric.backward) for _ in some)
                if recipe.clip_gradient is not None:
                    fabric.clip_gradients(network, optimizer, max_norm=recipe.clip_gradient, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                session.count(progress, sums, len(batches[step]) * clips.around.frames)
            session.end(progress, rate)
    return session.state.history


def groups(batch: Sequence[int], most: int) -> list[list[int]]:
    """A batch in groups of `most`; BatchNorm cannot normalise a single clip, so a last one joins those before."""
    starts = list(range(0, len(batch), most))
    if len(batch) % most == 1 and len(starts) > 1:
        starts.pop()
    return [list(batch[a:b]) for a, b in zip(starts, [*starts[1:], len(batch)], strict=True)]


def _learn(
    network: nn.Module, loss: Callable[[Tensor, Batch], Losses], batch: Batch, backward: Callable[[Tensor], None]
) -> Tensor:
    """Add a group's gradients; the sums of its `TERMS` and the number of its clips, (5,)."""
    found = loss(network(batch.clip, batch.bank, batch.weight).float(), batch)
    backward(found.total)
    box = found.x + found.y + found.w + found.h
    terms = torch.stack((found.total, box, found.confidence, found.classes)).detach()
    return torch.cat((terms, terms.new_tensor([len(batch.clip)])))
