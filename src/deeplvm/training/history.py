"""What training measured, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Record = dict[str, Any]

# The entries of a record that depend on the machine and the hour: equal runs differ in these only.
TIMINGS = ("seconds", "rows_per_second", "fraction_of_limit", "peak_memory")


@dataclass(frozen=True)
class History:
    """What training measured, epoch by epoch.

    Attributes:
        epochs: One record an epoch, as in ``metrics.jsonl``: ``epoch``, ``train`` and ``valid``
            (means in nats of the elbo, of the objective under its own name, of each variable's
            term), ``objective`` (what was ascended, mean over the epoch's steps, with the KL
            weight of the time), ``kl_weight`` and ``learning_rate`` at the epoch's last step,
            ``seconds`` of it all, training rows a second while stepping, ``fraction_of_limit``
            (see :mod:`deeplvm.training.metering`), ``peak_memory`` of the process in bytes.
        bound: Name of the bound by which the best epoch was chosen.
        best_epoch: The epoch whose weights the model has: the best held out, without held-out rows
            the last.
        stopped: Why it ended: all epochs done, or patience lost.
    """

    epochs: tuple[Record, ...]
    bound: str
    best_epoch: int
    stopped: Literal["epochs", "patience"]

    def values(self, split: str = "train", name: str | None = None) -> list[float]:
        """One number an epoch; by default of the bound."""
        return [record[split][name or self.bound] for record in self.epochs if split in record]

    @property
    def best(self) -> Record:
        """The record of the best epoch.

        Raises:
            ValueError: If no epoch was trained.
        """
        if not self.epochs:
            raise ValueError("No epoch was trained, so there is no best one.")
        return self.epochs[self.best_epoch - 1]

    def __str__(self) -> str:
        if not self.epochs:
            return "no epoch trained"
        shown = [f"{split} {self.best[split][self.bound]:.2f}" for split in self._splits()]
        return (
            f"{len(self.epochs)} epochs, best {self.best_epoch}: {self.bound} {', '.join(shown)} "
            f"nats a row"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deeplvm.report.tables import html_table

        splits = self._splits()
        rows = [
            [str(record["epoch"]), *[f"{record[split][self.bound]:.2f}" for split in splits]]
            for record in self.epochs
        ]
        heads = [f"{self.bound}, {split} (nats a row)" for split in splits]
        return html_table(["epoch", *heads], rows, str(self))

    def _splits(self) -> list[str]:
        return [split for split in ("train", "valid") if self.epochs and split in self.epochs[-1]]
