"""How maps enter, and what a constant map can do: nothing by concat, something by multiply."""

import pytest
import torch
from torch import Tensor

from reaction.models.inception_v3 import InceptionV3
from reaction.models.st_attention import STAttention
from reaction.models.tsn import TSN

torch.set_num_threads(1)


def build(entry: str, **options) -> STAttention:
    torch.manual_seed(0)
    channels = 4 if entry == "concat" else 3
    backbone = InceptionV3(classes=5, channels=channels, width=0.0625, dropout=0.0)
    return STAttention(backbone, entry=entry, **options)


def clip_of_noise() -> Tensor:
    return torch.rand(4, 2, 3, 107, 107, generator=torch.Generator().manual_seed(1)) * 2 - 1


def logits_with(model: STAttention, value: float) -> Tensor:
    clip = clip_of_noise()
    with torch.no_grad():
        return model.train()(clip, torch.full_like(clip[:, :, :1], value))


def test_concat_appends_the_map_after_the_streams_channels():
    frames, maps = torch.randn(2, 3, 20, 5, 6), torch.rand(2, 3, 1, 5, 6)
    entered = STAttention(torch.nn.Identity(), entry="concat").enter(frames, maps)
    assert torch.equal(entered[:, :, :20], frames)
    assert torch.equal(entered[:, :, 20:], maps)


def test_multiply_weighs_every_channel():
    frames, maps = torch.randn(2, 3, 20, 5, 6), torch.rand(2, 3, 1, 5, 6)
    entered = STAttention(torch.nn.Identity(), entry="multiply").enter(frames, maps)
    assert torch.equal(entered[1, 2, 7], frames[1, 2, 7] * maps[1, 2, 0])


@pytest.mark.parametrize("partial_bn", [False, True])
def test_a_constant_map_changes_nothing_by_concat(partial_bn):
    model = build("concat", partial_bn=partial_bn).double()
    clip = clip_of_noise().double()
    maps = torch.ones_like(clip[:, :, :1])
    with torch.no_grad():
        low, high = model.train()(clip, 0.1 * maps), model(clip, maps)
    assert low.abs().max() > 0.01
    torch.testing.assert_close(low, high, rtol=1e-9, atol=1e-9 * low.abs().max().item())


def test_a_constant_map_gets_no_gradient_by_concat():
    model = build("concat").double().train()
    clip = clip_of_noise().double()
    logits = model(clip, torch.full_like(clip[:, :, :1], 0.1))
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    gradient = model.backbone.Conv2d_1a_3x3.conv.weight.grad.abs()
    assert gradient[:, 3].max() < 1e-9 * gradient[:, :3].max()


def test_a_constant_map_acts_by_multiply():
    model = build("multiply")
    tenth, whole = logits_with(model, 0.1), logits_with(model, 1.0)
    assert (tenth - whole).abs().max() > 0.01 * whole.abs().max()


def test_a_map_of_ones_multiplied_is_the_plain_network():
    model = build("multiply").eval()
    clip = clip_of_noise()
    with torch.no_grad():
        plain = TSN(model.backbone).eval()(clip)
        assert torch.equal(model(clip, torch.ones_like(clip[:, :, :1])), plain)


def test_a_real_map_acts_by_concat():
    model = build("concat").train()
    clip = clip_of_noise()
    maps = torch.zeros_like(clip[:, :, :1])
    maps[..., 20:60, 20:60] = 1.0
    with torch.no_grad():
        difference = model(clip, maps) - model(clip, torch.zeros_like(maps))
    assert difference.abs().max() > 0.01


def test_the_consensus_is_that_of_tsn():
    clip = torch.tensor([[1.0, 9.0], [3.0, 3.0]])[None, ..., None, None].expand(-1, -1, -1, 4, 4)  # (B, K, C, H, W)
    maps = torch.full_like(clip[:, :, :1], 0.5)
    model = STAttention(ChannelMeans(), entry="multiply", consensus="max")
    assert model(clip, maps).tolist() == [[1.5, 4.5]]
    model = STAttention(ChannelMeans(), entry="multiply", consensus="weighted", segments=2)
    torch.nn.init.constant_(model.segment_weights, 2.0)
    assert model(clip, maps).tolist() == [[4.0, 12.0]]


class ChannelMeans(torch.nn.Module):
    """Logits that are the images' channel means."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_refuses_missing_maps_and_unknown_entries():
    with pytest.raises(ValueError, match="needs a map for every frame"):
        build("concat")(clip_of_noise())
    with pytest.raises(ValueError, match="concat, multiply, not 'add'"):
        build("add")
