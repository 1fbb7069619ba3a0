"""Trained weights into our networks: nothing executed, fitted to the stream, accounted for tensor by tensor.

ImageNet weights of torchvision's Inception-V3 (`inception_v3_google-0cc3c7bd.pth` on download.pytorch.org/models; the
digits begin its sha256) fit RGB input in [-1, 1]: that is what torchvision's `transform_input` makes of its own input.
Those of BN-Inception, CNN-M and VGG-16 were trained on bytes less their means: `fold_input` refits them.

A backbone names the two layers that may differ in shape from a file's: `first_conv`, the weight of its first
convolution, and `last_layer`, its classifier. Where its public weights saw another input than ours, it says which:
`input_bgr`, `input_mean` and `input_std`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reaction import files
from reaction.models.inception_v3 import expand_first_conv
from reaction.pickles import ArrayUnpickler

SUFFIXES = (".safetensors", ".pt", ".pth", ".pyth", ".tar", ".pkl")
CONTAINERS = ("state_dict", "model_state")  # PyTorch's examples and TSN; PySlowFast and pytorchvideo


class WeightsError(ValueError):
    """A file of weights that is absent, unreadable, not what its checksum says, or does not fit the network."""


@dataclass(frozen=True)
class Coverage:
    """What became of each tensor's name: loaded as it is, missing in the file, unexpected there, or of another shape.

    The reshaped ones are the first convolution, expanded, and the classifier of another class count, started anew.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self) -> str:
        groups = ("loaded", "missing", "unexpected", "reshaped")
        lines = [f"{len(self.loaded)} tensors loaded"]
        for group in groups[1:]:
            names = getattr(self, group)
            lines.append(f"{len(names)} {group}" + (f": {_shortened(names)}" if names else ""))
        return "\n".join(lines)


def load_pretrained(
    backbone: nn.Module,
    state: Mapping[str, Tensor],
    *,
    stream: str,
    extra: int = 0,
    map_channel: str = "mean",
    public: bool = False,
) -> Coverage:
    """Copy `state` into `backbone`, in place, and say what fitted.

    A first convolution of another channel count is expanded (`expand_first_conv`; `extra` map channels among the
    backbone's), a classifier of another class count is started anew, and any other shape is an error. `public` weights
    are others' ImageNet weights, which `fold_input` refits to our input where the backbone says that it differs.
    """
    first, classifier = getattr(backbone, "first_conv", None), _classifier(backbone)
    own = backbone.state_dict()
    known = {name: value for name, value in state.items() if name in own}
    if not known:
        raise WeightsError(f"no tensor fits {type(backbone).__name__}; the file starts with {_shortened(tuple(state))}")
    reshaped = tuple(name for name, value in known.items() if value.shape != own[name].shape)
    _refuse_misfits(reshaped, known, own, backbone)
    if public and hasattr(backbone, "input_mean"):
        known = fold_input(known, backbone, stream=stream)
    if first in reshaped:
        channels = own[first].shape[1]
        known[first] = expand_first_conv(known[first], channels, stream=stream, extra=extra, map_channel=map_channel)
    if set(classifier) & set(reshaped):
        known = {name: value for name, value in known.items() if name not in classifier}
        start_classifier(backbone)
    backbone.load_state_dict(known, strict=False)
    return Coverage(
        loaded=tuple(name for name in known if name not in reshaped),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        reshaped=reshaped,
    )


@dataclass(frozen=True)
class Seen:
    """What a first convolution was trained on: bytes less `mean`, divided by `std`, of R, G, B or of every channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False

    def refit(
        self, state: Mapping[str, Tensor], name: str, *, norm: str | None = None, centred: bool = False
    ) -> dict[str, Tensor]:
        """`state` with the first convolution called `name` refitted to what the clip loader hands over.

        The loader gives (q / 255 - 0.5) / 0.5 of bytes q: order, scale and mean move into the weight (O, C, ...) and
        the bias (O,) or, without one, into the mean `norm` that the batch normalisation behind it subtracts (unsaid:
        `bn.running_mean` beside `conv.weight`). Where the input
        will be `centred` only the scale moves. Zeros around a padded convolution now stand for mid grey instead of the
        mean colour.
        """
        weight = state[name].flip(1) if self.bgr else state[name]
        sides = (1,) * (weight.dim() - 2)
        mean, std = (weight.new_tensor(values).reshape(-1, *sides) for values in (self.mean, self.std))
        shift = 0 if centred else (weight * (127.5 - mean) / std).flatten(1).sum(1)  # (O,)
        bias, statistic = name.replace("weight", "bias"), norm or name.replace("conv.weight", "bn.running_mean")
        moved = {bias: state[bias] + shift} if bias in state else {statistic: state[statistic] - shift}
        return dict(state) | {name: weight * 127.5 / std} | moved


def fold_input(state: Mapping[str, Tensor], network: nn.Module, *, stream: str) -> dict[str, Tensor]:
    """ImageNet weights of a first convolution over RGB, refitted to what the clip loader hands over.

    `network` names its first convolution and what the weights were trained on (`first_conv`, `input_bgr`, `input_mean`,
    `input_std`). Flow and differences of frames are centred as they come.
    """
    name, bias = network.first_conv, network.first_conv.replace("weight", "bias")
    if name not in state or bias not in state or state[name].shape[1] != 3:
        raise WeightsError(f"{name} over R, G, B, with {bias}, is what tells public weights; the file has none")
    seen = Seen(network.input_mean, network.input_std, network.input_bgr)
    return seen.refit(state, name, centred=stream != "rgb")


def last_layers(backbone: nn.Module | type[nn.Module]) -> tuple[str, ...]:
    """The names of a backbone's classifiers: one, or one of each stream that it joins."""
    return tuple(backbone.last_layers.values()) if hasattr(backbone, "last_layers") else (backbone.last_layer,)


def start_classifier(backbone: nn.Module, *, std: float = 0.001) -> None:
    """New classifiers: normal weights of deviation 0.001, zero bias (yjxiong/tsn-pytorch, `models.py`)."""
    for name in last_layers(backbone):
        classifier = backbone.get_submodule(name)
        nn.init.normal_(classifier.weight, std=std)
        nn.init.zeros_(classifier.bias)


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Tensors by name from a file of one of SUFFIXES; nothing in the file is executed.

    Takes the tensors from where a checkpoint keeps them (CONTAINERS), and drops a `module.` in front of names. A .pkl
    file is one of Caffe2, of NumPy's arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give the weights' path, or choose another source of weights")
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path}: weights are read from {', '.join(SUFFIXES)} files")
    read = {".safetensors": load_file, ".pkl": _load_arrays}.get(path.suffix, _load_tensors)
    try:
        loaded = read(path)
    except Exception as error:  # a damaged pickle raises nearly anything
        fix = "fetch it again or save it as safetensors"
        raise WeightsError(f"{path}: damaged, or holds more than tensors; {fix}") from error
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, not tensors by name")
    state = next((loaded[key] for key in CONTAINERS if isinstance(loaded.get(key), Mapping)), loaded)
    return {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}


def cpu_copy(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, copied to the CPU: what later steps leave as it is."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors on the CPU as safetensors, atomically; the same tensors are the same bytes."""
    with files.atomic(path) as partial:
        save_file(dict(state), partial)


def download(url: str, sha256: str, destination: Path | str) -> Path:
    """Fetch `url` to `destination` unless it is there already, and check it against a sha256 or its first 8+ digits."""
    destination = Path(destination)
    if len(sha256) < 8:
        raise WeightsError(f"{url}: give at least the first 8 hexadecimal digits of its sha256, not {sha256!r}")
    if destination.is_file():
        check(destination, sha256, f"remove {destination} to fetch it again")
        return destination
    by_hand = f"or put the file at {destination} by hand"
    with files.atomic(destination) as partial:
        try:
            with requests.get(url, stream=True, timeout=60) as response, open(partial, "wb") as file:
                response.raise_for_status()
                for block in response.iter_content(1 << 20):
                    file.write(block)
        except requests.RequestException as error:
            raise WeightsError(f"{url}: {error}; try again {by_hand}") from error
        check(partial, sha256, f"the copy at {url} is damaged or another file; try again {by_hand}")
    return destination


def check(path: Path, expected: str, fix: str) -> None:
    """Raise WeightsError, with the `fix`, unless the file's sha256 begins with `expected`."""
    found = files.sha256(path)
    if not found.startswith(expected.lower()):
        raise WeightsError(f"{path.name}: sha256 is {found}, expected {expected}; {fix}")


def _load_tensors(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_arrays(path: Path) -> dict[str, Tensor]:
    """The `blobs` of a Caffe2 file, as tensors; strings of Python 2 are bytes in Latin-1."""
    with open(path, "rb") as file:
        blobs = ArrayUnpickler(file, {("collections", "OrderedDict"): OrderedDict}).load()["blobs"]
    return {name: torch.from_numpy(np.array(blob)) for name, blob in blobs.items() if isinstance(blob, np.ndarray)}


def _classifier(backbone: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for name in last_layers(backbone) for kind in ("weight", "bias"))


def _refuse_misfits(
    reshaped: tuple[str, ...], state: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: nn.Module
) -> None:
    """Only the channels of the first convolution and the classes of the classifier may differ."""
    for name in reshaped:
        theirs, ours = tuple(state[name].shape), tuple(own[name].shape)
        classes = name in _classifier(backbone) and theirs[1:] == ours[1:]
        first = name == getattr(backbone, "first_conv", None)
        channels = first and theirs[:1] + theirs[2:] == ours[:1] + ours[2:] and theirs[1] == 3
        if not classes and not channels:
            raise WeightsError(f"{name} is {theirs} in the file, {ours} in the network; are width and stream the same?")


def _shortened(names: tuple[str, ...], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
