"""The state of training: what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from deeplvm.model import LatentVariableModel
from deeplvm.training.checkpoints import CheckpointError, restore, unique_state
from deeplvm.training.companions import Companions
from deeplvm.training.history import Record
from deeplvm.training.phases import Step
from deeplvm.training.rates import Average, Rates
from deeplvm.training.stored import check_entries, check_optimizers, check_state


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
