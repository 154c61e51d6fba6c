"""The verb that puts runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deeplvm.cli.console import enough, note, tell
from deeplvm.cli.options import (
    AutoParticles,
    Budget,
    Device,
    Folder,
    Seed,
    SplitOption,
    Tolerance,
    Trust,
)


def compare(
    *runs: Folder,
    data: str | None = None,
    split: SplitOption = None,
    particles: AutoParticles = "auto",
    tolerance: Tolerance = None,
    most_particles: Budget = 5_000,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    seed: Seed = 0,
    device: Device = "auto",
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Say which of several runs is best on the same rows, and how sure that is.

    Differences are paired, row by row; runs that differ in their --seed alone are one model, and
    count as such in the error. What differs in the settings is listed. Runs of other rows, another
    split, binarization or unit are refused.

    Args:
        data: Other data, read as the runs' own were; their own if none is named.
        output: A page with the table and a figure (.html).
        seed: The same seed gives the same draws.
        json: Print the numbers instead of the table.
    """
    from json import dumps

    from deeplvm.cli.outputs import check_output
    from deeplvm.devices import place
    from deeplvm.files import write_atomically
    from deeplvm.report.page import comparison_page
    from deeplvm.runs.comparison import compare_runs
    from deeplvm.runs.run import open_run

    if output is not None:
        check_output(output, (".html",))
    found = compare_runs(
        [open_run(run, trust=trust) for run in runs],
        data=data,
        split=split,
        particles=lambda model, rows, draw: enough(
            particles, model, rows, tolerance, most_particles, seed, draw
        ),
        seed=seed,
        device=place(device),
        told=note,
    )
    tell(dumps(found.to_dict(), indent=2, ensure_ascii=False) if json else f"{found}\n")
    if output is not None:
        write_atomically(output, comparison_page(found).encode())
        note(f"{output}: the same as a page")
