"""Several processes at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from servers import forked

_START = Path(__file__).parent / "starting.py"


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


@pytest.fixture(scope="session")
def starting() -> Start:
    return start


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
