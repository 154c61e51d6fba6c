"""What there is to move of latents of every kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Distribution,
    Independent,
    Normal,
    OneHotCategorical,
)

from deeplvm.core.trace import Site
from deeplvm.report.explore import _compared, _units

KINDS: dict[str, tuple[Distribution, str, int, int]] = {
    "reals": (Independent(Normal(torch.zeros(3), 1.0), 1), "real", 3, 1),
    "a real": (Normal(0.0, 1.0), "real", 1, 1),
    "binary units": (Independent(Bernoulli(torch.full((3,), 0.5)), 1), "whole", 3, 1),
    "a class": (Categorical(torch.ones(4)), "whole", 1, 1),
    "choices": (Independent(OneHotCategorical(torch.ones(2, 4)), 1), "choice", 2, 4),
    "shares": (Dirichlet(torch.ones(3)), "share", 3, 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_units_are_what_the_latent_is(name: str) -> None:
    own, kind, count, size = KINDS[name]
    torch.manual_seed(0)
    drawn: Tensor = own.sample((60,))
    site = Site(drawn, own, own.log_prob(drawn), drawn=True, batch_dims=1)
    codes, units = _units({"z": site}, {"z": own.sample((40,))})
    assert codes.shape == (40, count * size)
    assert {unit.kind for unit in units} == {kind}
    assert sorted([unit.place for unit in units]) == list(range(0, count * size, size))
    assert {unit.size for unit in units} == {size}
    for unit in units:
        if size == 1:
            assert unit.low <= codes[:, unit.place].min() < codes[:, unit.place].max() <= unit.high
    varies = [float(codes[:, u.place : u.place + u.size].var(0).sum()) for u in units]
    assert varies == sorted(varies, reverse=True)


def test_one_row_is_compared_too() -> None:
    assert _compared(torch.zeros(1, 2), 0, real=True).isfinite().all()
