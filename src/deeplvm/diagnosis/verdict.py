"""What a rule says when it has found something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deeplvm.results import Record


@dataclass(frozen=True)
class Verdict(Record):
    """One thing that is wrong with a model or its data.

    Attributes:
        name: Of the fault, a few words that scripts can rely on.
        seen: What was seen, with the numbers.
        remedy: What to try next, with its flag.
        numbers: The numbers alone.
        nats: What the fault costs a row, where that can be told: verdicts are ranked by it.
        spoils: Whether numbers mean little until it is mended, so that it is told first.
    """

    name: str
    seen: str
    remedy: str
    numbers: dict[str, Any] = field(default_factory=dict)
    nats: float | None = None
    spoils: bool = False

    def __str__(self) -> str:
        return f"{self.seen} {self.remedy}"


def ranked(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Those that spoil the others first, then by what they cost; the rest as they come."""
    return tuple(sorted(verdicts, key=lambda each: (not each.spoils, -(each.nats or 0.0))))
