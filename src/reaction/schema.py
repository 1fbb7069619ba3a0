"""What the models of params.yaml have in common; see `reaction.params`."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
AT_LEAST_ONE = Field(min_length=1)


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def known(key: str, name: Any, among: Collection[Any]) -> None:
    """Raise ValueError, saying what there is, where `key` names something that is not."""
    if name not in among:
        raise ValueError(f"{key}: `{name}` is none of {', '.join(map(str, among))}")


def looked_up(key: str, given: Any, among: Mapping[str, Any]) -> Any:
    """What the name `given` stands for; what is written out instead stays as it is."""
    if not isinstance(given, str):
        return given
    known(key, given, among)
    return among[given]


def of_row(row: str, protocol: str) -> tuple[str, str]:
    """Method and protocol of a table's row `method` or `method:protocol`, where `protocol` is the table's own.

    The method may be `method@transfer`.
    """
    method, _, own = row.partition(":")
    return method, own or protocol
