"""What does a training step cost where another process is busy on every core?"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import step
from effort import Effort
from harness import Workers, busy
from workloads import named

NAMES = ("mlp", "one_core")


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Two workloads of :mod:`step` and its sides, a spinning process a core beside them."""
    found = {}
    with nullcontext() if effort.smoke else busy():
        for name in NAMES[: 1 if effort.smoke else None]:
            workload = named(name).small() if effort.smoke else named(name)
            workers.renew(workload.cores)
            found[name] = step.one(workers, workload, effort)
            print(step.summary(workload, found[name]), flush=True)
    return {"what": "training step, every core busy", "workloads": found}
