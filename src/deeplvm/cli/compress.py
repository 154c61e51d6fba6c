"""The verbs of lossless compression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from deeplvm.cli.console import note, tell, time_left
from deeplvm.cli.options import Folder, Output, SplitOption, Trust

_ENDING = ".dlvm"
Archive = Annotated[Path, Parameter(help="A .dlvm file, which deeplvm compress made.")]


def compress(
    run: Folder,
    data: str | None = None,
    /,
    *,
    output: Output,
    split: SplitOption = None,
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Write the rows of a file in as few bits as the model's evidence bound says, without loss.

    By bits-back coding: the better the model, the smaller the file. It is given back by decompress
    with the same RUN, on any machine.

    Args:
        data: A file (.npy, .npz, .csv, .tsv, .parquet) or a named data set; the run's own data if
            none is named.
        output: Where to write, .dlvm.
        split: Which rows of the run's own data, or of a named set; test by default.
        json: Print the numbers instead of the table.
    """
    from deeplvm.cli.outputs import check_output, refuse_overwriting
    from deeplvm.compression import compress as write
    from deeplvm.runs.run import open_run

    check_output(output, (_ENDING,))
    refuse_overwriting(output, data)
    opened = open_run(run, trust=trust)
    found = write(opened, data, output, split=split, told=time_left("compress"))
    tell(found.to_json().rstrip() if json else f"{found}")
    note(f"{output}: {found.bytes:,} bytes; deeplvm decompress {run} {output} -o FILE")


def decompress(run: Folder, archive: Archive, /, *, output: Output, trust: Trust = False) -> None:
    """Give back the file that compress took: the same values, of the same types.

    A file that was cut off or changed, or that was made with another model, is refused.

    Args:
        output: Where to write; with the ending that the file had.
    """
    from deeplvm.cli.outputs import check_place, refuse_overwriting
    from deeplvm.compression import decompress as read
    from deeplvm.runs.run import open_run

    check_place(output)
    refuse_overwriting(output, str(archive))
    found = read(open_run(run, trust=trust), archive, output, told=time_left("decompress"))
    note(f"{output}: {found.rows:,} rows, the same {'bytes' if found.identical else 'values'}")


def verify(
    run: Folder,
    archive: Archive,
    data: str | None = None,
    /,
    *,
    split: SplitOption = None,
    trust: Trust = False,
    json: bool = False,
) -> None:
    """Decompress without writing: whether a file is whole, and how it compares.

    Says rows, bits a number, what the evidence bound of the rows is, and what general coders need
    of the same values. The exit code is 1 if it holds something else than the data named.

    Args:
        data: What the file must hold: the file that was compressed.
        split: Which rows of a named set; test by default.
        json: Print the numbers instead of the table.
    """
    from deeplvm.cli.console import Failed
    from deeplvm.compression import decompress as read
    from deeplvm.runs.run import open_run

    opened = open_run(run, trust=trust)
    found = read(opened, archive, like=data, split=split, told=time_left("verify"))
    tell(found.to_json().rstrip() if json else f"{found}")
    if data is not None and not found.same:
        raise Failed(f"{archive} does not hold {data}, but other rows.")
    note(f"{archive}: whole" + ("" if data is None else f", and holds {data}"))
