"""Suppression against plain loops over ranked boxes, and hand-made cases."""

import pytest
import torch
from torch import Tensor

from reaction.models.layers.giou import pairwise_iou
from reaction.models.layers.nms import nms, soft_nms

torch.set_num_threads(1)


def crowd(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 10 + 30 * torch.rand(count, 2, generator=generator)], 1), torch.rand(
        count, generator=generator
    )


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    left, kept = scores.argsort(descending=True).tolist(), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if pairwise_iou(boxes[best, None], boxes[i, None]) <= threshold]
    return kept


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_greedy_loop(threshold, seed):
    boxes, scores = crowd(120, seed)
    assert nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)


def test_a_chain_stays_alternately():
    """Each of ten boxes overlaps its neighbours only: every second one is freed by the removal of the one before."""
    left = torch.arange(10.0) * 4
    boxes = torch.stack([left, torch.zeros(10), left + 10, torch.full((10,), 10.0)], 1)  # neighbours: 6 / 14
    scores = torch.linspace(1, 0.1, 10)
    assert nms(boxes, scores, 0.4).tolist() == [0, 2, 4, 6, 8]
    assert nms(boxes, scores, 0.43).tolist() == list(range(10))


def test_an_overlap_at_the_threshold_stays_and_the_earlier_of_two_equals_wins():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0]])
    assert nms(boxes, torch.tensor([0.5, 0.5]), 0.5).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.5, 0.5]), 0.49).tolist() == [0]


def test_classes_do_not_suppress_each_other():
    boxes, scores = crowd(80, 5)
    labels = torch.arange(80) % 3
    kept = nms(boxes, scores, 0.3, labels=labels)
    alone = [torch.where(labels == c)[0][nms(boxes[labels == c], scores[labels == c], 0.3)] for c in range(3)]
    expected = torch.cat(alone)
    assert kept.tolist() == expected[scores[expected].argsort(descending=True)].tolist()


def test_no_boxes():
    empty = torch.empty(0, 4), torch.empty(0)
    assert nms(*empty, 0.5).shape == (0,)
    assert soft_nms(*empty).shape == (0,)


def soft_loop(boxes: Tensor, scores: Tensor, decay) -> Tensor:
    scores, left = scores.clone(), set(range(len(scores)))
    while left:
        best = max(left, key=lambda i: float(scores[i]))
        left.remove(best)
        for i in left:
            scores[i] *= decay(float(pairwise_iou(boxes[best, None], boxes[i, None])))
    return scores


def test_soft_suppression_equals_the_loop():
    boxes, scores = crowd(40, 7)
    gaussian = soft_loop(boxes, scores, lambda overlap: float(torch.exp(torch.tensor(-(overlap**2) / 0.5))))
    torch.testing.assert_close(soft_nms(boxes, scores), gaussian)
    linear = soft_loop(boxes, scores, lambda overlap: 1 - overlap if overlap > 0.3 else 1.0)
    torch.testing.assert_close(soft_nms(boxes, scores, threshold=0.3), linear)


def test_soft_suppression_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 2.0], [9.0, 9.0, 12.0, 12.0]])
    scores = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.1]), threshold=0.3)
    assert scores.tolist() == pytest.approx([0.9, 0.4, 0.1])
