"""The joint two-stream network: its count, its mean, and what training end to end sends to both streams."""

import torch

from reaction.models.inception_v1 import InceptionV1, spread
from reaction.models.two_stream_2d import TwoStream2D

torch.set_num_threads(1)


def tiny() -> TwoStream2D:
    torch.manual_seed(0)
    return TwoStream2D(classes=5, width=0.125, dropout=0.0)


def test_parameters():
    with torch.device("meta"):
        model = TwoStream2D()
        assert model.eval()(torch.empty(1, 3, 224, 224), torch.empty(1, 20, 224, 224)).shape == (1, 400)
    assert sum(parameter.numel() for parameter in model.parameters()) == 12_073_120


def test_logits_are_the_mean_of_two_networks():
    model = tiny().eval()
    rgb, flow = torch.randn(2, 3, 32, 32), torch.randn(2, 20, 32, 32)
    alone = InceptionV1(classes=5, channels=20, width=0.125).eval()
    alone.load_state_dict(model.flow.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(2 * model(rgb, flow) - model.rgb(rgb), alone(flow))


def test_both_streams_learn_from_one_loss():
    model = tiny().train()
    loss = model(torch.randn(2, 3, 32, 32), torch.randn(2, 20, 32, 32)).logsumexp(1).sum()
    loss.backward()
    assert torch.equal(model.rgb.fc.bias.grad, model.flow.fc.bias.grad)
    assert all(model.get_parameter(name).grad.any() for name in model.first_convs.values())


def test_imagenet_weights_reach_both_streams():
    model, state = tiny(), InceptionV1(classes=7, width=0.125).state_dict()
    missing, unexpected = model.load_state_dict(spread(state, model), strict=False)
    assert not unexpected
    assert missing == [f"{layer}.{part}" for layer in model.last_layers.values() for part in ("weight", "bias")]
    mean = state["conv1.conv.weight"].mean(1, keepdim=True)
    assert torch.equal(model.get_parameter(model.first_convs["rgb"]), state["conv1.conv.weight"])
    assert torch.equal(model.get_parameter(model.first_convs["flow"]), mean.expand(-1, 20, -1, -1))
