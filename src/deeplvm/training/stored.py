"""A look at a state read from a file, before any of it is used: forms, shapes and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from deeplvm.training.checkpoints import CheckpointError

_WHOLE = ("epoch", "position", "rows", "best_epoch", "steps", "skipped")
# Kernels of optimisers trust the shape of what they remember of a parameter.
_SHAPED = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "momentum_buffer")


def check_entries(found: Mapping[str, Any], own: Mapping[str, Any], folder: str) -> None:
    """Refuse a state that lacks an entry, or whose weights or options are none.

    Args:
        found: What the checkpoint has.
        own: What the run at hand would save now.
        folder: For the message.

    Raises:
        CheckpointError: If it does.
    """
    if absent := [name for name in own if name not in found]:
        raise _unfit(folder, f"it lacks {absent[0]!r}")
    for name in ("model", "best"):
        weights = found[name]
        if not isinstance(weights, dict) or not _all([*weights.values()], Tensor):
            raise _unfit(folder, f"{name!r} are no weights")
    if not isinstance(found["run"], dict) or not _plain(found["run"]):
        raise _unfit(folder, "'run' are no options")


def check_state(found: Mapping[str, Any], own: Mapping[str, Any], folder: str) -> None:
    """Refuse a state in which an entry is of another type or shape than in the run at hand.

    Args:
        found: What the checkpoint has, of a run with the same options.
        own: What the run would save now.
        folder: For the message.

    Raises:
        CheckpointError: If one is.
    """
    for name, value in own.items():
        if name not in ("run", "optimizers", "history"):
            _same_form(found[name], value, name, folder)
    _check_history(found["history"], own["run"]["objective"], found["best_epoch"], folder)
    if found["epoch"] != len(found["history"]):
        raise _unfit(folder, "'epoch' is another than that of its history")
    for name in ("position", "rows"):
        if found[name] < 0:
            raise _unfit(folder, f"{name!r} is negative")
    for name in ("renewal", "random"):
        try:
            torch.Generator().set_state(found[name])
        except (RuntimeError, TypeError):
            raise _unfit(folder, f"{name!r} is no state of a random generator") from None


def check_optimizers(found: Any, optimizers: Sequence[Optimizer], folder: str) -> None:
    """Refuse what optimisers are to remember, where it does not fit their parameters.

    Raises:
        CheckpointError: If groups, numbers or shapes are others.
    """
    if not isinstance(found, list) or len(found) != len(optimizers):
        raise _unfit(folder, "it has other optimisers")
    for kept, optimizer in zip(found, optimizers, strict=True):
        _same_form(kept, {"state": None, "param_groups": None}, "optimizers", folder, deep=False)
        _same_form(
            kept["param_groups"], optimizer.state_dict()["param_groups"], "param_groups", folder
        )
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        if not isinstance(kept["state"], dict):
            raise _unfit(folder, "the state of an optimiser is no dictionary")
        for number, memory in kept["state"].items():
            known = isinstance(number, int) and 0 <= number < len(parameters)
            if not known or not isinstance(memory, dict):
                raise _unfit(folder, f"an optimiser has no parameter {number!r}")
            if memory and not memory.keys() >= _needed(optimizer):
                raise _unfit(folder, f"an optimiser has forgotten a part of parameter {number}")
            for name, value in memory.items():
                if not _remembered(name, value, parameters[number]):
                    raise _unfit(folder, f"{name!r} of an optimiser does not fit its parameter")


def _needed(optimizer: Optimizer) -> set[str]:
    """What those that ``fit`` knows by name cannot go on without."""
    if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
        return {"step", "exp_avg", "exp_avg_sq"}
    if isinstance(optimizer, torch.optim.Adamax):
        return {"step", "exp_avg", "exp_inf"}
    return set()


def _remembered(name: str, value: Any, parameter: Tensor) -> bool:
    if name == "step":
        if isinstance(value, Tensor):
            return value.numel() == 1 and value.is_floating_point()
        return isinstance(value, int | float)
    if name not in _SHAPED or value is None:
        return True
    return (
        isinstance(value, Tensor)
        and value.shape == parameter.shape
        and value.is_floating_point() == parameter.is_floating_point()
    )


def _same_form(found: Any, own: Any, at: str, folder: str, *, deep: bool = True) -> None:
    """The same types all the way down; what is none here may be anything single there."""
    if isinstance(own, Tensor):
        good = isinstance(found, Tensor) and (found.shape, found.dtype) == (own.shape, own.dtype)
    elif own is None:
        good = not isinstance(found, dict | list | tuple)
    elif isinstance(own, bool):
        good = found is None or isinstance(found, bool)
    elif isinstance(own, int | float):
        kind = int if at in _WHOLE else int | float
        good = isinstance(found, kind) and not isinstance(found, bool)
    elif isinstance(own, Mapping):
        good = isinstance(found, dict) and set(own) == set(found)
    elif isinstance(own, list | tuple):
        good = isinstance(found, list | tuple) and len(found) == len(own)
    else:
        good = isinstance(found, type(own))
    if not good:
        raise _unfit(folder, f"{at!r} is not what this run has there")
    if isinstance(own, Mapping) and deep:
        for name, value in own.items():
            _same_form(found[name], value, str(name), folder)
    elif isinstance(own, list | tuple):
        for each, value in zip(found, own, strict=True):
            _same_form(each, value, at, folder)


def _check_history(history: Any, bound: str, best: int, folder: str) -> None:
    if not isinstance(history, list) or not 0 <= best <= len(history):
        raise _unfit(folder, "its best epoch is not in its history")
    for epoch, record in enumerate(history, 1):
        if not isinstance(record, dict) or record.get("epoch") != epoch or not _plain(record):
            raise _unfit(folder, f"it has no record of epoch {epoch}")
        for split in ("train", "valid") if "valid" in record else ("train",):
            means = record.get(split)
            numbers = isinstance(means, dict) and _all([*means.values()], int | float)
            if not numbers or bound not in means:
                raise _unfit(folder, f"it has no {split} means of epoch {epoch}")
        if ("valid" in record) != ("valid" in history[0]):
            raise _unfit(folder, f"it has another kind of record of epoch {epoch}")


def _all(values: Sequence[Any], kind: Any) -> bool:
    return all([isinstance(value, kind) for value in values])


def _plain(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return all(
            [_plain(each) for each in (value.values() if isinstance(value, dict) else value)]
        )
    return value is None or isinstance(value, bool | int | float | str)


def _unfit(folder: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint in {folder} does not fit this run: {why}. Use another copy, or start "
        f"again in another folder."
    )
