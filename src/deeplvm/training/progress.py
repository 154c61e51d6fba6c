"""Progress on standard error: a bar with bound and time left, or one plain line an epoch."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

_REDRAW = 0.25  # seconds; drawing takes the time of several small steps


class Progress:
    """Shows where training stands; costs one look at the clock per step.

    Args:
        epochs: Of the whole run.
        done: Of these, how many were done before (a resumed run).
        bound: What is shown of the metrics, ``"elbo"``.
        quiet: Whether nothing is shown.
    """

    def __init__(self, epochs: int, done: int, bound: str, *, quiet: bool) -> None:
        self.epochs, self.bound, self.done = epochs, bound, done
        self.first = done
        self.shows = not quiet
        self.bar: Any = None
        self.task: Any = None
        self.start = self.drawn = time.monotonic()

    def __enter__(self) -> Progress:
        if self.shows and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("epoch {task.fields[epoch]}/{task.total:.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[bound]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                console=Console(file=sys.stderr),
                refresh_per_second=4,
                speed_estimate_period=120,
            )
            self.task = self.bar.add_task(
                "", total=self.epochs, completed=self.done, epoch=self.done, bound=""
            )
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, progress: float) -> None:
        """A step was done; ``progress`` in epochs."""
        if self.bar is None:
            return
        now = time.monotonic()
        if now - self.drawn >= _REDRAW:
            self.drawn = now
            self.bar.update(self.task, completed=progress, epoch=int(progress) + 1)

    def epoch(self, record: Mapping[str, Any], *, best: bool) -> None:
        """An epoch was done and measured."""
        self.done = record["epoch"]
        if not self.shows:
            return
        shown = f"{self.bound} {record['train'][self.bound]:.2f}"
        if "valid" in record:
            shown += f"  held out {record['valid'][self.bound]:.2f}{' (best)' if best else ''}"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, epoch=self.done, bound=shown)
            return
        left = (
            (time.monotonic() - self.start) / (self.done - self.first) * (self.epochs - self.done)
        )
        say(f"epoch {self.done}/{self.epochs}  {shown}  {in_words(left)} left")

    def say(self, line: str) -> None:
        """A line of text, above the bar."""
        if not (self.shows and line):
            return
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            say(line)


def say(line: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def in_words(seconds: float) -> str:
    """A duration as one reads it.

    >>> in_words(4.2), in_words(75), in_words(7322)
    ('4 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
