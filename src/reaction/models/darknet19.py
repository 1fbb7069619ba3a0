"""YOLOv2 on Darknet-19: Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017.

https://arxiv.org/abs/1612.08242

The 2D branch of YOWO: the whole detection graph of `yolo.cfg`, pass-through included, up to its last 1x1 convolution.
At width 1 that one keeps the 425 channels of COCO's detector, 5 x (80 + 5); YOWO takes them for features.
Layer numbers and names are those of wei-tim/YOWO `backbones_2d/darknet.py` (`models.<layer>.conv<n>`), which counts
pools, routes and the reorganisation as layers too.

Choices and deviations:
- `width` scales every channel count, the last one's too;
- the pass-through puts the four neighbours of a cell one after the other, each with all channels, as YOWO does; the C
  code of Darknet interleaves them in another order, so that public weights see there what they were not trained on;
- batch normalisation has PyTorch's eps of 1e-5, as in YOWO; Darknet's is 1e-6.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled
from reaction.models.weights import WeightsError

# Layer: (outputs, kernel). The missing numbers are pools, and 25, 27, 28: route, reorganisation, route.
TRUNK = {
    0: (32, 3),
    2: (64, 3),
    4: (128, 3),
    5: (64, 1),
    6: (128, 3),
    8: (256, 3),
    9: (128, 1),
    10: (256, 3),
    12: (512, 3),
    13: (256, 1),
    14: (512, 3),
    15: (256, 1),
    16: (512, 3),
    18: (1024, 3),
    19: (512, 1),
    20: (1024, 3),
    21: (512, 1),
    22: (1024, 3),
    23: (1024, 3),
    24: (1024, 3),
}
POOLS = (1, 3, 7, 11, 17)
PASSED = 16  # what goes by the last pool
PASS_THROUGH, JOINED, LAST = 26, 29, 30
OUTPUTS = 425
STRIDE = 32


class Darknet19(nn.Module):
    """YOLOv2 without its region layer: images (B, 3, H, W) of sides divisible by 32 to (B, 425, H / 32, W / 32)."""

    def __init__(self, *, width: float = 1.0) -> None:
        super().__init__()
        self.models = nn.ModuleDict()
        inputs = 3
        for layer, (outputs, kernel) in TRUNK.items():
            inputs = self._add(layer, inputs, scaled(outputs, width), kernel)
        passed = self._add(PASS_THROUGH, scaled(TRUNK[PASSED][0], width), scaled(64, width), 1)
        joined = self._add(JOINED, 4 * passed + inputs, scaled(1024, width), 3)
        self.outputs = max(1, round(OUTPUTS * width))
        self.models[str(LAST)] = nn.Sequential()
        self.models[str(LAST)].add_module(f"conv{len(self.models)}", nn.Conv2d(joined, self.outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % STRIDE or x.shape[-2] % STRIDE:
            raise ValueError(f"Darknet-19 needs sides divisible by {STRIDE}, got {x.shape[-1]} x {x.shape[-2]}")
        x = x.contiguous(memory_format=torch.channels_last)  # faster on a CPU, as in Inception-V3
        for layer in range(max(TRUNK) + 1):
            x = F.max_pool2d(x, 2) if layer in POOLS else self.models[str(layer)](x)
            if layer == PASSED:
                passed = x  # (B, 512, H / 16, W / 16)
        passed = reorganise(self.models[str(PASS_THROUGH)](passed))  # (B, 256, H / 32, W / 32)
        joined = self.models[str(JOINED)](torch.cat((passed, x), dim=1))
        return self.models[str(LAST)](joined)

    def _add(self, layer: int, inputs: int, outputs: int, kernel: int) -> int:
        n = len(self.models) + 1
        block = nn.Sequential()
        block.add_module(f"conv{n}", nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False))
        block.add_module(f"bn{n}", nn.BatchNorm2d(outputs))
        block.add_module(f"leaky{n}", nn.LeakyReLU(0.1, inplace=True))
        self.models[str(layer)] = block
        return outputs


def reorganise(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, 4C, H / 2, W / 2): the cells at even rows and columns, then right, below, and diagonal."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)  # (B, row, column, C, H / 2, W / 2)
    return x.reshape(b, 4 * c, h // 2, w // 2)


def read_darknet_weights(path: Path | str, network: Darknet19) -> dict[str, Tensor]:
    """Tensors by the names of `network` from a file of Darknet, such as yolo.weights (203,934,260 bytes).

    A file of the first layers alone gives just those. The last layer has as many outputs as the file has numbers for:
    125 in yolo-voc.weights. Raises WeightsError for a file that ends within a layer, and for one too large.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the path of a .weights file of Darknet")
    raw = path.read_bytes()
    if len(raw) < 20:
        raise WeightsError(f"{path}: {len(raw)} bytes are no weights of Darknet; fetch it again")
    numbers = np.frombuffer(raw[_header(raw) :], np.uint8)
    if len(numbers) % 4:
        raise WeightsError(f"{path}: {len(raw)} bytes are no whole float32 numbers; it is cut short, fetch it again")
    return darknet_state(torch.from_numpy(numbers.view(np.float32).copy()), network, name=str(path))


def _header(raw: bytes) -> int:
    """Bytes before the first weight: since version 0.2 the count of seen images takes 8 bytes instead of 4."""
    major, minor = struct.unpack_from("<2i", raw)
    return 20 if 10 * major + minor >= 2 and max(major, minor) < 1000 else 16


def darknet_state(numbers: Tensor, network: Darknet19, *, name: str = "the weights") -> dict[str, Tensor]:
    """Darknet's float32 `numbers`, without the header, as tensors by the names of `network`.

    A convolution followed by a batch normalisation is stored as bias, weight, mean and variance of the latter, then the
    kernel; the last one as bias, kernel.
    """
    state: dict[str, Tensor] = {}
    position = 0
    for prefix, block in network.models.items():
        left = len(numbers) - position
        if not left:
            return state  # the file of a trunk ends before the later layers
        shapes = _stored(block) if len(block) > 1 else _last(block, left)
        for key, shape in shapes.items():
            stored = numbers[position : position + shape.numel()]
            if len(stored) < shape.numel():
                raise WeightsError(
                    f"{name}: ends within layer {prefix}, after {len(numbers):,} numbers; fetch it again"
                )
            state[f"models.{prefix}.{key}"] = stored.reshape(shape)
            position += shape.numel()
    if position != len(numbers):
        raise WeightsError(
            f"{name}: YOLOv2 takes {position:,} of its {len(numbers):,} numbers; is it another network's?"
        )
    return state


def _stored(block: nn.Sequential) -> dict[str, torch.Size]:
    (conv, layer), (norm, _) = list(block.named_children())[:2]
    parts = [f"{norm}.{part}" for part in ("bias", "weight", "running_mean", "running_var")]
    return dict.fromkeys(parts, torch.Size([layer.out_channels])) | {f"{conv}.weight": layer.weight.shape}


def _last(block: nn.Sequential, left: int) -> dict[str, torch.Size]:
    """As many outputs as there are numbers left for: detectors of other datasets have others."""
    ((conv, layer),) = block.named_children()
    outputs = left // (layer.in_channels + 1)
    return {f"{conv}.bias": torch.Size([outputs]), f"{conv}.weight": torch.Size([outputs, *layer.weight.shape[1:]])}
