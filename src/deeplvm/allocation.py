"""Memory that tensors free stays with the process, for the next ones."""

from __future__ import annotations

import torch


def keep_freed_memory(device: torch.device) -> None:
    """Let the C library keep what tensors free, instead of giving it back after every operation.

    glibc returns a freed block to the system when it is larger than any it has seen freed before,
    up to 32 MB, and the top of the heap when that is larger than twice as much; the next operation
    then waits for the same pages again, which can take as long as the arithmetic. One block of
    just under 32 MB, freed without having been written, sets both bounds; it costs no memory. Any
    other C library is left as it is.
    """
    if device.type == "cpu":
        torch.empty(31 * 2**20, dtype=torch.uint8)
