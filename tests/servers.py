"""Processes of tests, forked from a server that has imported once what they need."""

from __future__ import annotations

import multiprocessing
import runpy
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_START = Path(__file__).parent / "processes" / "starting.py"
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


@dataclass(frozen=True)
class Team:
    """Processes that were started together, and the files that they write to."""

    name: str
    folder: Path
    members: list[BaseProcess]

    def codes(self, timeout: float = 120.0) -> list[int | None]:
        """Exit codes, when all have ended; of one that has not by then, None, and it is killed."""
        end = time.monotonic() + timeout
        for member in self.members:
            member.join(max(0.0, end - time.monotonic()))
        codes = [member.exitcode for member in self.members]
        for member in self.members:
            if member.exitcode is None:
                member.kill()
                member.join()
        return codes

    def said(self, stream: str = "err") -> str:
        """What all of them wrote."""
        paths = sorted(self.folder.glob(f"{self.name}.{stream}.*"))
        return "".join([path.read_text() for path in paths])


Start = Callable[..., Team]


def start(folder: Path, name: str, count: int, *, disks: bool = False, **order: Any) -> Team:
    """Start ``count`` processes that work together; one is told nothing of others.

    With ``disks`` each works in a folder of its own, ``0``, ``1``, …, as if on its own machine.
    """
    members: list[BaseProcess] = []
    port = free_port()
    for rank in range(count):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        whole = {
            "environment": environment if count > 1 else {},
            "folder": str(folder),
            "inside": str(rank) if disks else ".",
            "name": name,
            **order,
        }
        members.append(forked(_START, whole))
    return Team(name, folder, members)


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
