"""What recipes there are, and how one is found by name: published ones, and anybody's own."""

from __future__ import annotations

import contextlib
import copy
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

# `(data, *, options) -> LatentVariableModel`; nothing more is asked of it
Recipe = Callable[..., Any]
F = TypeVar("F", bound=Recipe)

# the convention of every docstring here: title (authors, year), link
_SOURCE = re.compile(
    r"(?:^|\. )(?P<title>[^.]+?) \((?P<authors>[^()]+), (?P<year>\d{4})\), (?P<link>https?://\S+)"
)


class RecipeError(ValueError):
    """A recipe cannot be found, or cannot be used; the message says what to write instead."""


@dataclass(frozen=True)
class Entry:
    """One line of ``deeplvm recipes``, read from a recipe's docstring.

    Attributes:
        name: What ``--recipe`` takes.
        summary: First line of the docstring.
        title: The paper's title; empty where the docstring names none.
        authors: Its authors.
        year: Its year; 0 where there is none.
        link: Where to read it.
        training: Training options of the paper, the defaults of a fit with this recipe.
    """

    name: str
    summary: str
    title: str
    authors: str
    year: int
    link: str
    training: dict[str, Any]


def trained_with(**training: Any) -> Callable[[F], F]:
    """Attach to a recipe the training options that are its paper's, by the names of ``fit``.

    They are the defaults of ``deeplvm fit --recipe``; in Python,
    ``unfolded(fit)(recipe(data), data, **training_of(recipe))``, see
    :func:`deeplvm.training.unfolded`. How latents are drawn, ``draw={"k": Enumerated()}``, holds
    in ``resume`` too, and in its measured form in ``evaluate`` and ``score``.

    >>> from deeplvm.objectives import iwae
    >>> @trained_with(objective=iwae, particles=50)
    ... def mine(data, *, latent: int = 2):
    ...     "My model."
    >>> training_of(mine)["particles"]
    50
    """

    def attach(recipe: F) -> F:
        recipe.training = training  # type: ignore[attr-defined]
        return recipe

    return attach


def loaded_with(**options: Any) -> Callable[[F], F]:
    """Attach to a recipe options of :func:`~deeplvm.data.load`, the defaults of a fit with it.

    What the user says goes before them; a recipe takes data without them too, or says why not.
    """

    def attach(recipe: F) -> F:
        recipe.loading = options  # type: ignore[attr-defined]
        return recipe

    return attach


def loading_of(recipe: Recipe) -> dict[str, Any]:
    """The options of loading data that a recipe brings."""
    return dict(getattr(recipe, "loading", {}))


def training_of(recipe: Recipe) -> dict[str, Any]:
    """The training options that a recipe brings; none for a function that says nothing.

    What learns among them (an estimator, an objective with a state) is a copy, so that no two
    fits share it.
    """
    return copy.deepcopy(getattr(recipe, "training", {}))


def published() -> dict[str, Recipe]:
    """The recipes of this package, by name, in the order of their groups."""
    module = importlib.import_module("deeplvm.recipes")
    groups: dict[str, tuple[str, ...]] = module.PUBLISHED
    return {name: getattr(module, name) for group in groups.values() for name in group}


def of_group(title: str) -> tuple[str, ...]:
    """Names of the published recipes of a group; none where there is no such group."""
    return importlib.import_module("deeplvm.recipes").PUBLISHED.get(title, ())


def describe(name: str, recipe: Recipe) -> Entry:
    """What a recipe's docstring says of it."""
    text = inspect.getdoc(recipe) or ""
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    sources = [source for source in map(_SOURCE.search, paragraphs) if source]
    found = sources[0].groupdict("") if sources else dict.fromkeys(_SOURCE.groupindex, "")
    return Entry(
        name=name,
        summary=text.split("\n", 1)[0],
        title=found["title"],
        authors=found["authors"],
        year=int(found["year"] or 0),
        link=found["link"].rstrip(".,"),
        training=training_of(recipe),
    )


def find(name: str) -> Recipe:
    """A published recipe by its name, or anybody's own as ``package.module:function``.

    A file ``mine.py`` of the current folder with a function ``model`` is ``mine:model``; a file
    elsewhere is ``folder/mine.py:model``. Its code is run, so the name must be the user's own
    word: one that stands in a file goes through :func:`refuse_to_run` first. Nothing else is
    imported from its folder but what it imports itself, and what is installed goes before that.

    Raises:
        RecipeError: If there is no such recipe, with those whose names are close.
    """
    if ":" in name:
        return _own(name)
    recipes = published()
    # `convolutional-vae` as on a command line, `convolutional_vae` as in Python
    spelled = name.replace("-", "_")
    if spelled in recipes:
        return recipes[spelled]
    close = difflib.get_close_matches(spelled, recipes, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(recipes)}."
    raise RecipeError(
        f"There is no recipe {name!r}; {hint} Your own is written package.module:function."
    )


def _own(name: str) -> Recipe:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise RecipeError(f"{name!r} is not package.module:function; both sides need a name.")
    here, file = Path.cwd(), None
    if module_name.endswith(".py"):
        file = Path(module_name).expanduser().absolute()
        if not file.is_file():
            raise RecipeError(f"There is no file {file} for the recipe {name!r}.")
        here = file.parent
    try:
        with neighbours(here):
            module = _module_in(here, module_name) if file is None else _module_of(file)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise RecipeError(
                f"The recipe {name!r} needs the module {error.name!r}, which is not installed."
            ) from error
        raise RecipeError(
            f"There is no module {module_name!r} for the recipe {name!r}; it is looked for in "
            f"{here} and among the installed packages."
        ) from error
    except (Exception, SystemExit) as error:
        problem = " ".join(str(error).split())
        written = module_name if file is not None else f"{module_name}.py"
        raise RecipeError(
            f"{written} of the recipe {name!r} cannot be imported: "
            f"{type(error).__name__}: {problem}"
        ) from error
    recipe = getattr(module, attribute, None)
    if not callable(recipe):
        functions = [n for n, value in vars(module).items() if inspect.isfunction(value)]
        raise RecipeError(
            f"{module_name!r} has no function {attribute!r}; it has "
            f"{', '.join(functions) or 'none at all'}."
        )
    return recipe


@contextlib.contextmanager
def neighbours(folder: Path | None) -> Iterator[None]:
    """Let a recipe import what lies beside it, after all that is installed, and nobody else."""
    if folder is None or str(folder) in sys.path:
        yield
        return
    sys.path.append(str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def folder_of(recipe: Recipe) -> Path | None:
    """The folder from which somebody's own recipe was imported; none for a published one."""
    module = sys.modules.get(getattr(recipe, "__module__", ""))
    file = getattr(module, "__file__", None)
    published_here = getattr(module, "__name__", "").split(".")[0] == "deeplvm"
    return None if file is None or published_here else Path(file).parent


def refuse_to_run(name: str, options: Mapping[str, Any], where: Path) -> None:
    """Refuse a recipe that stands in a file and is not one of this package: it would run code.

    Raises:
        RecipeError: With the call that would be made.
    """
    if ":" not in name:
        return
    module, _, function = name.partition(":")
    written = "".join([f", {key}={value!r}" for key, value in options.items()])
    raise RecipeError(
        f"{where} names the recipe {name!r}, which is not one of deeplvm's: it would import "
        f"{module} and call {function}(data{written[:200]}). If you know that code, say --trust "
        f"(in Python: trust=True)."
    )


def _module_in(folder: Path, name: str) -> ModuleType:
    """A module by its name: of a folder where it has one, else an installed one."""
    top = name.partition(".")[0]
    specification = None if top in sys.modules else PathFinder.find_spec(top, [str(folder)])
    if specification is not None and specification.origin is not None:
        _executed(specification)
    return importlib.import_module(name)


def _module_of(file: Path) -> ModuleType:
    """A file as a module, whatever other modules have its name; called by its whole path.

    So :func:`name_of` finds it from any folder.
    """
    known = sys.modules.get(str(file))
    if known is not None:
        return known
    specification = importlib.util.spec_from_file_location(str(file), file)
    if specification is None:
        raise ImportError(f"{file} is no file of Python")
    return _executed(specification)


def _executed(specification: ModuleSpec) -> ModuleType:
    """A module run for the first time; forgotten where that fails."""
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    try:
        specification.loader.exec_module(module)  # type: ignore[union-attr]
    except BaseException:
        del sys.modules[specification.name]
        raise
    return module


def name_of(recipe: Recipe) -> str:
    """The name by which :func:`find` finds a recipe again."""
    if published().get(getattr(recipe, "__name__", "")) is recipe:
        return recipe.__name__
    return f"{recipe.__module__}:{recipe.__qualname__}"
