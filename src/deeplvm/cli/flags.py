"""The flags of ``fit``: composed of the options of data, recipe and training.

``flags.json`` keeps those of the published recipes, and what these are, so that ``fit --help`` and
``deeplvm recipes`` need neither torch nor the recipes. ``python -m deeplvm.cli.flags`` writes it
anew; a test says when that is due.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from cyclopts import App, Group, Parameter

from deeplvm.cli.options import Option, Particles
from deeplvm.registry import Count, Positive

DEFAULT_RECIPE = "vae"
TABLES = ("data_options", "recipe_options", "training")
_DATA = "A named data set, or a file: .npy, .npz, .csv, .parquet, IDX, a folder of images."


def _own(*rows: tuple[str, Any, Any, str]) -> dict[str, inspect.Parameter]:
    """Options of a verb that belong to neither data, recipe nor training."""
    return {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[
                hint, Parameter(help=text, negative=() if default is False else None)
            ],
        )
        for name, hint, default, text in rows
    }


_RECIPE = (
    "recipe", str, DEFAULT_RECIPE,
    "A recipe of `deeplvm recipes`, or your own: package.module:function.",
)  # fmt: skip
_CONFIG = (
    "config", Path | None, None,
    "A TOML file of options, such as another run's config.toml; flags go before it.",
)  # fmt: skip
_TRUST = (
    "trust", bool, False,
    "Run the code of a recipe that --config names and that is not one of deeplvm's.",
)  # fmt: skip
_SEARCH = (
    "What is searched: option=from..to or option=a|b|c, apart by commas, as in "
    "'latent=4..64,hidden=100|200|(200,100)'; by default widths, latents, depths, learning rate, "
    "batch size, averaging and warm-up, around the recipe's own, but for those that are said."
)
_TUNE = (
    "Search options of a recipe: trials that are compared on held-out rows.\n\n"
    "--minutes is of all trials together, 10 unless --trials is said; options that are said "
    "are those of every trial. The folder keeps study.json, report.html, and the runs best "
    "and defaults; deeplvm resume goes on."
)
OWN = _own(
    _RECIPE,
    ("out", Path | None, None, "The RUN folder to make; runs/DATA-RECIPE if none is named."),
    _CONFIG,
    _TRUST,
    ("evaluate", bool, True, "Whether to evaluate and write the report in the end."),
    ("evaluation_particles", Particles | None, None,
     "Draws a row of the evaluation; by default a million in all, 100 to 5000 a row."),
    ("tensorboard", bool, False,
     "Also write the metrics for TensorBoard, into RUN/tensorboard."),
    ("tracker", Literal["wandb", "trackio", "mlflow"] | None, None,
     "Also send the metrics to a tracker that is installed here."),
    ("json", bool, False, "Print the contents of evaluation.json instead of the table."),
)  # fmt: skip
OWN_OF_TUNE = _own(
    _RECIPE,
    ("out", Path | None, None,
     "The folder of the study to make; runs/DATA-RECIPE-study if none is named."),
    _CONFIG,
    _TRUST,
    ("search", list[str] | None, None, _SEARCH),
    ("trials", Count | None, None, "Trials at most; as many as there is time for if left out."),
    ("trial_minutes", Positive | None, None,
     "Of training each trial, at most; by default a tenth of --minutes, or a trial's share."),
    ("evaluate", bool, True,
     "Whether to evaluate the best run on test rows, and compare it with the defaults there."),
    ("evaluation_particles", Particles | None, None,
     "Draws a row of the evaluation; by default a million in all, 100 to 5000 a row."),
    ("json", bool, False, "Print the contents of study.json instead of the table."),
)  # fmt: skip


Verb = Literal["fit", "tune"]
WHOLE: dict[Verb, str] = {"fit": "run", "tune": "study"}
#: What each does that has the options of a recipe, and its own options.
VERBS: dict[Verb, tuple[str, Mapping[str, inspect.Parameter]]] = {
    "fit": ("Learn a model from data: trains, evaluates, and writes a report.", OWN),
    "tune": (_TUNE, OWN_OF_TUNE),
}


def flags_of(
    parts: Mapping[str, Mapping[str, Option]], own: Mapping[str, inspect.Parameter] = OWN
) -> dict[str, tuple[str, str]]:
    """For each flag, where its value goes; a name used twice keeps it in training alone.

    The seed of the split is thus ``--data-seed``: runs that differ in ``--seed`` are tested on the
    same rows.
    """
    prefix = {"data_options": "data_", "recipe_options": "recipe_", "training": ""}
    taken: dict[str, tuple[str, str]] = {}
    for table in reversed(TABLES):
        for name in parts[table]:
            taken[name if name not in taken and name not in own else prefix[table] + name] = (
                table,
                name,
            )
    return taken


def about_recipe(entry: Mapping[str, Any]) -> str:
    """What the help says of a recipe."""
    source = f" {entry['title']} ({entry['authors']}, {entry['year']})." if entry["title"] else ""
    return f"The recipe {entry['name']}: {entry['summary']}{source}"


def entries() -> list[dict[str, Any]]:
    """What each published recipe is: name, summary, title, authors, year, link, group."""
    return [each["entry"] for each in _kept_whole()["recipes"].values()]


def _kept_whole() -> dict[str, Any]:
    return json.loads(files("deeplvm.cli").joinpath("flags.json").read_text("utf-8"))


def dress(
    fit: Callable[..., None],
    recipe: str,
    about: str,
    parts: Mapping[str, Mapping[str, Option]],
    verb: Verb = "fit",
) -> list[inspect.Parameter]:
    """Give a function the signature and the documentation of a verb with a recipe's options."""
    does, of_verb = VERBS[verb]
    groups = {
        "data_options": Group("Data options", sort_key=1),
        "recipe_options": Group(f"Options of the recipe {recipe}", sort_key=2),
        "training": Group("Training options", sort_key=3),
    }
    flags = flags_of(parts, of_verb)
    data = Annotated[str | None, Parameter(help=_DATA)]
    first = inspect.Parameter("data", inspect.Parameter.POSITIONAL_ONLY, default=None)
    own = {**of_verb, "recipe": of_verb["recipe"].replace(default=recipe)}
    parameters = [first.replace(annotation=data), *own.values()]
    for flag in sorted(flags, key=lambda flag: TABLES.index(flags[flag][0])):
        table, name = flags[flag]
        parameters.append(parts[table][name].parameter(groups[table]).replace(name=flag))
    fit.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    fit.__annotations__ = {each.name: each.annotation for each in parameters}
    fit.__doc__ = (
        f"{does}\n\n{about}\n\nThe options of another recipe are shown with --recipe NAME --help."
    )
    return parameters


def help_alone(words: Sequence[str], verb: Verb = "fit") -> App | None:
    """A verb as its help shows it, where only that is asked for, and of a recipe of ours."""
    asked = [word.partition("=") for word in words]
    names = [name for name, _, _ in asked]
    if not {"--help", "-h"} & set(names) or {"--config", "--trust"} & set(names):
        return None
    recipe = DEFAULT_RECIPE
    if "--recipe" in names:
        at = names.index("--recipe")
        recipe = asked[at][2] or next(iter(words[at + 1 :]), "")
    kept = _kept_whole()
    found = kept["recipes"].get(recipe.replace("-", "_"))
    if found is None:
        return None
    parts = {
        "data_options": _options(kept["data_options"], found["data"]),
        "recipe_options": _options(found["options"], {}),
        "training": _options(kept["training"], found["training"]),
    }

    def fit(**_: Any) -> None:
        """Only shown."""

    dress(fit, recipe, about_recipe(found["entry"]), parts, verb)
    group = Group(f"The {WHOLE[verb]}", sort_key=0)
    return App(default_command=fit, name=verb, help_format="plaintext", group_parameters=group)


def _options(rows: Sequence[Sequence[Any]], defaults: Mapping[str, Any]) -> dict[str, Option]:
    """Options as they are kept: name, type, default in a list (none where it must be given)."""
    names = {"typing": typing, "pathlib": pathlib}
    found = {}
    for name, hint, default, text in rows:
        value = defaults.get(name, default)
        first = _restored(value[0]) if value else inspect.Parameter.empty
        # a file of this package, which its own code writes: nobody else's words are evaluated
        found[name] = Option(name, eval(hint, names), first, text)
    return found


def _restored(value: Any) -> Any:
    return tuple([_restored(each) for each in value]) if isinstance(value, list) else value


def current() -> str:
    """The text of ``flags.json`` as the code has it."""
    from deeplvm.cli.fit import parts_of
    from deeplvm.recipes import PUBLISHED, published

    kept: dict[str, Any] = {"data_options": [], "training": [], "recipes": {}}
    base = parts_of(published()[DEFAULT_RECIPE])
    for table in ("data_options", "training"):
        kept[table] = [_kept(each) for each in base[table].values()]
    plain = {
        table: {row[0]: row[2] for row in kept[table]} for table in ("data_options", "training")
    }
    groups = {name: group for group, names in PUBLISHED.items() for name in names}
    for name, recipe in published().items():
        parts = parts_of(recipe)
        own = {
            table: {each: _kept(option)[2] for each, option in parts[table].items()}
            for table in plain
        }
        changed = {
            table: {key: value for key, value in found.items() if value != plain[table][key]}
            for table, found in own.items()
        }
        kept["recipes"][name] = {
            "entry": said_of(name, recipe) | {"group": groups[name]},
            "options": [_kept(each) for each in parts["recipe_options"].values()],
            "data": changed["data_options"],
            "training": changed["training"],
        }
    return json.dumps(kept, indent=0, ensure_ascii=False) + "\n"


def said_of(name: str, recipe: Callable[..., Any]) -> dict[str, Any]:
    """What a recipe's docstring says of it, as text."""
    from deeplvm.recipes import describe

    return {
        key: value for key, value in asdict(describe(name, recipe)).items() if key != "training"
    }


def _kept(option: Option) -> list[Any]:
    hint = option.hint
    plain = isinstance(hint, type) and not get_args(hint)
    given = [] if option.default is inspect.Parameter.empty else [option.default]
    return [option.name, hint.__name__ if plain else str(hint), given, option.help]


if __name__ == "__main__":
    Path(__file__).with_name("flags.json").write_text(current(), encoding="utf-8")
