"""``deeplvm fit``: its options are those of loading data, of the recipe, and of training."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from cyclopts import App, Group, Parameter
from cyclopts.config import Dict
from cyclopts.exceptions import CycloptsError, UnknownOptionError

from deeplvm.cli.console import finish, note
from deeplvm.cli.flags import (
    DEFAULT_RECIPE,
    TABLES,
    VERBS,
    WHOLE,
    Verb,
    about_recipe,
    dress,
    flags_of,
    said_of,
)
from deeplvm.cli.options import Option, options_of
from deeplvm.cli.parallel import Terminated, by_first, data_of, together
from deeplvm.files import fits, parse_json, write_atomically
from deeplvm.parallel.processes import ProcessesError, processes
from deeplvm.recipes import Recipe, find, name_of, published, training_of
from deeplvm.recipes.catalogue import loading_of, refuse_to_run
from deeplvm.registry import amiss, meant, why
from deeplvm.runs.run import NOT_STORED, Config, Run, RunError, build, claim, create_run
from deeplvm.runs.training import refuse_holes, settled, training_options
from deeplvm.training import Callback

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data
    from deeplvm.runs.selection import ModelSelection

_TENSORBOARD = "tensorboard"
_TRACKER = "tracker.json"
AUTOMATIC = "auto"
# Of the minutes of a run, what comparing models takes; and how many where none are said.
_COMPARING, _MINUTES = 0.5, 4.0


def automatic(data: Data) -> LatentVariableModel:
    """The best of some models for a table: all are trained shortly and compared on held-out rows.

    Half of --minutes goes into comparing them, at most four minutes where none are said; the rest
    trains the best one.

    Args:
        data: A table.
    """
    raise RunError(
        f"--recipe {AUTOMATIC} is for fit, which writes into RUN what it finds for {data.name}."
    )


@dataclass(frozen=True)
class FirstLook:
    """What a first look at the words of a command line tells: which options there will be."""

    recipe_name: str
    recipe: Recipe
    config: Config
    source: str

    @classmethod
    def of(cls, words: Sequence[str]) -> FirstLook:
        """Read ``--recipe``, ``--config`` and ``--trust`` alone, whatever else is there."""
        chosen: dict[str, Any] = {}

        def look(
            *_: Annotated[str, Parameter(allow_leading_hyphen=True)],
            recipe: str | None = None,
            config: Path | None = None,
            trust: bool = False,
        ) -> None:
            chosen.update(recipe=recipe, config=config, trust=trust)

        app = App(
            default_command=look,
            help_flags=(),
            version_flags=(),
            print_error=False,
            exit_on_error=False,
        )
        command, bound, _, _ = app.parse_known_args(words)
        command(*bound.args, **bound.kwargs)
        config = Config.read(chosen["config"]) if chosen["config"] else Config()
        name = chosen["recipe"] or config.recipe or DEFAULT_RECIPE
        if not chosen["recipe"] and not chosen["trust"]:
            refuse_to_run(name, config.recipe_options, chosen["config"])
        recipe = automatic if name == AUTOMATIC else find(name)
        return cls(name, recipe, config, str(chosen["config"] or ""))


def parts_of(recipe: Recipe) -> dict[str, dict[str, Option]]:
    """The options by where they go: to loading data, to the recipe, to training."""
    from deeplvm.data import load
    from deeplvm.training import fit, unfolded

    training = unfolded(fit)
    return {
        "data_options": options_of(
            load, skip=NOT_STORED["data_options"], defaults=loading_of(recipe)
        ),
        "recipe_options": options_of(recipe),
        "training": options_of(
            training, skip=NOT_STORED["training"], defaults=training_of(recipe)
        ),
    }


def command(words: Sequence[str]) -> App:
    """The verb ``fit`` with the options of the recipe that the words name."""
    return composed(words, "fit", _fit)


#: Carries out a verb: the configuration, its recipe, the verb's own options, the flags given.
Act = Callable[[Config, Recipe, Mapping[str, Any], set[str]], None]


def composed(words: Sequence[str], verb: Verb, act: Act) -> App:
    """A verb with the options of the recipe that the words name."""
    choice = FirstLook.of(words)
    parts = parts_of(choice.recipe)
    of_verb = VERBS[verb][1]
    flags = flags_of(parts, of_verb)

    def begin(data: str | None = None, /, **given: Any) -> None:
        # the parser passes only what was said; what is stored is everything
        said = {flag for flag in given if flag in flags}
        given = {each.name: each.default for each in parameters[1:]} | given
        own = {name: given.pop(name) for name in of_verb}
        for name, value in own.items():
            if reason := amiss(value, of_verb[name].annotation):
                raise RunError(f"--{name.replace('_', '-')} {reason}.")
        options: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
        for flag, value in given.items():
            table, name = flags[flag]
            options[table][name] = value
        source = data or choice.config.data
        if source is None:
            raise RunError(
                f"Which data? Name a data set or a file: deeplvm {verb} digits; deeplvm datasets "
                f"lists the named ones."
            )
        config = Config(source, choice.recipe_name, **options)
        _refuse_amiss(config, choice.recipe)
        act(config, choice.recipe, own, said)

    about = said_of(choice.recipe_name, choice.recipe)
    parameters = dress(begin, choice.recipe_name, about_recipe(about), parts, verb)
    return App(
        default_command=begin,
        name=verb,
        help_format="plaintext",
        config=_stored(choice, flags),
        group_parameters=Group(f"The {WHOLE[verb]}", sort_key=0),
    )


def _refuse_amiss(config: Config, recipe: Recipe) -> None:
    """Refuse an option that is not what its function takes."""
    from deeplvm.data import load
    from deeplvm.training import fit as learn
    from deeplvm.training import unfolded

    functions = {"data_options": load, "recipe_options": recipe, "training": unfolded(learn)}
    for table, function in functions.items():
        for name, value in getattr(config, table).items():
            if reason := why(function, name, value):
                raise RunError(f"--{name.replace('_', '-')} {reason}.")
            meant(name, value)


def _stored(choice: FirstLook, flags: Mapping[str, tuple[str, str]]) -> list[Dict]:
    """The values of the configuration file, for the options that no flag gives."""
    back = {place: flag for flag, place in flags.items()}
    values = {
        back.get((table, name), name): value
        for table in TABLES
        for name, value in getattr(choice.config, table).items()
    }
    return [Dict(values, source=choice.source, use_commands_as_keys=False)] if values else []


def belongs(error: CycloptsError, words: Sequence[str]) -> str | None:
    """Whose option it is that a command line (or its file) gave, if another recipe has it."""
    if not isinstance(error, UnknownOptionError):
        return None
    flag = (error.token.keyword or error.token.value).split("=", 1)[0]  # "[name]" in a file
    name = flag.strip("-[]").removeprefix("no-").replace("-", "_")
    owners = [other for other, recipe in published().items() if name in options_of(recipe)]
    if not owners:
        return None
    chosen = FirstLook.of(words).recipe_name
    whose = " and ".join([repr(owner) for owner in owners[:3]])
    many = "recipes" if len(owners) > 1 else "recipe"
    where = "" if error.token.source == "cli" else f" (in {error.token.source})"
    return f"--{name.replace('_', '-')} belongs to the {many} {whose}, not to {chosen!r}{where}."


def _fit(config: Config, recipe: Recipe, own: Mapping[str, Any], said: set[str]) -> None:
    """Train, evaluate, report."""
    from deeplvm.data import load

    training, out = config.training, own["out"]
    if own["tracker"] is not None:  # what is not installed is told at once
        from deeplvm.training.trackers import tracker

        tracker(own["tracker"], "", {})
    with together(str(training.get("device", "auto"))) as here, ExitStack() as stack:
        claimed: Callable[[Any], Path] = lambda folders: by_first(  # noqa: E731
            here, lambda: stack.enter_context(claim(folders))
        )
        folder = None if out is None else claimed(out)
        read = partial(load, config.data or "", **config.data_options)
        data = data_of(here, read, config.data)
        note(data.describe())
        selection = None
        if recipe is automatic:
            if not here.alone:
                raise RunError(
                    f"--recipe {AUTOMATIC} compares models in one process; name the recipe to "
                    f"train in several."
                )
            selection = _select(data, config)
            recipe, config = _selected(selection, config)
        config = of_few(config, recipe, data, said)
        training = config.training
        model = build(recipe, data, config.recipe_options, int(training.get("seed", 0)))
        note(repr(model))
        refuse_holes(model, data, name_of(recipe))
        refuse_large_step(training, data)
        place = folder or claimed(free_folders(data.name, name_of(recipe)))
        stored = settled(config, data, recipe)
        run = by_first(here, lambda: create_run(place, stored, data))
        if selection is not None:
            written_out = dumps(selection.to_dict(), indent=1)
            write_atomically(run.folder / "selection.json", written_out.encode())
        if own["tensorboard"] and here.first:
            (run.folder / _TENSORBOARD).mkdir()
        if own["tracker"] is not None and here.first:
            told = dumps({"tracker": own["tracker"]})
            write_atomically(run.folder / _TRACKER, told.encode())
        train(run, model, data)
        finish(
            run, model, data, evaluate=own["evaluate"], particles=own["evaluation_particles"],
            json=own["json"],
        )  # fmt: skip


def _select(data: Data, config: Config) -> ModelSelection:
    """Compare models for a part of the minutes, as the options of training say."""
    from deeplvm.runs.selection import select

    given = _said(config.training)
    minutes = given.pop("minutes", None)
    seed = given.pop("seed", 0)
    share = _MINUTES if minutes is None else _COMPARING * minutes
    meanwhile = {name: meant(name, value) for name, value in given.items()}
    found = select(data, minutes=share, seed=seed, training=meanwhile, told=note)
    note(str(found))
    return found


def _selected(selection: ModelSelection, config: Config) -> tuple[Recipe, Config]:
    """The best recipe, and the run that trains it with its own options where none were said."""
    best = find(selection.best.recipe)
    said = _said(config.training)
    usual = {name: option.default for name, option in parts_of(best)["training"].items()}
    training = usual | {name: value for name, value in config.training.items() if name in said}
    if (minutes := training.get("minutes")) is not None:
        training["minutes"] = max(minutes - selection.seconds / 60, 0.1 * minutes)
    options = {name: each.default for name, each in options_of(best).items()}
    options |= selection.best.options
    for name in selection.best.idle:
        note(f"{name} has no part in how {selection.best.recipe} is trained, and is left out")
        training[name] = usual[name]
    return best, replace(
        config, recipe=selection.best.recipe, recipe_options=options, training=training
    )


def of_few(config: Config, recipe: Recipe, data: Data, said: set[str]) -> Config:
    """The run of a small table, by which a recipe's passes are enough steps, and end in time."""
    from deeplvm.training.options import FEW_ROWS, of_few_rows

    rows, own = data.rows("train"), training_of(recipe)
    table = any([variable.columns is not None for variable in data.variables.values()])
    few = table and rows < FEW_ROWS and data.rows("valid")
    if not few or said & {"epochs", "batch_size", "patience", "phases", "objective", "schedule"}:
        return config
    if own.keys() & {"phases", "schedule"} or getattr(own.get("objective"), "adapts", False):
        return config
    found = of_few_rows(rows, own)
    note(
        f"{rows} rows to learn from: batches of {found['batch_size']}, at most "
        f"{found['epochs']:,} epochs, and the end after {found['patience']} without a better "
        f"bound of the held-out rows (--batch-size, --epochs, --patience)."
    )
    return replace(config, training=dict(config.training) | found)


def _said(training: Mapping[str, Any]) -> dict[str, Any]:
    """The options of training that differ from what they are by default."""
    usual = parts_of(automatic)["training"]
    return {
        name: value
        for name, value in training.items()
        if name in usual and value != usual[name].default
    }


def refuse_large_step(training: Mapping[str, Any], data: Data) -> None:
    """Refuse particles and batches of which one copy of the values is larger than the memory."""
    particles, rows = training.get("particles") or 1, training.get("batch_size") or 1
    elements = sum([each.elements for each in data.variables.values()])
    elements *= max(data.description.lengths, default=1)  # of the longest sequence
    size = 4.0 * particles * min(rows, data.rows("train")) * elements
    fits(size, f"--particles {particles:,} of --batch-size {rows:,}", RunError)


def _tracker(run: Run) -> Callback:
    """The tracker that fit was told of.

    Raises:
        RunError: If its file is damaged, or names another.
    """
    from deeplvm.training.trackers import Trackers, tracker

    path = run.folder / _TRACKER
    found: Any
    try:
        found = parse_json(path.read_bytes())["tracker"]
    except (ValueError, TypeError, KeyError):
        found = None
    if found not in get_args(Trackers):
        raise RunError(f"{path} is damaged; delete it to go on without a tracker.")
    config = run.config
    settings = {"data": run.description.name, "recipe": config.recipe}
    settings |= {**config.data_options, **config.recipe_options, **config.training}
    return tracker(found, run.folder.resolve().name, settings, path)


def train(run: Run, model: LatentVariableModel, data: Data, **more: Any) -> None:
    """Train in a RUN folder as its configuration says, and keep the best model."""
    from deeplvm.training import NonFiniteError, TensorBoard, TrainingInterrupted, fit, unfolded

    board = run.folder / _TENSORBOARD  # its folder is what says that it is wanted
    if board.is_dir():
        more["callbacks"] = [*more.get("callbacks", ()), TensorBoard(board)]
    if (run.folder / _TRACKER).is_file() and processes().first:
        more["callbacks"] = [*more.get("callbacks", ()), _tracker(run)]
    first, stored = processes().first, training_options(run, model, data, note)
    try:
        unfolded(fit)(model, data, **(stored | more))
    except TrainingInterrupted as error:
        if error.epoch and first:
            run.save_model(model)
        where = f"after epoch {error.epoch}" if error.epoch else "in the first epoch"
        best = f"; the best model so far is in {run.weights}" if error.epoch else ""
        raise TrainingInterrupted(
            f"Interrupted {where}{best}. Go on with: deeplvm resume {run.folder}",
            error.epoch,
            error.saved,
            error.signal,
        ) from error
    except (ProcessesError, Terminated) as error:  # SIGTERM, after training had let go of it
        raise type(error)(f"{error} Go on with: deeplvm resume {run.folder}") from error
    except NonFiniteError as error:
        if error.epoch > 1 and first:
            run.save_model(model)
        raise
    if first:
        run.save_model(model)


class _Longer(Callback):
    """Other epochs or minutes: written to the configuration when training goes on with them."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def started(self, options: Mapping[str, Any]) -> None:
        if options["epoch"] > options["epochs"]:
            raise RunError(
                f"{self.run.folder} has been trained for {options['epoch']} epochs already, and "
                f"--epochs {options['epochs']} is the number in all."
            )
        minutes = self.run.config.training.get("minutes")
        if minutes is not None and options["seconds"] >= 60 * minutes:
            raise RunError(
                f"{self.run.folder} has been trained for {options['seconds'] / 60:.3g} minutes "
                f"already, and --minutes {minutes:g} is the number in all."
            )
        path = self.run.folder / "config.toml"
        write_atomically(path, self.run.config.to_toml().encode())


def refuse_restart(run: Run) -> None:
    """Refuse to go on with a finished run that has lost its checkpoint.

    Raises:
        RunError: With how to repeat it.
    """
    if run.finished and not any(run.checkpoint.glob("*.safetensors")):
        raise RunError(
            f"{run.folder} is finished and has no checkpoint/ to go on from: training would begin "
            f"again and overwrite {run.weights.name}. Repeat it elsewhere: deeplvm fit --config "
            f"{run.folder / 'config.toml'} --out FOLDER"
        )


def go_on(
    run: Run,
    model: LatentVariableModel,
    data: Data,
    epochs: int | None,
    minutes: float | None,
    device: str,
) -> Run:
    """Train where a run stopped, perhaps for more epochs or minutes; the run as it then is."""
    more: dict[str, Any] = {"device": device, "resume": True}
    given = {k: v for k, v in {"epochs": epochs, "minutes": minutes}.items() if v is not None}
    if given:
        training = {**run.config.training, **given}
        run = replace(run, config=replace(run.config, training=training))
        more["callbacks"] = [_Longer(run)]
    train(run, model, data, **more)
    return run


def free_folders(data: str, recipe: str) -> Iterator[Path]:
    """``runs/digits-vae``, ``runs/digits-vae-2``, … that do not exist."""
    names = [text.replace(os.sep, "-").replace(":", "-") for text in (data, recipe)]
    first = Path("runs") / "-".join(names)
    numbered = (first.with_name(f"{first.name}-{i}") for i in itertools.count(2))
    return (path for path in itertools.chain([first], numbered) if not path.exists())
