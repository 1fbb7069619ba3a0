"""Non-maximum suppression: greedy, and soft (Bodla et al., ICCV 2017, https://arxiv.org/abs/1704.04503).

Greedy suppression asks box after box whether a better one that stays overlaps it. Here all boxes are asked at once and
again until no answer changes: after k rounds the k best boxes are right, and a few rounds usually settle all. The
result is the greedy one, exactly.

Choices: overlaps at the threshold stay; of equal scores the earlier box comes first.
"""

import torch
from torch import Tensor

from reaction.models.layers.giou import pairwise_iou

ROWS = 256  # of overlaps that are computed at a time, so that they stay in a processor's cache


def nms(boxes: Tensor, scores: Tensor, threshold: float, *, labels: Tensor | None = None) -> Tensor:
    """Indices of the boxes that stay, best first, of boxes (N, 4) with scores (N,).

    A box goes when a better one that stays overlaps it by more than `threshold`; where labels (N,) are given, only
    when both have the same one. When exported, N rounds are written out: give it the best hundred boxes, not all.
    """
    order = _ranking(scores)
    boxes = boxes[order]
    rivals = torch.cat([pairwise_iou(some, boxes) > threshold for some in boxes.split(ROWS)])  # (N, N)
    if labels is not None:
        rivals = rivals & (labels[order, None] == labels[order])
    return order[_standing(rivals.triu(1))]


def _ranking(scores: Tensor) -> Tensor:
    if torch.compiler.is_exporting():  # ONNX has no sort but TopK, which puts the earlier of two equals first
        return scores.topk(len(scores)).indices
    return scores.argsort(descending=True, stable=True)


def _standing(suppresses: Tensor) -> Tensor:
    """Which of N ranked boxes stay, where `suppresses[i, j]` says that i, if it stays, removes j."""
    weight, standing = suppresses.to(torch.float32), suppresses.new_ones(len(suppresses))
    for _ in range(len(suppresses)):
        before, standing = standing, standing.to(weight.dtype) @ weight == 0
        if not torch.compiler.is_exporting() and torch.equal(standing, before):
            break
    return standing


def soft_nms(boxes: Tensor, scores: Tensor, *, threshold: float | None = None, sigma: float = 0.5) -> Tensor:
    """Scores (N,) lowered for every better box that overlaps, of boxes (N, 4) with scores (N,).

    The best box that is left lowers the others: by exp(-IoU^2 / sigma), or, with a `threshold`, by 1 - IoU those that
    overlap it by more (the paper's linear rule). Then the next one, until all have had their turn. The paper also
    drops boxes whose score has become too low; they would lower only worse ones, so cut afterwards.
    """
    overlaps = pairwise_iou(boxes, boxes)
    decay = torch.exp(-(overlaps**2) / sigma) if threshold is None else _linear(overlaps, threshold)
    waiting = torch.ones_like(scores, dtype=torch.bool)
    for _ in range(len(scores)):
        best = scores.masked_fill(~waiting, -torch.inf).argmax()
        waiting = waiting & (torch.arange(len(scores), device=scores.device) != best)
        scores = torch.where(waiting, scores * decay[best], scores)
    return scores


def _linear(overlaps: Tensor, threshold: float) -> Tensor:
    return torch.where(overlaps > threshold, 1 - overlaps, 1)
