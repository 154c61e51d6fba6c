"""Memory that tensors free stays with the process, for the next ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel
from deeplvm.core.model import LatentVariableModel


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


def place(device: str) -> torch.device:
    """The device of a word: ``auto`` is CUDA where there is one.

    Raises:
        ValueError: If there is no such device here.
    """
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise ValueError("There is no CUDA device here; use --device cpu, or auto.")
    return torch.device("cuda" if device == "cuda" or (device == "auto" and here) else "cpu")


def dtype_of(model: LatentVariableModel) -> torch.dtype:
    """The floating-point type of a model."""
    floating = [p.dtype for p in model.parameters() if p.is_floating_point()]
    return floating[0] if floating else torch.get_default_dtype()


def device_of(device: str | torch.device) -> torch.device:
    """Where to compute; ``"auto"`` is a GPU where there is one (of this process, if several)."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is 'auto', 'cpu' or 'cuda', not {device!r}.") from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device is 'auto', 'cpu' or 'cuda', not {str(device)!r}.")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch sees no GPU here; use device='auto' or 'cpu'.")
    return found
