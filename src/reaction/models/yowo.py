"""YOWO: Köpüklü et al., "You Only Watch Once", arXiv 2019 (its fifth version of 2021 has AVA and the feature bank).

https://arxiv.org/abs/1911.06644

One look at a clip gives the boxes and actions of its last frame, the key frame: a 3D network sees the clip, a 2D one
the key frame, channel fusion and attention (CFAM) joins them, a 1x1 convolution predicts five boxes per cell. Tensors
are called as in wei-tim/YOWO, so its checkpoints load (`load_matching`).

Choices and deviations:
- the paper and its code disagree on the attention of CFAM. `attention="code"`, the default since public weights were
  trained so, gives the *least* alike channels the most weight, as DANet does: softmax(max(G) - G). `"paper"` is
  equation 3: softmax(G);
- the 2D branch keeps the 425 outputs of YOLOv2, as the code does; the paper calls its size C'' and does not say;
- longer clips than 16 frames leave more than one frame of features, which are averaged;
- `parts` names a row of the paper's ablation. Without CFAM, which the paper does not describe, the prediction is made
  from the branches' channels as they are;
- the long-term feature bank is not in the public code, and a note on the paper is all we had: the features of eight
  clips of 8 frames around the key frame stand for the clip's own (`reaction.clips.keyframes.Bank`). They are averaged,
  since checkpoints have no more channels, and made anew for every clip, so that crop and mirror are the key frame's;
- `width` scales every channel count but the predictions'.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from reaction.models.darknet19 import Darknet19
from reaction.models.efficient3d import MobileNet3D, MobileNetV23D, ShuffleNet3D, ShuffleNetV23D
from reaction.models.inception_v3 import scaled
from reaction.models.layers.nms import nms
from reaction.models.resnext3d import ResNet3D, ResNeXt3D
from reaction.models.weights import Coverage, Seen, WeightsError

# Widths and heights in cells of 32 pixels of a 224 x 224 image (wei-tim/YOWO `cfg/*.yaml`).
ANCHORS = {
    "ucf101_24": (
        (0.70458, 1.18803),
        (1.26654, 2.55121),
        (1.59382, 4.08321),
        (2.30548, 4.94180),
        (3.52332, 5.91979),
    ),
    "jhmdb21": (
        (0.95878, 3.10197),
        (1.67204, 4.00400),
        (1.75482, 5.64937),
        (3.09299, 5.80857),
        (4.91803, 6.25225),
    ),
    "ava": (
        (0.71626, 2.13583),
        (1.28967, 4.15014),
        (2.12714, 5.09344),
        (3.27212, 5.87423),
        (5.16303, 6.33821),
    ),
}
PARTS = ("2d", "3d", "2d+3d", "2d+3d+cfam")
FREE_2D, FREE_3D = ("backbone_2d.models.29.", "backbone_2d.models.30."), ("backbone_3d.layer4.",)
# The first convolutions and the means that the normalisations behind them subtract.
FIRST = {
    "backbone_2d.models.0.conv1.weight": "backbone_2d.models.0.bn1.running_mean",
    "backbone_3d.conv1.weight": "backbone_3d.bn1.running_mean",
    "backbone_3d.conv1.0.weight": "backbone_3d.conv1.1.running_mean",
    "backbone_3d.features.0.0.weight": "backbone_3d.features.0.1.running_mean",
}
# What public weights were trained on. YOWO's code feeds Hara's networks bytes / 255 nevertheless, and trains them on.
DARKNET, HARA = Seen((0.0,), (255.0,)), Seen((114.7748, 107.7354, 99.4750), (1.0, 1.0, 1.0))
YOWO_BOXES, YOWO_AVA = Seen((0.0,), (255.0,)), Seen((114.75,), (57.375,))


class YOWO(nn.Module):
    """Clips (B, 3, T, H, W), sides divisible by 32, to predictions (B, 5 (5 + classes), H / 32, W / 32).

    `backbone_3d` is one of BACKBONES_3D, `parts` one of PARTS, `attention` "code" or "paper". Channels of a prediction,
    anchor after anchor: x, y, w, h, confidence, classes; `decode` reads them.
    """

    def __init__(
        self,
        *,
        classes: int = 24,
        backbone_3d: str = "resnext101",
        parts: str = PARTS[-1],
        attention: str = "code",
        anchors: int = 5,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if parts not in PARTS or backbone_3d not in BACKBONES_3D:
            raise ValueError(
                f"parts is one of {', '.join(PARTS)} and backbone_3d one of {', '.join(BACKBONES_3D)}, "
                f"not {parts!r} and {backbone_3d!r}"
            )
        self.backbone_2d = Darknet19(width=width) if "2d" in parts else None
        self.backbone_3d = BACKBONES_3D[backbone_3d](width) if "3d" in parts else None
        features = sum(branch.outputs for branch in (self.backbone_2d, self.backbone_3d) if branch)
        self.cfam = CFAM(features, scaled(1024, width), attention=attention) if "cfam" in parts else None
        features = scaled(1024, width) if self.cfam else features
        self.conv_final = nn.Conv2d(features, anchors * (5 + classes), 1, bias=False)
        self.bank_is_fixed = False

    def train(self, mode: bool = True) -> Self:
        """As any module's, but for a 3D branch that `freeze_bank` has fixed with its batch statistics."""
        super().train(mode)
        if self.bank_is_fixed:
            self.backbone_3d.eval()
        return self

    def forward(self, clip: Tensor, bank: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Predictions for the last frame of `clip`.

        Of the clips `bank` (E, 3, 8, H, W) each `clip` has the mean by `weight` (B, E) instead of its own features.
        """
        branches = []
        if self.backbone_3d:
            features = self.features_3d(clip if bank is None else bank)
            branches.append(features if bank is None else torch.tensordot(weight, features, dims=1))
        if self.backbone_2d:
            branches.append(self.backbone_2d(clip[:, :, -1]))
        features = torch.cat(branches, dim=1)  # (B, 2048 + 425, H / 32, W / 32)
        return self.conv_final(self.cfam(features) if self.cfam else features)

    def features_3d(self, clip: Tensor) -> Tensor:
        """What the 3D branch makes of clips (B, 3, T, H, W), over time averaged: (B, C, H / 32, W / 32)."""
        return self.backbone_3d(clip).mean(dim=2)


class CFAM(nn.Module):
    """Channel fusion and attention: (B, inputs, h, w) to (B, channels, h, w)."""

    def __init__(self, inputs: int, channels: int, *, attention: str = "code") -> None:
        super().__init__()
        self.conv_bn_relu1 = _conv_bn_relu(inputs, channels, 1)
        self.conv_bn_relu2 = _conv_bn_relu(channels, channels, 3)
        self.sc = ChannelAttention(attention)
        self.conv_bn_relu3 = _conv_bn_relu(channels, channels, 3)
        self.conv_out = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.sc(self.conv_bn_relu2(self.conv_bn_relu1(x)))
        return self.conv_out(self.conv_bn_relu3(x))


class ChannelAttention(nn.Module):
    """x + gamma M F, F being x (B, C, h, w) with flat positions and M a softmax over its Gram matrix G = F F^T.

    `kind` "paper" is M = softmax(G), "code" M = softmax(max(G) - G), rows apart. gamma starts at 0.
    """

    def __init__(self, kind: str = "code") -> None:
        super().__init__()
        if kind not in ("code", "paper"):
            raise ValueError(f"attention is 'code' or 'paper', not {kind!r}")
        self.kind = kind
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # (B, C, h w)
        gram = flat @ flat.transpose(1, 2)  # (B, C, C)
        if self.kind == "code":
            gram = gram.amax(dim=-1, keepdim=True) - gram
        return x + self.gamma * (gram.softmax(dim=-1) @ flat).view_as(x)


def _conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


# The width multipliers are those of the paper's table of 3D backbones.
BACKBONES_3D = {
    "resnext101": lambda width: ResNeXt3D(width=width),
    "resnet18": lambda width: ResNet3D(depth=18, shortcut="A", width=width),
    "resnet50": lambda width: ResNet3D(depth=50, width=width),
    "resnet101": lambda width: ResNet3D(depth=101, width=width),
    "mobilenet_2x": lambda width: MobileNet3D(width=2 * width),
    "mobilenetv2_1x": lambda width: MobileNetV23D(width=width),
    "shufflenet_2x": lambda width: ShuffleNet3D(width=2 * width),
    "shufflenetv2_2x": lambda width: ShuffleNetV23D(width=2 * width),
}


class Predictions(NamedTuple):
    """Every box that a network predicts: N = anchors x h x w of them, anchor after anchor, row after row.

    box: (B, N, 4), x1, y1, x2, y2 as fractions of the frame, perhaps beyond it. confidence: (B, N), that there is an
    actor. classes: (B, N, C), probabilities of the actions should there be one. A class's score is their product.
    """

    box: Tensor
    confidence: Tensor
    classes: Tensor


def decode(output: Tensor, anchors: Tensor, *, poses: int | None = None) -> Predictions:
    """Boxes of predictions (B, A (5 + C), h, w) for `anchors` (A, 2) in cells.

    The first `poses` classes exclude each other and the others do not: 14 in AVA. With None all classes do.
    """
    raw = split(output, len(anchors))  # (B, A, h, w, 5 + C)
    h, w = raw.shape[2:4]
    centre, sides = cells(raw, anchors).split(2, dim=-1)
    corners = torch.cat((centre - sides / 2, centre + sides / 2), dim=-1) / raw.new_tensor([w, h, w, h])
    return Predictions(
        box=corners.flatten(1, 3),
        confidence=raw[..., 4].sigmoid().flatten(1),
        classes=_probabilities(raw[..., 5:], poses).flatten(1, 3),
    )


def split(output: Tensor, anchors: int) -> Tensor:
    """(B, A (5 + C), h, w) to (B, A, h, w, 5 + C)."""
    if output.shape[1] % anchors:
        raise ValueError(f"{output.shape[1]} channels are no predictions for {anchors} anchors")
    return output.unflatten(1, (anchors, -1)).permute(0, 1, 3, 4, 2)


def cells(raw: Tensor, anchors: Tensor) -> Tensor:
    """Centre x and y, width and height in cells (B, A, h, w, 4) of split predictions: YOLOv2's equations."""
    h, w = raw.shape[2:4]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    corner = torch.stack((x, y), dim=-1).to(raw)  # (h, w, 2)
    return torch.cat((raw[..., :2].sigmoid() + corner, raw[..., 2:4].exp() * anchors.to(raw)[:, None, None]), dim=-1)


class Detections(NamedTuple):
    """The actors of one frame, best first. box: (K, 4), x1, y1, x2, y2 in pixels, 0-based, half-open. score: (K, C).

    confidence: (K,), that there is an actor; the score is the class's probability times it.
    """

    box: Tensor
    score: Tensor
    confidence: Tensor


def detect(
    predictions: Predictions, image: int, *, width: int, height: int, threshold: float = 0.005, overlap: float = 0.4
) -> Detections:
    """What stays of an image's predictions, in pixels of its frame of `width` x `height`.

    A box stays when the score of its best class exceeds `threshold` and no box of more confidence, of whatever class,
    overlaps it by more than `overlap`: the public code's limits (0.5 for AVA). Unlike there, boxes are cut at the
    frame's edges.
    """
    box, confidence, classes = (part[image] for part in predictions)
    score = confidence[:, None] * classes  # (N, C)
    able = score.amax(dim=1) > threshold
    size = box.new_tensor([width, height, width, height])
    box, confidence, score = (box[able] * size).clamp(min=box.new_zeros(4), max=size), confidence[able], score[able]
    kept = nms(box, confidence, overlap)
    return Detections(box[kept], score[kept], confidence[kept])


def _probabilities(logits: Tensor, poses: int | None) -> Tensor:
    if poses is None:
        return logits.softmax(dim=-1)
    return torch.cat((logits[..., :poses].softmax(dim=-1), logits[..., poses:].sigmoid()), dim=-1)


def freeze_bank(network: YOWO) -> None:
    """Keep the 3D branch as it is: a long-term feature bank is made once, by a pretrained network."""
    network.bank_is_fixed = True
    network.backbone_3d.eval().requires_grad_(False)


def freeze_branches(network: YOWO) -> None:
    """What the public recipe for J-HMDB-21 trains: the last two layers in 2D, `layer4` in 3D, and what follows them.

    3D branches without a `layer4` are frozen whole. Batch statistics still follow the data, as in the public code.
    """
    for name, parameter in network.named_parameters():
        if name.startswith("backbone_") and not name.startswith((*FREE_2D, *FREE_3D)):
            parameter.requires_grad_(False)


def from_branches(darknet: Mapping[str, Tensor] | None, hara: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Tensors of a YOWO, refitted, from those of a Darknet and of a network of Hara's or Köpüklü's, as they come."""
    state: dict[str, Tensor] = {}
    if darknet is not None:
        state |= refit({f"backbone_2d.{name}": value for name, value in darknet.items()}, DARKNET)
    if hara is not None:
        state |= refit({f"backbone_3d.{name}": value for name, value in hara.items()}, HARA)
    return state


def refit(state: Mapping[str, Tensor], seen: Seen) -> dict[str, Tensor]:
    """`state` with the first convolutions of its branches refitted (`Seen.refit`)."""
    refitted = dict(state)
    for conv, norm in FIRST.items():
        if conv in state:
            refitted = seen.refit(refitted, conv, norm=norm)
    return refitted


def classes_in(state: Mapping[str, Tensor], *, anchors: int = 5) -> int:
    """How many classes the network of a public checkpoint predicts."""
    if "conv_final.weight" not in state:
        raise WeightsError(
            f"no conv_final.weight: these are not YOWO's; the file starts with {', '.join([*state][:3])}"
        )
    return state["conv_final.weight"].shape[0] // anchors - 5


def load_matching(network: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Copy the tensors of `state` that `network` has too, in place; what has another shape is left as it was.

    The account names everything else, such as the classifier of a 3D branch. Raises WeightsError when nothing fits.
    """
    fitting, coverage = match(network, state)
    network.load_state_dict(fitting, strict=False)
    return coverage


def match(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Coverage]:
    """Those tensors of `state` that `network` has in the same shape, and the account of all.

    Raises WeightsError when nothing fits.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise WeightsError(f"no tensor fits {type(network).__name__}; the file starts with {', '.join([*state][:3])}")
    return fitting, Coverage(
        loaded=tuple(fitting),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        reshaped=tuple(name for name in state if name in own and name not in fitting),
    )
