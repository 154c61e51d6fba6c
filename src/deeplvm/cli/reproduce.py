"""The verb that tries a published number again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deeplvm.cli.console import Failed, note, tell
from deeplvm.cli.options import Device, Seed


def reproduce(
    name: str | None = None,
    /,
    *,
    show: Annotated[bool, Parameter(name="--list", negative=())] = False,
    out: Path | None = None,
    minutes: float | None = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Try a published number again: train by its settings, evaluate, and say whether it is met.

    The exit code is 0 if it is, and 1 if not. What is done is kept, and goes on where it stopped.

    Args:
        name: Which; --list shows all.
        show: Show what there is, or what is named of it, with minutes, targets and sources, and
            do nothing.
        out: The folder of its runs; runs/reproduce-NAME if none is named.
        minutes: Of training each run, if others than the table's.
        seed: Of the first run.
        json: Print the numbers instead of words.
    """
    from json import dumps

    from deeplvm.files import alone
    from deeplvm.registry import Bounds
    from deeplvm.results import text_table
    from deeplvm.runs.reproduction import HEADER, entry_of, listed, table
    from deeplvm.runs.reproduction import reproduce as run
    from deeplvm.runs.run import RunError

    if show or name is None:
        if not show:
            raise RunError("Which number? deeplvm reproduce --list shows all.")
        entries = table() if name is None else {name: entry_of(name)}
        found = {key: vars(entry) for key, entry in entries.items()}
        rows = [row for row in listed() if row[0] in entries]
        tell(dumps(found, indent=2, ensure_ascii=False) if json else text_table(rows, HEADER))
        return
    if minutes is not None and minutes not in Bounds(0, open=True):
        raise RunError(f"--minutes must be a positive number, not {minutes:g}.")
    entry = entry_of(name)
    folder = out or Path("runs") / f"reproduce-{name}"
    with alone(folder, RunError):
        outcome = run(entry, folder, seed=seed, minutes=minutes, device=device, told=note)
    tell(outcome.to_json().rstrip() if json else f"{outcome}")
    if not outcome.met:
        raise Failed(outcome.heading())
