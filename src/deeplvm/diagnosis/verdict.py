"""What a rule says when it has found something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One thing that is wrong with a model or its data.

    Attributes:
        name: Of the fault, a few words that scripts can rely on.
        seen: What was seen, with the numbers.
        remedy: What to try next, with its flag.
        numbers: The numbers alone.
    """

    name: str
    seen: str
    remedy: str
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As in ``diagnosis.json``."""
        return {
            "name": self.name,
            "seen": self.seen,
            "remedy": self.remedy,
            "numbers": self.numbers,
        }

    def __str__(self) -> str:
        return f"{self.seen} {self.remedy}"
