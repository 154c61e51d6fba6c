"""What a measurement ran on, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

import deeplvm

RESULTS = Path(__file__).parent / "results"


def keep(name: str, result: dict[str, Any], folder: Path = RESULTS) -> None:
    """Write a result beside the others, with hardware and versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    machine = {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "deeplvm": deeplvm.__version__,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n")
    print(f"kept in {path}", flush=True)
