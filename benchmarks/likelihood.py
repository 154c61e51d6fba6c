"""How many rows a second does an importance-sampled likelihood take, and how much memory?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from effort import Effort
from harness import Side, SideError, Workers, measure, peak
from workloads import named

PARTICLES = 5_000
SQUARE = "sgemm, square"
REFERENCE = "by hand, eager"


def sides_of(effort: Effort, particles: int, rows: int, few: int) -> Iterator[Side]:
    """Who takes part; the peers take one row after another, so that a few tell."""
    some = {"particles": particles, "rows": rows}
    if effort.compiled:
        compiled = {**some, "compiled": True}
        yield Side("deeplvm, compiled", "own", "sides.ours:likelihood", compiled, rows)
    yield Side("deeplvm, eager", "own", "sides.ours:likelihood", some, rows)
    yield Side(REFERENCE, "own", "sides.by_hand:likelihood", some, rows)
    theirs = {"particles": particles, "rows": few, "batch": 100}
    for name, gradients in (
        ("pythae, as it is", True),
        ("pythae, without gradients", False),
    ):
        arguments = {**theirs, "gradients": gradients}
        yield Side(name, "torch", "sides.with_pythae:likelihood", arguments, few)
    yield Side(SQUARE, "own", "sides.limit:square")


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Rows a second of every side, and peaks of memory."""
    workload = named("mlp")
    particles, rows, few = PARTICLES, 64, 4
    if effort.smoke:
        workload, particles, rows, few = workload.small(), 32, 4, 1
    plain = workload.plain()
    own = workers["own"]
    flops = own.call("sides.limit:row_flops", workload=plain, particles=particles)
    square = own.call("sides.limit:square_flops")
    race = measure(
        workers,
        list(sides_of(effort, particles, rows, few)),
        rounds=effort.turns(20),
        bursts=1,
        seconds=3 * effort.seconds,
        workload=plain,
    )
    rate = square / race.times[SQUARE].minimum
    table = race.table(REFERENCE)
    del table[SQUARE]
    for row in table.values():
        row["rows a second"] = 1e3 / row["milliseconds, minimum"]
        row["fraction of the limit"] = 1e3 * flops / rate / row["milliseconds, minimum"]
    found: dict[str, Any] = {
        "what": "importance-sampled likelihood",
        "title": f"{workload.title.split(',')[0]}, {particles:,} particles",
        "settings": {"workload": plain, "particles": particles, "rows": rows, "peers' rows": few},
        "rounds": len(race.times[REFERENCE].rounds),
        "flops a row": flops,
        "sgemm, FLOP a second": rate,
        "limit, rows a second": rate / flops,
        "sides": table,
        "absent": race.absent,
    }
    if effort.compiled:
        workers.renew()
        found["compiling, seconds"] = workers["own"].call(
            "sides.ours:compile_seconds", workload=plain, particles=particles, rows=rows
        )
    found["memory"] = memory(effort, workers)
    for name, row in table.items():
        print(
            f"  {name:26} {row['rows a second']:8.2f} rows a second"
            f"  {row['fraction of the limit']:.2f} of the limit"
        )
    for name, why in race.absent.items():
        print(f"  {name:26} {why}")
    for name, peaks in found["memory"].items():
        shown = ", ".join([f"{each['added, bytes'] / 2**20:.0f}" for each in peaks.values()])
        print(f"  {name:26} MiB added at {', '.join(peaks)} particles: {shown}", flush=True)
    return found


def memory(effort: Effort, workers: Workers) -> dict[str, dict[str, dict[str, int]]]:
    """Peaks by side and particles, each in a fresh process."""
    workload, counts, rows = named("mlp"), (500, 5_000, 50_000), 8
    if effort.smoke:
        workload, counts, rows = workload.small(), (16,), 2
    few = replace(workload, rows=rows).plain()
    theirs = {"gradients": True, "batch": 100}
    sides = (
        Side("deeplvm, eager", "own", "sides.ours:likelihood", {"rows": rows}),
        Side(REFERENCE, "own", "sides.by_hand:likelihood", {"rows": rows}),
        Side("pythae, as it is", "torch", "sides.with_pythae:likelihood", {"rows": 1, **theirs}),
    )
    found: dict[str, dict[str, dict[str, int]]] = {}
    for side in sides[:1] if effort.smoke else sides:
        for particles in counts:
            if side.worker != "own" and particles > 5_000:
                continue  # minutes
            try:
                one = peak(workers, side, workload=few, particles=particles)
            except SideError:
                continue
            one["added, bytes"] = one["peak, bytes"] - one["before, bytes"]
            found.setdefault(side.name, {})[f"{particles:,}"] = one
    return found
