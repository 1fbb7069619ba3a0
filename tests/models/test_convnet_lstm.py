"""ConvNet+LSTM: its count, and its normalised LSTM against PyTorch's and against the equations written out."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from reaction.models.convnet_lstm import GAIN, ConvNetLSTM, NormalisedLSTM
from reaction.models.inception_v1 import InceptionV1, spread

torch.set_num_threads(1)


def tiny(**options) -> ConvNetLSTM:
    torch.manual_seed(0)
    return ConvNetLSTM(classes=5, width=0.125, **options)


def normalised(steps: int, inputs: int = 6, cells: int = 4) -> NormalisedLSTM:
    torch.manual_seed(0)
    return NormalisedLSTM(inputs, cells, steps=steps).double()


def test_parameters_and_multiply_adds_a_frame():
    with torch.device("meta"):
        model = ConvNetLSTM().eval()
        with FlopCounterMode(display=False) as counter:
            assert model(torch.empty(1, 3, 50, 224, 224)).shape == (1, 400)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_954_928
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions / 2e9 == pytest.approx(50 * 1.497, rel=1e-3)


def test_one_step_of_training_writes_out_as_the_equations():
    lstm = normalised(steps=2)
    x = torch.randn(7, 2, 6).double()
    hidden = cell = torch.zeros(7, 4).double()
    for step in range(2):
        gates = x[:, step] @ lstm.weight_x.T + hidden @ lstm.weight_h.T
        gates = (gates - gates.mean(0)) / (gates.var(0, unbiased=False) + 1e-5).sqrt() * GAIN
        i, f, g, o = gates.split(4, dim=1)
        cell = cell * torch.sigmoid(f) + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
    torch.testing.assert_close(lstm(x)[:, 1], hidden)


def test_with_fixed_statistics_it_is_pytorchs_lstm():
    lstm = normalised(steps=1).eval()
    with torch.no_grad():
        lstm.running_mean.normal_()
        lstm.running_var.uniform_(0.5, 2)
        lstm.gain.uniform_(0.5, 2)
        lstm.bias.normal_()
        scale = lstm.gain / (lstm.running_var[0] + 1e-5).sqrt()
        plain = nn.LSTM(6, 4, batch_first=True).double()
        plain.weight_ih_l0.copy_(lstm.weight_x * scale[:, None])
        plain.weight_hh_l0.copy_(lstm.weight_h * scale[:, None])
        plain.bias_ih_l0.copy_(lstm.bias - lstm.running_mean[0] * scale)
        plain.bias_hh_l0.zero_()
        x = torch.randn(3, 9, 6).double()
        torch.testing.assert_close(lstm(x), plain(x)[0])


def test_every_step_has_its_statistics_and_later_ones_the_last():
    lstm = normalised(steps=3)
    x = torch.randn(8, 3, 6).double()
    lstm(x)
    torch.testing.assert_close(lstm.running_mean[0], (x[:, 0] @ lstm.weight_x.T).mean(0).detach() / 10)
    assert len({tuple(row.tolist()) for row in lstm.running_mean}) == 3
    short, longer = lstm.eval(), normalised(steps=5).eval()
    longer.running_mean.copy_(lstm.running_mean[[0, 1, 2, 2, 2]])
    longer.running_var.copy_(lstm.running_var[[0, 1, 2, 2, 2]])
    x = torch.randn(2, 5, 6).double()
    torch.testing.assert_close(short(x), longer(x))


def test_matrices_start_orthogonal_gate_by_gate():
    lstm = normalised(steps=1)
    for gate in (*lstm.weight_h.chunk(4), *lstm.weight_x.chunk(4)):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4).double(), rtol=0, atol=1e-5)


def test_all_steps_answer_in_training_the_last_one_in_a_test():
    model = tiny(steps=4, dropout=0.0)
    x = torch.randn(2, 3, 4, 20, 20)
    logits = model.train()(x)
    assert logits.shape == (2, 4, 5)
    with torch.no_grad():
        last = model.eval()(x)
        torch.testing.assert_close(last, model.classify(model.features(x))[:, -1])
    logits.square().sum().backward()  # its statistics were written in place meanwhile
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_imagenet_weights_reach_all_of_the_trunk():
    model = tiny()
    state = InceptionV1(classes=7, width=0.125).state_dict()
    missing, unexpected = model.load_state_dict(spread(state, model), strict=False)
    assert not unexpected
    assert not [name for name in missing if name.startswith("trunk.")]
    assert torch.equal(model.get_parameter(model.first_conv), state["conv1.conv.weight"])


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="1 step or more, not 0"):
        tiny(steps=0)
