"""What does a training step cost: ours, by hand, and in the peers, beside the physical limit?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from effort import Effort
from harness import Side, Workers, measure
from workloads import WORKLOADS, Workload

REFERENCE = "by hand, eager"
SQUARE = "sgemm, square"
PRODUCTS = "matrix products alone"


def sides_of(workload: Workload, effort: Effort) -> Iterator[Side]:
    """Who takes part in a workload."""
    yield Side("deeplvm, eager", "own", "sides.ours:step")
    yield Side(REFERENCE, "own", "sides.by_hand:step")
    if effort.compiled:
        yield Side("deeplvm, compiled", "own", "sides.ours:step", {"compiled": True})
        yield Side("by hand, compiled", "own", "sides.by_hand:step", {"compiled": True})
    yield Side("pythae, its model", "torch", "sides.with_pythae:model_step")
    steps = 2 if effort.smoke else max(4, 2 * workload.burst)
    yield Side(
        "pythae, its trainer", "torch", "sides.with_pythae:trainer_step", {"steps": steps}, steps
    )
    yield Side("Pyro, SVI.step", "torch", "sides.with_pyro:step")
    yield Side("Pyro, loss and fused Adam", "torch", "sides.with_pyro:step", {"own_loop": True})
    yield Side("NumPyro, jitted step", "jax", "sides.with_numpyro:step")
    if workload.family == "mlp" and workload.particles is None:
        yield Side("NumPyro, scan", "jax", "sides.with_numpyro:step", {"scan": True})
    yield Side(SQUARE, "own", "sides.limit:square")
    yield Side(PRODUCTS, "own", "sides.limit:products")


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Every workload, every side."""
    found = {}
    for workload in WORKLOADS:
        if effort.smoke and workload.name in ("mlp_1000", "tiny", "one_core", "iwae"):
            continue  # in small they are the first one
        what = workload.small() if effort.smoke else workload
        workers.renew(workload.cores)  # a thread that trained leaves its OpenMP threads behind
        found[workload.name] = one(workers, what, effort)
        print(summary(workload, found[workload.name]), flush=True)
    return {"what": "training step", "workloads": found}


def one(workers: Workers, workload: Workload, effort: Effort) -> dict[str, Any]:
    """One workload."""
    plain = workload.plain()
    flops = workers["own"].call("sides.limit:flops", workload=plain)
    square = workers["own"].call("sides.limit:square_flops")
    race = measure(
        workers,
        list(sides_of(workload, effort)),
        rounds=effort.turns(60),
        bursts=2,
        burst=workload.burst,
        seconds=effort.seconds,
        workload=plain,
    )
    rate = square / race.times[SQUARE].minimum
    table = race.table(REFERENCE)
    for name, row in table.items():
        if name not in (SQUARE,):
            row["rows a second"] = 1e3 * workload.batch / row["milliseconds, minimum"]
            row["fraction of the limit"] = 1e3 * flops / rate / row["milliseconds, minimum"]
    return {
        "title": workload.title,
        "settings": plain,
        "rounds": len(race.times[REFERENCE].rounds),
        "flops a step": flops,
        "sgemm, FLOP a second": rate,
        "limit, milliseconds": 1e3 * flops / rate,
        "sides": table,
        "absent": race.absent,
    }


def summary(workload: Workload, found: dict[str, Any]) -> str:
    """Lines for the terminal."""
    lines = [f"{workload.title}: limit {found['limit, milliseconds']:.2f} ms"]
    for name, row in found["sides"].items():
        lines.append(
            f"  {name:26} {row['milliseconds, minimum']:8.2f} ms"
            f"  {row['ratio of minima']:6.3f} (medians {row['ratio of medians']:.3f})"
            + (f"  {row['fraction of the limit']:.2f}" if "fraction of the limit" in row else "")
        )
    lines += [f"  {name:26} {why}" for name, why in found["absent"].items()]
    return "\n".join(lines)
