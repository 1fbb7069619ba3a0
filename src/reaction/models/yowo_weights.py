"""Files of others' weights for YOWO: whole checkpoints of wei-tim/YOWO, or those from which its branches start.

- wei-tim/YOWO `*.pth`: everything, with the classes of its last layer. Those of AVA, 80 classes, saw bytes less 114.75
  over 57.375, the others bytes / 255;
- Darknet `*.weights` (yolo.weights of COCO, yolo-voc.weights, darknet19_448.conv.23): the 2D branch, or its first
  layers. A last layer of other outputs than ours is left out;
- kenshohara/3D-ResNets-PyTorch and okankop/Efficient-3DCNNs `*.pth`: the 3D branch; their classifier is left out.

What a network reads is refitted to what our clip loader hands over (`yowo.refit`). Counters of batches, which old files
lack, become 0: no network here reads them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reaction.models.convert import COUNTER
from reaction.models.darknet19 import LAST, read_darknet_weights
from reaction.models.weights import Coverage, WeightsError, read_weights
from reaction.models.yowo import YOWO, YOWO_AVA, YOWO_BOXES, classes_in, from_branches, match, refit

AVA_CLASSES = 80
DARKNET_SUFFIX = ".weights"


class Source(NamedTuple):
    """What a file gives: whose layout it has, the part of the network it is for, its tensors as ours, the account."""

    layout: str
    part: str
    state: dict[str, Tensor]
    coverage: Coverage


def file_classes(path: Path) -> int | None:
    """The classes of a checkpoint of wei-tim/YOWO; None for weights of a branch."""
    if path.suffix == DARKNET_SUFFIX:
        return None
    state = read_weights(path)
    return classes_in(state) if "conv_final.weight" in state else None


def read_sources(paths: Sequence[Path], network: YOWO) -> list[Source]:
    """What each of the files gives `network`, which may be on the meta device and has the classes of the file.

    Raises WeightsError, naming the file, where it is damaged, is not of the network's backbone, or is for a part that
    another file is for too.
    """
    sources: dict[str, Source] = {}
    for path in paths:
        try:
            source = _read(path, network)
        except WeightsError as error:
            raise error if str(path) in str(error) else WeightsError(f"{path}: {error}") from error
        whole = "" in (source.part, *sources)
        if source.part in sources or (sources and whole):
            raise WeightsError(
                f"{path} is for what another file is for already: give one checkpoint, or one per branch"
            )
        sources[source.part] = source
    return [*sources.values()]


def _read(path: Path, network: YOWO) -> Source:
    if path.suffix == DARKNET_SUFFIX:
        branch = _branch(network.backbone_2d, "2D")
        fitting, coverage = match(branch, read_darknet_weights(path, branch))
        _refuse(coverage.reshaped, branch, but=f"models.{LAST}.")
        state = from_branches(_with_counters(fitting, coverage), None)
        return Source("Darknet", "backbone_2d.", state, coverage)
    state = read_weights(path)
    if "conv_final.weight" in state:
        return _read_checkpoint(state, network)
    branch = _branch(network.backbone_3d, "3D")
    fitting, coverage = match(branch, state)
    _refuse(coverage.missing + coverage.reshaped, branch)
    state = from_branches(None, _with_counters(fitting, coverage))
    return Source("Hara's and Köpüklü's 3D networks", "backbone_3d.", state, coverage)


def _read_checkpoint(state: dict[str, Tensor], network: YOWO) -> Source:
    classes = classes_in(state)
    fitting, coverage = match(network, state)
    _refuse(coverage.missing + coverage.reshaped, network)
    seen = YOWO_AVA if classes == AVA_CLASSES else YOWO_BOXES
    ours = refit(_with_counters(fitting, coverage), seen)
    return Source(f"wei-tim/YOWO, {classes} classes", "", ours, coverage)


def _branch(branch: nn.Module | None, name: str) -> nn.Module:
    if branch is None:
        raise WeightsError(f"weights of a {name} branch, which this network does not have; name another network")
    return branch


def _refuse(names: Sequence[str], part: nn.Module, *, but: str = COUNTER) -> None:
    """Raise WeightsError where a tensor lacks or has another shape, other than counters and those that begin so."""
    wrong = [name for name in names if not name.endswith(COUNTER) and not name.startswith(but)]
    if wrong:
        few = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise WeightsError(
            f"{len(wrong)} tensors of {type(part).__name__} are not there or have another shape: {few}; "
            "name the network of the file's backbone"
        )


def _with_counters(fitting: dict[str, Tensor], coverage: Coverage) -> dict[str, Tensor]:
    """The tensors and zeros for the counters of batches that the file lacks of normalisations it has."""
    lacking = [name for name in coverage.missing if name.endswith(COUNTER)]
    known = [name for name in lacking if name.replace(COUNTER, "running_mean") in fitting]
    return fitting | {name: torch.zeros((), dtype=torch.int64) for name in known}
