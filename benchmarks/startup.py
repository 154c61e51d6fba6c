"""How long does it take to begin: to import, to show help, to take the first step?"""

from __future__ import annotations

import os
import subprocess
import time
from statistics import median
from typing import Any

from effort import Effort
from harness import HERE, SideError, Workers, interpreter


def first_step(side: str) -> list[str]:
    """Arguments of a Python that takes one step and ends."""
    module, _, function = side.partition(":")
    run = f"{function}(named('mlp').plain())(1)"
    return ["-c", f"from workloads import named; from {module} import {function}; {run}"]


USED = "from deeplvm import Joint, elbo; from deeplvm.training import fit"
COMMANDS = (
    ("import torch", "own", ["-c", "import torch"]),
    ("import deeplvm", "own", ["-c", "import deeplvm"]),
    ("import deeplvm, and use it", "own", ["-c", USED]),
    ("deeplvm --help", "own", ["-m", "deeplvm", "--help"]),
    ("first step, deeplvm", "own", first_step("sides.ours:step")),
    ("first step, by hand", "own", first_step("sides.by_hand:step")),
    ("import pythae", "torch", ["-c", "import pythae.models"]),
    ("import pyro", "torch", ["-c", "import pyro"]),
    ("import numpyro", "jax", ["-c", "import numpyro"]),
    ("first step, pythae", "torch", first_step("sides.with_pythae:model_step")),
    ("first step, Pyro", "torch", first_step("sides.with_pyro:step")),
    ("first step, NumPyro", "jax", first_step("sides.with_numpyro:step")),
)
QUICK = ("import deeplvm", "deeplvm --help")
DIFFERENCES = (
    ("import deeplvm, and use it", "import torch"),
    ("import deeplvm", "import torch"),
    ("first step, deeplvm", "first step, by hand"),
)


def run(effort: Effort, workers: Workers) -> dict[str, Any]:  # noqa: ARG001 - fresh ones
    """Seconds of each command in a fresh process; they take turns."""
    times: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    commands = [c for c in COMMANDS if not effort.smoke or c[0] in QUICK]
    for turn in range(1 + effort.turns(10)):
        for name, kind, arguments in commands:
            if name in absent:
                continue
            try:
                seconds = _seconds([str(interpreter(kind, peers=effort.peers)), *arguments])
            except SideError as error:
                absent[name] = str(error)
                continue
            if turn > 0 or effort.smoke:  # the first turn reads files from disk
                times.setdefault(name, []).append(seconds)
        if effort.smoke:
            break
    found = {
        name: {"seconds, minimum": min(each), "seconds, median": median(each)}
        for name, each in times.items()
    }
    differences = {
        f"{name} − {reference}": found[name]["seconds, minimum"]
        - found[reference]["seconds, minimum"]
        for name, reference in DIFFERENCES
        if name in found and reference in found
    }
    for name, row in found.items():
        print(f"  {name:26} {row['seconds, minimum']:6.2f} s")
    for name, seconds in differences.items():
        print(f"  {name}: {seconds:.2f} s")
    for name, why in absent.items():
        print(f"  {name:26} {why}", flush=True)
    return {
        "what": "start-up",
        "rounds": len(times["import deeplvm"]),
        "commands": found,
        "differences, seconds": differences,
        "absent": absent,
    }


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SideError((done.stderr.strip().splitlines() or ["it failed"])[-1][:300])
    return seconds
