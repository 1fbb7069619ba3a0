"""The loss of YOWO against its public code's value and against loops over boxes."""

import math

import pytest
import torch
from torch.nn import functional as F

from reaction.models.yowo import ANCHORS, YOWO, decode, detect
from reaction.training.region_loss import Losses, Targets, region_loss

torch.set_num_threads(1)

UCF = torch.tensor(ANCHORS["ucf101_24"])


def targets(*rows: tuple) -> Targets:
    """From (image, label, centre x, centre y, width, height)."""
    image, label, *box = (torch.tensor(column) for column in zip(*rows, strict=True))
    x, y, w, h = box
    return Targets(image, torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=1), label)


GOLDEN = targets((0, 3, 0.51, 0.43, 0.3, 0.6), (1, 7, 0.2, 0.3, 0.2, 0.5), (1, 7, 0.8, 0.55, 0.25, 0.7))
NOBODY = Targets(torch.empty(0, dtype=torch.long), torch.empty(0, 4), torch.empty(0, dtype=torch.long))


def golden_output() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 145, 7, 7)


def iou(a: list[float], b: list[float]) -> float:
    """Of boxes by centre, width and height."""
    shared = 1.0
    for k in (0, 1):
        first = max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2)
        last = min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2)
        shared *= max(0.0, last - first)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def by_loops(output: torch.Tensor, wanted: Targets, anchors: list, *, ignore: bool = True) -> list[float]:
    """Second version: x, y, w, h, confidence, classes of the public code's loss, box by box, cell by cell."""
    batch, _, rows, columns = output.shape
    raw = output.view(batch, len(anchors), -1, rows, columns).tolist()
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    smooth = lambda d: 0.5 * d * d if abs(d) < 1 else abs(d) - 0.5  # noqa: E731
    annotated: list[list] = [[] for _ in range(batch)]
    for image, (x1, y1, x2, y2), label in zip(*(part.tolist() for part in wanted), strict=True):
        box = [(x1 + x2) / 2 * columns, (y1 + y2) / 2 * rows, (x2 - x1) * columns, (y2 - y1) * rows]
        annotated[image].append((box, label))
    terms = [0.0] * 6
    for b in range(batch):
        trained = {}
        for box, label in annotated[b]:
            shape = [iou([0, 0, *anchor], [0, 0, *box[2:]]) for anchor in anchors]
            trained[shape.index(max(shape)), int(box[1]), int(box[0])] = (box, label)
        for a, (aw, ah) in enumerate(anchors):
            for j in range(rows):
                for i in range(columns):
                    p = [raw[b][a][k][j][i] for k in range(len(raw[b][a]))]
                    found = [sigmoid(p[0]) + i, sigmoid(p[1]) + j, math.exp(p[2]) * aw, math.exp(p[3]) * ah]
                    weight, goal = 1.0, 0.0
                    if ignore and any(iou(found, box) > 0.6 for box, _ in annotated[b]):
                        weight = 0.0
                    if (a, j, i) in trained:
                        box, label = trained[a, j, i]
                        weight, goal = 5.0 if ignore else 1.0, iou(found, box)
                        moves = [sigmoid(p[0]) - (box[0] - i), sigmoid(p[1]) - (box[1] - j)]
                        moves += [p[2] - math.log(box[2] / aw), p[3] - math.log(box[3] / ah)]
                        terms = [t + smooth(d) / 2 for t, d in zip(terms, [*moves], strict=False)] + terms[4:]
                        true = math.exp(p[5 + label]) / sum(math.exp(v) for v in p[5:])
                        terms[5] -= (1 - true) ** 2 * math.log(true)
                    terms[4] += weight * (sigmoid(p[4]) - goal) ** 2 / 2
    return terms


def test_the_value_of_the_public_code():
    loss = region_loss(golden_output(), GOLDEN, UCF)
    assert float(loss.total) == pytest.approx(78.43811, abs=1e-4)
    assert float(loss.confidence) == pytest.approx(68.905, abs=1e-3)
    assert float(loss.classes) == pytest.approx(8.675, abs=1e-3)
    assert float(loss.x + loss.y + loss.w + loss.h) == pytest.approx(0.858, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_loops_over_boxes_say_the_same(seed):
    torch.manual_seed(seed)
    output = torch.randn(3, 5 * 9, 3, 4)
    first, sides = torch.rand(9, 2) * 0.6, 0.05 + torch.rand(9, 2) * 0.35
    wanted = Targets(torch.randint(3, (9,)), torch.cat((first, first + sides), dim=1), torch.randint(4, (9,)))
    anchors = (UCF / 2).tolist()
    expected = by_loops(output, wanted, anchors)
    assert [float(term) for term in region_loss(output, wanted, UCF / 2)] == pytest.approx(expected, rel=1e-4)


def test_predictions_that_overlap_a_box_are_not_told_there_is_nobody():
    """A prediction beside the trained one, with the same box, at an even confidence."""
    output = torch.zeros(1, 5 * 9, 7, 7)
    wanted = targets((0, 1, 3.5 / 7, 3.5 / 7, 0.70458 / 7, 1.18803 / 7))
    loss = region_loss(output, wanted, UCF)
    others = 5 * 49 - 1
    trained = 5 * (0.5 - 1.0) ** 2
    assert float(loss.confidence) == pytest.approx((others * 0.25 + trained) / 2)
    output.view(1, 5, 9, 7, 7)[0, 1, 2:4, 3, 3] = (UCF[0] / UCF[1]).log()  # the second anchor says the same
    loss = region_loss(output, wanted, UCF)
    assert float(loss.confidence) == pytest.approx(((others - 1) * 0.25 + trained) / 2)
    paper = region_loss(output, wanted, UCF, scaling="paper")
    assert float(paper.confidence) == pytest.approx((others * 0.25 + 0.25) / 2)


def test_the_papers_focal_loss_looks_at_false_classes_too():
    output = golden_output()
    paper, code = (region_loss(output, GOLDEN, UCF, scaling=scaling) for scaling in ("paper", "code"))
    cells = ((0, 3, 3), (1, 1, 2), (1, 5, 3))  # image, column and row of GOLDEN
    expected = 0.0
    for (image, column, row), label in zip(cells, (3, 7, 7), strict=True):
        logits = [output.view(2, 5, 29, 7, 7)[image, a, 5:, row, column] for a in range(5)]
        terms = []
        for one in logits:
            p = one.softmax(dim=0)
            truth = F.one_hot(torch.tensor(label), 24)
            terms.append(-(truth * (1 - p) ** 2 * p.log() + (1 - truth) * p**2 * (1 - p).log()).sum())
        shape = [iou([0, 0, *anchor], [0, 0, *side]) for anchor in UCF.tolist() for side in [_side(image, column)]]
        expected += float(terms[shape.index(max(shape))])
    assert float(paper.classes) == pytest.approx(expected, rel=1e-5)
    assert paper.classes > code.classes
    assert paper[:4] == code[:4]


def _side(image: int, column: int) -> tuple[float, float]:
    return {(0, 3): (2.1, 4.2), (1, 1): (1.4, 3.5), (1, 5): (1.75, 4.9)}[image, column]


def test_avas_poses_and_actions():
    """One actor who stands (12) and talks (80): the formula of the public code, written out."""
    torch.manual_seed(1)
    output = torch.randn(1, 5 * 85, 7, 7)
    ratios = torch.rand(80) * 0.5
    label = torch.zeros(1, 80)
    label[0, [11, 79]] = 1
    box = targets((0, 0, 0.5, 0.5, 0.2, 0.6)).box
    anchors = torch.tensor(ANCHORS["ava"])
    loss = region_loss(output, Targets(torch.zeros(1, dtype=torch.long), box, label), anchors, ratios=ratios, poses=14)
    a = max(range(5), key=lambda k: iou([0, 0, *anchors[k].tolist()], [0, 0, 1.4, 4.2]))
    logits = output.view(1, 5, 85, 7, 7)[0, a, 5:, 3, 3]
    p = torch.cat((logits[:14].softmax(dim=0), logits[14:].sigmoid()))
    expected = 0.0
    for k in range(80):
        if k in (11, 79):
            expected -= float((1 - p[k]) ** 0.5 * p[k].log() * (1 - ratios[k]).exp())
        else:
            expected -= float(p[k] ** 0.5 * (1 - p[k]).log() * ratios[k].exp())
    assert float(loss.classes) == pytest.approx(expected, rel=1e-4)
    twice = region_loss(output.repeat(2, 1, 1, 1), _doubled(box, label), anchors, ratios=ratios, poses=14)
    assert float(twice.classes) == pytest.approx(expected, rel=1e-4), "a mean over actors"


def _doubled(box: torch.Tensor, label: torch.Tensor) -> Targets:
    return Targets(torch.tensor([0, 1]), box.repeat(2, 1), label.repeat(2, 1))


def test_the_later_of_two_boxes_that_want_one_prediction_gets_it():
    output = golden_output()[:1]
    near, later = (0, 2, 0.51, 0.43, 0.3, 0.6), (0, 3, 0.52, 0.44, 0.3, 0.6)
    both, alone = region_loss(output, targets(near, later), UCF), region_loss(output, targets(later), UCF)
    assert both[:4] == alone[:4]
    assert both.classes == alone.classes


def test_frames_without_anybody_train_the_confidence_alone():
    output = golden_output().requires_grad_()
    loss = region_loss(output, NOBODY, UCF)
    assert [term.item() for term in loss] == [0, 0, 0, 0, pytest.approx(loss.total.item()), 0]
    loss.total.backward()
    touched = output.grad.view(2, 5, 29, 7, 7).abs().sum((0, 1, 3, 4)) > 0
    assert touched.nonzero().flatten().tolist() == [4]


def test_descent_finds_the_boxes():
    torch.manual_seed(0)
    output = torch.zeros(2, 145, 7, 7, requires_grad=True)
    optimiser = torch.optim.Adam([output], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        region_loss(output, GOLDEN, UCF).total.backward()
        optimiser.step()
    with torch.no_grad():
        loss = region_loss(output, GOLDEN, UCF)
        assert isinstance(loss, Losses)
        assert float(loss.total) < 0.2
        assert (output.view(2, 5, 29, 7, 7)[:, :, 4].sigmoid() > 0.9).sum() == 3


def squares(count: int) -> tuple[torch.Tensor, Targets]:
    """Clips (count, 3, 8, 64, 64) of a square of one of two colours, and where it is in the last frame."""
    corner, side = torch.rand(count, 2) * 0.4 + 0.05, torch.rand(count, 1) * 0.2 + 0.3
    box, label = torch.cat((corner, corner + side), dim=1), torch.arange(count) % 2
    clips = torch.zeros(count, 3, 8, 64, 64)
    for clip, (x1, y1, x2, y2), colour in zip(clips, (box * 64).long().tolist(), label.tolist(), strict=True):
        clip[colour, :, y1:y2, x1:x2] = 1
    return clips, Targets(torch.arange(count), box, label)


def test_a_narrow_yowo_learns_where_squares_are_and_of_which_colour():
    torch.manual_seed(0)
    network = YOWO(classes=2, width=0.125, backbone_3d="resnet18")
    anchors = torch.tensor([[0.8, 0.8], [1.0, 1.0]]).repeat(3, 1)[:5]
    clips, wanted = squares(4)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        region_loss(network(clips), wanted, anchors).total.backward()
        optimiser.step()
    with torch.no_grad():
        predictions = decode(network(clips), anchors)
    for n in range(4):
        found = detect(predictions, n, width=1, height=1)
        x1, y1, x2, y2 = found.box[0].tolist()
        a, b, c, d = wanted.box[n].tolist()
        overlap = iou([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], [(a + c) / 2, (b + d) / 2, c - a, d - b])
        assert overlap > 0.5
        assert found.score[0].argmax() == wanted.label[n]


def test_an_unknown_scaling_is_named():
    with pytest.raises(ValueError, match="scaling is 'code' or 'paper', not 'mine'"):
        region_loss(golden_output(), GOLDEN, UCF, scaling="mine")
