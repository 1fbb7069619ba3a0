"""One wide last layer against two layers with two losses, as the paper draws them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reaction.models.multitask import Tasks
from reaction.models.vgg import VGG16

torch.set_num_threads(1)

TASKS = Tasks({"ucf101": 4, "hmdb51": 3})
LABELS = torch.tensor([3, 0, 2, 1, 0])
OF = torch.tensor([0, 1, 1, 0, 0])


def losses_of(logits: torch.Tensor, labels: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
    """Each video's loss (B,), as the training loop takes it."""
    return F.cross_entropy(*TASKS.own(logits, labels, tasks), reduction="none")


def trunk() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU())


def test_losses_and_gradients_are_those_of_two_layers():
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    shared, wide = trunk(), nn.Linear(8, TASKS.outputs)
    losses = losses_of(wide(shared(x)), LABELS, OF)
    losses.sum().backward()

    two_trunk, first, second = copy.deepcopy(shared), nn.Linear(8, 4), nn.Linear(8, 3)
    two_trunk.zero_grad()
    with torch.no_grad():
        for layer, rows in ((first, slice(0, 4)), (second, slice(4, 7))):
            layer.weight.copy_(wide.weight[rows])
            layer.bias.copy_(wide.bias[rows])
    ucf, hmdb = two_trunk(x[OF == 0]), two_trunk(x[OF == 1])
    one = F.cross_entropy(first(ucf), LABELS[OF == 0], reduction="sum")
    other = F.cross_entropy(second(hmdb), LABELS[OF == 1], reduction="sum")
    (one + other).backward()

    torch.testing.assert_close(losses.sum(), one + other)
    torch.testing.assert_close(losses[OF == 0].sum(), one)
    torch.testing.assert_close(wide.weight.grad, torch.cat((first.weight.grad, second.weight.grad)))
    torch.testing.assert_close(wide.bias.grad, torch.cat((first.bias.grad, second.bias.grad)))
    torch.testing.assert_close(shared[0].weight.grad, two_trunk[0].weight.grad)


def test_a_batch_of_one_dataset_leaves_the_other_layer_alone():
    logits = torch.randn(3, 7, requires_grad=True)
    losses_of(logits, torch.tensor([0, 2, 1]), torch.tensor([1, 1, 1])).sum().backward()
    assert not logits.grad[:, :4].any()
    assert logits.grad[:, 4:].all()
    assert torch.isfinite(logits.grad).all()


def test_chance_level_is_that_of_the_own_dataset():
    losses = losses_of(torch.zeros(5, 7), LABELS, OF)
    expected = torch.tensor([4.0, 3.0, 3.0, 4.0, 4.0]).log()
    torch.testing.assert_close(losses, expected)


def test_a_single_network_gives_its_own_columns():
    torch.manual_seed(0)
    both = VGG16(classes=TASKS.outputs, width=0.0625).eval()
    alone = VGG16(classes=3, width=0.0625).eval()
    state = both.state_dict()
    alone.load_state_dict(TASKS.single(state, both.last_layer, "hmdb51"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(alone(x), both(x)[:, TASKS.columns("hmdb51")])
    assert state["classifier.6.weight"].shape[0] == 7


def test_columns_follow_the_order_and_unknown_datasets_are_named():
    assert (TASKS.columns("ucf101"), TASKS.columns("hmdb51")) == (slice(0, 4), slice(4, 7))
    with pytest.raises(ValueError, match=r"'kinetics'.*ucf101, hmdb51"):
        TASKS.columns("kinetics")
