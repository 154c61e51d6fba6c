"""What the command line says, and the last steps of a run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplvm.data.records import Data
    from deeplvm.evaluation import Evaluation
    from deeplvm.model import LatentVariableModel
    from deeplvm.run import Run

# Draws in all that an evaluation at the end of a fit may take, and how few or many a row.
DRAWS, FEWEST, MOST = 1_000_000, 100, 5_000


def note(text: str) -> None:
    """Progress: a text on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """A result: a text on standard output."""
    sys.stdout.write(f"{text}\n")


def finish(
    run: Run,
    model: LatentVariableModel,
    data: Data,
    *,
    evaluate: bool,
    particles: int | None,
    json: bool,
) -> None:
    """Evaluate a trained model, draw samples, write the report, and say where everything is."""
    from deeplvm.cli.pictures import save_samples

    if evaluate:
        split = next(s for s in ("test", "valid", "train") if data.rows(s))  # type: ignore[arg-type]
        draws = particles or min(MOST, max(FEWEST, DRAWS // data.rows(split)))  # type: ignore[arg-type]
        note(f"evaluating on {data.rows(split)} {split} rows, {draws} draws each")  # type: ignore[arg-type]
        evaluation = evaluate_into(run, model, data, split=split, particles=draws)
        if data.variables["x"].is_image if "x" in data.variables else False:
            save_samples(run, model)
        write_report(run)
        show(evaluation, json=json)
    if not json:
        tell(_where(run))


def evaluate_into(
    run: Run, model: LatentVariableModel, data: Data, *, split: Any, particles: int, seed: int = 0
) -> Evaluation:
    """Evaluate, and write ``evaluation.json``."""
    from deeplvm.evaluation import evaluate
    from deeplvm.run import write_atomically

    evaluation = evaluate(model, data, split, particles=particles, seed=seed)
    write_atomically(run.folder / "evaluation.json", evaluation.to_json().encode())
    return evaluation


def write_report(run: Run) -> None:
    """Write ``report.html``."""
    from deeplvm.report import write_report

    note("writing the report")
    write_report(run.folder)


def show(evaluation: Evaluation, *, json: bool) -> None:
    """The table, or the contents of ``evaluation.json``."""
    tell(evaluation.to_json().rstrip() if json else f"{evaluation}\n")


_FILES = {
    "report.html": "the report: open it in a browser",
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


def at_least_one(**numbers: int | None) -> None:
    """Refuse a number below 1, by its flag; None is left alone.

    Raises:
        ValueError: With the flag.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {number}.")
