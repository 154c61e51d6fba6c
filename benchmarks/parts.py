"""Where does the time of a step go?"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

from effort import Effort
from harness import Workers
from workloads import named

SIDES = {"deeplvm, eager": "sides.stopwatch:ours", "by hand, eager": "sides.stopwatch:by_hand"}


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Each part of an eager step; the sides take turns."""
    found = {}
    for name in ("mlp", "mlp_1000", "tiny", "conv"):
        workload = named(name).small() if effort.smoke else replace(named(name), rows=4_000)
        found[name] = {"title": named(name).title, **_one(workers["own"], workload, effort)}
        for side, parts in found[name]["sides"].items():
            shown = [f"{part} {row['milliseconds, minimum']:.2f}" for part, row in parts.items()]
            print(f"  {name}, {side}: {', '.join(shown)} ms", flush=True)
        if effort.smoke:
            break
    return {"what": "parts of a training step", "workloads": found}


def _one(own: Any, workload: Any, effort: Effort) -> dict[str, Any]:
    plain = workload.plain()
    square = own.build("sides.limit:square", workload=plain)
    flops = own.call("sides.limit:part_flops", workload=plain)
    times: dict[str, dict[str, list[float]]] = {side: {} for side in SIDES}
    product: list[float] = []
    for _ in range(effort.turns(10)):
        for side, function in SIDES.items():
            parts = own.call(function, workload=plain, steps=20 if effort.smoke else 50)
            for part, seconds in parts.items():
                times[side].setdefault(part, []).extend(seconds)
        product += own.run(square, 1, 5)
    rate = own.call("sides.limit:square_flops") / min(product)
    sides: dict[str, Any] = {}
    for side, parts in times.items():
        sides[side] = {}
        for part, seconds in parts.items():
            row = {
                "milliseconds, minimum": 1e3 * min(seconds),
                "milliseconds, median": 1e3 * median(seconds),
            }
            if part in flops:
                row["fraction of the limit"] = flops[part] / rate / min(seconds)
            sides[side][part] = row
    own.ask(do="drop", key=square)
    return {"flops": flops, "sgemm, FLOP a second": rate, "sides": sides}
