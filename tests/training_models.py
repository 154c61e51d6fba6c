"""Small real models for the tests of training."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import MLP
from deeplvm.training import Callback, History, Machine, Optimization, Phase, fit, unfolded
from deeplvm.training.callbacks import TIMINGS
from deeplvm.training.schedules import linear

# With options as flags are, and the parameters of the last step, as in a loop by hand.
quietly = functools.partial(unfolded(fit), averaging=0.0, quiet=True)


def digits_vae(seed: int = 1, hidden: int = 16) -> LatentVariableModel:
    """A Bernoulli variational autoencoder of 8x8 digits."""
    torch.manual_seed(seed)
    p = Joint({"z": StandardNormal(4), "x | z": Bernoulli(64, MLP(4, hidden))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(4, MLP(64, hidden))}))


def digits(rows: int = 230, held_out: int = 60) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Binary digits with their labels."""
    raw = load_digits()
    x = torch.tensor(raw.data > 7).to(torch.get_default_dtype())
    y = torch.tensor(raw.target)
    end = rows + held_out
    return {"x": x[:rows], "y": y[:rows]}, {"x": x[rows:end], "y": y[rows:end]}


class Linear(nn.Module):
    """x | z ~ N(W z + b, s²), or free parameters without a parent."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, outputs)
        self.log_scale = nn.Parameter(torch.zeros(outputs))

    def forward(self, parent: Tensor) -> Distribution:
        mean = self.mean(parent)
        return Independent(Normal(mean, self.log_scale.exp().expand_as(mean)), 1)


def linear_gaussian(seed: int = 1) -> LatentVariableModel:
    """Factor analysis with a linear encoder."""
    torch.manual_seed(seed)
    p = Joint({"z": StandardNormal(2), "x | z": Linear(2, 3)})
    return LatentVariableModel(p, Joint({"z | x": Linear(3, 2)}))


def gaussian_rows(rows: int = 64, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, generator=generator)
    return z @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]]) + 0.1 * torch.randn(
        rows, 3, generator=generator
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def untimed(records: object) -> list[dict]:
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]


class OnEpoch(Callback):
    """Calls a function with each epoch's record."""

    def __init__(self, function) -> None:
        self.function = function

    def epoch_ended(self, record) -> None:
        self.function(record)


def learn(
    model: LatentVariableModel, data: Any, phases: list[Phase], epochs: int, **options: Any
) -> History:
    """All rows in one batch, and rates that fall linearly to zero, if nothing else is said."""
    common: dict[str, Any] = {
        "batch_size": 100_000, "quiet": True, "machine": Machine(device="cpu"),
    }  # fmt: skip
    if any([phase.update is None for phase in phases]):
        falling = linear(epochs, 1.0, 0.0)
        common["optimization"] = Optimization(schedule=falling, averaging=0.0)
    return fit(model, data, phases=phases, epochs=epochs, **(common | options))
