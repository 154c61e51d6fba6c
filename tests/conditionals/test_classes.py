"""Latent classes: the class is summed out, whatever the elements are."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    Columns,
    Gaussian,
    LatentClasses,
    Spiked,
    StandardNormal,
)
from deeplvm.networks import MLP

ROWS = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0), torch.arange(4.0))
KNOTS = torch.tensor([[0.0, 1.0, 5.0], [-2.0, 0.0, 7.0]])


def finite() -> Columns:
    """Columns whose 24 rows can be listed."""
    return Columns(
        [
            ((0,), partial(Bernoulli, 1)),
            ((1,), partial(Categorical, 3, shape=1)),
            ((2,), partial(Categorical, 4, shape=1)),
        ]
    )


def mixed(step: float | None) -> Columns:
    """Columns that are looked up in tables, and one that is not."""
    spiked = partial(Spiked, 2, knots=KNOTS, atoms=torch.tensor([[0.0, 4.0], [1.0, 9.0]]))
    return Columns(
        [
            ((1, 4), partial(Categorical, 3, shape=2)),
            ((0, 2), partial(spiked, components=2, step=step)),
            ((3,), partial(Gaussian, 1)),
        ]
    )


@pytest.mark.parametrize("network", [None, 2])
@torch.no_grad()
def test_all_rows_make_one(network: int | None) -> None:
    torch.manual_seed(0)
    model = LatentClasses(finite(), None if network is None else MLP(network, 8), classes=3)
    parents = [] if network is None else [torch.randn(5, 4, network)]
    total = model(*parents).log_prob(ROWS if not parents else ROWS[:, None, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(5, 4) if parents else torch.ones(()))


@pytest.mark.parametrize("step", [None, 1.0])
def test_a_class_is_the_product_of_its_elements(step: float | None) -> None:
    """Looked up or not, with holes or not: the sum over classes by hand."""
    torch.manual_seed(0)
    model = LatentClasses(mixed(step), classes=3)
    x = torch.tensor([[0.0, 2.0, 1.0, 0.5, 0.0], [3.0, 0.0, 5.0, -1.0, 2.0]])
    holes = x.masked_fill(torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 0]]).bool(), math.nan)
    weights = model.weights.log_softmax(-1)
    for value in (x, holes):
        each = [
            model.of(model.table[k]).observed_log_prob(value, ~value.isnan()) for k in range(3)
        ]
        expected = (torch.stack(each, -1) + weights).logsumexp(-1)
        found = model().observed_log_prob(value, ~value.isnan())
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            model().class_probabilities(value), (torch.stack(each, -1) + weights).softmax(-1)
        )
    torch.testing.assert_close(model().log_prob(x), model().observed_log_prob(x, x == x))
    gradients = torch.autograd.grad(
        model().observed_log_prob(holes, ~holes.isnan()).sum(), [model.table]
    )
    assert gradients[0].isfinite().all()


@pytest.mark.parametrize("step", [None, 1.0])
@pytest.mark.parametrize("network", [None, 2])
@torch.no_grad()
def test_a_cell_given_the_others_is_a_quotient(step: float | None, network: int | None) -> None:
    """p(x_o) / p(x_o without d), of rows of which all have the same classes or each its own."""
    torch.manual_seed(0)
    model = LatentClasses(mixed(step), MLP(2, 4) if network else None, classes=3).double()
    x = torch.tensor([[0.0, 2.0, 1.0, 0.5, 0.0], [3.0, 0.0, 5.0, -1.0, 2.0]]).double()
    x[1, :2] = math.nan
    law = model(*[torch.randn(2, network).double()] if network else [])
    whole = law.observed_log_prob(x, ~x.isnan())
    found = law.left_out(x)
    for place in range(5):
        rest = x.clone()
        rest[:, place] = math.nan
        right = whole - law.observed_log_prob(rest, ~rest.isnan())
        torch.testing.assert_close(found[:, place], right)


@torch.no_grad()
def test_a_value_seen_in_parts_is_read_anew() -> None:
    """What was read of it once is not taken for what is seen of it then."""
    given, value = LatentClasses(finite(), classes=2)().expand((24,)), ROWS
    first = torch.tensor([True, False, True]).expand(24, 3)
    for observed in (first, ~first, first):
        expected = given.class_probabilities(torch.where(observed, value, torch.nan))
        found = given.conditioned(value, observed).log_weights.softmax(-1)
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_cells_are_drawn_given_others() -> None:
    """Within five standard errors: fails by chance once in 1.7 million; the seed is fixed."""
    torch.manual_seed(0)
    model = LatentClasses(finite(), classes=3, spread=2.0)
    given = torch.tensor([[math.nan, 2.0, math.nan]]).repeat(8000, 1)
    rest = model().conditioned(given, ~given.isnan())
    one = ROWS[ROWS[:, 1] == 2]
    exact = float(model().log_prob(one).softmax(0)[one[:, 0] == 1].sum())
    share = float((rest.sample()[:, 0] == 1).double().mean())
    assert abs(share - exact) < 5 * math.sqrt(exact * (1 - exact) / 8000)
    assert model().sample((4, 2)).shape == (4, 2, 3)


def test_what_it_refuses() -> None:
    def refused(make: object) -> None:
        with pytest.raises(ValueError, match="parameters of its own"):
            make()  # type: ignore[operator]

    refused(lambda: LatentClasses(Gaussian(2, MLP(3, 4))))
    refused(lambda: LatentClasses(StandardNormal(2)))
    with pytest.raises(ValueError, match="classes of at least 1"):
        LatentClasses(Bernoulli(2), classes=0)
    with pytest.raises(TypeError, match="takes no parents, found 1"):
        LatentClasses(Bernoulli(2))(torch.zeros(1, 3))


def test_it_finds_groups() -> None:
    """Two groups of opposite bits: half a class each, log 2 a row at best."""
    torch.manual_seed(0)
    x: Tensor = torch.tensor([[0.0] * 5, [1.0] * 5])
    model: nn.Module = LatentClasses(Bernoulli(5), classes=2)
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(150):
        adam.zero_grad()
        (-model().log_prob(x).mean()).backward()
        adam.step()
    assert float(-model().log_prob(x).mean().detach()) < math.log(2) + 0.05
    assert not torch.equal(*model().class_probabilities(x).argmax(-1))
