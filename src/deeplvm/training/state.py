"""The state of training: what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim import Optimizer

from deeplvm.core.model import LatentVariableModel
from deeplvm.training.callbacks import Record
from deeplvm.training.checkpoint import CheckpointError, restore, unique_state
from deeplvm.training.schedules import Average, Rates
from deeplvm.training.step import Companions, Step


class State:
    """Everything that the next step depends on, and the best weights so far.

    Args:
        model: Being trained.
        steps: With their optimisers.
        rates: Of learning.
        average: Of the parameters, or none.
        companions: What moves beside the model.
        device: Where the model is.
        run: Options that a run cannot go on with if they are other ones.

    Attributes:
        generator: Draws what is renewed at every visit of a row.
        compiled: Whether steps are compiled; none before that was decided.
        flops: Of the products of one row's steps; none before they were counted.
        history: The records of the epochs done.
        position: Batches done of the epoch after those.
        total: Sum of the objective over the rows of these batches.
        rows: Number of these rows.
        seconds: Time that these batches took.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        steps: list[Step],
        rates: Rates,
        average: Average | None,
        companions: Companions,
        device: torch.device,
        run: dict[str, Any],
    ) -> None:
        self.model, self.steps, self.rates, self.average = model, steps, rates, average
        self.companions = companions
        self.device, self.run = device, run
        self.generator = Generator()  # of what is renewed at every visit of a row
        self.compiled: bool | None = None
        self.flops: float | None = None
        self.history: list[Record] = []
        self.position = 0
        self.total, self.rows, self.seconds = 0.0, 0, 0.0
        self.best_epoch = 0
        self.best = self._copy()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def begin(self, seed: int) -> None:
        """The first batch of an epoch is next."""
        self.position, self.total, self.rows, self.seconds = 0, 0.0, 0, 0.0
        self.generator.manual_seed(seed)

    def keep_if_better(self, epoch: int, record: Record, bound: str) -> bool:
        """Copy the weights if they are the best on held-out rows; without those, always."""
        held_out = "valid" in record
        before = (
            self.history[self.best_epoch - 1]["valid"][bound]
            if held_out and self.best_epoch
            else None
        )
        if before is not None and record["valid"][bound] <= before:
            return False
        self.best_epoch, self.best = epoch, self._copy()
        return held_out

    def take_best(self) -> None:
        """Give the model its best weights."""
        self._fill(self.best)

    def tree(self) -> dict[str, Any]:
        """As nested dicts, for a checkpoint."""
        cuda = self.device.type == "cuda"
        tree = {
            "epoch": self.epoch,
            "position": self.position,
            "total": self.total,
            "rows": self.rows,
            "seconds": self.seconds,
            "compiled": self.compiled,
            "flops": self.flops,
            "run": self.run,
            "model": unique_state(self.model)[0],
            "best": self.best,
            "best_epoch": self.best_epoch,
            "optimizers": [step.optimizer.state_dict() for step in self.steps],
            "skipped": [step.skipped for step in self.steps],
            "rates": self.rates.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "renewal": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if cuda else None,
            "history": self.history,
        }
        return tree | ({"companions": self.companions.state()} if len(self.companions) else {})

    def load(self, tree: dict[str, Any], folder: str) -> None:
        """The inverse of :meth:`tree`.

        Raises:
            CheckpointError: If the checkpoint is of a run with other options, or of another model.
        """
        own = self.tree()
        check_entries(tree, own, folder)
        for key, value in self.run.items():
            if tree["run"].get(key) != value:
                raise CheckpointError(
                    f"The checkpoint in {folder} is of a run with {key} {tree['run'].get(key)!r}, "
                    f"and this one has {value!r}; go on with the options it was started with, or "
                    "use another folder."
                )
        self._fill(tree["model"])
        check_state(tree, own, folder)
        check_optimizers(tree["optimizers"], [step.optimizer for step in self.steps], folder)
        self.best_epoch = tree["best_epoch"]
        self.best = {name: value.to(self.device) for name, value in tree["best"].items()}
        for step, kept, skipped in zip(
            self.steps, tree["optimizers"], tree["skipped"], strict=True
        ):
            step.optimizer.load_state_dict(kept)
            step.skipped = skipped
        self.rates.load_state_dict(tree["rates"])
        if self.average is not None:
            self.average.load_state_dict(tree["average"])
        self.generator.set_state(tree["renewal"])
        torch.set_rng_state(tree["random"])
        if len(self.companions):
            self.companions.load(tree["companions"], folder)
        if self.device.type == "cuda" and tree["random_cuda"] is not None:
            torch.cuda.set_rng_state(tree["random_cuda"], self.device)
        self.history.extend(tree["history"])
        self.compiled, self.flops = tree["compiled"], tree["flops"]
        self.position = tree["position"]
        self.total, self.rows, self.seconds = tree["total"], tree["rows"], tree["seconds"]

    def _copy(self) -> dict[str, Tensor]:
        return {
            name: value.detach().clone() for name, value in unique_state(self.model)[0].items()
        }

    def _fill(self, weights: dict[str, Tensor]) -> None:
        aliases = unique_state(self.model)[1]
        restore(
            self.model,
            weights | {alias: weights[name] for alias, name in aliases.items() if name in weights},
        )


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
