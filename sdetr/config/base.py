"""What every configuration has in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_truth(value: Any) -> Any:
    """Python counts true as 1 and false as 0; whoever writes them where a number is expected means something else."""
    if isinstance(value, bool):
        raise ValueError(f"needs a number, and {str(value).lower()} is none")
    return value


def _no_nothing(value: Any) -> Any:
    """An empty path is the folder that one happens to be in."""
    if value == "":
        raise ValueError("needs a path, and the text is empty")
    return value


NonEmptyPath = Annotated[Path, BeforeValidator(_no_nothing)]
Whole = Annotated[int, BeforeValidator(_no_truth), Field(le=2**53)]
Real = Annotated[float, BeforeValidator(_no_truth)]
Probability = Annotated[Real, Field(ge=0, le=1)]
PositiveFloat = Annotated[Real, Field(gt=0)]
NonNegativeFloat = Annotated[Real, Field(ge=0)]
NonNegativeInt = Annotated[Whole, Field(ge=0)]
PositiveInt = Annotated[Whole, Field(gt=0)]
# What a detector or an image is made of: a number beyond is no architecture, and would take all memory.
Size = Annotated[Whole, Field(gt=0, le=65_536)]
Layers = Annotated[Whole, Field(ge=0, le=1000)]
# Names become folders, and a folder's name has at most 255 bytes.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100)]


def check_once(key: str, values: Sequence[Any]) -> None:
    """Refuse a list in which a value stands twice, where the second has no effect or doubles the first.

    Raises:
        ValueError: it does.
    """
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"{key}: {twice[0]} is listed twice; remove one")


class Config(BaseModel):
    """Base of every configuration: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
