"""A verb that several processes carry out: one makes files and speaks, an error is told once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from deeplvm.cli.console import waiting
from deeplvm.parallel.processes import Processes, announcement, joined

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data
    from deeplvm.runs.run import Run

T = TypeVar("T")


class EndedTogether(Exception):
    """Several processes end with an error, the cause; one of them tells of it.

    Attributes:
        speaks: Whether this is the one.
    """

    def __init__(self, *, speaks: bool) -> None:
        super().__init__()
        self.speaks = speaks


class Terminated(KeyboardInterrupt):
    """SIGTERM: from whoever started the processes, as when one of them has ended."""

    signal = signal.SIGTERM


@contextlib.contextmanager
def together(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that the environment announces; of an error inside, one of them tells.

    Raises:
        EndedTogether: From any error, where there are several processes.
    """
    with joined(device) as here:
        if here.alone:
            yield here
            return
        try:
            yield here
        except (Exception, KeyboardInterrupt) as error:
            # while they have not parted: one that tells must be known before the others notice
            raise EndedTogether(speaks=here.claim("error")) from error


@contextlib.contextmanager
def silent_unless_first() -> Iterator[None]:
    """Nothing but errors is heard of any process but the first."""
    if is_first():
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def is_first() -> bool:
    """Whether the environment calls this process the first; it may not have met the others yet."""
    try:
        announced = announcement()
    except ValueError:
        return os.environ.get("RANK", "0") == "0"
    return announced is None or announced.rank == 0


def in_company() -> bool:
    """Whether the environment announces several processes."""
    try:
        return announcement() is not None
    except ValueError:
        return False


def by_first(here: Processes, function: Callable[[], T]) -> T:
    """What a function of the first process alone returns, on all; if it is refused, on all.

    Only the first may have the disk that a RUN folder is on.
    """
    return _in_turn(here, function, lambda value: value)


def data_of(here: Processes, read: Callable[[], Data], source: str | None) -> Data:
    """The data, read by every process, and the same for all.

    A named data set is downloaded by the first process while the others wait.

    Raises:
        ValueError: If a process reads other data than the first.
    """

    def reading() -> Data:
        with waiting(f"reading {source or 'the data'}"):
            return read()

    if here.alone:
        return reading()
    # decided by one: where a machine lacks the file, all must still take the same way
    if here.from_first(source is None or Path(source).expanduser().exists()):
        data = reading()
    else:
        found = _in_turn(here, lambda: _Unsent(reading()), lambda _: _Unsent(reading()))
        data = found.value
    expected = here.from_first(data.fingerprint)
    if here.any(data.fingerprint != expected):
        raise ValueError(
            f"Not all processes read the same data from {data.name}: on another machine it is "
            "another file, or a copy that is older."
        )
    return data


def model_of(here: Processes, run: Run) -> LatentVariableModel:
    """The best model of a run, read by the first process."""
    if here.alone:
        return run.model
    weights = by_first(here, lambda: run.model.state_dict())
    if here.first:
        return run.model
    model = run.build()
    model.load_state_dict(weights)
    return model.eval()


class _Unsent:
    """A value that stays in its process."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _Unsent, ()


def _in_turn(here: Processes, function: Callable[[], T], others: Callable[[T], T]) -> T:
    """Call a function in the first process; then in the others another, of what it returned."""
    if here.alone:
        return function()
    told: tuple[Any, str | None] = (None, None)
    result: Any = None
    failure: Exception | None = None
    if here.first:
        try:
            result = function()
            told = (result, None)
        except (ValueError, TypeError, OSError) as error:
            told, failure = (None, str(error)), error
    value, refusal = here.from_first(told)
    if failure is not None:
        raise failure
    if refusal is not None:
        raise ValueError(refusal)
    return result if here.first else others(value)


@contextlib.contextmanager
def termination() -> Iterator[None]:
    """SIGTERM as an error, so that this process still says why it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal gives them
        raise Terminated(
            "Terminated (SIGTERM): another process ended, or somebody asked this one to."
        )

    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def precise(model: Any, precision: str) -> Any:
    """The model, in double precision if that was asked for."""
    return model.double() if precision == "float64" else model
