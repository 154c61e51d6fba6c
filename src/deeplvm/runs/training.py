"""How a run is trained: what its configuration means, for its model and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data.records import Data
from deeplvm.data.variable import listed
from deeplvm.recipes import Recipe, find, name_of, training_of
from deeplvm.registry import meant, phases_of, written
from deeplvm.runs.run import Config, Run, RunError
from deeplvm.training.batches import Ordered
from deeplvm.training.phases import asks, idle_in


def settled(config: Config, data: Data, recipe: Recipe) -> Config:
    """The configuration as it is stored: by names and places that hold wherever it is read."""
    options = dict(config.data_options)
    if options.get("schema"):
        options["schema"] = str(Path(options["schema"]).expanduser().absolute())
    source = str(data.options.get("source", config.data))
    return replace(config, data=source, recipe=name_of(recipe), data_options=options)


def refuse_holes(model: LatentVariableModel, data: Data, recipe: str) -> None:
    """Refuse a model that reads in p what is missing in the data: its bound would be of others.

    Raises:
        RunError: If there is such a variable, and q does not draw what is missing of it.
    """
    if not isinstance(getattr(model, "p", None), Joint):
        return
    for name in sorted(data.missing.intersection(data.variables).difference(model.q.names)):
        if model.reads(name):
            where = listed([f"{title!r}" for title in data.titles_with_holes(name)])
            raise RunError(
                f"{recipe} needs every value of a row, and some of {data.name} are missing, "
                f"of {where}; fill them in first (deeplvm impute, by a run of the recipe miwae), "
                f"leave out those rows or columns, or take the recipe vae or miwae."
            )


def training_options(
    run: Run, model: LatentVariableModel, data: Data, told: Callable[[str], None]
) -> dict[str, Any]:
    """The options of :func:`~deeplvm.training.fit`, unfolded, by which a run is trained."""
    stored = {name: meant(name, value) for name, value in run.config.training.items()}
    for name in _idle(run, model, data, told):
        stored.pop(name)
    return {"folder": run.folder, "draw": run.draw or None} | stored


def _idle(
    run: Run, model: LatentVariableModel, data: Data, told: Callable[[str], None]
) -> list[str]:
    """The recipe's own options that have no part with the phases, or the data, asked for."""
    own, chosen = training_of(find(run.config.recipe or "")), run.config.training
    names: list[str] = ["labelled"] if isinstance(data, Ordered) and data.missing & {"y"} else []
    if chosen.get("phases") is not None:
        phases = phases_of(chosen["phases"], model)
        names += [] if any([asks(each, model) for each in phases]) else ["estimator"]
        names += idle_in(phases)
    if "labelled" in names and chosen.get("labelled"):
        told("rows on disk come in an order of their own: batches have as many labels as come")
    return [name for name in names if name in own and chosen.get(name) == written(own[name])]
