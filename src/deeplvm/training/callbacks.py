"""Watching a run: one method an event."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deeplvm.training.history import History, Record


class Callback:
    """Told what happens while training; override the methods that matter.

    With several processes only the first one's callbacks are told. An error raised by one ends
    training as if it were interrupted: nothing is lost.

    >>> class Best(Callback):
    ...     value = -float("inf")
    ...     def epoch_ended(self, record):
    ...         self.value = max(self.value, record["train"]["elbo"])
    """

    def started(self, options: Mapping[str, Any]) -> None:
        """Training begins or goes on; ``options`` are what it was told, ``epoch`` those done."""

    def step_ended(self, step: int, objective: float | Tensor) -> None:
        """A step was taken: its number over all epochs, from 1, and its mean objective.

        On a GPU the objective is a tensor, which only waits for the device when it is read.
        """

    def epoch_ended(self, record: Record) -> None:
        """An epoch was measured and written to ``metrics.jsonl``; the record is that line."""

    def saved(self, path: Path) -> None:
        """A checkpoint was written."""

    def ended(self, history: History | None, error: BaseException | None) -> None:
        """Training is over: with its history, or with the error (or interrupt) that ended it."""


class TensorBoard(Callback):
    """Writes every number of the records to TensorBoard's event files.

    Needs the package ``tensorboard`` (``pip install deeplvm[tensorboard]``).

    Args:
        folder: Where the event files go, ``RUN/tensorboard`` say; look at them with
            ``tensorboard --logdir FOLDER``.

    Raises:
        ValueError: If the package is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "TensorBoard is not installed here; install it with: pip install "
                "deeplvm[tensorboard]"
            ) from error
        self._writer_of = SummaryWriter
        self.folder = Path(folder)
        self.writer: Any = None

    def started(self, options: Mapping[str, Any]) -> None:
        # what an interrupted run wrote about epochs that it will do again is not shown
        done = int(options["epoch"])
        self.writer = self._writer_of(str(self.folder), purge_step=done + 1 if done else None)

    def epoch_ended(self, record: Record) -> None:
        epoch = record["epoch"]
        for name, value in record.items():
            if isinstance(value, Mapping):
                for term, number in value.items():
                    self.writer.add_scalar(f"{term}/{name}", number, epoch)
            elif name != "epoch" and value is not None:
                self.writer.add_scalar(f"training/{name}", value, epoch)
        self.writer.flush()

    def ended(self, history: History | None, error: BaseException | None) -> None:
        if self.writer is not None:
            self.writer.close()
