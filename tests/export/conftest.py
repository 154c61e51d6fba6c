"""Runs without a folder: a model as a recipe makes it, untrained, and its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deeplvm.data import load
from deeplvm.recipes import find
from deeplvm.runs.run import Config, Run, build


def made(source: Any, recipe: str = "vae", *, options: Any = None, **of_data: Any) -> Run:
    """A run of some data, of a model with the weights that it begins with."""
    data = load(source, **of_data)
    options = {"latent": 3, "hidden": (8,)} if options is None else options
    config = Config("data", recipe, of_data, options)
    run = Run(Path("runs/made"), config, data.description)
    model = build(find(recipe), data.description, options, 0)
    vars(run).update(model=model.eval(), data=data)
    return run


@pytest.fixture
def make() -> Callable[..., Run]:
    return made


@pytest.fixture(scope="session")
def mixed() -> pd.DataFrame:
    """Columns of many kinds, holes in some."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=120)
    job = np.where(x > 0.5, "nurse", np.where(x > -0.5, "clerk", "smith")).astype(object)
    frame = pd.DataFrame(
        {
            "age": (40 + 10 * x).round(),
            "income": np.exp(8 + x).round(2),
            "job": job,
            "member": draws.random(120) < 0.4,
            "since": pd.to_datetime("2020-01-01")
            + pd.to_timedelta(draws.integers(0, 900, 120), "D"),
            "kind": np.where(x + draws.normal(size=120) > 0, "a", "b"),
        }
    )
    frame.loc[draws.random(120) < 0.1, "job"] = None
    frame.loc[draws.random(120) < 0.1, "age"] = np.nan
    return frame
