"""ConvNet+LSTM: architecture (a) of "Quo Vadis, Action Recognition?", Carreira & Zisserman, CVPR 2017.

https://arxiv.org/abs/1705.07750

Inception-V1 looks at each frame on its own; its last average pooling feeds an LSTM of 512 cells with the recurrent
batch normalisation of Cooijmans et al., ICLR 2017 (https://arxiv.org/abs/1603.09025); a linear layer stands on top. The
loss is taken at every time step in training, the last step's output in testing (section 2.1). Frames are every fifth of
25 a second: 25 in training, 50 in a test.

Choices and deviations:
- one normalisation with gain and bias, of the sum of both products: W_x x + W_h h. Cooijmans et al. normalise the two
  products apart, which has 2,048 gains more, and the cell as well, which has 1,024 parameters more. Of the sum, the
  relative weight of the products stays free, and the first step, where h is zero and so is its variance, needs no care.
  It gives 8,954,928 parameters at 400 classes, as many as PyTorch's LSTM; the paper says 9 M;
- statistics are kept for each time step; steps past the last one trained (`steps`) use the last one's, as there;
- gains start at 0.1, both matrices as orthogonal ones gate by gate, biases and the first state at zero, as there;
- `dropout` before the linear layer, 0.5, which no paper says;
- any number of input channels, and a `width` that scales every other channel count and the cells.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v1 import FIRST_CONV, InceptionV1Trunk, initialise
from reaction.models.inception_v3 import scaled

GATES = 4  # input, forget, candidate, output: PyTorch's order
GAIN = 0.1
MOMENTUM = 0.1


class ConvNetLSTM(nn.Module):
    """Inception-V1 and an LSTM for clips (B, C, T, H, W), frames at least 15 x 15, normalised to [-1, 1].

    `steps` is the number of frames in training. Training needs two clips or more in a batch.
    """

    first_conv = f"trunk.{FIRST_CONV}"
    last_layer = "fc"

    def __init__(
        self, *, classes: int = 400, channels: int = 3, width: float = 1.0, dropout: float = 0.5, steps: int = 25
    ) -> None:
        super().__init__()
        c512 = scaled(512, width)
        self.trunk = InceptionV1Trunk(channels=channels, width=width)
        self.lstm = NormalisedLSTM(self.trunk.outputs, c512, steps=steps)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(c512, classes)
        initialise(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of clips (B, C, T, H, W): (B, T, classes) of each step in training, (B, classes) of the last else."""
        states = self.features(x)  # (B, T, 512)
        return self.classify(states if self.training else states[:, -1])

    def features(self, x: Tensor) -> Tensor:
        """The LSTM's outputs (B, T, 512) for clips (B, C, T, H, W)."""
        frames = x.transpose(1, 2)  # (B, T, C, H, W)
        pooled = self.trunk.features(frames.flatten(0, 1)).mean((2, 3))  # (B * T, 1024)
        return self.lstm(pooled.unflatten(0, frames.shape[:2]))

    def classify(self, states: Tensor) -> Tensor:
        """Logits (..., classes) of the LSTM's outputs (..., 512)."""
        return self.fc(self.dropout(states))


class NormalisedLSTM(nn.Module):
    """LSTM whose gates are batch normalised, with running statistics of each of the first `steps` time steps."""

    def __init__(self, inputs: int, cells: int, *, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"the LSTM keeps statistics of 1 step or more, not {steps}")
        self.weight_x = nn.Parameter(torch.empty(GATES * cells, inputs))
        self.weight_h = nn.Parameter(torch.empty(GATES * cells, cells))
        self.gain = nn.Parameter(torch.full((GATES * cells,), GAIN))
        self.bias = nn.Parameter(torch.zeros(GATES * cells))
        self.register_buffer("running_mean", torch.zeros(steps, GATES * cells))
        self.register_buffer("running_var", torch.ones(steps, GATES * cells))
        for gate in (*self.weight_x.chunk(GATES), *self.weight_h.chunk(GATES)):
            nn.init.orthogonal_(gate)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, T, cells) of inputs (B, T, inputs); the state starts at zero."""
        cell = hidden = x.new_zeros(len(x), self.weight_h.shape[1])  # (B, cells)
        outputs = []
        for step, product in enumerate(F.linear(x, self.weight_x).unbind(dim=1)):
            gates = self._normalised(product + F.linear(hidden, self.weight_h), step)  # (B, 4 * cells)
            enter, keep, candidate, leave = gates.chunk(GATES, dim=1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            outputs.append(hidden)
        return torch.stack(outputs, dim=1)

    def _normalised(self, gates: Tensor, step: int) -> Tensor:
        step = min(step, len(self.running_mean) - 1)
        mean, variance = self.running_mean[step], self.running_var[step]  # views: training writes through them
        return F.batch_norm(gates, mean, variance, self.gain, self.bias, self.training, MOMENTUM)
