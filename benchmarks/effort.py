"""How long a benchmark measures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """Full for what is kept; quick for a look; smoke for a test that everything runs.

    Attributes:
        name: ``"full"``, ``"quick"`` or ``"smoke"``.
        rounds: Turns of each side, as a factor.
        seconds: Time for the rounds of one workload.
        peers: Whether the peers take part.
        compiled: Whether compiled sides take part.
    """

    name: str
    rounds: float
    seconds: float
    peers: bool = True
    compiled: bool = True

    @property
    def smoke(self) -> bool:
        """Whether sizes are cut down too."""
        return self.name == "smoke"

    def turns(self, rounds: int) -> int:
        """Rounds, at least one (full and quick: three)."""
        return max(1 if self.smoke else 3, round(rounds * self.rounds))


EFFORTS = {
    "full": Effort("full", 1.0, 120.0),
    "quick": Effort("quick", 0.3, 15.0),
    "smoke": Effort("smoke", 0.0, 1.0, peers=False, compiled=False),
}
