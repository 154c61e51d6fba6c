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
    value(2)  # what is done once, compilation too
    runners[message["key"]] = value
    return None


def _timed(runner: Any, steps: int, bursts: int) -> list[float]:
    runner(1)  # fills the caches that the other sides emptied
    found = []
    for _ in range(bursts):
        began = time.perf_counter()
        runner(steps)
        found.append(time.perf_counter() - began)
    return found


if __name__ == "__main__":
    main()
