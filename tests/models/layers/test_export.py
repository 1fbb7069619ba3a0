"""The layers leave PyTorch as ONNX and compute the same there, also with other box counts than at export."""

import io

import pytest
import torch
from torch import Tensor, nn

from reaction.models.layers.box_codec import BoxCodec
from reaction.models.layers.fpn import FPN
from reaction.models.layers.giou import pairwise_giou
from reaction.models.layers.nms import nms, soft_nms
from reaction.models.layers.roi_align import RoIAlign

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
torch.set_num_threads(1)
pytestmark = pytest.mark.slow  # the exporter takes its time


class Pooled(nn.Module):
    """A pyramid, boxes read from its finest level, and their code and overlaps."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = FPN(stages=(2, 3), channels=4)
        self.pool = RoIAlign((3, 2), scale=0.25, sampling=2)

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.pool(self.pyramid([fine, coarse])[0], [boxes])
        decoded = BoxCodec().decode(seen.mean((2, 3)), boxes)
        return seen, decoded, pairwise_giou(decoded, boxes)


class Kept(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return nms(boxes, scores, 0.4), soft_nms(boxes, scores)


def run(model: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Tensor, ...], **options) -> list[Tensor]:
    """What the exported model gives in ONNX's own reference implementation."""
    from onnx.reference import ReferenceEvaluator

    buffer = io.BytesIO()
    torch.onnx.export(model.eval(), example, dynamo=True, verbose=False, **options).save(buffer)
    session = ReferenceEvaluator(onnx.load_from_string(buffer.getvalue()))
    return [
        torch.from_numpy(x) for x in session.run(None, dict(zip(session.input_names, _arrays(inputs), strict=True)))
    ]


def _arrays(inputs: tuple[Tensor, ...]) -> list:
    return [x.numpy() for x in inputs]


def boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 20
    return torch.cat([corner, corner + 3 + torch.rand(count, 2) * 12], 1)


@torch.no_grad()
def test_pyramid_roi_align_and_codes():
    torch.manual_seed(0)
    model, features = Pooled(), (torch.randn(1, 2, 8, 8), torch.randn(1, 3, 4, 4))
    inputs = (*features, boxes(7))
    shapes = {"fine": None, "coarse": None, "boxes": {0: torch.export.Dim("count")}}
    outputs = run(model, (*features, boxes(5)), inputs, dynamic_shapes=shapes)
    for ours, theirs in zip(model(*inputs), outputs, strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_suppression():
    torch.manual_seed(1)
    inputs = boxes(12), torch.rand(12)
    kept, softened = run(Kept(), inputs, inputs)
    expected, scores = Kept()(*inputs)
    assert kept.tolist() == expected.tolist()
    assert len(kept) < 12
    torch.testing.assert_close(softened, scores)
