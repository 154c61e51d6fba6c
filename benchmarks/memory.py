"""How much memory does training take?"""

from __future__ import annotations

from typing import Any

from effort import Effort
from harness import Side, SideError, Workers, peak
from workloads import WORKLOADS

SIDES = (
    Side("deeplvm, eager", "own", "sides.ours:step"),
    Side("deeplvm, compiled", "own", "sides.ours:step", {"compiled": True}),
    Side("by hand, eager", "own", "sides.by_hand:step"),
    Side("pythae, its model", "torch", "sides.with_pythae:model_step"),
    Side("Pyro, SVI.step", "torch", "sides.with_pyro:step"),
    Side("NumPyro, jitted step", "jax", "sides.with_numpyro:step"),
)


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Peaks of three steps, each side in a fresh process."""
    found = {}
    for workload in WORKLOADS:
        what = workload.small() if effort.smoke else workload
        sides: dict[str, Any] = {}
        absent: dict[str, str] = {}
        for side in SIDES:
            if side.arguments.get("compiled") and effort.name != "full":
                continue  # half a minute each
            if effort.smoke and sides:
                continue
            try:
                one = peak(workers, side, workload=what.plain())
            except SideError as error:
                absent[side.name] = str(error)
                continue
            sides[side.name] = {**one, "added, bytes": one["peak, bytes"] - one["before, bytes"]}
        found[workload.name] = {"title": workload.title, "sides": sides, "absent": absent}
        shown = [f"{name} {each['added, bytes'] / 2**20:.0f}" for name, each in sides.items()]
        print(f"  {workload.title}: MiB added: {', '.join(shown)}", flush=True)
        if effort.smoke:
            break
    return {"what": "memory of training", "workloads": found}
