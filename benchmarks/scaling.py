"""Does the cost grow linearly with batch, latent size, particles and depth, and how fast?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from effort import Effort
from harness import Side, Workers, measure
from workloads import Workload

MLP = Workload("mlp", "MLP VAE 784-500-500-50", "mlp", 100, (500, 500), (50,), rows=4_000)
SMALL = replace(MLP, title="IWAE 784-200-200-50, batch 20", hidden=(200, 200), batch=20)
LADDER = Workload("ladder", "", "ladder", 100, (), (), rows=4_000)


def deep(layers: int) -> Workload:
    """A ladder of so many equal layers."""
    return replace(LADDER, hidden=(256,) * layers, latent=(32,) * layers)


STEPS = {
    "batch": ("rows", MLP.title, {n: replace(MLP, batch=n) for n in (100, 200, 400, 800, 1600)}),
    "latent": (
        "dimensions of z",
        "MLP VAE 784-500-500-D, batch 100",
        {n: replace(MLP, latent=(n,)) for n in (50, 400, 800, 1200, 1600)},
    ),
    "particles": (
        "particles",
        SMALL.title,
        {n: replace(SMALL, particles=n) for n in (5, 25, 50, 100, 200)},
    ),
    "depth": (
        "layers",
        "ladder of equal layers, 256 wide, 32 latents, batch 100",
        {n: deep(n) for n in (2, 4, 6, 8, 12)},
    ),
}


def run(effort: Effort, workers: Workers) -> dict[str, Any]:
    """A line through the times of each series: of the eager step, and of the likelihood."""
    found = {}
    for name, (unit, title, sizes) in STEPS.items():
        series = dict(list(sizes.items())[:2]) if effort.smoke else sizes
        if effort.smoke:
            series = {n: replace(each, rows=100) for n, each in series.items()}
        found[name] = {"unit": unit, "title": title, "per": "step"} | {
            who: line(workers, effort, function, series)
            for who, function in (
                ("deeplvm, eager", "sides.ours:step"),
                ("by hand, eager", "sides.by_hand:step"),
            )
        }
        _say(name, found[name])
    counts = (32, 64) if effort.smoke else (1_000, 2_000, 4_000, 8_000)
    rows = replace(MLP, rows=16)
    found["likelihood"] = {
        "unit": "particles",
        "title": f"likelihood of 16 rows, {MLP.title}",
        "per": "evaluation",
        "deeplvm, eager": line(
            workers,
            effort,
            "sides.ours:likelihood",
            dict.fromkeys(counts, rows),
            by_particles=True,
        ),
    }
    _say("likelihood", found["likelihood"])
    return {"what": "growth of the cost", "series": found}


def line(
    workers: Workers,
    effort: Effort,
    function: str,
    series: dict[int, Workload],
    *,
    by_particles: bool = False,
) -> dict[str, Any]:
    """Least squares through the fastest of each size; the sizes take turns."""
    sides = []
    for size, workload in series.items():
        arguments: dict[str, Any] = {"workload": workload.plain()}
        if by_particles:
            arguments |= {"particles": size, "rows": workload.rows}
        sides.append(Side(str(size), "own", function, arguments))
    race = measure(workers, sides, rounds=effort.turns(30), bursts=1, seconds=effort.seconds / 2)
    if race.absent:
        raise RuntimeError(f"{function}: {race.absent}")
    x = np.array(list(series), float)
    y = 1e3 * np.array([race.times[side.name].minimum for side in sides])
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - (slope * x + intercept)
    return {
        "sizes": [int(size) for size in series],
        "milliseconds, minimum": y.tolist(),
        "slope, milliseconds": float(slope),
        "intercept, milliseconds": float(intercept),
        "R2": float(1 - residual.var() / y.var()),
    }


def _say(name: str, found: dict[str, Any]) -> None:
    for who, fit in found.items():
        if isinstance(fit, dict):
            print(
                f"  {name}, {who}: {fit['intercept, milliseconds']:.3f} ms + "
                f"{fit['slope, milliseconds']:.5f} ms × {found['unit']}, R² {fit['R2']:.4f}",
                flush=True,
            )
