"""Precise batch normalisation: statistics for the test over many training clips, instead of a moving average.

"Accurate, Large Minibatch SGD" (Goyal et al. 2017, https://arxiv.org/abs/1706.02677) keeps moving averages; SlowFast's
code replaces them before each test by statistics over 200 batches (`BN.USE_PRECISE_STATS`, fvcore's `update_bn_stats`;
"Rethinking 'Batch' in BatchNorm", Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, section 3.2, says why).

Choice: the statistics are those of all activations together (the variance pooled, means of batches apart counted in),
as in Wu & Johnson and newer versions of fvcore; older ones average the variances of the batches. Each layer's input is
computed as in training, normalised in the layers before it by its own batch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Pool:
    """The number of activations of a layer, their sum (C,) and sum of squares (C,), in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def __call__(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        dims = [dim for dim in range(x.dim()) if dim != 1]
        variance, mean = torch.var_mean(x.float(), dims, correction=0)
        n, mean = x.numel() // x.shape[1], mean.double()
        self.count += n
        self.total = self.total + n * mean
        self.squares = self.squares + n * (variance.double() + mean.square())


@torch.no_grad()
def precise_statistics(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object]) -> None:
    """Set the statistics of every batch normalisation that trains to those over all `batches`, in place.

    `forward` runs the model on a batch. Layers in evaluation mode (frozen ones, partial_bn) keep theirs; all other
    modules are in evaluation mode meanwhile, so that dropout draws nothing. Variances are unbiased, as PyTorch's are.
    Raises ValueError where there is no batch, or no more than one activation per channel.
    """
    modes = {module: module.training for module in model.modules()}
    pools = {layer: _Pool() for layer, training in modes.items() if training and isinstance(layer, _BatchNorm)}
    kept = {layer: (layer.momentum, layer.num_batches_tracked.clone()) for layer in pools}
    hooks = [layer.register_forward_pre_hook(pool) for layer, pool in pools.items()]
    try:
        model.eval()
        for layer in pools:
            layer.train()
            layer.momentum = 0.0
        for batch in batches:
            forward(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
        for layer, (momentum, tracked) in kept.items():
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(tracked)
    for layer, pool in pools.items():
        _set(layer, pool)


def _set(layer: _BatchNorm, pool: _Pool) -> None:
    if pool.count < 2:
        raise ValueError(f"precise statistics need two activations per channel, found {pool.count}; give more batches")
    mean = pool.total / pool.count
    variance = (pool.squares / pool.count - mean.square()) * pool.count / (pool.count - 1)
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance.clamp(min=0))
