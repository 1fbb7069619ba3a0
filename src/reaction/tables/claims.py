"""What a paper claims: the files of workflow/papers/, checked key by key."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Metric = Literal[
    "top1",
    "top5",
    "mean_class",
    "map",
    # Of boxes in frames and of tubes in videos, at an overlap from which on they hit; 0.5:0.95 is ACT's mean of ten.
    "frame_map@0.5",
    "video_map@0.05",
    "video_map@0.1",
    "video_map@0.2",
    "video_map@0.3",
    "video_map@0.5",
    "video_map@0.75",
    "video_map@0.5:0.95",
]


class ClaimError(ValueError):
    """A paper's file that cannot be read, or claims the same cell twice."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reproduction(Strict):
    """The runs of ours that answer a claim: one stream of a method, or of several that do it in different ways."""

    method: tuple[str, ...]
    stream: Literal["rgb", "flow", "rgbdiff", "joint", "fusion"]

    @field_validator("method", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Claim(Strict):
    """One published number. `value` and `tolerance` are in per cent, as papers print them."""

    table: str
    method: str = Field(description="the name the paper's table gives")
    stream: Literal["rgb", "flow", "fusion", "rgbdiff", "warped_flow", "descriptors"]
    dataset: str
    splits: Annotated[tuple[int, ...], Field(min_length=1)]
    metric: Metric
    value: Annotated[float, Field(ge=0, le=100)]
    protocol: str
    source: str
    gflops: Annotated[float, Field(gt=0)] | None = Field(None, description="of one view, as the paper counts them")
    views: Annotated[int, Field(gt=0)] | None = Field(None, description="per video, where the paper says so")
    tolerance: Annotated[float, Field(gt=0)] | None = Field(description="points; null for a row we do not reproduce")
    note: str = ""
    reproduced_by: Reproduction | None
    not_run: str | None = Field(None, description="why none of our methods does what the paper did here")

    @model_validator(mode="after")
    def _tolerance_with_reproduction(self) -> "Claim":
        if (self.tolerance is None) != (self.reproduced_by is None):
            raise ValueError("`tolerance` and `reproduced_by` are both given or both null")
        if self.not_run is not None and self.reproduced_by is not None:
            raise ValueError("`not_run` is for a claim that is not `reproduced_by` anything")
        return self


class PublishedNetwork(Strict):
    """What a paper says of a network itself: its size, and how many frames and fields of how many seconds it sees."""

    table: str
    method: str = Field(description="the method of ours")
    name: str = Field(description="the name the paper's table gives")
    parameters: str = Field(description="with the paper's unit and digits")
    train_rgb: int
    train_flow: int
    train_seconds: float
    test_rgb: int
    test_flow: int
    test_seconds: float
    source: str


class Paper(Strict):
    paper: str = Field(description="the key: first author and year")
    title: str
    venue: str
    year: int
    url: str | None = Field(description="null where we know no lasting address")
    contradictions: tuple[str, ...]
    networks: tuple[PublishedNetwork, ...] = ()
    claims: tuple[Claim, ...]


def read_paper(path: Path) -> Paper:
    """Read one file of workflow/papers/. Raises ClaimError naming the file, the key and what was found there."""
    try:
        return Paper.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ClaimError(f"{path} does not exist. `papers:` of a table names files of workflow/papers/.") from error
    except yaml.YAMLError as error:
        raise ClaimError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        problems = "\n".join(f"  {_key(item['loc'])}: {item['msg']}, got {item['input']!r}" for item in error.errors())
        raise ClaimError(f"{path} is not a paper's file:\n{problems}") from error


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(whole file)"


def reproducible(papers: Iterable[Paper], dataset: str) -> list[tuple[Paper, Claim]]:
    """The claims on a dataset that a method of ours answers, in the papers' order.

    Raises ClaimError when two of them answer the same cell: a cited number belongs to the paper that measured it.
    """
    found: dict[tuple, tuple[Paper, Claim]] = {}
    for paper in papers:
        for claim in paper.claims:
            if claim.reproduced_by is None or claim.dataset != dataset:
                continue
            for method in claim.reproduced_by.method:
                cell = (method, claim.reproduced_by.stream, claim.splits, claim.metric)
                if cell in found:
                    first = found[cell]
                    sources = f"{first[0].paper} {first[1].source} and {paper.paper} {claim.source}"
                    raise ClaimError(
                        f"{sources} both claim {cell} on {dataset}: set `reproduced_by: null` in one of them."
                    )
                found[cell] = (paper, claim)
    return list({id(claim): (paper, claim) for paper, claim in found.values()}.values())


def left_out(paper: Paper, dataset: str) -> list[tuple[Paper, Claim]]:
    """The paper's claims on a dataset that say why they are `not_run`."""
    return [(paper, claim) for claim in paper.claims if claim.not_run is not None and claim.dataset == dataset]
