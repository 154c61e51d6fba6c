"""How many threads compute a step: as many as are fastest, asked again when steps get slow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

_ROUNDS = 5
_SECONDS = 1.0  # that measuring may take, and the least between two looks at the speed
_FALLEN = 1.5  # times as long as the best second of steps before it


class Threads:
    """The number of threads of one process on a machine that others may use too.

    Threads that wait for each other lose more than they gain where another process has their
    cores: two then take several times as long as one. So the number is measured and not assumed.

    Args:
        most: The largest number to try; 1 for no trying at all.
        clock: Seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.candidates = sorted({*[2**k for k in range(most.bit_length()) if 2**k < most], most})
        self.clock = clock
        self.began: float | None = None
        self.steps = 0
        self.best = self.now = float("inf")  # seconds a step

    @property
    def open(self) -> bool:
        """Whether there is a choice."""
        return len(self.candidates) > 1

    def choose(self, once: Callable[[], object]) -> int:
        """Take the number with which ``once`` is fastest, the median of a few interleaved rounds.

        Returns:
            The number, which torch uses from now on.
        """
        times: dict[int, list[float]] = {count: [] for count in self.candidates}
        end = self.clock() + _SECONDS
        for number in range(_ROUNDS + 1):
            for count, taken in times.items():
                torch.set_num_threads(count)
                began = self.clock()
                once()
                if number:  # the first wakes the threads
                    taken.append(self.clock() - began)
            if number and self.clock() > end:
                break
        chosen = min(times, key=lambda count: statistics.median(times[count]))
        torch.set_num_threads(chosen)
        self.began, self.steps, self.best = None, 0, float("inf")
        return chosen

    def slowed(self) -> bool:
        """Told of every step: whether the last second of steps fell far behind the best."""
        now = self.clock()
        if self.began is None:
            self.began, self.steps = now, 0
            return False
        self.steps += 1
        if now - self.began < _SECONDS:
            return False
        pace = (now - self.began) / self.steps
        self.began, self.steps = now, 0
        fallen = pace > _FALLEN * self.best
        # another choice, or the same: from here on this pace is what is compared with
        self.best = pace if fallen else min(self.best, pace)
        return fallen
