"""Which model suits a table: some are trained for a short time and compared on held-out rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from deeplvm.data.records import Data
from deeplvm.evaluation.comparison import Difference, difference
from deeplvm.likelihood import importance_sampling
from deeplvm.recipes import RecipeError, find, training_of
from deeplvm.registry import phases_of
from deeplvm.results import Estimate, Record
from deeplvm.runs.run import build
from deeplvm.training import fit, unfolded
from deeplvm.training.options import FEW_ROWS, of_few_rows
from deeplvm.training.phases import idle_in

#: Recipes and their options, the fastest first; one that does not take the data is left out.
CANDIDATES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("gaussian_mixture", {}),
    ("mixture_model", {}),
    ("mixture_model", {"classes": 100}),
    ("autoregressive_table", {}),
    ("table_vae", {}),
)
_MOST_ROWS, _PARTICLES = 5000, 100


@dataclass(frozen=True)
class Candidate(Record):
    """How one model did.

    Attributes:
        recipe: Its name.
        options: Those of the recipe, where they are not its defaults.
        log_px: Mean log-likelihood of the held-out rows, nats.
        behind: How much less it is than the best one's, row by row.
        epochs: Of its training.
        idle: Options of training that were asked for and have no part in its own.
    """

    recipe: str
    options: dict[str, Any]
    log_px: Estimate
    behind: Difference
    epochs: int
    idle: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The recipe as a call."""
        options = ", ".join([f"{name}={value}" for name, value in self.options.items()])
        return f"{self.recipe}({options})" if options else self.recipe


@dataclass(frozen=True)
class ModelSelection(Record):
    """Models that were compared, the best first.

    The rows are those that also ended each training, so that all their likelihoods are a little
    too high, and those of :attr:`rows` alone say how sure the order is.

    Attributes:
        trials: One a model.
        rows: How many held-out rows they were compared on.
        seconds: What it took.
    """

    trials: tuple[Candidate, ...]
    rows: int
    seconds: float
    header = ("model", "log p(x), nats", "behind the best", "epochs")

    @property
    def best(self) -> Candidate:
        """The model of the highest likelihood."""
        return self.trials[0]

    def heading(self) -> str:
        """What was compared."""
        return f"{len(self.trials)} models on {self.rows:,} held-out rows, {self.seconds:.0f} s"

    def table(self) -> list[tuple[str, str, str, str]]:
        """One line a model."""
        return [
            (t.title, str(t.log_px), str(t.behind) if t is not self.best else "", str(t.epochs))
            for t in self.trials
        ]

    def notes(self) -> list[str]:
        """Whether the best is sure to be."""
        near = [t.title for t in self.trials[1:] if t.behind.interval()[0] <= 0]
        if not near:
            return [f"{self.best.title} it is."]
        return [f"{self.best.title} it is; not told apart from it: {', '.join(near)}."]


def select(
    data: Data,
    *,
    minutes: float = 4.0,
    candidates: Sequence[tuple[str, Mapping[str, Any]]] = CANDIDATES,
    seed: int = 0,
    training: Mapping[str, Any] | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> ModelSelection:
    """Train some models for an equal time each, and compare them on held-out rows.

    Args:
        data: A table, with held-out (``valid``) rows.
        minutes: Of training in all; a model that has settled takes less.
        candidates: Names of recipes, each with options.
        seed: Of all that is drawn.
        training: Options of :func:`~deeplvm.training.fit`, unfolded, in place of the recipes'.
        told: Is told what happens.

    Raises:
        RecipeError: The data are no table.
    """
    if [(name, len(each.shape)) for name, each in data.variables.items()] != [("x", 1)]:
        raise RecipeError(
            f"--recipe auto compares models of tables, and these data are none, or several names "
            f"({', '.join(data.variables)}); name a recipe: deeplvm recipes lists them."
        )
    began, found = time.monotonic(), []
    rows = data.valid[:_MOST_ROWS]
    for name, options in candidates:
        recipe = find(name)
        own = training_of(recipe)
        if data.rows("train") < FEW_ROWS and not own.keys() & {"phases", "schedule"}:
            own |= of_few_rows(data.rows("train"), own)
        try:
            model = build(recipe, data, options, seed)
        except RecipeError as error:
            told(f"{name} is left out: {error}")
            continue
        given, none = dict(training or {}), tuple[str, ...]()
        if "phases" in own.keys() - given.keys():
            none = idle_in(phases_of(own["phases"], model))
        idle = tuple([option for option in none if given.pop(option, None) is not None])
        own |= {"compile": False, **given, "minutes": minutes / len(candidates), "quiet": True}
        history = unfolded(fit)(model, data, seed=seed, **own)
        log_px = importance_sampling(model, rows, particles=_PARTICLES).log_px.double().cpu()
        trial = Candidate(
            name, dict(options), Estimate.of(log_px), difference(log_px, log_px),
            len(history.values()), idle,
        )  # fmt: skip
        told(f"{trial.title}: log p(x) = {trial.log_px} nats of held-out rows")
        found.append((trial, log_px))
    if not found:
        raise RecipeError(f"None of {', '.join([name for name, _ in candidates])} takes the data.")
    best = max([log_px for _, log_px in found], key=_mean)
    ranked = sorted(found, key=lambda each: _mean(each[1]), reverse=True)
    trials = tuple([replace(t, behind=difference(best, log_px)) for t, log_px in ranked])
    return ModelSelection(trials, len(best), time.monotonic() - began)


def _mean(log_px: Tensor) -> float:
    return float(log_px.mean())
