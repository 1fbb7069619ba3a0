"""`reaction verify`: every network's size, computation and output beside what was published; needs no weights, no data.

Networks are built on PyTorch's meta device, which has shapes and no numbers. Multiply-adds of one forward pass in
evaluation mode are given as the three things that papers and tools call FLOPs:
- convolutions only, which is what PySlowFast's papers and configurations print;
- with matrix products (linear layers, LSTM, attention), as torchvision counts;
- with 2 per value that a batch normalisation puts out, as fvcore counts (0.1.5; the affine part of a folded
  normalisation). fvcore also counts adaptive poolings, 1 per input value, which is 0.0001 G here and left out.

`workflow/networks.yaml` names the networks and the published figures. A figure with a unit (36.1 G, 9 M) stands for
everything less than one unit of its last digit away, since some papers round and others cut; one without is exact.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

NETWORKS = Path("workflow/networks.yaml")
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
MEASURES = ("parameters", "convolutions", "products", "total", "output", "features")
COLUMNS = ("network", "input", "output", "parameters", "convolutions", "+ products", "as fvcore", "published", "")


class VerifyError(ValueError):
    """A file of networks that cannot be read, or names a network that there is not."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Published(Strict):
    """What one source says of a network, in the source's own digits."""

    source: str = Field(description="a key of `sources`")
    parameters: str = ""
    convolutions: str = Field("", description="multiply-adds of convolutions")
    products: str = Field("", description="multiply-adds of convolutions and matrix products")
    total: str = Field("", description="multiply-adds as fvcore counts")
    output: str = ""
    features: str = Field("", description="the shape of what `features` gives, without the batch")
    differs: str = Field("", description="why ours is known to be another number")

    @property
    def figures(self) -> dict[str, str]:
        """Measure to text, of those that the source gives."""
        return {measure: text for measure in MEASURES if (text := getattr(self, measure))}


class Described(Strict):
    """A network as `reaction verify` builds it; `inputs` are shapes without the batch."""

    name: str
    build: str = Field(description="module and builder below reaction.models", pattern=r"^\w+\.\w+$")
    options: dict[str, Any] = {}
    inputs: tuple[tuple[int, ...], ...]
    published: tuple[Published, ...]

    def network(self, **options: Any) -> nn.Module:
        """The network, untrained; `options` replace those of the file."""
        return self.builder()(**self.options | options)

    def builder(self) -> type[nn.Module]:
        """The class that builds the network. Raises VerifyError where there is none of that name."""
        module, builder = self.build.split(".")
        try:
            return getattr(importlib.import_module(f"reaction.models.{module}"), builder)
        except (ImportError, AttributeError) as error:
            raise VerifyError(
                f"{NETWORKS}: {self.name} is built by {self.build}, which there is not: {error}"
            ) from error


class Catalogue(Strict):
    """The file of networks: where figures come from, and the networks."""

    sources: dict[str, str]
    networks: tuple[Described, ...]


@dataclass(frozen=True)
class Counts:
    """What a network has and does; multiply-adds are of one forward pass of one clip."""

    parameters: int
    convolutions: float
    products: float
    total: float
    output: str
    features: str = ""


def verify(path: Path = NETWORKS) -> int:
    """Print the table; 1 if a figure is not what was published, else 0."""
    catalogue = read_networks(path)
    counts = [count(described) for described in catalogue.networks]
    print(markdown(catalogue, counts), end="")
    return int(any(wrong(*pair) for pair in zip(catalogue.networks, counts, strict=True)))


def read_networks(path: Path = NETWORKS) -> Catalogue:
    """Raises VerifyError naming the file, the key and what was found there."""
    try:
        catalogue = Catalogue.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise VerifyError(f"{path} does not exist; run this in the project's root") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise VerifyError(f"{path}: {error}") from error
    named = {published.source for described in catalogue.networks for published in described.published}
    if unknown := named - set(catalogue.sources):
        raise VerifyError(f"{path}: no source is called {', '.join(sorted(unknown))}; add it under `sources:`")
    return catalogue


def count(described: Described) -> Counts:
    """Build the network without memory, and pass one clip of shapes through it."""
    featured = any(published.features for published in described.published)
    with torch.device("meta"):
        network = described.network().eval()
        inputs = [torch.empty(1, *shape) for shape in described.inputs]
    with torch.no_grad(), MultiplyAdds() as counted:
        output = network(*inputs)
    with torch.no_grad():
        features = _shape(network.features(*inputs)) if featured else ""
    return Counts(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        convolutions=counted.convolutions,
        products=counted.convolutions + counted.products,
        total=counted.convolutions + counted.products + counted.normalised,
        output=_shape(output),
        features=features,
    )


class MultiplyAdds(TorchDispatchMode):
    """Counts, while it is entered, what PyTorch computes, by PyTorch's own formulas for convolutions and products."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions, self.products, self.normalised = 0.0, 0.0, 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._overloadpacket
        if name is torch.ops.aten.native_batch_norm:
            self.normalised += 2 * args[0].numel()
            # Of shapes alone PyTorch takes longest over this one, which leaves them as they are; statistics are unused.
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        output = function(*args, **kwargs or {})
        if name in flop_registry:
            operations = flop_registry[name](*args, **kwargs or {}, out_val=output)
            if name is torch.ops.aten.convolution:
                self.convolutions += operations / 2
            else:
                self.products += operations / 2
        return output


def wrong(described: Described, counts: Counts) -> list[str]:
    """What is not as it was published, or is while the file says that it differs; empty if all is well."""
    found = []
    for published in described.published:
        for measure, text in published.figures.items():
            ours = getattr(counts, measure)
            if agrees(ours, text) == bool(published.differs):
                found.append(f"{measure} {_written(ours)}, by {published.source} {text}")
    return found


def agrees(ours: float | str, text: str) -> bool:
    """Whether a count is the published one, as far as its digits go."""
    if isinstance(ours, str):
        return ours == text
    number, _, unit = text.replace(",", "").partition(" ")
    if not unit:
        return ours == int(number)
    return abs(ours / UNITS[unit] - float(number)) < 10.0 ** -len(number.partition(".")[2])


def markdown(catalogue: Catalogue, counts: Sequence[Counts]) -> str:
    """The table, what is known to differ, and the sources."""
    pairs = list(zip(catalogue.networks, counts, strict=True))
    lines = _table([COLUMNS, *(_row(*pair) for pair in pairs)])
    known = [
        f"* {one.name}, {_cited(said)}: {said.differs}" for one, _ in pairs for said in one.published if said.differs
    ]
    sources = [f"* [{key}] {text}" for key, text in catalogue.sources.items()]
    blocks = [lines, known and ["Known to differ:", "", *known], ["Sources:", "", *sources]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _row(described: Described, counts: Counts) -> tuple[str, ...]:
    problems = wrong(described, counts)
    return (
        described.name,
        ", ".join(_times(shape) for shape in described.inputs),
        counts.output,
        _written(counts.parameters),
        *(_written(getattr(counts, measure)) for measure in ("convolutions", "products", "total")),
        "; ".join(_cited(published) for published in described.published if not published.differs),
        f"DIFFERS: {'; '.join(problems)}" if problems else "equal",
    )


def _cited(published: Published) -> str:
    """`27,161,264 parameters, 5.713 G products [torchvision]`."""
    return ", ".join(f"{text} {measure}" for measure, text in published.figures.items()) + f" [{published.source}]"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    right = {index for index, column in enumerate(rows[0]) if column in COLUMNS[3:7]}
    rule = "|".join("--:" if index in right else "---" for index in range(len(rows[0])))
    return [lines[0], f"|{rule}|", *lines[1:]]


def _written(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value / 1e9:,.3f} G"


def _shape(output: torch.Tensor) -> str:
    return _times(output.shape[1:])


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(side) for side in shape)
