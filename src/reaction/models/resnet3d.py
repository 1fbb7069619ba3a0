"""3D ResNets of one or several pathways, with the names of facebookresearch/SlowFast, so its files load as they are.

Blocks of "Deep Residual Learning for Image Recognition" (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385) over
time. Whole networks here: C2D and I3D with ResNet-50, the baselines of "Non-local Neural Networks" (Wang et al., CVPR
2018, https://arxiv.org/abs/1711.07971, tables 1 and 2); `slowfast.py` has those of its paper.

Deviations and choices:
- A bottleneck's stride sits in its 3x3 convolution, as in SlowFast's code and in torchvision; He et al. have it in the
  first 1x1. Temporal kernels are in the first convolution of a bottleneck.
- C2D and I3D pool time by 2 after res2, as that code's `C2D_8x8_R50` and `I3D_8x8_R50` do; I3D has temporal kernels in
  every second block of res3 to res5 (3 x 1 x 1, the inflation that Wang et al. prefer).
- Convolutions start as MSRA's (He et al. 2015, fan out), the last normalisation of a block and of a non-local block at
  zero (Goyal et al. 2017, section 5.1; SlowFast, appendix), the classifier at deviation 0.01.
- A larger input than `size`, the crop trained on, is classified at every position where a window of that crop fits, and
  the mean over the positions is of probabilities, as that code has it in its tests (fully convolutional). Logits are
  what `forward` returns even so: those with these probabilities. `dense` returns each position's.
- `width` scales the channels of conv1, to a multiple of 8, and with it those of every other layer.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled
from reaction.models.nonlocal_block import NonLocal

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ("res2", "res3", "res4", "res5")
EXPANSION = 4
FIRST_CONV = "s1.pathway0_stem.conv.weight"
# Behind which blocks of res3 and res4 non-local blocks stand: Wang et al., section 4.1, and SlowFast's configurations.
NONLOCAL_R50 = ((1, 3), (1, 3, 5))
NONLOCAL_R101 = ((), (6, 13, 20))


@dataclass(frozen=True)
class Pathway:
    """The shape of one pathway.

    channels: of the input.  base: of conv1; res2 to res5 have 1, 2, 4, 8 times as many inside, and 4 times those
    outside.  kernels: temporal ones of conv1, then of the blocks of res2 to res5, in turn.  lateral: channels that
    come in beside those of the stage before, of res2 to res5.  temporal_res4: how many blocks of res4 have temporal
    kernels; None is all.  nonlocals: behind which blocks of res2 to res5 non-local blocks stand.
    """

    channels: int
    base: int
    kernels: tuple[tuple[int, ...], ...]
    lateral: tuple[int, int, int, int] = (0, 0, 0, 0)
    temporal_res4: int | None = None
    nonlocals: tuple[tuple[int, ...], ...] = ((), (), (), ())

    def output(self, stage: int) -> int:
        """Channels behind stage 1, which is conv1, to 5."""
        return self.base if stage == 1 else self.base * EXPANSION * 2 ** (stage - 2)

    def kernel(self, stage: int, block: int) -> int:
        """The temporal kernel of a block of stage 2 to 5."""
        if stage == 4 and self.temporal_res4 is not None and block >= self.temporal_res4:
            return 1
        kernels = self.kernels[stage - 1]
        return kernels[block % len(kernels)]


class FlatConv3d(nn.Conv3d):
    """A convolution t x 1 x 1 or 1 x k x k without bias, which keeps time, and height and width but for the `stride`.

    It is computed as a convolution of pictures: frames are a batch, or pixels a side. With channels last that copies
    nothing, and on a CPU a single one is up to 4 times as fast: one thread with fewer than 16 clips makes PyTorch
    compute small 3D kernels by its `slow_conv3d`.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int, int], *, stride: int = 1, dilation: int = 1
    ) -> None:
        if kernel[0] > 1 and (kernel[1:] != (1, 1) or stride > 1):
            raise ValueError(f"a flat convolution is t x 1 x 1 with stride 1 or 1 x k x k, not {kernel}")
        options = {"stride": (1, stride, stride), "dilation": (1, dilation, dilation), "bias": False}
        padding = (kernel[0] // 2, dilation * (kernel[1] // 2), dilation * (kernel[2] // 2))
        super().__init__(inputs, outputs, kernel, padding=padding, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, outputs, T, h, w) from maps (B, inputs, T, H, W), both best in channels_last_3d."""
        if self.kernel_size[0] > 1:
            pixels = x.flatten(3)  # (B, C, T, H * W)
            return F.conv2d(pixels, self.weight[..., 0], padding=(self.padding[0], 0)).unflatten(3, x.shape[3:])
        pictures = x.transpose(1, 2).flatten(0, 1)  # (B * T, C, H, W)
        options = {"stride": self.stride[1:], "padding": self.padding[1:], "dilation": self.dilation[1:]}
        y = F.conv2d(pictures, self.weight[:, :, 0], **options)
        return y.unflatten(0, (len(x), x.shape[2])).transpose(1, 2)


class Conv1(nn.Module):
    """conv1 and pool1: a convolution k x 7 x 7 and a maximum over 1 x 3 x 3, each halving height and width."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        options = {"stride": (1, 2, 2), "padding": (kernel // 2, 3, 3), "bias": False}
        self.conv = nn.Conv3d(inputs, outputs, (kernel, 7, 7), **options)
        self.bn = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        return F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))


class Branch(nn.Module):
    """The residual branch: t x 1 x 1, 1 x 3 x 3 (with the stride), 1 x 1 x 1."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, *, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.a = FlatConv3d(inputs, inner, (kernel, 1, 1))
        self.a_bn = nn.BatchNorm3d(inner)
        self.b = FlatConv3d(inner, inner, (1, 3, 3), stride=stride, dilation=dilation)
        self.b_bn = nn.BatchNorm3d(inner)
        self.c = FlatConv3d(inner, outputs, (1, 1, 1))
        self.c_bn = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a_bn(self.a(x)), inplace=True)
        x = F.relu(self.b_bn(self.b(x)), inplace=True)
        return self.c_bn(self.c(x))


class Bottleneck(nn.Module):
    """A residual block; its shortcut is a convolution where the shape changes."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, *, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            self.branch1 = FlatConv3d(inputs, outputs, (1, 1, 1), stride=stride)
            self.branch1_bn = nn.BatchNorm3d(outputs)
        self.branch2 = Branch(inputs, inner, outputs, kernel=kernel, stride=stride, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_bn(self.branch1(x)) if self.projects else x
        return F.relu(self.branch2(x).add_(shortcut), inplace=True)


class Stage(nn.Module):
    """The layers of every pathway between two lateral connections: from one map per pathway to the next."""

    def __init__(self, pathways: Sequence[Mapping[str, nn.Module]]) -> None:
        super().__init__()
        self.names = [[f"pathway{number}_{name}" for name in layers] for number, layers in enumerate(pathways)]
        for names, layers in zip(self.names, pathways, strict=True):
            for name, layer in zip(names, layers.values(), strict=True):
                self.add_module(name, layer)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self._run(names, x) for names, x in zip(self.names, maps, strict=True)]

    def _run(self, names: Sequence[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class Head(nn.Module):
    """Dropout and one linear layer, at every position."""

    def __init__(self, inputs: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(inputs, classes)

    def forward(self, pooled: Tensor) -> Tensor:
        """Logits (B, h * w, classes) of maps (B, C, h, w)."""
        return self.projection(self.dropout(pooled.flatten(2).transpose(1, 2)))


class ResNet3D(nn.Module):
    """A 3D ResNet of `pathways`; `fuses` are the lateral connections behind conv1, res2, res3 and res4, if any.

    `pool_time` pools time by 2 behind res2. `dilated` gives res5 stride 1 and dilation 2, as detection has it. `size`
    is the crop that is trained on, in pixels: what the classifier's window is made for.
    """

    several = False  # whether a clip may have several classes
    first_conv = FIRST_CONV
    last_layer = "head.projection"

    def __init__(
        self,
        pathways: Sequence[Pathway],
        *,
        classes: int,
        depth: int = 50,
        fuses: Sequence[nn.Module] = (),
        pool_time: bool = False,
        dilated: bool = False,
        nonlocal_kind: str = "dot_product",
        nonlocal_pool: tuple[int, int, int] | None = (1, 2, 2),
        dropout: float = 0.5,
        size: int = 224,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"a 3D ResNet is {' or '.join(map(str, BLOCKS))} layers deep, not {depth}")
        self.pool_time, self.size, self.dilated = pool_time, size, dilated
        self.s1 = Stage([{"stem": Conv1(path.channels, path.output(1), path.kernels[0][0])} for path in pathways])
        for stage, blocks in enumerate(BLOCKS[depth], start=2):
            if fuses:
                self.add_module(f"s{stage - 1}_fuse", fuses[stage - 2])
            self.add_module(
                f"s{stage}",
                Stage([_layers(path, stage, blocks, dilated, nonlocal_kind, nonlocal_pool) for path in pathways]),
            )
        self.head = Head(sum(path.output(5) for path in pathways), classes, dropout)
        _initialise(self)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits (B, classes) of clips (B, C, T, H, W), with the mean probabilities of the positions of `dense`.

        Probabilities are a softmax's or, where `several` classes of a clip may be right, each by a sigmoid.
        """
        logits = self.dense(clip)  # (B, positions, classes)
        if logits.shape[1] == 1:
            return logits[:, 0]
        likely = F.logsigmoid(logits) if self.several else logits.log_softmax(dim=2)
        mean = likely.logsumexp(dim=1) - math.log(logits.shape[1])  # the log of the mean probability, (B, classes)
        if not self.several:
            return mean
        unlikely = F.logsigmoid(-logits).logsumexp(dim=1) - math.log(logits.shape[1])
        return mean - unlikely

    def dense(self, clip: Tensor) -> Tensor:
        """Logits (B, positions, classes) wherever a window of `size` pixels fits into clips (B, C, T, H, W)."""
        for _, maps in self._run(clip):
            last = maps
        return self.head(self._pool(last))

    def features(self, clip: Tensor) -> dict[str, list[Tensor]]:
        """One map (B, channels, T, h, w) per pathway behind each of STAGES, before any lateral connection.

        They are a 4th, 8th, 16th and 32nd of the clip's height and width; with `dilated` the last two are alike.
        """
        return dict(self._run(clip))

    def split(self, clip: Tensor) -> list[Tensor]:
        """What each pathway sees of clips (B, C, T, H, W)."""
        return [clip]

    def _run(self, clip: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
        # Channels last is faster on a CPU (benchmarks/models.py); weights stay contiguous, as safetensors wants them.
        maps = [x.contiguous(memory_format=torch.channels_last_3d) for x in self.split(clip)]
        maps = self.s1(maps)
        for number, name in enumerate(STAGES, start=2):
            fuse = getattr(self, f"s{number - 1}_fuse", None)
            maps = self.get_submodule(f"s{number}")(maps if fuse is None else fuse(maps))
            yield name, maps
            if self.pool_time and name == "res2":
                maps = [F.max_pool3d(x, (2, 1, 1)) for x in maps]

    def _pool(self, maps: Sequence[Tensor]) -> Tensor:
        """All pathways' means over time and over a window of `size` pixels: (B, channels, h, w)."""
        pooled = []
        for x in maps:
            x = x.mean(2)  # (B, C, h, w)
            pooled.append(F.avg_pool2d(x, [min(self._window(), side) for side in x.shape[2:]], stride=1))
        most = max((x.shape[2:] for x in pooled), key=lambda shape: shape.numel())
        # A pathway at half the resolution may have fewer positions: the nearest of them stands for each.
        return torch.cat([x if x.shape[2:] == most else F.interpolate(x, size=most) for x in pooled], dim=1)

    def _window(self) -> int:
        return -(-self.size // (16 if self.dilated else 32))


class C2D(ResNet3D):
    """ResNet over the frames of clips (B, channels, T, H, W), which only pooling joins: C2D of Wang et al., table 1."""

    kernels: ClassVar = ((1,),) * 5

    def __init__(
        self,
        *,
        classes: int = 400,
        channels: int = 3,
        depth: int = 50,
        nonlocals: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
        width: float = 1.0,
        dropout: float = 0.5,
        size: int = 224,
    ) -> None:
        path = Pathway(channels, scaled(64, width), self.kernels, nonlocals=((), *nonlocals, ()))
        super().__init__(
            [path], classes=classes, depth=depth, pool_time=True, nonlocal_kind="softmax", dropout=dropout, size=size
        )


class I3DResNet(C2D):
    """I3D with a ResNet (Wang et al., section 4.1) over clips (B, channels, T, H, W): C2D with kernels over time."""

    kernels: ClassVar = ((5,), (3,), (3, 1), (3, 1), (1, 3))


def inflate(state: Mapping[str, Tensor], network: ResNet3D) -> dict[str, Tensor]:
    """ImageNet weights under torchvision's names for the first pathway of `network`: Carreira & Zisserman 2017, 2.1.

    A filter (O, I, k, k) becomes (O, I, N, k, k), repeated N times and divided by N, so that a still video gives what
    its picture gave. Channels that a lateral connection brings to a convolution keep the weights that `network` has.
    The classifier `fc` is left out: it is of other classes. Raises KeyError when `state` lacks a tensor.
    """
    inflated = {}
    for name, own in network.state_dict().items():
        if name.startswith("head.") or "pathway0" not in name or "nonlocal" in name:
            continue
        weight = state[torchvision_name(name)]
        if own.dim() == 5:
            repeated = weight.unsqueeze(2).expand(-1, -1, own.shape[2], -1, -1) / own.shape[2]  # (O, I, N, k, k)
            weight = torch.cat([repeated, own[:, repeated.shape[1] :].to(repeated)], dim=1)
        inflated[name] = weight
    return inflated


def torchvision_name(name: str) -> str:
    """The name that torchvision's ResNet gives to what is called `name` in the first pathway here."""
    stage, layer, rest = name.split(".", 2)
    if stage == "s1":
        return rest.replace("conv.", "conv1.").replace("bn.", "bn1.")
    parts = {"branch1.": "downsample.0.", "branch1_bn.": "downsample.1."}
    parts |= {f"branch2.{letter}.": f"conv{number}." for number, letter in enumerate("abc", start=1)}
    parts |= {f"branch2.{letter}_bn.": f"bn{number}." for number, letter in enumerate("abc", start=1)}
    part = next(part for part in parts if rest.startswith(part))
    block = layer.removeprefix("pathway0_res")
    return f"layer{int(stage[1:]) - 1}.{block}.{parts[part]}{rest.removeprefix(part)}"


def _layers(
    path: Pathway,
    stage: int,
    blocks: int,
    dilated: bool,
    nonlocal_kind: str,
    nonlocal_pool: tuple[int, int, int] | None,
) -> dict[str, nn.Module]:
    """The blocks of a pathway in stage 2 to 5, by name."""
    layers: dict[str, nn.Module] = {}
    inner, outputs = path.output(stage) // EXPANSION, path.output(stage)
    stride = 1 if stage == 2 or (dilated and stage == 5) else 2
    dilation = 2 if dilated and stage == 5 else 1
    for block in range(blocks):
        inputs = path.output(stage - 1) + path.lateral[stage - 2] if block == 0 else outputs
        layers[f"res{block}"] = Bottleneck(
            inputs,
            inner,
            outputs,
            kernel=path.kernel(stage, block),
            stride=stride if block == 0 else 1,
            dilation=dilation,
        )
        if block in path.nonlocals[stage - 2]:
            layers[f"nonlocal{block}"] = NonLocal(outputs, kind=nonlocal_kind, pool=nonlocal_pool)
    return layers


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Branch):
            nn.init.zeros_(module.c_bn.weight)
        elif isinstance(module, NonLocal):
            nn.init.zeros_(module.bn.weight)
