"""What a process does that may be killed: ``run_path`` with an ``order``."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def obey(order: dict[str, Any]) -> None:
    """Play a scene of another file, or obey a command line and perhaps die in it."""
    os.chdir(order["folder"])
    target = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    import torch

    torch.set_num_threads(1)
    if "scene" in order:
        runpy.run_path(order["scene"])["play"](**order["with"])
        return
    from deeplvm.cli import main

    counts = count_calls(order.get("dies"))
    code = main(order["words"])
    Path("counts").write_text(repr(counts))
    sys.exit(code)


def count_calls(dies: tuple[str, int, float] | None) -> dict[str, int]:
    """Count what touches the disk; die at the n-th call of one kind.

    Of a death at ``fsync`` only a part of the file has reached the disk.
    """
    counts = {"fsync": 0, "replace": 0}

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            counts[name] += 1
            if dies and (name, counts[name]) == (dies[0], dies[1]):
                _die(arguments, dies[2])
            return call(*arguments)

        return counted

    for name in counts:
        setattr(os, name, counting(name, getattr(os, name)))
    return counts


def _die(arguments: tuple[Any, ...], part: float) -> None:
    path = arguments[0]
    if isinstance(path, int):
        descriptor, path = path, os.readlink(f"/proc/self/fd/{path}")
        if os.path.isfile(path):
            os.ftruncate(descriptor, int(part * os.fstat(descriptor).st_size))
    with open("deaths", "a", encoding="utf-8") as file:
        file.write(f"{path}\n")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    obey(globals()["order"])
