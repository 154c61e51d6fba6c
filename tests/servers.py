"""The server that processes of tests are forked from, which has imported once what they need."""

from __future__ import annotations

import multiprocessing
import runpy
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_PRELOADED = [
    "torch",
    "torch._dynamo",  # which every optimiser imports
    "torch.distributed",
    "pyarrow.parquet",
    "sklearn.datasets",
    "deeplvm.cli.fit",
    "deeplvm.cli.verbs",
    "deeplvm.data",
    "deeplvm.evaluation",
    "deeplvm.learning.programs",
    "deeplvm.likelihood",
    "deeplvm.training",
]


def forked(script: Path, order: dict[str, Any]) -> BaseProcess:
    """A process that runs a script with an ``order`` among its names."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    child = context.Process(
        target=runpy.run_path, args=(str(script), {"order": order}, "__main__"), daemon=True
    )
    child.start()
    return child
