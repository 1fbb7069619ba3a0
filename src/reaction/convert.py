"""`reaction convert`: a downloaded checkpoint as safetensors under our names, for a run's `weights: {source: file}`."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reaction.models import yowo_weights
from reaction.models.convert import fit, recognise, refit
from reaction.models.weights import WeightsError, read_weights, write_weights
from reaction.models.yowo import YOWO
from reaction.verify import Described, read_networks


def convert(files: Sequence[Path], name: str, out: Path) -> None:
    """Write the tensors of `files` as those of the network called `name`; print what became of each.

    Networks are named in workflow/networks.yaml. One has as many classes as the file's classifier, or its own number
    where the file has none. YOWO takes one file for each of its branches too, the others just one. Raises WeightsError,
    and writes nothing, where a file is of no layout that we know or does not fit the network.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: converted weights are safetensors; call it {out.with_suffix('.safetensors').name}")
    described = _described(name)
    if described.builder() is YOWO:
        ours = _detector(files, described)
    elif len(files) == 1:
        ours = _classifier(files[0], described)
    else:
        raise WeightsError(f"{name} is made from one file, not from {len(files)}")
    write_weights(out, {f"backbone.{name}": value for name, value in ours.items()})


def _classifier(file: Path, described: Described) -> dict[str, Tensor]:
    read = read_weights(file)
    try:
        layout = recognise(read)
        state = layout.convert(read)
        classifier = state.get(f"{described.builder().last_layer}.weight")
        options = {} if classifier is None else {"classes": classifier.shape[0]}
        with torch.device("meta"):  # only names and shapes are needed
            network = described.network(**options)
        fitted, coverage = fit(state, network)
        ours = refit(fitted, layout, network)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    print(f"{file}: the layout of {layout.name}", *([layout.note] if layout.note else []), coverage, sep="\n")
    return ours


def _detector(files: Sequence[Path], described: Described) -> dict[str, Tensor]:
    """A whole checkpoint, or one file for each branch: what follows the branches is then left to training."""
    classes = [found for file in files if (found := yowo_weights.file_classes(file))]
    with torch.device("meta"):
        network = described.network(**({"classes": classes[0]} if classes else {}))
    ours: dict[str, Tensor] = {}
    for file, source in zip(files, yowo_weights.read_sources(files, network), strict=True):
        print(f"{file}: the layout of {source.layout}", source.coverage, sep="\n")
        ours |= source.state
    return ours


def _described(name: str) -> Described:
    known = {described.name: described for described in read_networks().networks}
    if name not in known:
        raise WeightsError(f"no network is called {name!r}; choose one of {', '.join(known)}")
    return known[name]
