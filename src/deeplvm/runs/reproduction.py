"""Published numbers, tried again: settings, targets and sources in one table, run and judged.

The table is ``reproductions.toml`` beside this file; ``python -m deeplvm.runs.reproduction``
prints it as the page of the documentation shows it.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from deeplvm.data import load
from deeplvm.evaluation import evaluate
from deeplvm.evaluation.graphs import evaluate_graph
from deeplvm.files import parse_json, read_whole, write_atomically
from deeplvm.inference.rows import at_random
from deeplvm.recipes import find, training_of
from deeplvm.recipes.catalogue import loading_of
from deeplvm.registry import written
from deeplvm.results import Estimate, Record
from deeplvm.runs.run import Config, RunError, build, create_run, open_run
from deeplvm.runs.training import settled, training_options
from deeplvm.training import fit, unfolded

_EPOCHS = 10_000  # where minutes end a training, and no epochs are said


@dataclass(frozen=True)
class Reproduction:
    """One published number.

    Attributes:
        name: What it is called.
        what: The model and the data, in words.
        quantity: Which number of the evaluation, a path in ``evaluation.json``.
        target: What is asked for.
        tolerance: By how much it may be missed.
        better: Which side of the target is no fault; ``"equal"``: none.
        published: The number of the paper.
        source: Title, authors, year.
        link: Where it stands.
        differs: How this is not the paper's experiment.
        minutes: That it takes.
        recipe: By its name.
        data: By its name.
        data_options: Over those that the recipe brings.
        recipe_options: Over its defaults.
        training: Over the recipe's own.
        particles: Draws a row of the evaluation.
        rows: That are evaluated, at most.
        split: Which ones.
        seeds: Runs, whose mean is judged.
        splits: Whether each has a split of its own.
        reached: What it gave when it was last run to its end.
    """

    name: str
    what: str
    quantity: str
    target: float
    tolerance: float
    better: Literal["higher", "lower", "equal"]
    published: str
    source: str
    link: str
    differs: str
    minutes: float
    recipe: str
    data: str
    data_options: Mapping[str, Any] | None = None
    recipe_options: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    particles: int = 1_000
    rows: int | None = None
    split: Literal["train", "valid", "test"] = "test"
    seeds: int = 1
    splits: bool = False
    reached: str = ""

    def config(self, seed: int, minutes: float | None = None) -> Config:
        """Everything needed for one of its runs."""
        recipe = find(self.recipe)
        options = {**loading_of(recipe), **(self.data_options or {})}
        if self.splits:
            options["seed"] = seed
        own = {name: written(value) for name, value in training_of(recipe).items()}
        own.pop("draw", None)  # a run knows it by its recipe
        said = dict(self.training or {})
        if minutes is not None:
            said["minutes"] = minutes
        if "minutes" in said and "epochs" not in said:
            said["epochs"] = _EPOCHS
        training = {"seed": seed, **own, **said}
        return Config(self.data, self.recipe, options, dict(self.recipe_options or {}), training)

    def judge(self, found: Estimate, runs: int = 1, note: str = "") -> Outcome:
        """Whether a number is what is asked for."""
        missed = {
            "higher": self.target - found.value,
            "lower": found.value - self.target,
            "equal": abs(found.value - self.target),
        }[self.better]
        return Outcome(self.name, self.quantity, found, self.target, self.tolerance, missed,
                       runs, self.published, self.source, self.differs, note)  # fmt: skip


@dataclass(frozen=True)
class Outcome(Record, also="met"):
    """What a published number became here.

    Attributes:
        name: Which one.
        quantity: What was measured.
        found: Its value, with the error over rows, or runs.
        target: What was asked for.
        tolerance: By how much it may be missed.
        missed: By how much it was: on the wrong side of the target.
        runs: How many runs it is the mean of.
        published: The number of the paper.
        source: Title, authors, year.
        differs: How this is not the paper's experiment.
        note: What else to know.
    """

    name: str
    quantity: str
    found: Estimate
    target: float
    tolerance: float
    missed: float
    runs: int
    published: str
    source: str
    differs: str
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether it is missed by no more than the tolerance."""
        return self.missed <= self.tolerance

    def heading(self) -> str:
        """The verdict, in words."""
        runs = f", mean of {self.runs} runs" if self.runs > 1 else ""
        said = f"{self.quantity.removesuffix('.value')} {self._shown()}{runs}"
        asked = f"{self.target:.10g} is asked for, within {self.tolerance:g}"
        if self.met:
            return f"{self.name}: met. {said}; {asked}."
        beyond = self.missed - self.tolerance
        return f"{self.name}: not met, by {beyond:.2g} beyond the tolerance. {said}; {asked}."

    def _shown(self) -> str:
        # an error over rows says nothing of a number that is to be met on these very rows
        if self.found.stderr <= 10 * self.tolerance:
            return str(self.found)
        return f"{self.found.value:.7g}"

    def table(self) -> list[tuple[str, str]]:
        """Where it comes from."""
        shown = [("published", self.published), ("source", self.source), ("here", self.differs)]
        return [*shown, ("note", self.note)] if self.note else shown


def table() -> dict[str, Reproduction]:
    """All of them, by name."""
    text = files("deeplvm.runs").joinpath("reproductions.toml").read_text("utf-8")
    return {name: Reproduction(name, **each) for name, each in tomllib.loads(text).items()}


def entry_of(name: str) -> Reproduction:
    """One of them.

    Raises:
        RunError: If there is none of that name.
    """
    known = table()
    if name not in known:
        raise RunError(
            f"There is no reproduction {name!r}; there are {', '.join(known)}: deeplvm reproduce "
            f"--list says what each is."
        )
    return known[name]


def reproduce(
    entry: Reproduction,
    folder: Path,
    *,
    seed: int = 0,
    minutes: float | None = None,
    device: str = "auto",
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Train and evaluate, from where the folder has it, and judge.

    Args:
        entry: Which.
        folder: Of its runs, ``seed-0`` and so on, which every verb opens.
        seed: Of the first run.
        minutes: Of training, if others than the table's.
        device: Where.
        told: Is told what happens.

    Raises:
        DataError: If the data are not here.
        RunError: If the folder holds runs of other settings.
    """
    found = []
    for each in range(seed, seed + entry.seeds):
        config = entry.config(each, minutes)
        place = folder / f"seed-{each}"
        found.append(_measured(entry, config, place, device, told))
        told(f"{place}: {entry.quantity.removesuffix('.value')} {found[-1]}")
    values = torch.tensor([each.value for each in found], dtype=torch.float64)
    mean = found[0] if len(found) == 1 else Estimate.of(values)
    note = "" if minutes is None else f"{minutes:g} minutes of training, not those of the table"
    outcome = entry.judge(mean, len(found), note)
    write_atomically(folder / "reproduction.json", outcome.to_json().encode())
    return outcome


def _measured(
    entry: Reproduction, config: Config, folder: Path, device: str, told: Callable[[str], None]
) -> Estimate:
    """The number of one run, which is trained and evaluated if it is not yet."""
    recipe, path = find(entry.recipe), folder / "evaluation.json"
    if (folder / "config.toml").exists():
        run = open_run(folder)
        other = [
            name
            for table in ("recipe_options", "training")
            for name, value in getattr(config, table).items()
            if name != "device" and _plain(getattr(run.config, table).get(name)) != _plain(value)
        ]
        if other:
            raise RunError(
                f"{folder} is of other settings ({', '.join(other)}); name another folder with "
                f"--out."
            )
        if run.finished and path.exists():
            return _number(parse_json(read_whole(path, RunError)), entry.quantity)
        data = run.data
    else:
        data = load(config.data or "", **config.data_options)
        folder.mkdir(parents=True, exist_ok=True)
        run = create_run(folder, settled(config, data, recipe), data)
    told(f"{folder}: {entry.what}; about {entry.minutes / entry.seeds:g} min")
    model = build(recipe, data, run.config.recipe_options, int(config.training["seed"]))
    options = training_options(run, model, data, told) | {"device": device, "resume": True}
    options["quiet"] = entry.minutes < 1
    unfolded(fit)(model, data, **options)
    run.save_model(model)
    if run.description.options.get("graph"):
        plain = evaluate_graph(model, data).to_dict()  # type: ignore[arg-type]
    else:
        rows = data[entry.split]
        rows = rows if entry.rows is None else at_random(rows, entry.rows)
        draw = run.measured(data) or None
        plain = evaluate(model, rows, particles=entry.particles, draw=draw).to_dict()
    write_atomically(path, json.dumps(plain, indent=2).encode())
    return _number(plain, entry.quantity)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _number(plain: Any, path: str) -> Estimate:
    """A number of an evaluation, with its error where it has one beside it."""
    place: Any = {"": plain}
    for key in ("", *path.split(".")):
        before, place = place, (place or {}).get(key)
        if place is None:
            raise RunError(f"The evaluation has no {path}; evaluate again.")
    error = before.get("stderr") if isinstance(before, dict) else None
    return Estimate(float(place), float("nan") if error is None else float(error))


def listed() -> list[tuple[str, ...]]:
    """The table: name, what, data, minutes, what is asked for, what was reached, published."""
    return [
        (
            e.name, e.what, e.data, f"{e.minutes:g}", f"{e.target:g} ± {e.tolerance:g}",
            e.reached or "not run to its end yet", e.published,
        )
        for e in table().values()
    ]  # fmt: skip


HEADER = ("name", "what", "data", "minutes", "asked", "reached", "published")


def page() -> str:
    """The table as the documentation shows it."""
    lines = [f"| {' | '.join([*HEADER, 'source', 'how it differs'])} |", f"|{'---|' * 9}"]
    for entry, row in zip(table().values(), listed(), strict=True):
        name, *cells = row
        source = f"[{entry.source}]({entry.link})"
        lines.append(f"| {' | '.join([f'`{name}`', *cells, source, entry.differs])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(f"{page()}\n")
