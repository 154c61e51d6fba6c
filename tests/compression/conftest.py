"""Runs without a folder: a model as a recipe makes it, untrained, and its data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplvm.data import load
from deeplvm.recipes import find
from deeplvm.runs.run import Config, Run, build

pytest.importorskip("constriction")


@pytest.fixture(autouse=True)
def float32(float64: None) -> None:
    """Users have float32."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def make() -> Callable[..., Run]:
    """A run of some data, untrained: of a recipe and its options."""

    def made(source: Any, recipe: str = "vae", *, binarize: Any = None, **options: Any) -> Run:
        data = load(source, binarize=binarize)
        run = Run(Path("runs/made"), Config("data", recipe, {}, options), data.description)
        model = build(find(recipe), data.description, options, 0).eval()
        vars(run).update(model=model, data=data)
        return run

    return made


@pytest.fixture
def bits(tmp_path: Path) -> Path:
    """Small binary pictures in a file."""
    draws = np.random.default_rng(0)
    shade = draws.random((60, 1, 1)) * np.linspace(0, 1, 36).reshape(6, 6)
    np.save(tmp_path / "bits.npy", (draws.random((60, 6, 6)) < shade).astype(np.uint8))
    return tmp_path / "bits.npy"
