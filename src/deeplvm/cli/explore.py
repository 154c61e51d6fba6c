"""The verb that makes a page on which the decoder answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deeplvm.cli.console import note, tell
from deeplvm.cli.options import Folder, Number, Seed, SplitOption, Trust


def explore(
    run: Folder,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    split: SplitOption = None,
    rows: Number = 20_000,
    seed: Seed = 0,
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Make a page on which the decoder answers: move among the latents, and see x at once.

    One file that needs no server and no network: rows where the encoder puts them, coloured by
    label, likelihood or column; sliders; densities of the prior and of the aggregate posterior;
    nearest rows, traversals, interpolation, attributes and arithmetic.

    Args:
        output: The page (.html); explore.html in the RUN folder by default, to which the report
            then has a link.
        rows: At most so many, chosen at random.
        seed: Of that choice.
        json: Print what was written as JSON.
    """
    from json import dumps

    from deeplvm.cli.outputs import check_output
    from deeplvm.files import write_atomically
    from deeplvm.report.explore import explore as made
    from deeplvm.runs.run import open_run

    opened = open_run(run, trust=trust)
    path = opened.folder / "explore.html" if output is None else output
    check_output(path, (".html",))
    found = made(opened, split=split, rows=rows, seed=seed)
    write_atomically(path, found.page.encode())
    if json:
        tell(dumps({"page": str(path)} | found.to_dict(), indent=2))
    note(f"{path}: {found}")
    if output is None and (opened.folder / "report.html").exists():
        note(f"the report has a link to it after: deeplvm report {opened.folder}")
