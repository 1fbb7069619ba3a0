"""Temporal Segment Networks: Wang et al., ECCV 2016.

https://arxiv.org/abs/1608.00859

One network looks at K short pieces of a video, one per segment; the video's score is the mean of the K scores.

Deviations: the paper's backbone is BN-Inception; here any backbone that maps (B, C, H, W) to (B, classes) will do.
With partial batch normalisation the affine parameters of the frozen layers are frozen as well, as in the authors'
code (yjxiong/tsn-pytorch `models.py`); the paper speaks of mean and variance only.
"""

from typing import Self

from torch import Tensor, nn


class TSN(nn.Module):
    """Mean over segments of the backbone's logits, taken before the softmax (section 3.1, even averaging).

    `partial_bn` (section 3.2) keeps every batch normalisation but the first at its trained statistics. It presumes
    pretrained weights: from scratch the frozen layers would stay at mean 0 and variance 1.
    """

    def __init__(self, backbone: nn.Module, *, partial_bn: bool = False) -> None:
        super().__init__()
        if getattr(backbone, "AuxLogits", None) is not None:
            raise ValueError("TSN averages one set of logits: build the backbone with aux=False")
        self.backbone = backbone
        self.partial_bn = partial_bn
        if partial_bn:
            for layer in self._frozen():
                layer.requires_grad_(False)

    def forward(self, clip: Tensor, maps: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of clips (B, K, C, H, W) and, where the method takes them, maps (B, K, 1, H, W)."""
        batch, segments = clip.shape[:2]
        frames = self.enter(clip, maps).flatten(0, 1)  # (B * K, C, H, W)
        return self.backbone(frames).unflatten(0, (batch, segments)).mean(dim=1)

    def enter(self, frames: Tensor, maps: Tensor | None = None) -> Tensor:
        """What the backbone sees of frames (..., C, H, W): here the frames themselves."""
        if maps is not None:
            raise ValueError("TSN takes no attention maps; STAttention does")
        return frames

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.partial_bn:
            for layer in self._frozen():
                layer.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        layers = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        return layers[1:]
