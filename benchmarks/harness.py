"""Sides that take turns: each in a worker process that sleeps while another one runs.

A worker is a Python of the environment that the side needs. It reads one line of JSON at a time
and answers with one: ``build`` keeps a runner, a function of a number of steps; ``run`` times it;
``call`` returns what a function says; ``peak`` says how much memory a runner takes. Only one
worker is ever at work, so that the sides share the machine's noise and not its processors.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE / ".venv" / "bin" / "python"
SETTLE = 0.005  # seconds in which the threads of the side before stop looking for work


class SideError(Exception):
    """A side cannot do what was asked; the text says why."""


class Worker:
    """A process that answers lines.

    Args:
        python: Its interpreter.
        environment: Added to this process's.
        cores: How many processor cores it may use; none for all.
    """

    def __init__(
        self,
        python: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
        cores: int | None = None,
    ) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        self.process = subprocess.Popen(
            [str(python), str(HERE / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            # ours trains in a thread, whose own arena glibc would give back to the system and ask
            # for again at every step; a user's main thread keeps its memory, as this does
            env={**os.environ, **(environment or {})},
        )
        if cores is not None:  # before it has read anything, so before it has threads
            os.sched_setaffinity(self.process.pid, sorted(os.sched_getaffinity(0))[:cores])
        self.keys = itertools.count()

    def ask(self, **message: Any) -> Any:
        """Send a message, wait for the answer.

        Raises:
            SideError: If the worker says that it cannot, or dies.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.log.seek(0)
            raise SideError(f"the worker died: {self.log.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer["result"]

    def build(self, function: str, **arguments: Any) -> str:
        """Keep the runner that ``module:function`` returns; its key."""
        key = str(next(self.keys))
        self.ask(do="build", key=key, function=function, arguments=arguments)
        return key

    def call(self, function: str, **arguments: Any) -> Any:
        """What ``module:function`` returns."""
        return self.ask(do="call", function=function, arguments=arguments)

    def peak(self, function: str, **arguments: Any) -> dict[str, int]:
        """Bytes before the first step of the runner that ``module:function`` returns, and most."""
        return self.ask(do="peak", function=function, arguments=arguments)

    def run(self, key: str, steps: int, bursts: int) -> list[float]:
        """Seconds of each burst of so many steps."""
        return self.ask(do="run", key=key, steps=steps, bursts=bursts)

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def interpreter(kind: str, *, peers: bool) -> str | Path:
    """``"own"`` is this Python; any other name the one of the peers' environment.

    Raises:
        SideError: If there are no peers.
    """
    if kind == "own":
        return sys.executable
    if not peers:
        raise SideError("measured without peers")
    if not PEERS.exists():
        raise SideError("the peers' environment is missing: run make bench")
    return PEERS


@dataclass
class Workers:
    """The processes of a benchmark, started when first asked for.

    Attributes:
        peers: Whether there are peers; else asking for one is an error that says so.
        lasting: Whether the same processes are used throughout, as a test has no time for more.
        cores: How many processor cores each may use; none for all.
    """

    peers: bool = True
    lasting: bool = False
    cores: int | None = None
    alive: dict[str, Worker] = field(default_factory=dict)

    def __getitem__(self, kind: str) -> Worker:
        """The process of a name; see :func:`interpreter`."""
        if kind not in self.alive:
            python = interpreter(kind.split(":")[0], peers=self.peers)
            self.alive[kind] = Worker(python, cores=self.cores)
        return self.alive[kind]

    def of(self, side: Side) -> Worker:
        """A process of a side's own.

        Every thread that trains has its team of OpenMP threads, and where there are more of them
        in a process than processors, none of them waits awake for the next operation any longer.
        """
        return self[side.worker if self.lasting else f"{side.worker}: {side.name}"]

    def renew(self, cores: int | None = None) -> None:
        """Begin anew, with fresh processes of so many cores."""
        if not self.lasting:
            self.close()
            self.cores = cores

    def close(self) -> None:
        """End them."""
        for worker in self.alive.values():
            worker.close()
        self.alive.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Side:
    """One way of doing a workload.

    Attributes:
        name: What a table calls it.
        worker: The process it runs in.
        function: ``module:function`` that builds its runner.
        arguments: What the function is told.
        share: Steps of one unit of work that the runner does in a step, where they are not one.
    """

    name: str
    worker: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0


@dataclass
class Times:
    """Seconds a step of one side: every burst of every round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def minimum(self) -> float:
        """The fastest burst."""
        return min([min(each) for each in self.rounds])

    @property
    def median(self) -> float:
        """The burst in the middle."""
        return median(itertools.chain.from_iterable(self.rounds))


@dataclass
class Race:
    """What :func:`measure` found: times by side, and why a side has none."""

    times: dict[str, Times]
    absent: dict[str, str]

    def table(self, reference: str | None = None) -> dict[str, Any]:
        """Milliseconds of each side, and ratios to the reference."""
        table: dict[str, Any] = {}
        for name, times in self.times.items():
            row = {
                "milliseconds, minimum": 1e3 * times.minimum,
                "milliseconds, median": 1e3 * times.median,
            }
            if reference in self.times:
                base = self.times[reference]
                row["ratio of minima"] = times.minimum / base.minimum
                row["ratio of medians"] = times.median / base.median
            table[name] = row
        return table


@contextmanager
def busy() -> Iterator[None]:
    """Another process at work on every core, of which nobody waits for anything."""
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def peak(workers: Workers, side: Side, **shared: Any) -> dict[str, int]:
    """Memory of a side in a fresh process.

    Raises:
        SideError: If the side cannot.
    """
    workers.renew()
    return workers[side.worker].peak(side.function, **shared, **side.arguments)


def measure(
    workers: Workers,
    sides: Sequence[Side],
    *,
    rounds: int,
    bursts: int = 4,
    burst: int = 1,
    seconds: float | None = None,
    **shared: Any,
) -> Race:
    """Let the sides take turns.

    Args:
        workers: Where they run.
        sides: Who takes part; one that cannot is left out with its reason.
        rounds: Turns of each side. Who begins moves on by one a round.
        bursts: Timings a turn; one step before them is not counted.
        burst: Steps timed together.
        seconds: Time after which no further round begins (three are always done).
        shared: Arguments of every side's builder.
    """
    keys: dict[str, str] = {}
    absent: dict[str, str] = {}
    for side in sides:
        try:
            keys[side.name] = workers.of(side).build(side.function, **shared, **side.arguments)
        except SideError as error:
            absent[side.name] = str(error)
    present = [side for side in sides if side.name in keys]
    times = {side.name: Times() for side in present}
    began = time.perf_counter()
    for turn in range(rounds):
        if turn >= 3 and seconds is not None and time.perf_counter() - began > seconds:
            break
        start = turn % max(1, len(present))
        for side in present[start:] + present[:start]:
            time.sleep(SETTLE)
            found = workers.of(side).run(keys[side.name], burst, bursts)
            times[side.name].rounds.append([each / (burst * side.share) for each in found])
    for side in present:
        workers.of(side).ask(do="drop", key=keys[side.name])
    return Race(times, absent)
