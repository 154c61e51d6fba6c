"""The RUN folder: everything that one fit leaves behind, and how it is opened again."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import platform
import shutil
import tomllib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplvm.files import (
    alone,
    fits,
    nested,
    parse_json,
    read_whole,
    refuse_moved,
    write_atomically,
)
from deeplvm.registry import why

if TYPE_CHECKING:
    from deeplvm.core.draws import Draw
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.data.records import Data, Description

# What this version writes, and the newest that it reads.
FORMAT = 1


# What a run decides itself, and no file may.
NOT_STORED: dict[str, tuple[str, ...]] = {
    "data_options": ("source", "lengths", "like"),
    "recipe_options": (),
    "training": (
        "model", "data", "valid", "draw", "log_prior", "missing", "folder", "resume", "callbacks",
        "quiet",
    ),
}  # fmt: skip


class RunError(ValueError):
    """A RUN folder cannot be made, or is not what it should be; the message says what to do."""


class RecipeFailed(RunError):
    """Somebody's own recipe raised an error, which is the cause."""


@dataclass(frozen=True)
class Config:
    """Everything needed to repeat a run: the contents of ``config.toml``.

    A file for ``--config`` may leave out any of it.

    Attributes:
        data: Name of a data set, or a path.
        recipe: Name of a recipe, or ``package.module:function``.
        data_options: Keyword arguments of :func:`deeplvm.data.load`.
        recipe_options: Keyword arguments of the recipe.
        training: Keyword arguments of :func:`deeplvm.training.fit`; functions by their names.
        made_with: Versions, and the fingerprint of the data; for the record.
    """

    data: str | None = None
    recipe: str | None = None
    data_options: Mapping[str, Any] = field(default_factory=dict)
    recipe_options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)

    def to_toml(self) -> str:
        """The text of the file; an option that is None is left out, as TOML has no such value."""
        import tomli_w

        plain: dict[str, Any] = {"format": FORMAT}
        for name in ("data", "recipe"):
            if getattr(self, name) is not None:
                plain[name] = getattr(self, name)
        for name in ("data_options", "recipe_options", "training", "made_with"):
            options = {key: _plain(value) for key, value in getattr(self, name).items()}
            plain[name] = {key: value for key, value in options.items() if value is not None}
        return tomli_w.dumps(plain)

    @classmethod
    def read(cls, path: Path) -> Config:
        """A configuration from a file.

        Raises:
            RunError: If the file is not TOML, has an unknown entry, or is of a newer version.
        """
        try:
            plain = tomllib.loads(read_whole(path, RunError).decode())
        except FileNotFoundError as error:
            raise RunError(f"There is no configuration file {path}.") from error
        except IsADirectoryError as error:
            raise RunError(
                f"{path} is a folder; give the file, {path / 'config.toml'}."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{path} is not a TOML file: {error}.") from error
        except RecursionError:
            plain = None
        if plain is None or nested(plain):
            raise RunError(f"{path} is nested too deeply: it is damaged or not deeplvm's.")
        _check_format(plain.pop("format", FORMAT), path)
        known = {"data", "recipe", "data_options", "recipe_options", "training", "made_with"}
        if unknown := set(plain) - known:
            raise RunError(
                f"{path} has an entry {sorted(unknown)[0]!r}; it may have "
                f"{', '.join(sorted(known))}."
            )
        for name in known:
            expected = str if name in ("data", "recipe") else dict
            if name in plain and not isinstance(plain[name], expected):
                what = "text" if expected is str else f"a table, [{name}]"
                raise RunError(f"{name} in {path} must be {what}, found {plain[name]!r}.")
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class Run:
    """A RUN folder.

    Attributes:
        folder: Where it is.
        config: How it was made.
        description: What its data are, without the data.
        trust: Whether somebody's own recipe may be run.

    >>> run = open_run("runs/digits-vae")  # doctest: +SKIP
    >>> run.model.sample(16)["x"].value.shape  # doctest: +SKIP
    torch.Size([16, 1, 8, 8])
    """

    folder: Path
    config: Config
    description: Description
    trust: bool = False

    @property
    def weights(self) -> Path:
        """The file of the best model."""
        return self.folder / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The folder of the exact state to resume from."""
        return self.folder / "checkpoint"

    @property
    def finished(self) -> bool:
        """Whether the best model is there."""
        return self.weights.exists()

    @cached_property
    def model(self) -> LatentVariableModel:
        """The best model, in evaluation mode.

        Raises:
            RunError: If training has not ended.
            CheckpointError: If the file is damaged, of a newer version, or does not fit.
        """
        from deeplvm.training.checkpoint import load_model_into

        if not self.finished:
            raise RunError(
                f"{self.folder} has no model.safetensors: its training was not finished. "
                f"Go on with: deeplvm resume {self.folder}"
            )
        model = self.build()
        load_model_into(model, self.weights)
        return model.eval()

    def build(self) -> LatentVariableModel:
        """The model as it was before training: the same recipe, options and seed.

        Raises:
            RecipeError: If the recipe is not one of this package, and nobody said to trust it.
        """
        from deeplvm.recipes.catalogue import find, refuse_to_run
        from deeplvm.training import fit, unfolded

        if not self.trust:
            path = self.folder / "config.toml"
            refuse_to_run(self.config.recipe or "", self.config.recipe_options, path)
        recipe = find(self.config.recipe or "")
        self._check("recipe_options", recipe)
        self._check("training", unfolded(fit))
        seed = self.config.training.get("seed", 0)
        options = self.config.recipe_options
        try:
            return build(recipe, self.description, options, seed)
        except RecipeFailed as error:
            if not isinstance(error.__cause__, AttributeError):
                raise
            # somebody's own recipe that reads rows, which a description does not have
            return build(recipe, self.data, options, seed)

    @property
    def draw(self) -> dict[str, Draw]:
        """How the recipe says that latents are drawn in training, where it says so."""
        from deeplvm.recipes import find, training_of

        return dict(training_of(find(self.config.recipe or "")).get("draw") or {})

    @property
    def saw_holes(self) -> bool:
        """Whether rows with missing values were among those that the model learned from."""
        holes = any([variable.missing for variable in self.description.variables.values()])
        training = self.config.training
        return bool(holes or training.get("hide") or training.get("hide_names"))

    def measured(self, data: Data) -> dict[str, Draw]:
        """How those that the data do not have are drawn where the model is measured.

        What they have in some rows is summed over in the others, if it is in training.
        """
        from deeplvm.core.draws import Enumerated, as_measured

        found = {}
        for name, way in self.draw.items():
            if name not in data.train:
                found[name] = as_measured(way)
            elif name in data.missing and isinstance(way, Enumerated):
                found[name] = replace(way, only_missing=True)
        return found

    @cached_property
    def data(self) -> Data:
        """The data that the run was fitted to, read again.

        Raises:
            RunError: If they are no longer the same.
        """
        from deeplvm.data import load

        self._check("data_options", load)
        data = self._reopened()
        if data is None:
            # decided when the run began: another machine may have another memory
            decided = {k: v for k, v in self.description.options.items() if k == "stream"}
            data = load(self.config.data or "", **{**self.config.data_options, **decided})
        expected = self.description.fingerprint
        if expected and data.fingerprint != expected:
            raise RunError(
                f"{self.config.data} is no longer what {self.folder} was fitted to (its "
                f"fingerprint is {data.fingerprint[:12]}, was {expected[:12]}); name the file to "
                f"read it as new data: deeplvm evaluate {self.folder} {self.config.data}"
            )
        return data

    def _reopened(self) -> Data | None:
        """Data that are streamed and whose files are as they were: all is known of them."""
        from deeplvm.data.loading import reopen

        source = Path(self.config.data or "").expanduser().absolute()
        if not self.description.stream or str(source) != self.description.options.get("source"):
            return None
        return reopen(self.description)

    def read(self, source: Any) -> Data:
        """Other data, read with the run's columns, levels and units; the run's own if none.

        Args:
            source: A name, a path, or rows in memory, as of :func:`deeplvm.data.load`.
        """
        from deeplvm.data import load

        if source is None:
            return self.data
        data = load(source, like=self.description)
        self._check_labels(data, source if isinstance(source, str) else data.name)
        return data

    def _check_labels(self, data: Data, source: str) -> None:
        """Refuse rows without the label that the model is given, and labels that it never saw."""
        model, label = self.model, self.description.options.get("label") or "y"
        given = "y" in model.p.inputs and "y" not in model.p.names
        if given and "y" not in data.test:
            raise RunError(
                f"{source} has no column {label!r}, the label, which the model is given; add it."
            )
        if given and data.description.unlabelled:
            raise RunError(
                f"{source}: {data.description.unlabelled['test']:,} rows have no {label!r}, the "
                f"label, which the model is given; fill it in, or leave these rows out."
            )
        if "y" in model.names and "y" in data.test and data.classes != self.description.classes:
            known = self.description.classes or ()
            new = [each for each in data.classes or () if each not in known]
            raise RunError(
                f"{source}: {(*new, label)[0]!r} is none of the labels of the training data "
                f"({', '.join(known[:10])}), which the model knows; correct it, or leave the "
                f"labels out."
            )

    def _check(self, table: str, function: Callable[..., Any]) -> None:
        """Refuse an option that the function has not, or of another type."""
        for name, value in getattr(self.config, table).items():
            reason = why(function, name, value)
            if reason is not None or name in NOT_STORED[table]:
                reason = reason or "is not for a file to say"
                path = self.folder / "config.toml"
                raise RunError(f"{name} in [{table}] of {path} {reason}.")

    def save_model(self, model: LatentVariableModel) -> None:
        """Write the best model."""
        from deeplvm.training.checkpoint import save_model

        save_model(model, self.weights, {"deeplvm": version(), "recipe": self.config.recipe})


def version() -> str:
    """The version of this package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("deeplvm")
    except PackageNotFoundError:
        return "not installed"


def build(
    recipe: Any, data: Data | Description, options: Mapping[str, Any], seed: int
) -> LatentVariableModel:
    """A model from a recipe, with weights that the seed decides; torch's own state is untouched.

    Somebody's own function may take no data, and may return a pair of a p and a q.

    Raises:
        RunError: If the recipe returns something else.
        RecipeFailed: If somebody's own raises an error.
    """
    import torch

    from deeplvm.core.joint import Joint
    from deeplvm.core.model import LatentVariableModel
    from deeplvm.recipes import name_of

    with torch.random.fork_rng(devices=[]), within_memory(name_of(recipe), RunError):
        torch.manual_seed(seed)
        model = _call(recipe, data, options)
    if isinstance(model, tuple) and all([isinstance(part, Joint) for part in model]):
        model = LatentVariableModel(*model)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "evidence"):
        raise RunError(
            f"The recipe {name_of(recipe)} must return a LatentVariableModel, or a pair of "
            f"Joints, p and q; it returned {_what(model)}."
        )
    return model  # type: ignore[return-value]


@contextlib.contextmanager
def within_memory(what: str, error: type[ValueError]) -> Iterator[None]:
    """Refuse new tensors that together are larger than the memory, before they are made.

    Raises:
        ValueError: Of the class given.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Bounded(TorchDispatchMode):
        total = 0.0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            size = args[0] if args else None
            if isinstance(size, list | torch.Size) and all([isinstance(n, int) for n in size]):
                self.total += math.prod(size) * 4.0
                fits(self.total, what, error)
            return func(*args, **(kwargs or {}))

    with Bounded():
        yield


def _call(recipe: Any, data: Data | Description, options: Mapping[str, Any]) -> Any:
    """What a recipe returns; an error of somebody's own is told with the place in its file."""
    from deeplvm.recipes.catalogue import folder_of, name_of, neighbours

    name = name_of(recipe)
    try:
        with neighbours(folder_of(recipe)):
            return recipe(data, **options) if _takes_data(recipe) else recipe(**options)
    except RunError:
        raise
    except (Exception, SystemExit) as error:
        # ours say what to do, and a lack of memory is told apart
        short = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        if ":" not in name or name.startswith("deeplvm.") or short:
            raise
        problem = " ".join(str(error).split())
        raise RecipeFailed(
            f"The recipe {name} failed: {type(error).__name__}: {problem}{_place(recipe, error)}"
        ) from error


def _place(recipe: Any, error: BaseException) -> str:
    """The line of the recipe's file on which the error came up."""
    code = getattr(inspect.unwrap(recipe), "__code__", None)
    steps = traceback.extract_tb(error.__traceback__)
    lines = [step.lineno for step in steps if code and step.filename == code.co_filename]
    return f" (line {lines[-1]} of {code.co_filename})" if code and lines else ""


def _what(model: Any) -> str:
    """What somebody returned, in a few words."""
    if isinstance(model, tuple | list):
        parts = ", ".join([type(part).__name__ for part in model])
        return f"a {type(model).__name__} of {parts or 'nothing'}"
    return "nothing" if model is None else f"an object of type {type(model).__name__}"


def _takes_data(recipe: Any) -> bool:
    """Whether a function has a parameter by position; one in C does not say."""
    by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    try:
        found = inspect.signature(recipe).parameters.values()
    except ValueError:
        return True
    return any([each.kind in (*by_position, Parameter.VAR_POSITIONAL) for each in found])


def create_run(folder: Path, config: Config, data: Data) -> Run:
    """Make a RUN folder with its configuration and the description of its data.

    Raises:
        RunError: If something is there already; nothing is overwritten.
    """
    from deeplvm.data.schema import schema_of

    if is_taken(folder):
        raise RunError(refusal(folder))
    for path in _beginnings(folder):
        path.unlink(missing_ok=True)
    # what is hashed once is kept: the fingerprint is part of the description
    description = replace(data.description, fingerprint=data.fingerprint)
    made_with = {"deeplvm": version(), **_versions(), "fingerprint": data.fingerprint}
    config = replace(config, made_with=made_with)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {"format": FORMAT, **description.to_dict()}
    write_atomically(folder / "data.json", json.dumps(plain, indent=1).encode())
    if schema := schema_of(description):  # for the user, who may edit it
        write_atomically(folder / "schema.toml", schema.encode())
    # last: a folder with a config.toml is a whole RUN folder
    write_atomically(folder / "config.toml", config.to_toml().encode())
    return Run(folder, config, description, trust=True)


@contextlib.contextmanager
def claim(folders: Path | Iterable[Path]) -> Iterator[Path]:
    """A folder for a new run, kept to this process from the first moment.

    What this process made of it goes again if training is refused, and nothing else: folders that
    others have filled in the meantime stay.

    Args:
        folders: The folder; or several, of which the first is taken that is not there yet.

    Raises:
        RunError: If something is there already, or another process is at work in it.
    """
    made: list[Path] = []
    if isinstance(folders, Path):
        folder = folders
        _make(folder, made)
    else:
        folder = next(each for each in folders if _make(each, made))
    try:
        with alone(folder, RunError):
            if is_taken(folder):
                raise RunError(refusal(folder))
            try:
                yield folder
            except BaseException as error:
                if not _has_something(folder, error):
                    _clear(folder)
                raise
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()  # only what is empty goes


def _make(folder: Path, made: list[Path]) -> bool:
    """Make a folder and those above it, and note which; whether it was not there before."""
    for _ in range(100):  # another process may take away a folder above, which it made
        try:
            for path in (*reversed(folder.parents), folder):
                if path.is_dir():
                    continue
                if path.exists():
                    raise RunError(refusal(path))
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    made.append(path)
        except FileNotFoundError:
            continue
        break
    return folder in made


def _has_something(folder: Path, error: BaseException) -> bool:
    """Whether a run that an error has ended is worth keeping: its training had begun."""
    from deeplvm.training.failures import NonFiniteError

    try:
        refuse_moved(folder)
    except ValueError:  # what is there now is somebody else's
        return True
    if isinstance(error, NonFiniteError):  # before the end of an epoch there is nothing to keep
        return error.epoch > 1
    return any((folder / "checkpoint").glob("*.safetensors"))


def _clear(folder: Path) -> None:
    """Take away what a fit has written, by name."""
    made = [
        folder / name for name in ("config.toml", "schema.toml", "metrics.jsonl", "tracker.json")
    ]
    for path in (*_beginnings(folder), *made):
        path.unlink(missing_ok=True)
    for name in ("checkpoint", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)


def is_taken(folder: Path) -> bool:
    """Whether there is more than what is left of a :func:`create_run` whose process died."""
    if not folder.is_dir():
        return folder.exists()
    return {*folder.iterdir()} != {*_beginnings(folder)}


def _beginnings(folder: Path) -> list[Path]:
    """What a :func:`create_run` that was cut short has left: all before the configuration."""
    names = ("data.json", "schema.toml", "config.toml")
    found = [path for name in names for path in folder.glob(f".{name}.*")]
    path = folder / "data.json"
    with contextlib.suppress(RunError, OSError):
        _read_description(path)  # somebody else's stays
        found += [path, *folder.glob("schema.toml")]
    return found


def refusal(folder: Path) -> str:
    """Why a folder that exists is not written to, and what to do instead."""
    if not folder.is_dir():
        return f"{folder} exists and is a file; name another folder with --out."
    if not (folder / "config.toml").exists():
        return f"{folder} exists and is not empty; name another folder with --out."
    if (folder / "model.safetensors").exists():
        return (
            f"{folder} exists and holds a finished run; name another folder with --out, or train "
            f"it longer with: deeplvm resume {folder} --epochs N"
        )
    return (
        f"{folder} exists and holds an unfinished run; go on with: deeplvm resume {folder}, or "
        f"name another folder with --out."
    )


def open_run(folder: str | Path, *, trust: bool = False) -> Run:
    """Open a RUN folder; its model and its data are read when they are first asked for.

    Args:
        folder: What ``deeplvm fit`` made.
        trust: Whether to run the code of somebody's own recipe, ``package.module:function``, that
            the folder names; without it such a model is not opened.

    Raises:
        RunError: If it is not a RUN folder, is half-written, or is of a newer version.
    """
    folder = Path(folder)
    if not folder.exists():
        raise RunError(f"There is no RUN folder {folder}; deeplvm fit makes one.")
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; a RUN folder is what deeplvm fit makes.")
    if not (folder / "config.toml").exists():
        if (folder / "study.json").exists():
            raise RunError(
                f"{folder} is a study of deeplvm tune; its best run is {folder / 'best'}, and "
                f"deeplvm resume {folder} goes on with it."
            )
        raise RunError(
            f"{folder} is not a RUN folder, or its writing was cut short: it has no config.toml."
        )
    config = Config.read(folder / "config.toml")
    if config.data is None or config.recipe is None:
        absent = "data" if config.data is None else "recipe"
        raise RunError(
            f"{folder / 'config.toml'} does not say its {absent}: it is a half-written or edited "
            f"RUN folder."
        )
    return Run(folder, config, _read_description(folder / "data.json"), trust)


def _read_description(path: Path) -> Description:
    from deeplvm.data.records import Description, check_description
    from deeplvm.data.variable import DataError

    try:
        plain = parse_json(read_whole(path, RunError))
        if not isinstance(plain, dict) or nested(plain):
            raise TypeError
        _check_format(plain.pop("format", None), path)
        description = Description.from_dict(plain)
        check_description(description)
    except FileNotFoundError as error:
        raise RunError(
            f"{path.parent} is half-written: it has no {path.name}; fit again."
        ) from error
    except RunError:
        raise
    except DataError as error:
        raise RunError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise RunError(f"{path} is damaged and cannot be read; fit again.") from error
    return description


def _check_format(found: Any, path: Path) -> None:
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise RunError(f"{path} does not say its format: it is damaged or not deeplvm's.")
    if found > FORMAT:
        raise RunError(
            f"{path} was written by a newer deeplvm (format {found}; this one, {version()}, "
            f"reads up to {FORMAT}): install a newer version."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _versions() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__, "python": platform.python_version()}
