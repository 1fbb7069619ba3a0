"""Generalised IoU, the box code and the feature pyramid: closed forms and counts."""

import math

import pytest
import torch

from reaction.models.layers.box_codec import BoxCodec, to_centre, to_corners
from reaction.models.layers.fpn import FPN
from reaction.models.layers.giou import giou, iou, pairwise_giou, pairwise_iou

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("other", "overlap", "generalised"),
    [
        ([0, 0, 2, 2], 1, 1),
        ([1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        ([2, 0, 4, 2], 0, 0),  # they touch, and fill their hull
        ([4, 0, 6, 2], 0, -4 / 12),
        ([0, 0, 2, 1], 1 / 2, 1 / 2),
        ([1, 1, 1, 1], 0, 0),  # empty, inside
    ],
)
def test_overlaps_by_hand(other, overlap, generalised):
    first, second = torch.tensor([0.0, 0, 2, 2]), torch.tensor(other, dtype=torch.float32)
    assert float(iou(first, second)) == pytest.approx(overlap)
    assert float(giou(first, second)) == pytest.approx(generalised)
    assert float(giou(second, first)) == pytest.approx(generalised)


def test_every_pair_equals_one_by_one():
    boxes = torch.rand(6, 4).cumsum(1).sort(1).values[:, [0, 1, 2, 3]]
    for pairwise, single in ((pairwise_iou, iou), (pairwise_giou, giou)):
        expected = torch.stack([torch.stack([single(a, b) for b in boxes[:4]]) for a in boxes])
        torch.testing.assert_close(pairwise(boxes, boxes[:4]), expected)


def test_gradients_pull_boxes_together_that_do_not_meet():
    box = torch.tensor([5.0, 5, 7, 7], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 0, 2, 2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: giou(x, target), (box,))
    giou(box, target).backward()
    assert (box.grad[:2] < 0).all()
    empty = torch.zeros(4, requires_grad=True)
    giou(empty, torch.zeros(4)).backward()
    assert torch.isfinite(empty.grad).all()


def test_codes_by_hand_and_back():
    anchors = torch.tensor([[0.0, 0, 10, 20], [5.0, 5, 9, 9]])
    boxes = torch.tensor([[2.0, 1, 22, 11], [5.0, 5, 9, 9]])
    codec = BoxCodec(weights=(2.0, 2.0, 1.0, 1.0))
    offsets = codec.encode(boxes, anchors)
    expected = [[2 * 0.7, 2 * -0.2, math.log(2), math.log(0.5)], [0, 0, 0, 0]]
    torch.testing.assert_close(offsets, torch.tensor(expected))
    torch.testing.assert_close(codec.decode(offsets, anchors), boxes)
    torch.testing.assert_close(to_corners(to_centre(boxes)), boxes)


def test_a_runaway_logarithm_is_cut():
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    decoded = BoxCodec().decode(torch.tensor([[0.0, 0, 500, 500]]), anchor)
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492, 508, 508]]))


def test_pyramid_of_resnet_has_the_parameters_of_detectron2():
    with torch.device("meta"):
        model = FPN()
    lateral, output = 256 * (256 + 512 + 1024 + 2048) + 4 * 256, 4 * (9 * 256 * 256 + 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == lateral + output == 3_344_384
    names = [f"fpn_{kind}{level}.{part}" for level in range(2, 6) for kind in ("lateral", "output")
             for part in ("weight", "bias")]  # fmt: skip
    assert list(model.state_dict()) == names


def test_pyramid_adds_repeated_coarser_levels():
    model = FPN(stages=(1, 1, 1), channels=1)
    for name, parameter in model.named_parameters():
        torch.nn.init.zeros_(parameter)
        if name.endswith("weight"):
            parameter.data[0, 0, parameter.shape[-1] // 2, parameter.shape[-1] // 2] = 1  # the identity
    stages = [torch.rand(2, 1, side, side) for side in (8, 4, 2)]
    p2, p3, p4 = model(stages)
    torch.testing.assert_close(p4, stages[2])
    torch.testing.assert_close(p3, stages[1] + stages[2].repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(p2, stages[0] + p3.repeat_interleave(2, 2).repeat_interleave(2, 3))
