"""The files that training keeps in a run's folder: checkpoints and metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deeplvm.training.checkpoints import (
    CheckpointError,
    load_checkpoint,
    previous,
    save_checkpoint,
)


class Checkpoints:
    """The files of a run in a folder: ``checkpoint/`` and ``metrics.jsonl``; nothing without one.

    Args:
        folder: The folder of the run, or none.
        every: Epochs from one checkpoint to the next; by default as often as saving takes at most
            a twentieth of the time.
        seconds: Age at which a checkpoint is followed by one in mid-epoch.

    Attributes:
        saved: Epochs and further batches that the last checkpoint has; none before the first.
    """

    def __init__(self, folder: str | Path | None, every: int | None, seconds: float) -> None:
        self.folder = None if folder is None else Path(folder)
        self.every, self.seconds = every, seconds
        self.saved: tuple[int, int] | None = None
        self.at, self.cost = time.monotonic(), 0.0

    @property
    def keeps(self) -> bool:
        """Whether anything is written."""
        return self.folder is not None

    @property
    def path(self) -> Path:
        """Where the state is kept."""
        return (self.folder or Path()) / "checkpoint" / "state.safetensors"

    def open(self, *, resume: bool) -> tuple[dict[str, Any] | None, str]:
        """The state to go on from, and a warning; none to start at the beginning.

        Raises:
            CheckpointError: If there is a state but nobody asked to go on from it, or it is
            damaged.
        """
        if self.folder is None:
            if resume:
                raise CheckpointError("There is no folder to resume from; say which: folder=...")
            return None, ""
        if not resume:
            if self.path.exists() or previous(self.path).exists():
                raise CheckpointError(
                    f"{self.folder} already holds a checkpoint; go on from it with resume=True, "
                    f"or use another folder."
                )
            return None, ""
        return load_checkpoint(self.path)

    def stale(self) -> bool:
        """Whether it is time to save in mid-epoch."""
        if self.folder is None:
            return False
        return time.monotonic() - self.at >= max(self.seconds, 20 * self.cost)

    def due(self, epoch: int) -> bool:
        """Whether it is time to save after an epoch."""
        if self.folder is None:
            return False
        if self.every is not None:
            return epoch % self.every == 0
        return time.monotonic() - self.at >= 20 * self.cost

    def save(self, state: Mapping[str, Any]) -> None:
        """Save the state."""
        if self.folder is None:
            return
        began = time.monotonic()
        save_checkpoint(self.path, state)
        self.saved, self.at = (state["epoch"], state["position"]), time.monotonic()
        self.cost = self.at - began

    def write_metrics(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Start ``metrics.jsonl`` anew: empty, or as it was at the checkpoint."""
        self._metrics("w", records)

    def add_metrics(self, record: Mapping[str, Any]) -> None:
        """One line more."""
        self._metrics("a", [record])

    def _metrics(self, mode: str, records: Sequence[Mapping[str, Any]]) -> None:
        if self.folder is None:
            return
        path = self.folder / "metrics.jsonl"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open(mode, encoding="utf-8") as file:
                file.write("".join([f"{json.dumps(record)}\n" for record in records]))
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be written: {error.strerror or error}. Make room or choose "
                "another folder."
            ) from error
