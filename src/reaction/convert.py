"""`reaction convert`: a downloaded checkpoint as safetensors under our names, for a run's `weights: {source: file}`."""

from pathlib import Path

import torch

from reaction.models.convert import fit, recognise, refit
from reaction.models.weights import WeightsError, read_weights, write_weights
from reaction.verify import Described, read_networks


def convert(file: Path, name: str, out: Path) -> None:
    """Write the tensors of `file` as those of the network called `name`; print what became of each.

    Networks are named in workflow/networks.yaml. One has as many classes as the file's classifier, or its own number
    where the file has none. Raises WeightsError, and writes nothing, where the file is of no layout that we know or
    does not fit the network.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: converted weights are safetensors; call it {out.with_suffix('.safetensors').name}")
    described = _described(name)
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
    write_weights(out, {f"backbone.{name}": value for name, value in ours.items()})


def _described(name: str) -> Described:
    known = {described.name: described for described in read_networks().networks}
    if name not in known:
        raise WeightsError(f"no network is called {name!r}; choose one of {', '.join(known)}")
    return known[name]
