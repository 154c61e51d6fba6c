"""Watching a run: one method an event."""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import torch
from torch import Tensor

from deeplvm.files import Shown, say


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
        """Training begins or goes on; ``options`` are what it was told.

        ``epoch`` is how many were done before, ``seconds`` the time that they took, ``ranking`` by
        what :class:`~deeplvm.training.measure.Ranking` the best is found.
        """

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
        for name, number in numbers_of(record).items():
            self.writer.add_scalar(name, number, record["epoch"])
        self.writer.flush()

    def ended(self, history: History | None, error: BaseException | None) -> None:
        if self.writer is not None:
            self.writer.close()


Record = dict[str, Any]
Ending = Literal["epochs", "patience", "minutes", "phases"]


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of an epoch's record as trackers call them, ``elbo/valid`` and the like.

    >>> numbers_of({"epoch": 1, "train": {"elbo": -3.5}, "seconds": 2.0})
    {'elbo/train': -3.5, 'training/seconds': 2.0}
    """
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{term}/{name}": n for term, n in value.items() if n is not None}
        elif name != "epoch" and isinstance(value, int | float):
            found[f"training/{name}"] = value
    return found


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
            (see :mod:`deeplvm.training.callbacks`), ``peak_memory`` of the process in bytes.
        bound: Name of the bound (or other measure) by which the best epoch was chosen.
        best_epoch: The epoch whose weights the model has: the best held out among those that can
            be compared (the record of another has ``comparable`` false), without such the last.
        stopped: Why it ended: all epochs done, patience lost, no phase to be done any more, or the
            minutes over (the last record then says which ``part`` of its epoch was done).
    """

    epochs: tuple[Record, ...]
    bound: str
    best_epoch: int
    stopped: Ending

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
        unit = " nats a row" if "elbo" in self.best["train"] else ""
        return (
            f"{len(self.epochs)} epochs, best {self.best_epoch}: {self.bound} {', '.join(shown)}"
            f"{unit}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deeplvm.results import html_table

        splits = self._splits()
        rows = [
            [str(record["epoch"]), *[f"{record[split][self.bound]:.2f}" for split in splits]]
            for record in self.epochs
        ]
        unit = " (nats a row)" if self.epochs and "elbo" in self.best["train"] else ""
        heads = [f"{self.bound}, {split}{unit}" for split in splits]
        return html_table(["epoch", *heads], rows, str(self))

    def _splits(self) -> list[str]:
        return [split for split in ("train", "valid") if self.epochs and split in self.epochs[-1]]


_SIDE = 1024  # of the square matrices: 2.1 GFLOP a product


@functools.lru_cache(maxsize=4)
def product_rate(
    device: str = "cpu", dtype: torch.dtype = torch.float32, _threads: int = 0
) -> float:
    """FLOP a second of a large matrix product here; measured once, in some 50 ms.

    Args:
        device: Where.
        dtype: Of the matrices.
        _threads: Only a key: another number of threads is another rate.
    """
    # not random: training reads the stream of random numbers around this
    a, b = torch.full((2, _SIDE, _SIDE), 0.5, device=device, dtype=dtype)
    out = torch.empty_like(a)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            _synchronise(device)
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            _synchronise(device)
            times.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / min(times)


class _NoModules(contextlib.nullcontext[None]):
    """In place of torch's tracker of modules, whose hooks refuse a gradient inside a forward pass.

    Only the total is wanted, which it keeps under this name.
    """

    parents = frozenset({"Global"})


def flops_of(function: Callable[[], object]) -> int:
    """FLOP of the matrix products and convolutions that a function does; it is called once."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = cast("Any", _NoModules())
    with counter:
        function()
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU what tensors took at most, on a CPU the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


_REDRAW = 0.25  # seconds; drawing takes the time of several small steps


class Progress:
    """Shows where training stands; costs one look at the clock per step.

    Args:
        epochs: Of the whole run.
        done: Of these, how many were done before (a resumed run).
        seconds: That it may take at most.
        bound: What is shown of the metrics, ``"elbo"``.
        quiet: Whether nothing is shown.
        exact: Whether the bound is log p(x) itself, since there is nothing to infer.
    """

    def __init__(
        self,
        epochs: int,
        done: int,
        bound: str,
        *,
        quiet: bool,
        seconds: float = math.inf,
        exact: bool = False,
    ) -> None:
        self.epochs, self.bound, self.done = epochs, bound, done
        self.called = "log p(x)" if exact and bound == "elbo" else bound
        self.first, self.seconds = done, seconds
        self.shows = not quiet
        self.bar: Any = None
        self.task: Any = None
        self.start = self.drawn = time.monotonic()

    def __enter__(self) -> Progress:
        if self.shows and sys.stderr is not None and sys.stderr.isatty():
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
                console=Console(file=cast("Any", Shown(sys.stderr))),
                refresh_per_second=4,
                speed_estimate_period=120,
            )
            self.task = self.bar.add_task(
                "", total=self.epochs, completed=self.done, epoch=self.done, bound=""
            )
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
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
        shown = f"{self.called} {record['train'][self.bound]:.2f}"
        if "valid" in record:
            shown += f"  held out {record['valid'][self.bound]:.2f}{' (best)' if best else ''}"
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, epoch=self.done, bound=shown)
            return
        spent = time.monotonic() - self.start
        left = spent / (self.done - self.first) * (self.epochs - self.done)
        left = max(0.0, min(left, self.seconds - spent))
        say(f"epoch {self.done}/{self.epochs}  {shown}  {in_words(left)} left")

    def say(self, line: str) -> None:
        """A line of text, above the bar."""
        if not (self.shows and line):
            return
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            say(line)


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


# Of these a person may want to send a second one, which then acts at once.
_ASKED = ("SIGINT", "SIGTERM")
# A terminal that closes, a limit of time, a batch system that warns before it kills.
_TOLD = ("SIGHUP", "SIGXCPU", "SIGUSR1")


class Signals:
    """Listens for signals that ask to stop, while training; a context manager.

    These are SIGINT and SIGTERM, and SIGHUP, SIGXCPU and SIGUSR1 where they would end the process.
    The first one only sets :attr:`received`, at which training looks after every step. It also
    gives SIGINT and SIGTERM back to whoever had them before, so that a second one acts at once.
    Signals reach the main thread alone; elsewhere nothing is listened for.

    Attributes:
        received: The signal that asked to stop, or none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            known = signal.Signals.__members__
            told = [known[name] for name in _TOLD if name in known]  # Windows has none of them
            numbers = [known[name] for name in _ASKED]
            numbers += [each for each in told if signal.getsignal(each) is signal.SIG_DFL]
            self._before = {number: signal.signal(number, self._heard) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back(list(self._before))

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._give_back([each for each in self._before if each.name in _ASKED])

    def _give_back(self, numbers: list[signal.Signals]) -> None:
        for number in numbers:
            # A handler that was not set from Python reads as None and cannot be set again.
            handler = self._before.pop(number)
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
