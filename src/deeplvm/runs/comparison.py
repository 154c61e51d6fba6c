"""Runs side by side: which are comparable, what differs in their settings, which is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deeplvm.conditionals.spiked import Spiked
from deeplvm.data.likelihood import LIKELIHOODS
from deeplvm.data.records import SPLITS, Data, Selection, Split
from deeplvm.evaluation.comparison import Comparison, compare
from deeplvm.evaluation.summary import likelihood_warnings, scored_rows
from deeplvm.inference.rows import rows_of
from deeplvm.likelihood import ImportanceEstimate, importance_sampling
from deeplvm.runs.run import Run, RunError
from deeplvm.runs.sidecars import read_metrics

# What a likelihood must share with another to be compared with it, how that is said, and what
# gives both the same.
_ROWS = "Fit both to the same rows, or name rows for both with --data"
_SHARED = {
    "conditions": ("is given {}", "Fit both with the same names given"),
    "scored": ("is that of {}", "Fit both to the same names"),
    "measure": ("is made of {}", "These have no unit in common; fit both with one --likelihood"),
    "source": ("is of the data {}", _ROWS),
    "how_split": ("is of rows of {}", _ROWS),
    "binarization": ("is of pixels by --binarize {}", "Fit both with one --binarize"),
    "dequantization": ("is of values by --dequantize {}", "Fit both with one --dequantize"),
    "rows": ("is of {} rows", _ROWS),
    "fingerprint": ("is of rows of the fingerprint {:.12}", _ROWS),
}


@dataclass(frozen=True, eq=False)
class Measured:
    """A run on the rows that are compared.

    Attributes:
        run: Which.
        estimate: Of the likelihood of each row.
        scored: What it is the likelihood of; see :class:`~deeplvm.evaluation.Evaluation`.
        parameters: Of the model.
    """

    run: Run
    estimate: ImportanceEstimate
    scored: Mapping[str, Any]
    parameters: int

    @property
    def minutes(self) -> float:
        """Of training."""
        epochs = read_metrics(self.run.folder / "metrics.jsonl")
        return sum([each.get("seconds", 0.0) for each in epochs]) / 60

    @property
    def settings(self) -> dict[str, str]:
        """All options of the data, the recipe and the training, in words."""
        config = self.run.config
        of_data = {"data_seed" if k == "seed" else k: v for k, v in config.data_options.items()}
        options = {"recipe": config.recipe, **of_data, **config.recipe_options, **config.training}
        return {name: str(value) for name, value in options.items() if value is not None}


#: How many draws a row of a split are enough for a model, and how its latents are drawn.
Enough = Callable[[Any, Any, Any], int]


def measure(
    run: Run, data: Data, rows: Selection, particles: int | Enough, *, seed: int, device: Any
) -> Measured:
    """The likelihood of each of some rows of the data by the model of a run."""
    model, draw = run.model.to(device), run.measured(data) or None
    if not isinstance(particles, int):
        particles = particles(model, rows, draw)
    found, scored = scored_by(model, data, rows, particles, draw, seed)
    return Measured(run, found, scored, sum([each.numel() for each in model.parameters()]))


def scored_by(
    model: Any, data: Data, rows: Selection, particles: int, draw: Any, seed: int = 0
) -> tuple[ImportanceEstimate, dict[str, Any]]:
    """The likelihood of each of some rows, and what it is the likelihood of."""
    each = rows_of(model, rows, omit=tuple(draw or ()))
    found = importance_sampling(model, each, particles, draw=draw, seed=seed)
    return found, scored_rows(each, found, model) | {
        "measure": _measure(model, data, found.observed)
    }


def _measure(model: Any, data: Data, observed: Sequence[str]) -> str:
    """What the likelihood is of: probabilities, densities, or both."""
    atoms = any([isinstance(each, Spiked) and each.atoms.numel() for each in model.p.modules()])
    if atoms:
        return "values that repeat a probability, and others a density"
    kinds = set()
    for name in [n for n in observed if n in data.variables]:
        for part in data.variables[name].parts or (data.variables[name],):
            row = LIKELIHOODS.get(part.likelihood)
            dense = not part.is_whole or (row is not None and row.density)
            kinds.add("densities" if dense else "probabilities")
    return " and ".join(sorted(kinds))


def refuse_incomparable(found: Sequence[Measured]) -> None:
    """Refuse runs whose likelihoods are not of the same rows in the same units.

    Raises:
        RunError: Which two, and in what they differ.
    """
    first = found[0]
    for other in found[1:]:
        if apart := unlike(first.scored, other.scored):
            said, step = apart
            raise RunError(
                f"{first.run.folder} and {other.run.folder} cannot be compared: {said}. {step}."
            )


def unlike(first: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, str] | None:
    """In what two likelihoods are of different things, and what helps; none if they compare."""
    for key, (words, step) in _SHARED.items():
        if first.get(key) != other.get(key):
            a, b = [words.format(_in_words(each.get(key))) for each in (first, other)]
            return f"the likelihood of the first {a}, that of the second {b}", step
    return None


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "nothing"
    return "none" if value is None else str(value)


def compare_runs(
    runs: Sequence[Run],
    *,
    data: str | None = None,
    split: Split | None = None,
    particles: int | Enough = 1_000,
    seed: int = 0,
    device: Any = "cpu",
    told: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Compare runs on the same rows; those that differ in their seed alone are one model.

    Args:
        runs: Two or more.
        data: Other rows, read by each as its own were; their own if left out.
        split: Which rows; test if there are any.
        particles: Draws a row, where there are latents; or what says how many.
        seed: Of the draws.
        device: Where to compute.
        told: Is told what happens.

    Raises:
        RunError: If they are not comparable, or a folder is named twice.
    """
    folders = [each.folder.resolve() for each in runs]
    if len(set(folders)) < max(2, len(folders)):
        raise RunError("A comparison is of two different RUN folders or more; name each once.")
    parts: list[tuple[Run, Data, Selection]] = []
    for run in runs:
        read = run.read(data)
        chosen = split or next(s for s in SPLITS[::-1] if read.rows(s))
        parts.append((run, read, read[chosen]))
    how: dict[str, Any] = {"seed": seed, "device": device}
    # one row says whether they are comparable, before all of them take their time
    refuse_incomparable([measure(run, read, rows[:1], 1, **how) for run, read, rows in parts])
    found = []
    for run, read, rows in parts:
        found.append(measure(run, read, rows, particles, **how))
        told(f"{run.folder}: log p(x) = {found[-1].estimate.mean:.2f} nats a row")
    refuse_incomparable(found)
    names = _names(found)
    models: dict[str, list[Measured]] = {}
    for name, each in zip(names, found, strict=True):
        models.setdefault(name, []).append(each)
    record = found[0].scored
    return compare(
        {name: torch.stack([_numbers(e) for e in each]) for name, each in models.items()},
        parameters={name: each[0].parameters for name, each in models.items()},
        minutes={n: sum([e.minutes for e in each]) / len(each) for n, each in models.items()},
        exact={name: all([e.estimate.exact for e in each]) for name, each in models.items()},
        what=f", the {record['split']} rows of {record['name']}",
        settings=differing({name: each[0].settings for name, each in models.items()}),
        warnings=tuple(_warnings(found, models)),
    )


def _numbers(found: Measured) -> Tensor:
    return found.estimate.log_px.double().cpu()


def _names(found: Sequence[Measured]) -> list[str]:
    """Of each run, what its model is called: the folder's name, of several seeds the first's."""
    short = [each.run.folder.name for each in found]
    unique = len(set(short)) == len(short)
    keys = [frozenset([(k, v) for k, v in each.settings.items() if k != "seed"]) for each in found]
    return [
        short[first] if unique else str(found[first].run.folder)
        for first in [keys.index(key) for key in keys]
    ]


def differing(settings: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The options that are not the same in all, each with its value in every model.

    >>> differing({"a": {"latent": "2", "recipe": "vae"}, "b": {"recipe": "vae"}})
    {'latent': ('2', '')}
    """
    options = dict.fromkeys([key for each in settings.values() for key in each if key != "seed"])
    values = {key: tuple([each.get(key, "") for each in settings.values()]) for key in options}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _warnings(found: Sequence[Measured], models: Mapping[str, Sequence[Measured]]) -> list[str]:
    said = [
        f"{each.run.folder.name}: {warning}"
        for each in found
        for warning in likelihood_warnings(each.estimate)
    ]
    twins = [
        name
        for name, each in models.items()
        if len({e.settings.get("seed") for e in each}) < len(each)
    ]
    if twins:
        said.append(
            f"Runs of {', '.join(twins)} have the same seed and are counted as seeds all the same."
        )
    if len({each.estimate.exact for each in found}) == 2:
        said.append(
            "Some likelihoods are exact and others estimates from below, so that these may be "
            "better than they seem."
        )
    return said
