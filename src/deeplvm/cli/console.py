"""What the command line says, and the last steps of a run."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deeplvm.files import say, shown
from deeplvm.parallel.processes import apart, processes

if TYPE_CHECKING:
    from deeplvm.core.draws import Draw
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Description, Split
    from deeplvm.evaluation import Evaluation
    from deeplvm.evaluation.graphs import GraphEvaluation
    from deeplvm.runs.run import Run

# Draws in all that an evaluation at the end of a fit may take, and how few or many a row.
DRAWS, FEWEST, MOST = 1_000_000, 100, 5_000
_SECONDS, _SHARE = 60.0, 0.1  # it may take so long, or that much of the time of training
_USE = 32  # draws a row by which the use of latents is measured beside


_HEARD: ContextVar[dict[str, Any] | None] = ContextVar("heard", default=None)


class Failed(Exception):
    """A check that failed: its line is told, and the exit code is 1."""


def note(text: str) -> None:
    """Progress: a text on standard error."""
    say(text)
    if (heard := _HEARD.get()) is not None:
        heard["notes"].append(text)


def count(**numbers: Any) -> None:
    """Numbers of what was written, for ``--json``."""
    if (heard := _HEARD.get()) is not None:
        heard.update(numbers)


@contextlib.contextmanager
def in_json(verb: str, output: Path) -> Iterator[None]:
    """What a verb writes and says inside, as one object on standard output at the end."""
    heard: dict[str, Any] = {"verb": verb, "files": [], "notes": []}
    token = _HEARD.set(heard)
    try:
        yield
    finally:
        _HEARD.reset(token)
    if processes().first:
        files = sorted(output.iterdir()) if output.is_dir() else [output]
        heard["files"] = [{"path": str(each), "bytes": each.stat().st_size} for each in files]
        show_json(heard)


def show_json(found: Any) -> None:
    """An object on standard output."""
    from json import dumps

    tell(dumps(found, indent=2, ensure_ascii=False, default=str))


@contextlib.contextmanager
def waiting(what: str, *, said: bool = False) -> Iterator[None]:
    """Say what takes longer than a second, unless it was, and every ten that it goes on."""
    done = threading.Event()

    def speak() -> None:
        seconds = 1
        while not done.wait(seconds if seconds == 1 else 10):
            if seconds > 1 or not said:
                note(what if seconds == 1 else f"{what}: {seconds} s")
            seconds = seconds - seconds % 10 + 10

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def tell(text: str, end: str = "\n") -> None:
    """A result: a text on standard output; where nobody reads on, the work goes on."""
    try:
        sys.stdout.write(f"{shown(text)}{end}")
        sys.stdout.flush()
    except (OSError, ValueError):
        # nor may Python complain at exit
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def time_left(what: str) -> Callable[[int, int], None]:
    """Says every ten seconds how many rows are done, and how long the others will take."""
    first: tuple[float, int] | None = None  # what was done before the rows is no measure of them
    spoke = time.monotonic()

    def speak(done: int, total: int) -> None:
        nonlocal first, spoke
        now = time.monotonic()
        first = first or (now, done)
        if now - spoke > 10 and first[1] < done < total:
            spoke = now
            left = (now - first[0]) * (total - done) / (done - first[1])
            note(f"{what}: {done:,} of {total:,} rows, about {left:.0f} s left")

    return speak


def enough(
    particles: int | Literal["auto"],
    model: LatentVariableModel,
    rows: Any,
    tolerance: float | None,
    most: int,
    seed: int,
    draw: Mapping[str, Draw] | None = None,
) -> int:
    """The number of particles that was given, or one that a pilot chooses and that is told."""
    if particles != "auto":
        if tolerance is not None:
            raise ValueError("--tolerance is for --particles auto, which chooses their number.")
        return particles
    from deeplvm.likelihood import enough_particles

    found = enough_particles(model, rows, tolerance=tolerance, most=most, draw=draw, seed=seed)
    if processes().first:
        note(f"{found}")
    return found.particles


def finish(
    run: Run,
    model: LatentVariableModel,
    data: Data,
    *,
    evaluate: bool,
    particles: int | None,
    json: bool,
    quiet: bool = False,
) -> None:
    """Evaluate a trained model, draw samples, write the report, and say where everything is.

    ``quiet`` says nothing on standard output.
    """
    if evaluate and run.description.options.get("graph"):
        note("ranking held-out pairs")
        ranked = evaluate_graph_into(run, model, data)
        write_report(run)
        if not quiet:
            show(ranked, json=json)
    elif evaluate:
        from deeplvm.objectives.bounds import of_one_particle

        splits: tuple[Split, ...] = ("test", "valid", "train")
        split = next(each for each in splits if data.rows(each))
        draws = particles or min(MOST, max(FEWEST, DRAWS // data.rows(split)))
        rows = data.rows(split)
        if particles is None:
            rows, draws = _in_time(run, model, data, split, draws)
        each = ", their bound alone" if of_one_particle(model) else f", {draws} draws each"
        noise = any([variable.dequantized for variable in data.variables.values()])
        each = each if model.q.names or noise else ""
        note(f"evaluating on {rows} {split} rows{each}")
        again = asked_before(run)
        if again:
            note(f"and again, as evaluation.json has it: {', '.join(again)}; takes minutes")
        evaluation = evaluate_into(
            run, model, data, split=split, particles=draws, most=rows, **again
        )
        if not processes().first:
            return
        if data.description.picture is not None:
            _save_samples(run, model)
        write_report(run)
        if not quiet:
            show(evaluation, json=json)
    if not evaluate and processes().first:
        write_card(run)
    if json and not (evaluate or quiet) and processes().first:
        show_json({"run": str(run.folder)})
    if not (json or quiet) and processes().first:
        tell(_where(run))


def _in_time(
    run: Run, model: LatentVariableModel, data: Data, split: Split, draws: int
) -> tuple[int, int]:
    """Rows and draws a row that take a small part of the time of training, or a minute."""
    from deeplvm.inference.rows import at_random
    from deeplvm.likelihood.pilot import affordable, spoken
    from deeplvm.runs.sidecars import read_metrics

    trained = sum(
        [each.get("seconds", 0.0) for each in read_metrics(run.folder / "metrics.jsonl")]
    )
    seconds, draw = max(_SECONDS, _SHARE * trained), run.measured(data) or None
    some = at_random(data[split], 1_000)
    scale = data.rows(split) / min(1_000, data.rows(split))
    found = affordable(model, some, draws, seconds / scale, beside=_USE, draw=draw)
    rows, fewer = processes().from_first((round(scale * found[0]), found[1]))
    if (rows, fewer) != (data.rows(split), draws):
        note(
            f"all {data.rows(split):,} rows with {draws:,} draws each would take more than "
            f"{spoken(seconds)}; deeplvm evaluate {run.folder} has the time"
        )
    return rows, fewer


def _save_samples(run: Run, model: LatentVariableModel, count: int = 64) -> None:
    """Write ``samples.png``: means of p(x | z), or draws where none is known, at draws of z."""
    from deeplvm.cli.outputs import sampled, save_pictures
    from deeplvm.cli.sequences import conditions_of, length_of, save_picture

    image, length = run.description.picture, length_of(run.description)
    count = count if length is None else 8
    with waiting(f"drawing {count} rows"):
        known = conditions_of(run, model, count, 0)
        values = sampled(model, run.description, count, seed=0, mean=None, conditions=known)
    if length is not None:
        save_picture(run.folder / "samples.png", values, values[length], run.description)
    elif image is not None and image.name in values:
        save_pictures(run.folder / "samples.png", values[image.name], image)


def evaluate_into(
    run: Run,
    model: LatentVariableModel,
    data: Data,
    *,
    split: Split,
    particles: int,
    most: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Evaluation:
    """Evaluate, with the work shared among the processes, and write ``evaluation.json``.

    ``most`` is of how many rows, chosen at random, if not of all. ``options`` are those of
    :func:`deeplvm.evaluation.evaluate`.
    """
    from dataclasses import replace

    from deeplvm.evaluation import evaluate
    from deeplvm.files import write_atomically
    from deeplvm.inference.rows import at_random

    options["draw"] = run.measured(data) or None
    rows = data[split] if most is None else at_random(data[split], most, seed)
    evaluation = evaluate(model, rows, particles=particles, seed=seed, **options)
    if most is not None and most < data.rows(split):
        few = (
            f"Measured on {most:,} of {data.rows(split):,} {split} rows, chosen at random, to be "
            f"done in time; deeplvm evaluate RUN measures all."
        )
        evaluation = replace(evaluation, warnings=[few, *evaluation.warnings])
    if processes().first:
        write_atomically(run.folder / "evaluation.json", evaluation.to_json().encode())
    return evaluation


def evaluate_graph_into(
    run: Run, model: LatentVariableModel, data: Any, **options: Any
) -> GraphEvaluation:
    """Evaluate a model of a graph, and write ``evaluation.json``.

    ``options`` are those of :func:`deeplvm.evaluation.graphs.evaluate_graph`.
    """
    from deeplvm.evaluation.graphs import evaluate_graph
    from deeplvm.files import write_atomically

    found = evaluate_graph(model, data, **options)
    if processes().first:
        write_atomically(run.folder / "evaluation.json", found.to_json().encode())
    return found


def asked_before(run: Run) -> dict[str, Any]:
    """What was asked of an earlier evaluation beside the likelihood, such as annealing."""
    from deeplvm.evaluation import Annealing, Synthetic
    from deeplvm.runs.sidecars import read_evaluation

    found: dict[str, Any] = {}
    if processes().first:
        with contextlib.suppress(ValueError, TypeError, OSError):
            if (earlier := read_evaluation(run.folder)) is not None:
                settings = earlier.settings
                found = {name: settings[name] for name in ("gap_rows",) if name in settings}
                if "annealing" in settings:
                    found["annealing"] = Annealing(**settings["annealing"])
                if "synthetic" in settings:
                    found["synthetic"] = Synthetic(**settings["synthetic"])
    return processes().from_first(found)


def write_report(run: Run) -> None:
    """Write ``report.html``; what is drawn and scored for it is the first process's own affair."""
    from deeplvm.report import write_report

    note("writing the report")
    with apart(), waiting("writing the report", said=True):
        write_report(run)
    write_card(run)


def write_card(run: Run) -> None:
    """Write ``README.md``, the model card; somebody's own file of that name stays."""
    from deeplvm.report.card import NAME, is_card
    from deeplvm.report.card import write_card as write

    path = run.folder / NAME
    if path.exists() and not is_card(path):
        note(f"{path} is not a card that deeplvm wrote, and stays as it is")
    else:
        write(run)


def show(evaluation: Evaluation | GraphEvaluation, *, json: bool) -> None:
    """The table, or the contents of ``evaluation.json``."""
    tell(evaluation.to_json().rstrip() if json else f"{evaluation}\n")


_FILES = {
    "report.html": "the report: open it in a browser",
    "README.md": "the model card",
    "samples.png": "samples of the model",
    "evaluation.json": "the table above",
    "model.safetensors": "the best model",
    "metrics.jsonl": "the curves",
    "config.toml": "everything needed to repeat the run, for --config",
    "checkpoint": "where `deeplvm resume` goes on",
}


def _where(run: Run) -> str:
    present = [(name, what) for name, what in _FILES.items() if (run.folder / name).exists()]
    width = max([len(str(run.folder / name)) for name, _ in present])
    return "\n".join([f"{run.folder / name!s:<{width}}  {what}" for name, what in present])


def may_write(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before there is anything to write.

    Raises:
        ValueError: With the reason.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error.strerror}), and what is measured is kept "
            f"there; copy it to another place, and name the copy."
        ) from error


def refuse_large(flag: str, count: int, description: Description) -> None:
    """Refuse so many rows or draws that one copy of their values is larger than the memory.

    Raises:
        ValueError: With the flag.
    """
    from deeplvm.files import fits

    elements = sum([each.elements for each in description.variables.values()])
    fits(4.0 * count * elements, f"{flag} {count:,}", ValueError)
