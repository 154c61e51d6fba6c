"""How fast and how large training is: rows a second, peak memory, fraction of what is possible.

The limit is the arithmetic of the step's matrix products and convolutions (forward and backward)
at the rate at which this machine multiplies large square matrices, both measured here: a step
at 0.8 takes 1.25 times as long as its products alone would.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable
from typing import Any, cast

import torch

_SIDE = 1024  # of the square matrices: 2.1 GFLOP a product


@functools.lru_cache(maxsize=4)
def product_rate(
    device: str = "cpu", dtype: torch.dtype = torch.float32, _threads: int = 0
) -> float:
    """FLOP a second of a large matrix product here; measured once, in some 50 ms.

    Args:
        device: Where.
        dtype: Of the matrices.
        _threads: Only a key: another number of threads is another rate.
    """
    # not random: training reads the stream of random numbers around this
    a, b = torch.full((2, _SIDE, _SIDE), 0.5, device=device, dtype=dtype)
    out = torch.empty_like(a)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            _synchronise(device)
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            _synchronise(device)
            times.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / min(times)


class _NoModules(contextlib.nullcontext[None]):
    """In place of torch's tracker of modules, whose hooks refuse a gradient inside a forward pass.

    Only the total is wanted, which it keeps under this name.
    """

    parents = frozenset({"Global"})


def flops_of(function: Callable[[], object]) -> int:
    """FLOP of the matrix products and convolutions that a function does; it is called once."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = cast("Any", _NoModules())
    with counter:
        function()
    return counter.get_total_flops()


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU what tensors took at most, on a CPU the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
