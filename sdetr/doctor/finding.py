"""What the doctor says: one line of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from sdetr.errors import UserError

Level = Literal["ok", "WARNING", "ERROR"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: how bad, about what, and what it is or what to do."""

    level: Level
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:7}  {self.subject}: {self.text}"


def guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; an error that it raises is a finding too, about ``subject``."""
    try:
        yield from check()
    except UserError as error:
        yield Finding("ERROR", subject, str(error))
