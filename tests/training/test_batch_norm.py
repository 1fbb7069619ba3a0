"""Batch normalisation by groups, in one process; tests/training/test_distributed.py has it in several."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from reaction import params, plan
from reaction.models.convnet_lstm import ConvNetLSTM
from reaction.training.batch_norm import GroupedBatchNorm2d, Layout, Share, regroup, shares, ungroup


def layer(channels=3):
    norm = nn.BatchNorm2d(channels, eps=0.001, momentum=0.2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return norm


def grouped(norm, share):
    model = nn.Sequential(copy.deepcopy(norm))
    regroup(model, Layout(share))
    return model


def pictures(rows, seed=0):
    return torch.randn(rows, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * 3 + 100


def test_the_whole_batch_is_what_pytorch_computes():
    norm, x = layer(), pictures(6)
    ours = grouped(norm, Share([0, 1, 2]))
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, found = norm(a), ours(b)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    weights = pictures(6, seed=1)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours[0].weight.grad, norm.weight.grad, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(ours[0].bias.grad, norm.bias.grad)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours[0], name), getattr(norm, name))


def test_a_group_is_normalised_as_if_it_were_alone():
    norm, x = layer(), pictures(10)
    ours = grouped(norm, Share([7, 3, 9, 1, 4], [2, 3]))  # two segments each: rows 0 to 3, and 4 to 9
    one, other = copy.deepcopy(norm), copy.deepcopy(norm)
    expected = torch.cat([one(x[:4]), other(x[4:])])
    torch.testing.assert_close(ours(x), expected)
    ours[0].end_step()
    assert not torch.allclose(expected, norm(x), atol=1e-3)
    for name in ("running_mean", "running_var"):
        mean = (getattr(one, name) + getattr(other, name)) / 2
        torch.testing.assert_close(getattr(ours[0], name), mean)
    assert ours[0].num_batches_tracked == 1


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, ()), (nn.BatchNorm3d, (2, 4, 5))])
def test_features_and_clips_are_normalised_as_pictures_are(kind, shape):
    norm, x = kind(3), torch.randn(10, 3, *shape, generator=torch.Generator().manual_seed(0)) + 5
    whole, halves = grouped(norm, Share([0, 1, 2, 3, 4])), grouped(norm, Share([0, 1], [4, 6]))
    torch.testing.assert_close(halves(x), torch.cat([copy.deepcopy(norm)(part) for part in x.split([4, 6])]))
    torch.testing.assert_close(whole(x), norm(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole[0].running_var, norm.running_var)
    ungroup(whole)
    assert type(whole[0]) is kind


def test_what_else_keeps_statistics_is_refused():
    with pytest.raises(ValueError, match=r"lstm: a NormalisedLSTM"):
        regroup(ConvNetLSTM(classes=2, width=0.0625, steps=2), Layout())


def test_evaluation_and_frozen_layers_use_the_stored_statistics():
    norm = layer()
    norm(pictures(6))
    ours = grouped(norm, Share([0, 1, 2], [1, 2])).eval()
    kept = ours[0].running_mean.clone()
    assert torch.equal(ours(pictures(6)), norm.eval()(pictures(6)))
    assert torch.equal(ours[0].running_mean, kept)


def test_names_and_parameters_stay():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer(), nn.Sequential(layer()))
    names, parameters = list(model.state_dict()), [id(p) for p in model.parameters()]
    regroup(model, Layout())
    assert list(model.state_dict()) == names
    assert [id(p) for p in model.parameters()] == parameters
    assert [type(m) for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [GroupedBatchNorm2d] * 2


@pytest.mark.parametrize("group", [None, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_processes_share_a_batch_without_rest_or_repetition(group, world):
    batch = [5, 3, 8, 1, 9, 2, 7]
    found = shares(batch, world, group)
    assert len(found) == world
    working = [share for share in found if not share.idle]
    assert sorted(v for share in working for v in share.videos) == sorted(batch)
    assert not found[0].idle
    assert all(share.videos == [5] for share in found if share.idle)
    if group is not None:
        assert all(sum(share.groups) == len(share.videos) for share in found)


def test_groups_do_not_depend_on_the_number_of_processes():
    def as_sets(world):
        taken = [share for share in shares(list(range(11)), world, 5) if not share.idle]
        found = []
        for share in taken:
            videos = iter(share.videos)
            found += [tuple(next(videos) for _ in range(size)) for size in share.groups]
        return sorted(found)

    assert as_sets(1) == as_sets(2) == as_sets(4) == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9, 10)], "a single one joins"


def test_the_size_of_a_group_is_a_parameter_and_part_of_the_artifact():
    values = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text())

    def trained():
        made = plan.Plan(params.parse(values)).needed("synthetic").values()
        return next(one for one in made if one.rule == "train" and one.config["method"] == "tsn")

    plain = trained()
    tsn = values["methods"]["tsn"]["streams"]
    recipe = values["schedules"][tsn["rgb"]] if isinstance(tsn["rgb"], str) else tsn["rgb"]
    values["methods"]["tsn"]["streams"] = {"rgb": recipe | {"bn_group": 32}, "flow": tsn["flow"]}
    grouped = trained()
    assert "bn_group" not in plain.config["training"]
    assert grouped.config["training"] == plain.config["training"] | {"bn_group": 32}
    assert grouped.folder != plain.folder


def test_parts_of_a_share_are_whole_groups():
    share = Share(list("abcdefg"), [2, 2, 3])
    assert [(part.videos, part.groups) for part in share.parts(4)] == [(list("abcd"), [2, 2]), (list("efg"), [3])]
    assert [part.groups for part in share.parts(1)] == [[2], [2], [3]], "a group is never cut"
    assert share.parts(None) == [share]
    assert Share([1, 2]).parts(1) == [Share([1, 2])], "without groups every video is normalised by all"
