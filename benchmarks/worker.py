"""The process behind :class:`harness.Worker`; see there for what it is asked."""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer lines until there are none."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    runners: dict[str, Any] = {}
    for line in sys.stdin:
        message = json.loads(line)
        try:
            answer: dict[str, Any] = {"result": _answer(message, runners)}
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is its reason
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(message: dict[str, Any], runners: dict[str, Any]) -> Any:
    if message["do"] == "drop":
        runners.pop(message["key"], None)
        gc.collect()
        return None
    if message["do"] == "run":
        return _timed(runners[message["key"]], message["steps"], message["bursts"])
    module, _, name = message["function"].partition(":")
    value = getattr(importlib.import_module(module), name)(**message["arguments"])
    if message["do"] == "call":
        return value
    if message["do"] == "peak":
        return _peak(value)
    value(2)  # what is done once, compilation too
    runners[message["key"]] = value
    return None


def _timed(runner: Any, steps: int, bursts: int) -> list[float]:
    runner(1)  # fills the caches that the other sides emptied
    found = []
    for _ in range(bursts):
        began = time.perf_counter()
        apart = runner(steps) or 0.0  # seconds that are not counted, such as those of compiling
        found.append(time.perf_counter() - began - apart)
    return found


def _peak(runner: Any) -> dict[str, int]:
    """Bytes of the process before a runner's first step, and the most during three."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    runner(3)
    return {"before, bytes": before, "peak, bytes": _resident("VmHWM")}


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what + ":"))


if __name__ == "__main__":
    main()
