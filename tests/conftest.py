"""Tests run in float64: a law that holds to 1e-10 is a law, one that holds to 1e-4 is a guess."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(
    str(Path(__file__).parent)
)  # for models that tests share: importlib mode adds no path


@pytest.fixture(autouse=True)
def float64(reproducible: None) -> Iterator[None]:
    """Make float64 the default; a test that sets another is undone too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
