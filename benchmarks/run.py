"""Run the benchmarks.

python benchmarks/run.py [NAME ...] [--effort full|quick|smoke] [--without-peers] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import time
from pathlib import Path

import table
from effort import EFFORTS
from harness import Workers
from machine import RESULTS, keep

HERE = Path(__file__).parent
NAMES = (
    "step", "busy", "parts", "likelihood", "startup", "memory", "scaling", "streaming", "flows",
    "annealing",
)  # fmt: skip
ALONE = ("posteriors",)  # takes hours, so only by name


def main() -> None:
    """Each benchmark, its result, and after a full effort the tables of the documentation."""
    there = [name for name in (*NAMES, *ALONE) if (HERE / f"{name}.py").exists()]
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(there)}")
    parser.add_argument("--effort", choices=EFFORTS, default="full")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in there]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(there)}")
    effort = EFFORTS[options.effort]
    effort = dataclasses.replace(effort, peers=effort.peers and not options.without_peers)
    kept = effort.name == "full"
    out = (
        options.out.resolve()
        if options.out
        else (RESULTS if kept else HERE.parent / "runs" / "benchmarks")
    )
    with Workers(effort.peers, lasting=effort.smoke) as workers:
        for name in options.names or [name for name in there if name not in ALONE]:
            began = time.perf_counter()
            print(f"== {name}", flush=True)
            result = importlib.import_module(name).run(effort, workers)
            workers.renew()
            seconds = time.perf_counter() - began
            keep(name, {"effort": effort.name, "seconds": seconds, **result}, out)
    if out == RESULTS:
        table.write(out, table.PAGE)
    else:
        print(table.tables(out))


if __name__ == "__main__":
    main()
