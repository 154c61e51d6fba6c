"""What does annealed importance sampling cost beside the gradient evaluations that it needs?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from effort import Effort
from harness import Side, Workers, measure
from workloads import named

REFERENCE = "evaluations by hand"
ROWS, TEMPERATURES, CHAINS, LEAPFROG, BATCH = 1_000, 1_000, 16, 10, 100


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """A walk of few temperatures; the whole of it takes as many times as long as it is longer."""
    workload, batch, few = named("mlp"), BATCH, 6
    if effort.smoke:
        workload, batch, few = workload.small(), 4, 2
    each = 1 + (few - 1) * LEAPFROG
    sides = [
        Side("deeplvm", "own", "sides.annealing:walk", {}, each),
        Side(REFERENCE, "own", "sides.annealing:evaluations", {}, each),
    ]
    settings = {"rows": batch, "chains": CHAINS, "temperatures": few, "leapfrog": LEAPFROG}
    plain = replace(workload, rows=batch).plain()
    race = measure(
        workers,
        sides,
        rounds=effort.turns(20),
        bursts=2,
        seconds=effort.seconds,
        workload=plain,
        **settings,
    )
    workers.renew()
    pilot = workers["own"].call(
        "sides.annealing:pilot_seconds", workload=plain, rows=batch, temperatures=few,
        leapfrog=LEAPFROG,
    )  # fmt: skip
    table = race.table(REFERENCE)
    batches = ROWS // BATCH
    whole = 1 + (TEMPERATURES - 1) * LEAPFROG
    seconds = {name: batches * whole * row["milliseconds, minimum"] / 1e3
               for name, row in table.items()}  # fmt: skip
    extra = batches * pilot
    found = {
        "what": "annealed importance sampling",
        "title": f"{workload.title.split(',')[0]}, {ROWS:,} rows, {TEMPERATURES:,} temperatures, "
        f"{CHAINS} chains, {LEAPFROG} leapfrog steps",
        "settings": {"workload": plain, **settings},
        "sides": table,
        "absent": race.absent,
        "evaluations of a chain": whole,
        "whole, seconds": seconds,
        "pilots, seconds": extra,
        "ratio with pilots": (seconds["deeplvm"] + extra) / seconds[REFERENCE],
    }
    for name, row in table.items():
        shown = (
            f"{row['milliseconds, minimum']:8.2f} ms an evaluation, {row['ratio of minima']:.3f}"
        )
        print(f"  {name:22} {shown}; the whole {seconds[name]:,.0f} s", flush=True)
    print(f"  with pilots ({extra:,.0f} s) {found['ratio with pilots']:.3f}", flush=True)
    return found
