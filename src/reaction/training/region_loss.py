"""The loss of YOWO: Köpüklü et al., arXiv 2019 (https://arxiv.org/abs/1911.06644), on YOLOv2's targets (CVPR 2017).

Each annotated box trains one prediction: of its cell's five, the one whose anchor is most like it in shape. Smooth L1
moves the box, a squared error teaches the confidence to tell the overlap with the annotated box, a focal loss the
class. All are sums over the batch.

The paper and its code (wei-tim/YOWO `core/region_loss.py`) disagree; `scaling` says whom to follow:
- "code", the default: the confidence of a trained prediction counts five times, that of others once, and that of
  others which overlap an annotated box by more than 0.6 not at all; the focal loss looks at the true class alone;
- "paper": every confidence counts once, and the focal loss is a sum over true and false classes (its equation lacks
  the minus sign, and its smooth L1 reads (x - y^2) for (x - y)^2: slips of print).
Both halve everything but the classes: the paper's lambda is 0.5.

Where two annotated boxes want the same prediction, the later one gets it, as in the code.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from reaction.models.yowo import cells, split

OBJECT_SCALE, IGNORED_OVERLAP = 5.0, 0.6
FOCAL_GAMMA, AVA_GAMMA = 2.0, 0.5
CLAMP = 1e-4


class Targets(NamedTuple):
    """The annotated boxes of a batch, N in all.

    image: int64 (N,), whose of the batch. box: (N, 4), x1, y1, x2, y2 as fractions of the frame. label: int64 (N,), or
    for AVA (N, C) with 1 where the actor does it.
    """

    image: Tensor
    box: Tensor
    label: Tensor


class Losses(NamedTuple):
    """The terms of the loss, scaled: scalars. `total` is what to descend."""

    x: Tensor
    y: Tensor
    w: Tensor
    h: Tensor
    confidence: Tensor
    classes: Tensor

    @property
    def total(self) -> Tensor:
        return torch.stack(self).sum()


def region_loss(
    output: Tensor,
    targets: Targets,
    anchors: Tensor,
    *,
    scaling: str = "code",
    ratios: Tensor | None = None,
    poses: int = 0,
) -> Losses:
    """Losses of predictions (B, A (5 + C), h, w) for `anchors` (A, 2) in cells.

    With `ratios` (C,), how many of the training actors do each action, the classes are as AVA's: `poses` of which an
    actor has one, and actions of which he has any number.
    """
    if scaling not in ("code", "paper"):
        raise ValueError(f"scaling is 'code' or 'paper', not {scaling!r}")
    raw = split(output, len(anchors))  # (B, A, h, w, 5 + C)
    wanted = _in_cells(targets.box, raw)  # (N, 4)
    kept, place = _assign(targets.image, wanted, anchors.to(raw), raw)
    found = cells(raw.detach(), anchors)  # (B, A, h, w, 4)
    weight = torch.ones_like(raw[..., 4])
    if scaling == "code":
        weight[_best_overlap(found, wanted, targets.image) > IGNORED_OVERLAP] = 0.0
        weight[place] = OBJECT_SCALE
    wanted, trained = wanted[kept], raw[place]  # (N, 4), (N, 5 + C)
    goal = torch.zeros_like(weight)
    goal[place] = _overlap(found[place], wanted)
    shift, stretch = _moves(wanted, anchors.to(raw)[place[1]], place)  # (N, 2), (N, 2)
    return Losses(
        x=_smooth(trained[:, 0].sigmoid(), shift[:, 0]),
        y=_smooth(trained[:, 1].sigmoid(), shift[:, 1]),
        w=_smooth(trained[:, 2], stretch[:, 0]),
        h=_smooth(trained[:, 3], stretch[:, 1]),
        confidence=(weight * (raw[..., 4].sigmoid() - goal).square()).sum() / 2,
        classes=_class_loss(trained[:, 5:], targets.label[kept], scaling, ratios, poses),
    )


Place = tuple[Tensor, Tensor, Tensor, Tensor]


def _in_cells(box: Tensor, raw: Tensor) -> Tensor:
    """Corners as fractions (N, 4) to centre, width and height in cells of the split predictions `raw`."""
    h, w = raw.shape[2:4]
    first, last = (box.to(raw) * raw.new_tensor([w, h, w, h])).split(2, dim=1)
    return torch.cat(((first + last) / 2, last - first), dim=1)


def _assign(image: Tensor, wanted: Tensor, anchors: Tensor, raw: Tensor) -> tuple[Tensor, Place]:
    """Which of the `wanted` boxes train a prediction, and the image, anchor, row and column of that prediction."""
    shapes = F.pad(wanted[:, None, 2:], (2, 0)), F.pad(anchors[None], (2, 0))  # (N, 1, 4), (1, A, 4) centred on 0
    anchor = _overlap(*shapes).argmax(dim=1)  # (N,)
    h, w = raw.shape[2:4]
    column, row = wanted[:, 0].long().clamp(0, w - 1), wanted[:, 1].long().clamp(0, h - 1)
    places = torch.stack((image.to(anchor), anchor, row, column), dim=1)  # (N, 4)
    last = {tuple(place): n for n, place in enumerate(places.tolist())}
    kept = torch.tensor(list(last.values()), dtype=torch.long, device=raw.device)
    return kept, tuple(places[kept].unbind(dim=1))


def _moves(wanted: Tensor, anchors: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """What x, y after the sigmoid and w, h before the exponential have to be, (N, 2) each."""
    corner = torch.stack((place[3], place[2]), dim=1)
    return wanted[:, :2] - corner, (wanted[:, 2:] / anchors).log()


def _smooth(found: Tensor, wanted: Tensor) -> Tensor:
    return F.smooth_l1_loss(found, wanted, reduction="sum") / 2


def _best_overlap(found: Tensor, wanted: Tensor, image: Tensor) -> Tensor:
    """The largest overlap of each prediction (B, A, h, w) with an annotated box of its image; 0 without any."""
    overlap = _overlap(found[..., None, :], wanted)  # (B, A, h, w, N)
    same = image.to(found.device) == torch.arange(len(found), device=found.device)[:, None]  # (B, N)
    return F.pad(overlap * same[:, None, None, None], (0, 1)).amax(dim=-1)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4): centre, width and height."""
    first = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    last = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    shared = (last - first).clamp(min=0).prod(dim=-1)
    return shared / (a[..., 2:].prod(dim=-1) + b[..., 2:].prod(dim=-1) - shared)


def _class_loss(logits: Tensor, label: Tensor, scaling: str, ratios: Tensor | None, poses: int) -> Tensor:
    """Focal loss of (N, C) logits, summed; AVA's is averaged over the actors, as its code does."""
    if ratios is not None:
        return _ava_loss(logits, label.to(logits), ratios.to(logits), poses)
    if scaling == "code":
        log = logits.log_softmax(dim=1).gather(1, label.to(logits.device)[:, None])
        return -((1 - log.exp()) ** FOCAL_GAMMA * log).sum()
    truth = F.one_hot(label.to(logits.device), logits.shape[1])
    return _focal(logits.softmax(dim=1), truth, FOCAL_GAMMA).sum()


def _ava_loss(logits: Tensor, label: Tensor, ratios: Tensor, poses: int) -> Tensor:
    postures, actions = logits[:, :poses].softmax(dim=1), logits[:, poses:].sigmoid()
    loss = _focal(torch.cat((postures, actions), dim=1), label, AVA_GAMMA)  # (N, C)
    rare = torch.where(label > 0, (1 - ratios).exp(), ratios.exp())  # a rare action weighs more where it is done
    return (rare * loss).sum() / max(len(logits), 1)


def _focal(probability: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Binary focal loss, element by element, of probabilities kept within 1e-4 of 0 and 1."""
    right = torch.where(truth > 0, probability, 1 - probability).clamp(CLAMP, 1 - CLAMP)
    return -((1 - right) ** gamma) * right.log()
