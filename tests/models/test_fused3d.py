"""3D-Fused: its count, its two networks position by position, and the fields that go with each frame."""

import pytest
import torch

from reaction.models.fused3d import Fused3D
from reaction.models.inception_v1 import InceptionV1, spread

torch.set_num_threads(1)


def tiny() -> Fused3D:
    torch.manual_seed(0)
    return Fused3D(classes=5, width=0.125)


def test_parameters_and_the_grid_before_the_last_pooling():
    with torch.device("meta"):
        model = Fused3D().eval()
        rgb, flow = torch.empty(1, 3, 5, 224, 224), torch.empty(1, 2, 50, 224, 224)
        assert model.features(rgb, flow).shape == (1, 2048, 5, 7, 7)
        assert model(rgb, flow).shape == (1, 400)
    assert sum(parameter.numel() for parameter in model.parameters()) == 39_770_384


def test_each_position_sees_its_frame_and_its_ten_fields_x_before_y():
    model = tiny().eval()
    rgb, flow = torch.randn(2, 3, 5, 32, 32), torch.randn(2, 2, 50, 32, 32)
    with torch.no_grad():
        features = model.features(rgb, flow)
        for position in range(5):
            fields = range(10 * position, 10 * position + 10)
            stack = torch.stack([flow[:, xy, field] for field in fields for xy in (0, 1)], dim=1)
            both = torch.cat((model.rgb.features(rgb[:, :, position]), model.flow.features(stack)), dim=1)
            torch.testing.assert_close(features[:, :, position], both)


@pytest.mark.parametrize(("positions", "pixels"), [(1, 15), (5, 32), (25, 48)])
def test_any_number_of_positions_and_pixels(positions, pixels):
    model = tiny().eval()
    rgb, flow = torch.randn(1, 3, positions, pixels, pixels), torch.randn(1, 2, 10 * positions, pixels, pixels)
    with torch.no_grad():
        assert model(rgb, flow).shape == (1, 5)


def test_a_loss_reaches_every_parameter():
    model = tiny().train()
    model(torch.randn(2, 3, 5, 32, 32), torch.randn(2, 2, 50, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_the_new_layers_start_as_gaussian_noise():
    model = tiny()
    assert model.fuse.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.fuse.bias.any()


def test_imagenet_weights_reach_both_networks():
    model, state = tiny(), InceptionV1(classes=7, width=0.125).state_dict()
    missing, unexpected = model.load_state_dict(spread(state, model), strict=False)
    assert (missing, unexpected) == (["fuse.weight", "fuse.bias", "fc.weight", "fc.bias"], [])


def test_fields_that_do_not_go_with_the_frames_are_refused():
    with pytest.raises(ValueError, match="5 x 10 flow fields with 5 frames, got 49"):
        tiny()(torch.randn(1, 3, 5, 32, 32), torch.randn(1, 2, 49, 32, 32))
