"""The small 3D networks: channels in stages, shuffling, and shortcuts, against plain second versions."""

import pytest
import torch

from reaction.models.efficient3d import (
    InvertedResidual,
    MobileNet3D,
    MobileNetV23D,
    ShuffleBlock,
    ShuffleNet3D,
    ShuffleNetV23D,
    SplitBlock,
    shuffle,
)

torch.set_num_threads(1)

NETWORKS = (MobileNet3D, MobileNetV23D, ShuffleNet3D, ShuffleNetV23D)


def names(network: torch.nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if value.dim() == 5}


def test_convolutions_are_called_as_in_efficient_3dcnns():
    """A few convolutions of each network, as okankop/Efficient-3DCNNs has them, and how many there are."""
    with torch.device("meta"):
        mobile, mobile2, shuffle1, shuffle2 = (names(kind()) for kind in NETWORKS)
    assert {"features.0.0.weight", "features.1.conv1.weight", "features.13.conv2.weight"} <= mobile
    assert {"features.1.conv.3.weight", "features.2.conv.6.weight", "features.18.0.weight"} <= mobile2
    assert {"conv1.0.weight", "layer1.0.conv3.weight", "layer2.7.conv1.weight", "layer3.3.conv2.weight"} <= shuffle1
    assert {"features.0.banch1.2.weight", "features.15.banch2.5.weight", "conv_last.0.weight"} <= shuffle2
    assert [len(one) for one in (mobile, mobile2, shuffle1, shuffle2)] == [27, 52, 49, 56]


@pytest.mark.parametrize(
    ("network", "width", "outputs"),
    [
        (MobileNet3D, 2.0, 2048),
        (MobileNetV23D, 1.0, 1280),
        (ShuffleNet3D, 2.0, 1920),
        (ShuffleNetV23D, 2.0, 2048),
    ],
)
def test_features_as_yowo_takes_them(network, width, outputs):
    with torch.device("meta"):
        trunk = network(width=width)
        for frames, left in ((8, 1), (16, 1), (32, 2)):
            assert trunk(torch.empty(1, 3, frames, 224, 224)).shape == (1, outputs, left, 7, 7)


def test_shuffle_deals_the_groups_out_in_turn():
    x = torch.arange(6.0).view(1, 6, 1, 1, 1)
    assert shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_the_pooled_shortcut_of_shufflenet_follows_the_new_channels():
    torch.manual_seed(0)
    block = ShuffleBlock(12, 24, stride=2).eval()
    x = torch.rand(1, 12, 4, 4, 4)
    with torch.no_grad():
        y = block(x)
    assert y.shape == (1, 24, 2, 2, 2)
    # The middle cell of a 3 x 3 window that lies wholly inside: a mean of 2 x 3 x 3 values.
    torch.testing.assert_close(y[0, 12:, 0, 1, 1], x[0, :, :2, 1:4, 1:4].mean((1, 2, 3)))
    # At a corner zeros outside are averaged in.
    torch.testing.assert_close(y[0, 12:, 0, 0, 0], x[0, :, :2, :2, :2].sum((1, 2, 3)) / 18)
    with torch.no_grad():
        torch.testing.assert_close(block(x[:, :, :3])[:, 12:, 1, 1, 1], x[:, :, 2, 1:4, 1:4].mean((2, 3)))


def test_half_of_a_split_block_goes_by_untouched():
    torch.manual_seed(0)
    x = torch.randn(1, 8, 2, 4, 4)
    with torch.no_grad():
        y = SplitBlock(8, 8).eval()(x)
    torch.testing.assert_close(y[:, ::2], x[:, :4])


@pytest.mark.parametrize(("outputs", "stride", "added"), [(4, 1, True), (4, 2, False), (6, 1, False)])
def test_an_inverted_residual_adds_its_input_where_shapes_agree(outputs, stride, added):
    block = InvertedResidual(4, outputs, stride, 6).eval()
    torch.nn.init.zeros_(block.conv[-1].weight)  # the last normalisation: the branch is silent
    x = torch.randn(1, 4, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(block(x), x) == added


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_reach_every_weight_of_narrow_networks(network):
    torch.manual_seed(0)
    trunk = network(width=0.3)
    trunk(torch.randn(2, 3, 8, 64, 64)).square().sum().backward()
    assert [name for name, p in trunk.named_parameters() if p.dim() > 1 and not p.grad.abs().sum() > 0] == []
