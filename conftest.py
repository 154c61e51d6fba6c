"""Every test and doctest starts from the same seeds, on one thread, and leaves torch as it was."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib

import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

# The suite is hundreds of tiny operations: a second thread costs more than it brings.
torch.set_num_threads(1)

# Where there is no such device torch keeps each seed for one, with the whole stack of who seeded:
# two milliseconds, in every test.
for _devices in (torch.cuda, torch.xpu, torch.mtia):
    if not _devices.is_available():
        _devices.manual_seed_all = lambda seed: None  # type: ignore[assignment]  # noqa: ARG005

# A tracer makes many objects that live, and the collector looks through all of them every 700.
gc.set_threshold(20_000, 10, 10)


def pytest_collection_finish() -> None:
    """What the tests import stays: the collector need not look at it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def reproducible() -> Iterator[None]:
    """Seed every generator; fail the test that changes torch for everybody else."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - other libraries draw from it
    torch.manual_seed(0)
    before = torch.get_default_dtype(), torch.is_grad_enabled()
    validation = Distribution._validate_args
    searched, known = list(sys.path), sys.modules.copy()
    yield
    sys.path[:] = searched
    new = sys.modules.keys() - known.keys() if len(sys.modules) != len(known) else ()
    for name in new:  # a recipe in a temporary folder: the next has its own
        if f"{os.sep}pytest-of-" in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]
    after = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_default_dtype(before[0])
    torch.set_grad_enabled(before[1])
    # torch.compile switches the validation of distributions off while it traces, for good.
    Distribution.set_default_validate_args(validation)
    changed = "changed torch's global (dtype, gradients)"
    assert before == after, f"the test {changed} from {before} to {after}"
