"""Models that are what they should be, and the same with one fault each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.heads import raw_of
from deeplvm.data import Data, Description, Selection, Variable
from deeplvm.networks import MLP

COLUMNS, ROWS, HELD_OUT = 6, 3_000, 400


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(
    train: Tensor,
    test: Tensor,
    valid: Tensor | None = None,
    *,
    likelihood: str = "gaussian",
    kind: Any = "real",
    beside: dict[str, tuple[Tensor, Tensor]] | None = None,
) -> Data:
    """Splits of a table, with further names ``beside`` that are not described."""
    known = train.flatten(1)
    variable = Variable(
        "x",
        tuple(train.shape[1:]),
        kind,
        likelihood,
        known.nanmean(0),
        known.nan_to_num().std(0),
        float(known.nan_to_num().min()),
        float(known.nan_to_num().max()),
        missing=bool(known.isnan().any()),
        columns=tuple([f"c{i}" for i in range(train.shape[1])]),
    )
    valid = test[:0] if valid is None else valid
    rows = {"train": len(train), "valid": len(valid), "test": len(test)}
    description = Description("rows", "rows", {}, {"x": variable}, None, "by hand", (), rows)
    others = beside or {}
    return Data(
        description,
        Selection({"x": train, **{name: pair[0] for name, pair in others.items()}}),
        Selection({"x": valid, **{name: pair[1][:0] for name, pair in others.items()}}),
        Selection({"x": test, **{name: pair[1] for name, pair in others.items()}}),
    )


def loadings(latents: int) -> Tensor:
    """Orthogonal columns of length 2, shape ``(COLUMNS, latents)``."""
    return 2.0 * torch.linalg.qr(normal(COLUMNS, latents, seed=3)).Q


def set_linear(conditional: nn.Module, weight: Tensor, bias: Tensor | float = 0.0) -> None:
    """The mean of a conditional without hidden layers."""
    with torch.no_grad():
        conditional.head.layer.weight.copy_(weight)  # type: ignore[union-attr, operator]
        conditional.head.layer.bias.zero_().add_(bias)  # type: ignore[union-attr, operator]


def linear(
    weight: Tensor, *, noise: float = 1.0, encoder: Tensor | None = None, spread: Any = None
) -> LatentVariableModel:
    r"""x = W z + noise, and q of free means and one scale a dimension.

    With orthogonal columns of W the posterior is diagonal: mean
    :math:`W^T x / (|w|^2 + \sigma^2)`, variance :math:`\sigma^2 / (|w|^2 + \sigma^2)`; that is q,
    unless ``encoder`` or ``spread`` say otherwise.
    """
    columns, latents = weight.shape
    likelihood = Gaussian(columns, MLP(latents), scale=noise)
    set_linear(likelihood, weight)
    posterior = Gaussian(latents, MLP(columns), scale="dimension", minimum_scale=0.0)
    size = weight.square().sum(0) + noise**2
    set_linear(posterior, (weight / size).T if encoder is None else encoder)
    with torch.no_grad():
        wide = noise / size.sqrt() if spread is None else torch.as_tensor(spread).expand(latents)
        posterior.scale.raw.copy_(raw_of(wide))  # type: ignore[arg-type]
    p = Joint({"z": StandardNormal(latents), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": posterior}))


def drawn(weight: Tensor, rows: int, seed: int, noise: float = 1.0) -> Tensor:
    """Rows of :func:`linear`."""
    columns, latents = weight.shape
    return normal(rows, latents, seed=seed) @ weight.T + noise * normal(
        rows, columns, seed=seed + 1
    )


def rows_of(weight: Tensor, noise: float = 1.0, train: int = ROWS) -> Data:
    """A table of draws of :func:`linear`."""
    return table(drawn(weight, train, 10, noise), drawn(weight, HELD_OUT, 20, noise))


class Kernels(nn.Module):
    """A mixture of one narrow Gaussian for each training row: it knows them by heart."""

    def __init__(self, rows: Tensor, width: float) -> None:
        super().__init__()
        self.event_shape = rows.shape[1:]
        self.register_buffer("rows", rows)
        self.width = width

    def forward(self) -> Distribution:
        rows: Any = self.rows
        parts = Independent(Normal(rows, self.width), 1)
        return MixtureSameFamily(Categorical(torch.ones(len(rows)).to(rows)), parts)


class Recalled(nn.Module):
    """The exact posterior of :func:`linear` for known rows, a far too wide one for others."""

    def __init__(self, weight: Tensor, known: Tensor, noise: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("known", known)
        size = weight.square().sum(0) + noise**2
        self.register_buffer("inverse", (weight / size).T)
        self.register_buffer("scale", noise / size.sqrt())
        self.out_features = 2 * weight.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        known: Any = self.known
        flat = x.reshape(-1, x.shape[-1])
        nearest = torch.cdist(flat, known).min(1).values < 1e-6
        mean = flat @ self.inverse.T  # type: ignore[operator, union-attr]
        scale = torch.where(nearest[:, None], self.scale, 1.5)  # type: ignore[call-overload]
        both = torch.cat([torch.where(nearest[:, None], mean, 0.0), raw_of(scale)], -1)
        return both.reshape(*x.shape[:-1], self.out_features)


def curve(values: Sequence[float], train: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """Records of epochs with these held-out bounds."""
    known = values if train is None else train
    return [
        {
            "epoch": epoch,
            "train": {"elbo": None if math.isnan(mine) else mine},
            "valid": {"elbo": value},
        }
        for epoch, (value, mine) in enumerate(zip(values, known, strict=True), 1)
    ]
