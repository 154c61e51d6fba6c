"""The start of a process that believes torchrun started it: ``run_path`` with an ``order``."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any


def start(order: dict[str, Any]) -> None:
    """Take the environment, write to files, then play a scene or obey a command line."""
    os.environ.update(order["environment"])
    folder = Path(order["folder"])
    os.chdir(folder / order["inside"])
    rank = order["environment"].get("RANK", "0")
    for descriptor, name in ((1, "out"), (2, "err")):
        target = os.open(folder / f"{order['name']}.{name}.{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(target, descriptor)
    import torch

    torch.set_num_threads(1)
    if "scene" in order:
        play = runpy.run_path(str(Path(__file__).with_name("working.py")))["play"]
        play(order["scene"], str(folder))
        return
    from deeplvm.cli import main

    sys.exit(main(order["words"]))


if __name__ == "__main__":
    start(globals()["order"])
