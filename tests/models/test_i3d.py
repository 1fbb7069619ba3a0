"""I3D against pytorch-i3d: its tensors, its counts, its output; and inflated, against the 2D network."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import reaction.models
from reaction.models.i3d import I3D, SameConv3d, inflate, same_max_pool
from reaction.models.inception_v1 import InceptionV1

torch.set_num_threads(1)

KEYS = Path(reaction.models.__file__).parent / "keys" / "pytorch_i3d_rgb400.txt"


def fill_by_formula(state: dict[str, torch.Tensor]) -> None:
    for n, (name, value) in enumerate(state.items()):
        if not value.is_floating_point():
            continue
        phase = torch.arange(value.numel(), dtype=torch.float64) * 0.7 + n
        if name.endswith(("bn.weight", "running_var")):
            filled = 1 + 0.2 * torch.sin(phase)
        elif value.dim() > 1:
            filled = torch.sin(phase * phase) * (3 / value[0].numel()) ** 0.5
        else:
            filled = 0.1 * torch.sin(phase)
        value.copy_(filled.reshape(value.shape))


def still_pair(channels: int = 3) -> tuple[InceptionV1, I3D]:
    """A 2D network with statistics of its own, and the network inflated from it, both in evaluation mode."""
    torch.manual_seed(0)
    flat = InceptionV1(classes=5, width=0.125).double()
    flat(torch.randn(8, 3, 63, 63).double())  # running statistics that are not 0 and 1
    deep = I3D(classes=5, channels=channels, width=0.125).double()
    deep.load_state_dict(inflate(flat.state_dict(), deep))
    return flat.eval(), deep.eval()


def zero_padded(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's SAME written out: zeros around all three dimensions."""
    for dimension in (2, 3, 4):
        size = x.shape[dimension]
        total = max(kernel - (stride if size % stride == 0 else size % stride), 0)
        zeros = [torch.zeros_like(x.narrow(dimension, 0, 1)) for _ in range(total)]
        x = torch.cat((*zeros[: total // 2], x, *zeros[total // 2 :]), dimension)
    return x


@pytest.mark.parametrize("channels", [3, 2])
def test_tensors_are_pytorch_i3ds_in_name_shape_and_order(channels):
    with torch.device("meta"):
        state = I3D(channels=channels).state_dict()
    expected = KEYS.read_text().replace("(64, 3, 7, 7, 7)", f"(64, {channels}, 7, 7, 7)").splitlines()
    assert [f"{name}\t{tuple(value.shape)}" for name, value in state.items()] == expected
    assert len(state) == 344


@pytest.mark.parametrize(
    ("channels", "frames", "parameters", "giga", "steps"),
    [(3, 64, 12_697_264, 111.15, 7), (2, 64, 12_675_312, 102.34, 7), (3, 250, 12_697_264, None, 31)],
)
def test_parameters_and_multiply_adds_of_convolutions(channels, frames, parameters, giga, steps):
    """108 G in the paper that compares it (Feichtenhofer et al., ICCV 2019, table 2)."""
    with torch.device("meta"):
        model = I3D(channels=channels).eval()
        with FlopCounterMode(display=False) as counter:
            assert model.per_step(torch.empty(1, channels, frames, 224, 224)).shape == (1, 400, steps)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert giga is None or counter.get_total_flops() / 2e9 == pytest.approx(giga, abs=5e-3)


def test_logits_equal_pytorch_i3ds():
    """Golden: piergiaj/pytorch-i3d's layers and paddings transcribed, 7 classes, float64, these weights, this input."""
    model = I3D(classes=7).double().eval()
    fill_by_formula(model.state_dict())
    x = torch.sin(torch.arange(3 * 9 * 193 * 200, dtype=torch.float64) ** 1.5).reshape(1, 3, 9, 193, 200)
    with torch.no_grad():
        logits = model(x)
    golden = [
        -0.7212242720820308,
        0.20408277784953854,
        0.47189703100707114,
        -0.5558870289540926,
        0.8133185000821588,
        -0.941415887300749,
        -0.22872094543640037,
    ]
    torch.testing.assert_close(logits, torch.tensor([golden], dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 9, 10), (7, 7, 8), (3, 5, 1)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_padding_is_tensorflows(size, kernel, stride):
    x = torch.rand(2, 3, *size).double()
    padded = zero_padded(x, kernel, stride)
    conv = SameConv3d(3, 4, kernel, stride=stride).double()
    torch.testing.assert_close(conv(x), F.conv3d(padded, conv.weight, conv.bias, stride))
    if kernel <= 3:
        pooled = same_max_pool(x, (kernel,) * 3, (stride,) * 3)
        assert torch.equal(pooled, F.max_pool3d(padded, kernel, stride))
        assert pooled.shape[2:] == tuple(-(-cells // stride) for cells in size)


def test_a_still_video_gives_what_the_2d_network_gives_of_the_frame():
    """Both networks place their windows alike at 31 pixels; 49 frames reach a cell from either side, eight go by."""
    flat, deep = still_pair()
    frame = torch.randn(2, 3, 31, 31).double()
    video = frame.unsqueeze(2).expand(-1, -1, 160, -1, -1)
    with torch.no_grad():
        features, steps = deep.features(video), deep.per_step(video)
        expected, logits = flat.features(frame), flat(frame)
    assert features.shape == (2, flat.outputs, 20, 1, 1)
    torch.testing.assert_close(features[:, :, 6:13], expected.unsqueeze(2).expand(-1, -1, 7, -1, -1))
    torch.testing.assert_close(steps[:, :, 6:12], logits.unsqueeze(2).expand(-1, -1, 6))
    assert (features[:, :, 0] - expected).abs().max() > 1e-3  # the zeros before the first frame show


def test_at_even_sizes_the_inflated_network_sees_the_frame_one_pixel_further_on():
    flat, deep = still_pair()
    frame = torch.randn(1, 3, 64, 64).double()
    frame[:, :, 0] = frame[:, :, :, 0] = 0  # what the 2D network must not see
    with torch.no_grad():
        features = deep.features(frame.unsqueeze(2).expand(-1, -1, 112, -1, -1))
        torch.testing.assert_close(features[:, :, 7], flat.features(frame[:, :, 1:, 1:]))


def test_flow_is_inflated_from_the_mean_of_the_rgb_filters():
    flat, deep = still_pair(channels=2)
    expected = flat.conv1.conv.weight.mean(1)[:, None, None].expand(-1, 2, 7, -1, -1) / 7
    torch.testing.assert_close(deep.Conv3d_1a_7x7.conv3d.weight, expected)


def test_inflation_reaches_every_tensor_and_leaves_what_it_does_not_know():
    _, deep = still_pair()
    state = InceptionV1(classes=5, width=0.125).state_dict() | {"aux1.conv.conv.weight": torch.zeros(1, 1, 1, 1)}
    assert set(inflate(state, deep)) == set(deep.state_dict()) | {"aux1.conv.conv.weight"}
    with pytest.raises(ValueError, match="not the weights of torchvision's GoogLeNet"):
        inflate({"layer1.weight": torch.zeros(1)}, deep)


@pytest.mark.parametrize(("frames", "steps"), [(4, 1), (8, 1), (9, 1), (16, 1), (17, 2), (33, 4)])
def test_clips_of_any_length_and_size(frames, steps):
    torch.manual_seed(0)
    model = I3D(classes=5, width=0.125).eval()
    x = torch.randn(2, 3, frames, 33, 48)
    with torch.no_grad():
        per_step = model.per_step(x)
        torch.testing.assert_close(model(x), per_step.mean(2))
    assert per_step.shape == (2, 5, steps)


def test_training_moves_every_parameter_and_the_statistics_by_a_tenth():
    torch.manual_seed(0)
    model = I3D(classes=5, width=0.125).train()
    x = torch.randn(2, 3, 16, 32, 32)
    before = model.Conv3d_1a_7x7.conv3d(x).mean((0, 2, 3, 4)).detach()
    model(x).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    torch.testing.assert_close(model.Conv3d_1a_7x7.bn.running_mean, before / 10)
    assert I3D(classes=5, width=0.125, bn_momentum=0.01).Mixed_5c.b3b.bn.momentum == 0.01
