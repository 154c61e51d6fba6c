"""``deeplvm tune``: a study of a recipe's options, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from deeplvm.cli.console import enough, finish, note, tell
from deeplvm.cli.fit import (
    AUTOMATIC,
    automatic,
    composed,
    free_folders,
    of_few,
    refuse_large_step,
)
from deeplvm.cli.parallel import Terminated
from deeplvm.files import alone, write_atomically
from deeplvm.recipes import Recipe, find, name_of
from deeplvm.recipes.catalogue import refuse_to_run
from deeplvm.runs.comparison import compare_runs
from deeplvm.runs.run import Config, RunError
from deeplvm.runs.study import BEST, DEFAULTS, FILE, Study, plan, read_study, run_of
from deeplvm.runs.study import tune as search
from deeplvm.training import TrainingInterrupted

if TYPE_CHECKING:
    from deeplvm.data.records import Data
    from deeplvm.evaluation.comparison import Comparison


def command(words: Sequence[str]) -> App:
    """The verb with the options of the recipe that the words name."""
    return composed(words, "tune", partial(_tune, _spoken(words)))


def _spoken(words: Sequence[str]) -> set[str]:
    """The options that are said on the command line itself, and in no file."""
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    return {flag[2:].removeprefix("no-").replace("-", "_") for flag in flags}


def _tune(
    spoken: set[str], config: Config, recipe: Recipe, own: Mapping[str, Any], said: set[str]
) -> None:
    """Make a study, and carry it out."""
    from deeplvm.data import load

    if recipe is automatic:
        raise RunError(
            f"--recipe {AUTOMATIC} compares recipes, and tune searches the options of one; name "
            f"it."
        )
    if own["out"] is not None:
        _refuse_taken(own["out"])
    data = load(config.data or "", **config.data_options)
    note(data.describe())
    minutes, said = config.training.get("minutes"), said & spoken
    config = of_few(config, recipe, data, said)
    refuse_large_step(config.training, data)
    study = plan(
        data,
        config,
        recipe,
        search=own["search"] or (),
        said=sorted(said),
        minutes=minutes,
        trial_minutes=own["trial_minutes"],
        trials=own["trials"],
    )
    searched = ", ".join([f"{name} {text}" for name, text in study.search.items()])
    note(f"searched: {searched}")
    folder = own["out"] or next(free_folders(data.name, f"{name_of(recipe)}-study"))
    with ExitStack() as stack:
        stack.enter_context(alone(folder, RunError))
        _refuse_taken(folder)
        study.write(folder)
        _carry_out(folder, study, data, recipe, own)


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        on = f"go on with: deeplvm resume {folder}, or " if (folder / FILE).exists() else ""
        raise RunError(f"{folder} exists and is not empty; {on}name another folder with --out.")


def go_on(
    folder: Path,
    epochs: int | None,
    minutes: float | None,
    device: str,
    *,
    trust: bool,
    **own: Any,
) -> None:
    """Go on with a study, perhaps for more minutes."""
    from deeplvm.data import load

    study = read_study(folder)
    if epochs is not None:
        raise RunError(
            f"--epochs is of one training, and {folder} is a study: --minutes M is of all its "
            f"trials together."
        )
    if not trust:
        options = study.config.recipe_options
        refuse_to_run(study.config.recipe or "", options, folder / FILE)
    recipe = find(study.config.recipe or "")
    if minutes is not None:
        if 60 * minutes <= study.seconds:
            raise RunError(
                f"{folder} has been at work for {study.seconds / 60:.3g} minutes already, and "
                f"--minutes {minutes:g} is the number in all."
            )
        study = replace(study, minutes=minutes, most=None)
    training = {**study.config.training, "device": device}
    study = replace(study, config=replace(study.config, training=training))
    data = load(study.config.data or "", **study.config.data_options)
    with ExitStack() as stack:
        stack.enter_context(alone(folder, RunError))
        _carry_out(folder, study, data, recipe, own)


def _carry_out(
    folder: Path, study: Study, data: Data, recipe: Recipe, own: Mapping[str, Any]
) -> None:
    """All trials, then the best run as fit leaves one, and the page."""
    from json import dumps

    from deeplvm.report.page import study_page

    try:
        study = search(folder, study, data, recipe, told=note)
    except TrainingInterrupted as error:
        raise TrainingInterrupted(
            f"Interrupted in trial {len(read_study(folder).trials) - 1}; all is kept. Go on with: "
            f"deeplvm resume {folder}",
            error.epoch,
            error.saved,
            error.signal,
        ) from error
    except Terminated as error:  # between two trials
        raise Terminated(f"{error} Go on with: deeplvm resume {folder}") from error
    compared = None
    if study.best is not None:
        run = run_of(folder, trust=True)
        finish(
            run, run.model, data, evaluate=own["evaluate"],
            particles=own["evaluation_particles"], json=False, quiet=True,
        )  # fmt: skip
        if own["evaluate"] and (folder / DEFAULTS).is_dir():
            compared = _compared(folder, data)
    if compared is not None and (said := study.otherwise(compared)):
        compared = replace(compared, warnings=(*compared.warnings, f"{said}."))
    write_atomically(folder / "report.html", study_page(study, compared).encode())
    found = study.to_dict() | {"comparison": compared and compared.to_dict()}
    tell(dumps(found, indent=2, ensure_ascii=False) if own["json"] else f"{study}\n")
    if compared is not None and not own["json"]:
        tell(f"{compared}\n")
    if study.best is None:
        raise RunError(f"No trial of {folder} was done: {study.notes()[-1].strip('! ')}")
    note(f"{folder / BEST}: the best run; {folder / 'report.html'}: the study")
    if compared is not None and (said := study.otherwise(compared)):
        note(f"{said}; where that is what counts, use {folder / DEFAULTS}.")


def _compared(folder: Path, data: Data) -> Comparison | None:
    """The best run beside the options by default, on rows that no trial has seen."""
    if not data.rows("test"):
        return None
    runs = [run_of(folder, which, trust=True) for which in (BEST, DEFAULTS)]
    for run in runs:
        run.__dict__["data"] = data  # what is read already
    return compare_runs(
        runs,
        particles=lambda model, rows, draw: enough("auto", model, rows, None, 1_000, 0, draw),
    )
