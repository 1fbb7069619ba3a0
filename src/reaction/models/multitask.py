"""One trunk, several datasets: section 4 of Simonyan & Zisserman, "Two-Stream Convolutional Networks", NIPS 2014.

https://arxiv.org/abs/1406.2199

The network ends in one softmax layer per dataset; each has a loss of its own, which sees the videos of its dataset
alone, and the losses are added. Here the layers lie side by side in one last layer, with as many outputs as the
datasets have classes together, and a softmax never looks past its own columns: the same layers, losses and gradients,
in a network that is built, stored and started like any other.

What the paper leaves unsaid, and what we chose:
- how the losses are normalised: each video counts alike, so that the mean over a batch is the sum over the datasets of
  their share of the batch times their mean loss;
- how batches are mixed: an epoch is every video of all datasets once, shuffled together and cut into batches, so that a
  batch holds of each dataset about its share of the videos, and a small dataset is neither repeated nor weighted;
- a batch without videos of one dataset leaves that layer's gradient at zero, not absent: its momentum goes on.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tasks:
    """How many classes each dataset has, in the order of their columns in the last layer.

    A task is the position of its dataset in that order. Labels count from 0 within each dataset.
    """

    classes: Mapping[str, int]

    @property
    def outputs(self) -> int:
        """What the last layer has: the classes of all datasets."""
        return sum(self.classes.values())

    def columns(self, dataset: str) -> slice:
        """The dataset's own columns of the logits."""
        if dataset not in self.classes:
            raise ValueError(f"no task {dataset!r}; choose one of {', '.join(self.classes)}")
        names, sizes = list(self.classes), list(self.classes.values())
        first = sum(sizes[: names.index(dataset)])
        return slice(first, first + self.classes[dataset])

    def own(self, logits: Tensor, labels: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, outputs), -inf outside each video's own dataset, and the columns (B,) that the labels stand for.

        labels (B,) and tasks (B,) int64. A softmax or a maximum over them is one over the own dataset's classes.
        """
        sizes = torch.tensor(list(self.classes.values()), device=logits.device)
        owner = torch.arange(len(sizes), device=logits.device).repeat_interleave(sizes)  # (outputs,)
        first = sizes.cumsum(0) - sizes  # (tasks,)
        return logits.masked_fill(owner != tasks[:, None], -torch.inf), first[tasks] + labels

    def single(self, state: Mapping[str, Tensor], last_layer: str, dataset: str) -> dict[str, Tensor]:
        """Weights of the ordinary network of one dataset: the others' rows of `last_layer` are left out."""
        columns = self.columns(dataset)
        names = (f"{last_layer}.weight", f"{last_layer}.bias")
        return {name: value[columns].clone() if name in names else value for name, value in state.items()}
