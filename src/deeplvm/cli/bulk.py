"""Rows in, rows out: of one file, that all processes share, or of many, each that of one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplvm.cli.console import note
from deeplvm.cli.outputs import TABLES, FileError, check_output, refuse_overwriting
from deeplvm.cli.parallel import by_first, data_of, model_of, precise, together
from deeplvm.parallel.processes import Processes, apart

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data
    from deeplvm.runs.run import Run


@dataclass(frozen=True)
class Job:
    """One file, or the run's own rows, and where what is made of it goes."""

    source: str | None
    output: Path


def jobs_of(sources: Sequence[str], output: Path, endings: Sequence[str] = TABLES) -> list[Job]:
    """A job for each source; of several, the output is a folder, which is made.

    There a file keeps its name; the ending becomes ``.npz`` if tables cannot have it.

    Raises:
        FileError: If the output cannot be written, two files have one name, or a file of the
            input would be overwritten.
    """
    if len(sources) < 2:
        check_output(output, endings)
        return [Job(sources[0] if sources else None, output)]
    if not output.is_dir() and (output.suffix.lower() in TABLES or output.exists()):
        raise FileError(
            f"{output} is one file, and there are {len(sources)} of input; name a folder."
        )
    jobs: dict[Path, Job] = {}
    for source in sources:
        path = Path(source)
        ending = path.suffix.lower()
        place = output / f"{path.stem}{ending if ending in TABLES else '.npz'}"
        if place in jobs:
            raise FileError(f"{jobs[place].source} and {source} would both become {place}.")
        refuse_overwriting(place, source)
        jobs[place] = Job(source, place)
    if not output.parent.is_dir():
        raise FileError(f"{output.parent} does not exist; make the folder first.")
    return list(jobs.values())


def carry_out(
    run: Path,
    sources: Sequence[str],
    output: Path,
    device: str,
    work: Callable[[LatentVariableModel, Data, Path, Any], None],
    prepare: Callable[[Processes, Run, LatentVariableModel], Any] = lambda *_: None,
    *,
    trust: bool = False,
    precision: str = "float32",
    endings: Sequence[str] = TABLES,
) -> None:
    """Do the work of one verb: for one file all together, for many each process its share.

    Args:
        run: The RUN folder.
        sources: Data sets or files; the run's own data if there are none.
        output: A file, or for several sources a folder.
        device: Where to compute.
        work: Makes one output; of one file, all processes call it, and the first writes.
        prepare: Makes, with all processes, what every file needs.
        trust: Whether somebody's own recipe may be run.
        precision: Of the model.
        endings: Of the one output.
    """
    from deeplvm.devices import place
    from deeplvm.runs.run import open_run

    with together(device) as here:
        opened = by_first(here, lambda: open_run(run, trust=trust))
        jobs = by_first(here, lambda: jobs_of(sources, output, endings))
        own = (opened.config.data, *sources)
        by_first(here, lambda: [refuse_overwriting(job.output, *own) for job in jobs])
        model = precise(model_of(here, opened).to(place(device)), precision)
        if len(jobs) == 1:
            source = jobs[0].source
            data = data_of(here, lambda: opened.read(source), source or opened.config.data)
            work(model, data, output, prepare(here, opened, model))
            return
        prepared = prepare(here, opened, model)
        with apart():
            for job in jobs[here.part(len(jobs))]:
                output.mkdir(exist_ok=True)
                with _named(str(job.source)):
                    work(model, opened.read(job.source), job.output, prepared)
        here.wait()
        note(f"{output}: {len(jobs)} files")


@contextlib.contextmanager
def _named(source: str) -> Iterator[None]:
    """An error inside names the file."""
    try:
        yield
    except ValueError as error:
        if source in str(error):
            raise
        raise ValueError(f"{source}: {error}") from error
