"""Grad-CAM of Inception-V3, in batches: Selvaraju et al., ICCV 2017.

https://arxiv.org/abs/1610.02391

A map is ReLU(sum_c a_c F_c) with a_c the spatial mean of dz_y / dF_c, z_y the class score before the softmax. Order:
ReLU here, bilinear up-sampling (align_corners=False) and min-max when a stored map is read (`reaction.clips.maps`).
Maps are computed as in evaluation mode whatever mode the model is in, and leave its flags and gradients as they were.
"""

from collections.abc import Iterator
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
    with _evaluating(model):
        with torch.no_grad():
            features = model.features(x, layer)  # (B, C, h, w)
        if layer != LAYERS[-1]:
            return _by_gradient(model, features, labels, layer)
        with torch.no_grad():
            labels = model.classify(features).argmax(dim=1) if labels is None else labels
            return closed_form(features, model.fc.weight, labels)


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


def _by_gradient(model: InceptionV3, features: Tensor, labels: Tensor | None, layer: str) -> Tensor:
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.continue_from(features, layer)  # (B, classes)
        labels = logits.argmax(dim=1) if labels is None else labels
        score = logits.gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
    return F.relu((weights * features.detach()).sum(dim=1))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training
