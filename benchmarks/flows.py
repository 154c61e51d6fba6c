"""What does a draw with its density from an inverse autoregressive flow cost?"""

from __future__ import annotations

from typing import Any

from effort import Effort
from harness import Side, Workers, measure

REFERENCE = "matrix products alone"
SIDES = (
    Side("deeplvm, ELU", "own", "sides.flows:ours", {"activation": "ELU"}),
    Side("deeplvm, SiLU", "own", "sides.flows:ours", {"activation": "SiLU"}),
    Side(
        "deeplvm, ELU, compiled",
        "own",
        "sides.flows:ours",
        {"activation": "ELU", "compiled": True},
    ),
    Side(
        "deeplvm, SiLU, compiled",
        "own",
        "sides.flows:ours",
        {"activation": "SiLU", "compiled": True},
    ),
    Side(REFERENCE, "own", "sides.flows:products"),
)


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """Four steps of two hidden layers, for draws alone and with gradients."""
    width = 16 if effort.smoke else 320
    sides = [side for side in SIDES if effort.compiled or not side.arguments.get("compiled")]
    found = {}
    for latents in (4,) if effort.smoke else (32, 64):
        for backward in (False, True):
            name = f"{latents} latents, {'with gradients' if backward else 'draws alone'}"
            race = measure(
                workers,
                sides,
                rounds=effort.turns(100),
                bursts=10,
                seconds=effort.seconds,
                latents=latents,
                width=width,
                backward=backward,
            )
            workers.renew()
            found[name] = {"sides": race.table(REFERENCE), "absent": race.absent}
            for side, row in found[name]["sides"].items():
                shown = f"{row['milliseconds, minimum']:7.2f} ms, {row['ratio of minima']:.2f}"
                print(f"  {name}, {side:26} {shown}", flush=True)
    title = f"IAF, 4 steps, two hidden layers of {width}, context 320, batch 100"
    return {"what": "draws of a flow with their densities", "title": title, "workloads": found}
