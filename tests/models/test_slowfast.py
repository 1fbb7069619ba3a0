"""SlowFast and the ResNets it is built of against public tensors, counts and plain second implementations."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.resnet3d import (
    BLOCKS,
    C2D,
    NONLOCAL_R50,
    NONLOCAL_R101,
    I3DResNet,
    ResNet3D,
    inflate,
    torchvision_name,
)
from reaction.models.slowfast import Fast, Slow, SlowFast, fast_view, slow_positions, time_to_channel

torch.set_num_threads(1)


def on_meta(build: Callable[..., ResNet3D], **options) -> ResNet3D:
    with torch.device("meta"):
        return build(**options).eval()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def conv_macs(model: ResNet3D, *clip: int) -> float:
    """Multiply-adds of the convolutions for a clip (C, T, H, W), in 10^9: what the paper calls GFLOPs."""
    total = 0

    def count(layer: nn.Conv3d, _inputs: tuple, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(count)
    model(torch.empty(1, *clip, device="meta"))
    return total / 1e9


def stirred(build: Callable[..., ResNet3D], **options) -> ResNet3D:
    """A narrow network whose batch normalisations all do something in evaluation mode."""
    torch.manual_seed(0)
    model = build(**({"classes": 5, "width": 0.125, "size": 32} | options)).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.3, 0.7)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("build", "options", "count", "digest"),
    [
        (SlowFast, {}, 662, "05943cbba6bf11f4"),
        (SlowFast, {"alpha": 4, "lateral_kernel": 7}, 662, "9119b8316d9f298c"),
        (Slow, {}, 320, "9ec7b870d45875fc"),
        (C2D, {}, 320, "eca1597d420453c5"),
        (I3DResNet, {}, 320, "2b7796e77d89c8de"),
        (I3DResNet, {"nonlocals": NONLOCAL_R50}, 385, "ce0aa267cfb77b7f"),
    ],
)
def test_tensors_are_pyslowfasts_in_name_shape_and_order(build, options, count, digest):
    """`digest` begins the sha256 of the public list, a line `name<tab>(shape)` for each tensor."""
    state = on_meta(build, **options).state_dict()
    lines = "\n".join(f"{name}\t{tuple(value.shape)}" for name, value in state.items())
    assert len(state) == count
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)


R101 = {"alpha": 4, "depth": 101}


@pytest.mark.parametrize(
    ("build", "options", "frames", "count", "macs"),
    [
        (SlowFast, {}, 32, 34_480_216, 36.098),
        (SlowFast, {"alpha": 4, "lateral_kernel": 7}, 32, 34_566_488, 65.708),
        (SlowFast, R101, 32, 53_774_808, 106.51),
        (SlowFast, R101 | {"temporal_res4": (23, 23)}, 32, 62_826_968, 125.905),
        (SlowFast, R101, 64, 53_774_808, 213.02),
        (SlowFast, R101 | {"nonlocals": NONLOCAL_R101}, 64, 60_080_088, 229.13),
        (Slow, {}, 4, 32_454_096, 27.259),
        (Slow, {}, 8, 32_454_096, 54.518),
        (C2D, {}, 8, 24_327_632, 25.459),
        (I3DResNet, {}, 8, 28_043_472, 37.103),
    ],
)
def test_counts_equal_those_of_the_public_code(build, options, frames, count, macs):
    model = on_meta(build, **options)
    assert parameters(model) == count
    assert conv_macs(model, 3, frames, 256, 256) == pytest.approx(macs, rel=1e-3)


def test_detection_has_a_dilated_res5_of_twice_the_resolution():
    slowfast = on_meta(SlowFast, alpha=4, lateral_kernel=7, classes=80, dilated=True)
    assert parameters(slowfast) == 33_828_888
    assert conv_macs(slowfast, 3, 32, 256, 256) == pytest.approx(96.9, abs=0.05)
    slow = on_meta(Slow, classes=80, dilated=True)
    assert parameters(slow) == 31_798_416
    assert conv_macs(slow, 3, 4, 256, 256) == pytest.approx(41.6, abs=0.05)


@pytest.mark.parametrize(
    ("options", "published"),
    [
        ({"lateral": "none"}, 34.2),
        ({"lateral": "sum"}, 34.2),
        ({"lateral": "concat"}, 39.8),
        ({"lateral": "sample"}, 34.9),
        ({"beta": 1 / 6}, 41.8),
        ({"beta": 1 / 16}, 30.6),
        ({"beta": 1 / 32}, 28.6),
        ({"fast_input": "grey"}, 34.1),
        ({"fast_input": "half", "beta": 1 / 4, "lateral_ratio": 1}, 34.4),
        ({"fast_input": "difference"}, 34.2),
        ({"fast_input": "flow"}, 35.1),
    ],
)
def test_ablations_cost_what_table_5_says(options, published):
    """Rows whose GFLOPs fit to half a per cent; the header of slowfast.py has the others."""
    channels = 5 if options.get("fast_input") == "flow" else 3
    assert conv_macs(on_meta(SlowFast, **options), channels, 32, 256, 256) == pytest.approx(published, rel=5e-3)


def test_non_local_blocks_with_pooled_time_cost_what_table_2_says():
    """234 GFLOPs: convolutions, and two products of matrices of 4096 x 512 positions by 512 channels in each block."""
    model = on_meta(SlowFast, **R101, nonlocals=NONLOCAL_R101, nonlocal_pool=(2, 2, 2))
    products = 3 * 2 * (16 * 16 * 16) * (8 * 8 * 8) * 512 / 1e9
    assert conv_macs(model, 3, 64, 256, 256) + products == pytest.approx(234, rel=1e-3)


def by_the_book(state: Mapping[str, Tensor], pathways: Sequence[Tensor], stages: Sequence[int]) -> list[Tensor]:
    """res5's maps in evaluation mode, from tensors by their public names, for lateral convolutions."""

    def conv(name: str, x: Tensor, stride: tuple[int, int] = (1, 1)) -> Tensor:
        weight = state[f"{name}.weight"]
        padding = [side // 2 for side in weight.shape[2:]]
        return F.conv3d(x, weight, stride=(stride[0], stride[1], stride[1]), padding=padding)

    def bn(name: str, x: Tensor) -> Tensor:
        scale, shift, mean, variance = (
            state[f"{name}.{part}"].view(-1, 1, 1, 1) for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        y = bn(f"{name}.branch2.a_bn", conv(f"{name}.branch2.a", x)).relu()
        y = bn(f"{name}.branch2.b_bn", conv(f"{name}.branch2.b", y, (1, stride))).relu()
        y = bn(f"{name}.branch2.c_bn", conv(f"{name}.branch2.c", y))
        if f"{name}.branch1.weight" in state:
            x = bn(f"{name}.branch1_bn", conv(f"{name}.branch1", x, (1, stride)))
        return (x + y).relu()

    maps = []
    for p, clip in enumerate(pathways):
        x = bn(f"s1.pathway{p}_stem.bn", conv(f"s1.pathway{p}_stem.conv", clip, (1, 2))).relu()
        maps.append(F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
    for stage, blocks in enumerate(stages, start=2):
        if len(maps) == 2:
            alpha = maps[1].shape[2] // maps[0].shape[2]
            joins = bn(f"s{stage - 1}_fuse.bn", conv(f"s{stage - 1}_fuse.conv_f2s", maps[1], (alpha, 1))).relu()
            maps[0] = torch.cat([maps[0], joins], 1)
        for p in range(len(maps)):
            for i in range(blocks):
                stride = 2 if i == 0 and stage > 2 else 1
                maps[p] = block(f"s{stage}.pathway{p}_res{i}", maps[p], stride)
    return maps


def test_slowfast_equals_a_second_implementation():
    model = stirred(SlowFast, alpha=4, lateral_kernel=7)
    clip = torch.randn(2, 3, 8, 64, 48)
    with torch.no_grad():
        maps = by_the_book(model.state_dict(), [clip[:, :, [0, 7]], clip], BLOCKS[50])
        pooled = torch.cat([F.avg_pool3d(x, (x.shape[2], 1, 1), stride=1) for x in maps], 1)  # window of one cell
        state = model.state_dict()
        dense = pooled.flatten(2).transpose(1, 2) @ state["head.projection.weight"].T + state["head.projection.bias"]
        for found, expected in zip(model.features(clip)["res5"], maps, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.dense(clip), dense, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model(clip).softmax(1), dense.softmax(2).mean(1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("build", "frames"), [(Slow, 4), (Fast, 8)])
def test_each_pathway_alone_equals_a_second_implementation(build, frames):
    model = stirred(build, width=0.5)
    clip = torch.randn(1, 3, frames, 32, 32)
    with torch.no_grad():
        expected = by_the_book(model.state_dict(), [clip], BLOCKS[50])[0]
        torch.testing.assert_close(model.features(clip)["res5"][0], expected, rtol=1e-3, atol=1e-4)


def test_positions_are_windows_of_the_size_trained_on():
    """32 cells of a 64-pixel crop are 2 x 2: in 96 x 64 pixels two such windows fit, one above the other."""
    model = stirred(Slow, size=64)
    clip = torch.randn(1, 3, 2, 96, 64)
    with torch.no_grad():
        last = model.features(clip)["res5"][0].mean(2)  # (1, C, 3, 2)
        windows = torch.stack([last[:, :, :2].mean((2, 3)), last[:, :, 1:].mean((2, 3))], dim=1)
        torch.testing.assert_close(model.dense(clip), model.head.projection(windows))


def test_logits_have_the_mean_probabilities_of_the_positions():
    model = stirred(Slow, size=64)
    large, small = torch.randn(2, 3, 2, 96, 64), torch.randn(2, 3, 2, 64, 64)
    with torch.no_grad():
        positions = model.dense(large)
        torch.testing.assert_close(model(large).softmax(1), positions.softmax(2).mean(1))
        torch.testing.assert_close(model(small), model.dense(small)[:, 0])
        model.several = True
        torch.testing.assert_close(model(large).sigmoid(), positions.sigmoid().mean(1))


def test_a_fast_pathway_of_half_the_resolution_stands_for_the_nearest_positions():
    model = stirred(SlowFast, fast_input="half", size=64, alpha=4)
    clip = torch.randn(1, 3, 4, 128, 128)
    with torch.no_grad():
        slow, fast = model.features(clip)["res5"]
        assert (slow.shape[3:], fast.shape[3:]) == ((4, 4), (2, 2))
        assert model.dense(clip).shape == (1, 9, 5)


def test_the_slow_pathways_frames_in_both_ways():
    assert slow_positions(32, 4, "linspace") == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_positions(32, 8, "linspace") == [0, 10, 20, 31]
    assert slow_positions(32, 8, "nearest") == [0, 8, 16, 24]
    for frames, alpha in ((8, 8), (16, 2), (64, 4), (128, 16)):
        assert (
            slow_positions(frames, alpha, "linspace") == torch.linspace(0, frames - 1, frames // alpha).long().tolist()
        )


def test_each_pathway_sees_its_frames():
    clip = torch.arange(32.0).view(1, 1, 32, 1, 1).expand(1, 3, 32, 2, 2)
    slow, fast = on_meta(SlowFast, slow_frames="nearest", width=0.125).split(clip)
    assert slow[0, 0, :, 0, 0].tolist() == [0, 8, 16, 24]
    assert torch.equal(fast, clip)


def test_time_to_channel_packs_the_frames_of_one_slow_frame():
    fast = torch.randn(2, 3, 8, 2, 2)
    packed = time_to_channel(fast, 4)
    assert packed.shape == (2, 12, 2, 2, 2)
    for frame in range(8):
        for channel in range(3):
            assert torch.equal(packed[:, frame % 4 * 3 + channel, frame // 4], fast[:, channel, frame])


@pytest.mark.parametrize("lateral", ["none", "sum", "concat", "sample"])
def test_lateral_connections_without_weights(lateral):
    fuse = stirred(SlowFast, lateral=lateral, alpha=8).s2_fuse
    slow, fast = torch.randn(1, 32, 1, 4, 4), torch.randn(1, 4, 8, 4, 4)
    joined, same = fuse([slow, fast])
    packed = time_to_channel(fast, 8)
    expected = {
        "none": slow,
        "sum": slow + packed,
        "concat": torch.cat([slow, packed], 1),
        "sample": torch.cat([slow, fast[:, :, :1]], 1),
    }
    assert torch.equal(joined, expected[lateral])
    assert torch.equal(same, fast)


def test_what_a_weaker_fast_pathway_sees():
    clip = torch.rand(1, 5, 3, 4, 4)
    red, green, blue = clip[:, 0], clip[:, 1], clip[:, 2]
    grey = fast_view(clip[:, :3], "grey")
    torch.testing.assert_close(grey[:, 0], 0.299 * red + 0.587 * green + 0.114 * blue)
    difference = fast_view(clip[:, :3], "difference")
    assert not difference[:, :, 0].any()
    torch.testing.assert_close(difference[:, :, 2], grey[:, :, 2] - grey[:, :, 1])
    assert torch.equal(fast_view(clip, "flow"), clip[:, 3:])
    half = fast_view(clip[:, :3], "half")
    torch.testing.assert_close(half[0, 0, 0, 0, 0], clip[0, 0, 0, :2, :2].mean())
    assert half.shape == (1, 3, 3, 2, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"lateral": "sum"},
        {"lateral": "concat", "fast_input": "half", "beta": 1 / 4},
        {"lateral": "sample", "fast_input": "flow"},
        {"fast_input": "half", "beta": 1 / 4, "lateral_ratio": 1},
        {"nonlocals": NONLOCAL_R50, "nonlocal_kind": "softmax"},
        {"beta": 1 / 6, "width": 0.25, "dilated": True},
    ],
)
def test_gradients_reach_every_parameter(options):
    model = stirred(SlowFast, **({"width": 0.5} | options))
    clip = torch.randn(2, 5 if "flow" in options.values() else 3, 8, 64, 64)
    model(clip).square().sum().backward()
    still = [name for name, weight in model.named_parameters() if not weight.grad.abs().sum() > 0]
    # A softmax does not see what phi adds to all of its inputs alike.
    assert [name for name in still if not name.endswith("conv_phi.bias")] == []


def test_features_behind_each_stage():
    model = on_meta(SlowFast, alpha=4)
    shapes = {
        name: [tuple(x.shape[1:]) for x in maps]
        for name, maps in model.features(torch.empty(1, 3, 32, 224, 224, device="meta")).items()
    }
    assert shapes == {
        "res2": [(256, 8, 56, 56), (32, 32, 56, 56)],
        "res3": [(512, 8, 28, 28), (64, 32, 28, 28)],
        "res4": [(1024, 8, 14, 14), (128, 32, 14, 14)],
        "res5": [(2048, 8, 7, 7), (256, 32, 7, 7)],
    }


def test_a_new_network_is_its_shortcuts():
    """Last normalisations start at zero, non-local blocks' too: of a stage, only the first block does anything."""
    torch.manual_seed(0)
    model = Slow(classes=3, width=0.125, nonlocals=NONLOCAL_R50, size=32).eval()
    x = torch.rand(1, 64, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.s3.pathway0_res2(x), x)
        assert torch.equal(model.s3.pathway0_nonlocal3(x), x)
    weight = on_meta(Slow).head.projection.weight
    assert weight.shape == (400, 2048)
    fan_out = model.s5.pathway0_res1.branch2.b.weight  # (64, 64, 1, 3, 3)
    assert fan_out.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def resnet_2d(state: Mapping[str, Tensor], x: Tensor, blocks: Sequence[int]) -> Tensor:
    """layer4's map in evaluation mode, from torchvision's names."""

    def layer(conv: str, bn: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = (state[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = F.max_pool2d(layer("conv1", "bn1", x, 2).relu(), 3, 2, 1)
    for stage, count in enumerate(blocks, start=1):
        for i in range(count):
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = layer(f"{name}.conv1", f"{name}.bn1", x).relu()
            y = layer(f"{name}.conv2", f"{name}.bn2", y, stride).relu()
            y = layer(f"{name}.conv3", f"{name}.bn3", y)
            x = layer(f"{name}.downsample.0", f"{name}.downsample.1", x, stride) if i == 0 else x
            x = (x + y).relu()
    return x


def imagenet_like(network: ResNet3D) -> dict[str, Tensor]:
    """Random tensors under torchvision's names that `network` can be inflated from."""
    state = {}
    for name, value in network.state_dict().items():
        if "pathway0" in name and "nonlocal" not in name:
            lateral = value.dim() == 5 and name.endswith(("res0.branch1.weight", "res0.branch2.a.weight"))
            outside = 4 * network.s1.pathway0_stem.conv.out_channels * 2 ** (int(name[1]) - 3)
            inputs = min(value.shape[1], 8 if name[1] == "2" else int(outside)) if lateral else None
            state[torchvision_name(name)] = value[:, :inputs].mean(2) if value.dim() == 5 else value.clone()
    return state


@pytest.mark.parametrize("build", [Slow, I3DResNet])
def test_an_inflated_network_sees_in_a_still_video_what_its_picture_showed(build):
    source, target = stirred(build), stirred(build, classes=7)
    state = imagenet_like(source)
    target.load_state_dict(inflate(state, target), strict=False)
    picture = torch.randn(1, 3, 64, 64)
    frames = 48 if build is I3DResNet else 24  # zeros around the clip reach 9 frames into Slow's, 26 into I3D's
    with torch.no_grad():
        middle = target.features(picture[:, :, None].expand(-1, -1, frames, -1, -1))["res5"][0]
        expected = resnet_2d(state, picture, BLOCKS[50])
    torch.testing.assert_close(middle[:, :, middle.shape[2] // 2], expected, rtol=1e-3, atol=1e-4)


def test_inflation_leaves_what_lateral_connections_bring():
    network = stirred(SlowFast)
    state = imagenet_like(network)
    inflated = inflate(state, network)
    own, new = network.s3.pathway0_res0.branch2.a.weight, inflated["s3.pathway0_res0.branch2.a.weight"]
    assert new.shape == own.shape
    assert torch.equal(new[:, 32:], own[:, 32:])
    torch.testing.assert_close(new[:, :32, 0], state["layer2.0.conv1.weight"])
    assert all("pathway1" not in name and "fuse" not in name for name in inflated)


def test_names_are_torchvisions():
    names = {torchvision_name(name) for name in on_meta(Slow).state_dict() if not name.startswith("head")}
    assert len(names) == 318
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"} <= names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lateral": "add"}, "lateral is one of conv, sum, concat, sample, none, not 'add'"),
        ({"lateral": "sum", "alpha": 4}, "beta = 1 / alpha"),
        ({"depth": 18}, "50 or 101 layers deep, not 18"),
        ({"slow_frames": "random"}, "linspace, nearest"),
        ({"fast_input": "depth"}, "rgb, grey, half, difference, flow"),
    ],
)
def test_a_wrong_choice_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        SlowFast(width=0.125, **options)


def test_a_wrong_clip_is_named():
    model = on_meta(SlowFast, width=0.125)
    with pytest.raises(ValueError, match="multiple of alpha, 8, frames, not 12"):
        model(torch.empty(1, 3, 12, 32, 32, device="meta"))
    with pytest.raises(ValueError, match="takes 3 channels, not 5"):
        model(torch.empty(1, 5, 8, 32, 32, device="meta"))
