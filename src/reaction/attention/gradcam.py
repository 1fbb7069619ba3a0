"""Grad-CAM of Inception-V3, in batches: Selvaraju et al., ICCV 2017.

https://arxiv.org/abs/1610.02391

A map is ReLU(sum_c a_c F_c) with a_c the spatial mean of dz_y / dF_c, z_y the class score before the softmax. Order:
ReLU here, bilinear up-sampling (align_corners=False) and min-max when a stored map is read (`reaction.clips.maps`).
Maps are computed as in evaluation mode whatever mode the model is in, and leave its flags and gradients as they were.

Park's thesis (SNU 2019, section 3.1) lets several layers explain one map: each layer's map is up-sampled to the
picture, they are combined and normalised. What it leaves unsaid and what was chosen:
- how they combine: the mean. Each map enters as it is, normalised only together with the others;
- whose label, where it is not the true one: that which the network gives this very frame or stack, not the video's.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import LAYERS, InceptionV3


def gradcam(model: InceptionV3, x: Tensor, labels: Tensor | None, layer: str = LAYERS[-1]) -> Tensor:
    """Maps (B, h, w) >= 0 of images (B, C, H, W) for labels (B,), at the resolution of `layer`.

    Without labels, those the model predicts. The last block has a closed form; other blocks cost a backward pass from
    the logits down to that block, no further.
    """
    return gradcams(model, x, labels, [layer])[0]


def gradcams(model: InceptionV3, x: Tensor, labels: Tensor | None, layers: Sequence[str]) -> list[Tensor]:
    """Maps as of `gradcam`, of each of `layers`: one forward pass, and one backward pass to the first of the blocks."""
    if unknown := [name for name in layers if name not in LAYERS]:
        raise ValueError(f"no layer {unknown[0]!r} in Inception-V3; choose among {', '.join(LAYERS)}")
    first = next(name for name in LAYERS if name in layers)
    with _evaluating(model):
        with torch.no_grad():
            features = model.features(x, first)  # (B, C, h, w)
        if first != LAYERS[-1]:
            maps = _by_gradient(model, features, labels, first, layers)
            return [maps[name] for name in layers]
        with torch.no_grad():
            labels = model.classify(features).argmax(dim=1) if labels is None else labels
            return [closed_form(features, model.fc.weight, labels)] * len(layers)


def closed_form(features: Tensor, fc_weight: Tensor, labels: Tensor) -> Tensor:
    """Maps (B, h, w) from the last features (B, C, h, w) and the classifier's weight (classes, C).

    Global average pooling and one linear layer follow those features, so dz_y / dF_c is W_yc / (h w) everywhere.
    """
    height, width = features.shape[-2:]
    weighted = torch.einsum("bchw,bc->bhw", features, fc_weight[labels])
    return F.relu(weighted / (height * width))


def upsample(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (B, h, w) to (B, height, width), bilinear with align_corners=False."""
    return F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]


def by_resolution(maps: Sequence[Tensor]) -> list[Tensor]:
    """The mean of maps (B, h, w) of several layers, as addends of one resolution each.

    Up-sampling is linear: maps of equal size may be added before it, and the sum of the up-sampled addends is the mean
    of the up-sampled maps at any size. The minimum and maximum of the mean are only known after it.
    """
    sizes = dict.fromkeys(map.shape[-2:] for map in maps)
    return [torch.stack([map for map in maps if map.shape[-2:] == size]).sum(dim=0) / len(maps) for size in sizes]


def _by_gradient(
    model: InceptionV3, features: Tensor, labels: Tensor | None, first: str, layers: Sequence[str]
) -> dict[str, Tensor]:
    """The maps of `layers` from the features (B, C, h, w) of the `first` of them."""
    features = features.detach().requires_grad_()
    seen = {first: features}
    with torch.enable_grad():
        for name in LAYERS[LAYERS.index(first) + 1 :]:
            features = model.get_submodule(name)(features)
            seen |= {name: features} if name in layers else {}
        logits = model.classify(features)  # (B, classes)
        labels = logits.argmax(dim=1) if labels is None else labels
        score = logits.gather(1, labels[:, None]).sum()
        gradients = torch.autograd.grad(score, list(seen.values()))
    return {name: _weighted(seen[name].detach(), gradient) for name, gradient in zip(seen, gradients, strict=True)}


def _weighted(features: Tensor, gradient: Tensor) -> Tensor:
    """Map (B, h, w) of features (B, C, h, w) and the score's gradient there."""
    weights = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    return F.relu((weights * features).sum(dim=1))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
