"""Batch normalisation whose groups are a parameter: a training is the same however many processes share its batch.

PyTorch's own layers normalise what one process happens to hold, so that two processes train another network than one
(and its SyncBatchNorm is for GPUs only). Here a layer normalises over the whole batch, summed over the processes, or
over groups of `bn_group` videos, each of which one process holds whole. A process may take its groups one after another
where its memory is too small for all of them: their gradients add up to the same. The statistics kept for the test move
once a step, towards the mean over all groups of the batch.

Goyal et al. 2017, section 2.3, is the reason: the size of a group changes the loss, so it must not follow the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Share:
    """What one process does of a batch.

    videos: their indices.  groups: how many of them are normalised together, in order; None when the whole batch is.
    idle: the batch has none for this process. One video stands in, for the others wait for every process; it does not
    count in any sum.
    """

    videos: list[int]
    groups: list[int] | None = None
    idle: bool = False

    def parts(self, at_once: int | None) -> list["Share"]:
        """The share in parts that go through the network one after another: whole groups, `at_once` videos if it can.

        Without groups there is one part, since every video is normalised by all.
        """
        if at_once is None or self.groups is None:
            return [self]
        parts: list[list[int]] = []
        for size in self.groups:
            if parts and sum(parts[-1]) + size <= at_once:
                parts[-1].append(size)
            else:
                parts.append([size])
        ends = list(accumulate(map(sum, parts), initial=0))
        return [Share(self.videos[a:b], own, self.idle) for own, (a, b) in zip(parts, pairwise(ends), strict=True)]


@dataclass
class Layout:
    """The share of the step that is computed now, which the layers of one network look at."""

    share: Share = field(default_factory=lambda: Share([]))
    layers: "list[Grouped]" = field(default_factory=list)

    @property
    def counts(self) -> float:
        """1, or 0 in an idle process: the factor of everything that is summed over processes."""
        return 0.0 if self.share.idle else 1.0

    def end_step(self) -> None:
        """Move the statistics kept for the test towards those of all groups that the step has seen."""
        for layer in self.layers:
            layer.end_step()


def shares(batch: Sequence[int], world: int, group: int | None) -> list[Share]:
    """A batch of videos over `world` processes: whole groups to each, in turn, or single videos without a `group`."""
    if group is None:
        taken = [Share(list(batch[rank::world])) for rank in range(world)]
    else:
        groups = _groups(batch, group)
        mine = [groups[rank::world] for rank in range(world)]
        taken = [Share([v for one in own for v in one], [len(one) for one in own]) for own in mine]
    stand_in = Share([batch[0]], None if group is None else [1], idle=True)
    return [share if share.videos else stand_in for share in taken]


def _groups(batch: Sequence[int], size: int) -> list[list[int]]:
    """Groups of `size`; a last one of a single video, which has no variance of its own, joins the one before."""
    groups = [list(batch[i : i + size]) for i in range(0, len(batch), size)]
    if len(groups) > 1 and len(groups[-1]) == 1:
        groups[-2:] = [groups[-2] + groups[-1]]
    return groups


def regroup(model: nn.Module, layout: Layout) -> None:
    """Turn the BatchNorm layers of `model`, in place, into layers that look at `layout`; names and weights stay.

    Raises ValueError where something else keeps statistics of a batch, which would depend on the number of processes.
    """
    for name, module in model.named_modules():
        if type(module) in GROUPED:
            module.__class__ = GROUPED[type(module)]  # a new layer would have to be put in its parent's place
            module.layout = layout
            layout.layers.append(module)
        elif hasattr(module, "running_mean") and not isinstance(module, Grouped):
            raise ValueError(
                f"{name}: a {type(module).__name__} is normalised by one process; no `bn_group`, no torchrun"
            )


def ungroup(model: nn.Module) -> None:
    """Make ordinary layers again, in place, of those that `regroup` made."""
    ordinary = {grouped: own for own, grouped in GROUPED.items()}
    for module in model.modules():
        module.__class__ = ordinary.get(type(module), type(module))


class Grouped(_BatchNorm):
    """BatchNorm over the groups of a `layout`; in evaluation mode, frozen layers too, it is its parent."""

    layout: Layout
    seen: Tensor | None = None  # sums over groups of means and of variances, and how many there were

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x (rows, C, ...), whose rows are those of the share's videos, equally many each."""
        if not self.training:
            return super().forward(x)
        return self._over_processes(x) if self.layout.share.groups is None else self._over_groups(x)

    def end_step(self) -> None:
        """Keep the mean over the groups of all parts and processes, if there were any since the last step."""
        if self.seen is not None:
            sums, self.seen = _sum(self.seen), None
            self._keep(*(sums[:, :-1] / sums[:, -1:]))

    def _over_processes(self, x: Tensor) -> Tensor:
        """Statistics (C,) of the batch over all processes; two passes, since sums of squares cancel in float32."""
        wide, counts = x.float(), self.layout.counts
        others, along = [dim for dim in range(x.ndim) if dim != 1], (-1, *(1,) * (x.ndim - 2))
        rows = _sum(wide.new_tensor([counts * x.numel() / x.shape[1]]))
        mean = _sum(wide.sum(others) * counts) / rows  # (C,)
        centred = wide - mean.view(along)
        variance = _sum(centred.square().sum(others) * counts) / rows  # (C,)
        y = centred * (torch.rsqrt(variance + self.eps) * self.weight).view(along) + self.bias.view(along)
        self._keep(mean, variance * rows / (rows - 1))
        return y.to(x.dtype)

    def _over_groups(self, x: Tensor) -> Tensor:
        """Each group with its own statistics, which are kept at the end of the step."""
        groups = self.layout.share.groups
        rows = len(x) // sum(groups)
        sums = torch.zeros(2, self.num_features + 1, device=x.device)  # of means, of variances; how many
        parts = []
        for part in x.split([size * rows for size in groups]):
            own = torch.zeros(2, self.num_features, device=x.device)
            parts.append(F.batch_norm(part, own[0], own[1], self.weight, self.bias, True, 1.0, self.eps))
            sums += F.pad(own, (0, 1), value=1.0) * self.layout.counts
        self.seen = sums if self.seen is None else self.seen + sums
        return torch.cat(parts)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.detach(), self.momentum)
        self.running_var.lerp_(variance.detach(), self.momentum)


class GroupedBatchNorm1d(Grouped, nn.BatchNorm1d):
    """Of features (rows, C)."""


class GroupedBatchNorm2d(Grouped, nn.BatchNorm2d):
    """Of pictures (rows, C, H, W)."""


class GroupedBatchNorm3d(Grouped, nn.BatchNorm3d):
    """Of clips (rows, C, T, H, W)."""


GROUPED = {
    nn.BatchNorm1d: GroupedBatchNorm1d,
    nn.BatchNorm2d: GroupedBatchNorm2d,
    nn.BatchNorm3d: GroupedBatchNorm3d,
}


def _sum(x: Tensor) -> Tensor:
    """The sum of x over the processes, the same bits in each; a gradient flows back to every one of them."""
    return _Sum.apply(x) if dist.is_initialized() and dist.get_world_size() > 1 else x


class _Sum(Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
