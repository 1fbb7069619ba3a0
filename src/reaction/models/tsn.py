"""Temporal Segment Networks: Wang et al., ECCV 2016.

https://arxiv.org/abs/1608.00859

One network looks at K short pieces of a video, one per segment; the video's score is a consensus of the K scores.

Deviations: the paper's backbone is BN-Inception; here any backbone that maps (B, C, H, W) to (B, classes) will do.
With partial batch normalisation the affine parameters of the frozen layers are frozen as well, as in the authors'
code (yjxiong/tsn-pytorch `models.py`); the paper speaks of mean and variance only.

The paper compares three consensus functions (Table 3). What we chose for the weighted one: K numbers, one per segment
and the same for all classes, free in sign and sum, which start at 1 / K and are trained with the network. A view that
comes alone, as in the test, is its own consensus whatever the function: the test averages views of no segment.
"""

from typing import Self

import torch
from torch import Tensor, nn

from reaction.models.weights import last_layers

CONSENSUS = ("average", "max", "weighted")


class TSN(nn.Module):
    """Consensus over segments of the backbone's logits, taken before the softmax (section 3.1).

    `consensus` is `average`, `max` (of each class on its own) or `weighted`, which needs to know the number of
    `segments`. `partial_bn` (section 3.2) keeps every batch normalisation but the first at its trained statistics. It
    presumes pretrained weights: from scratch the frozen layers would stay at mean 0 and variance 1.
    """

    views_at_once = 64  # of a video, that a test puts through the network together

    def __init__(
        self,
        backbone: nn.Module,
        *,
        partial_bn: bool = False,
        consensus: str = "average",
        segments: int | None = None,
    ) -> None:
        super().__init__()
        if getattr(backbone, "AuxLogits", None) is not None:
            raise ValueError("TSN averages one set of logits: build the backbone with aux=False")
        if consensus not in CONSENSUS:
            raise ValueError(f"consensus is one of {', '.join(CONSENSUS)}, not {consensus!r}")
        if consensus == "weighted" and (segments is None or segments < 2):
            raise ValueError(f"a weighted consensus needs segments, 2 or more, not {segments}")
        self.backbone = backbone
        self.partial_bn = partial_bn
        self.only_last = False
        self.consensus = consensus
        if consensus == "weighted":
            self.segment_weights = nn.Parameter(torch.full((segments,), 1 / segments))
        if partial_bn:
            for layer in self._frozen():
                layer.requires_grad_(False)

    def forward(self, clip: Tensor, maps: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of clips (B, K, C, H, W) and, where the method takes them, maps (B, K, 1, H, W)."""
        batch, segments = clip.shape[:2]
        frames = self.enter(clip, maps).flatten(0, 1)  # (B * K, C, H, W)
        return self.agree(self.backbone(frames).unflatten(0, (batch, segments)))

    def agree(self, logits: Tensor) -> Tensor:
        """The video's logits (B, classes) from those of its segments (B, K, classes)."""
        segments = logits.shape[1]
        if self.consensus == "average" or segments == 1:
            return logits.mean(dim=1)
        if self.consensus == "max":
            return logits.amax(dim=1)
        if segments != len(self.segment_weights):
            raise ValueError(f"the consensus has weights for {len(self.segment_weights)} segments, got {segments}")
        return (logits * self.segment_weights[:, None]).sum(dim=1)

    def enter(self, frames: Tensor, maps: Tensor | None = None) -> Tensor:
        """What the backbone sees of frames (..., C, H, W): here the frames themselves."""
        if maps is not None:
            raise ValueError("TSN takes no attention maps; STAttention does")
        return frames

    def train_last_only(self) -> None:
        """Train nothing but the classifiers: the rest, its statistics too, is a fixed extractor of features."""
        self.only_last = True
        self.requires_grad_(False)
        for name in last_layers(self.backbone):
            self.backbone.get_submodule(name).requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.partial_bn:
            for layer in self._frozen():
                layer.eval()
        if self.only_last:
            # The network itself still trains: it may answer otherwise then, and drops features before its classifier.
            for layer in (one for one in self.backbone.modules() if one is not self.backbone):
                layer.train(mode and isinstance(layer, nn.Dropout))
        return self

    def _frozen(self) -> list[nn.Module]:
        layers = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        return layers[1:]
