"""One masked network makes independent elements depend on each other, in any order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Size, Tensor, nn

from deeplvm.conditionals import (
    Autoregressive,
    Bernoulli,
    Categorical,
    Columns,
    Dirichlet,
    FullCovarianceGaussian,
    Gaussian,
    Multinomial,
    NegativeBinomial,
    OneHot,
    Ordinal,
    Spiked,
    StandardNormal,
)
from deeplvm.core.trace import score
from deeplvm.distributions.temperature import tempered
from deeplvm.networks import MLP, Features, MaskedNetwork
from deeplvm.networks.causal import Step


def shaken(module: nn.Module) -> nn.Module:
    """Far from independence, and in the form in which it is measured."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return module.eval()


def table(network: nn.Module | None = None) -> Columns:
    """A row of every kind: category, real with an atom, flag, count, ordered levels."""
    spiked = partial(Spiked, 1, knots=torch.tensor([0.0, 1.0, 5.0]), atoms=torch.zeros(1, 1))
    return Columns(
        [
            ((2,), partial(Categorical, 3, shape=1)),
            ((0,), spiked),
            ((4,), partial(Bernoulli, 1)),
            ((1,), partial(NegativeBinomial, 1)),
            ((3,), partial(Ordinal, 4, shape=1)),
        ],
        network,
    )


def finite(network: nn.Module | None = None) -> Columns:
    """Three columns whose 24 rows can be listed."""
    return Columns(
        [
            ((1,), partial(Categorical, 3, shape=1)),
            ((0,), partial(Bernoulli, 1)),
            ((2,), partial(Ordinal, 4, shape=1)),
        ],
        network,
    )


ROWS = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0), torch.arange(4.0))


def positions_of(order: list[int]) -> Tensor:
    return torch.tensor(order).argsort()


@pytest.mark.parametrize("groups", [1, 2, 5, 32])
@pytest.mark.parametrize("by_row", [False, True])
def test_an_output_reads_what_is_earlier_and_nothing_else(*, groups: int, by_row: bool) -> None:
    element = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4])
    network = shaken(MaskedNetwork(element, element, width=40, groups=groups))
    positions = positions_of([3, 0, 4, 2, 1])

    def of(x: Tensor) -> Tensor:
        given = positions.expand(1, -1) if by_row else positions
        return network(x.unsqueeze(0), given)[0]

    found = torch.autograd.functional.jacobian(of, torch.randn(8)) != 0
    earlier = positions[element].unsqueeze(0) < positions[element].unsqueeze(1)
    assert not found[~earlier].any()
    # fewer groups than elements see less, but what the last reads is never nothing
    assert torch.equal(found, earlier) if groups >= 5 else found.any() or groups == 1


def test_an_order_of_all_rows_is_the_order_of_each() -> None:
    network = shaken(MaskedNetwork([0, 1, 2, 2], [0, 1, 1, 2], width=12, context=2))
    x, context = torch.randn(5, 4), torch.randn(3, 5, 2)
    positions = positions_of([2, 0, 1])
    one, each = network(x, positions, context), network(x, positions.expand(5, -1), context)
    assert one.shape == (3, 5, 4)
    torch.testing.assert_close(one, each)


@pytest.mark.parametrize("orders", [1, 3])
@torch.no_grad()
def test_all_rows_make_one(orders: int) -> None:
    model = shaken(Autoregressive(finite(), width=12, orders=orders))
    total = model().log_prob(ROWS).exp().sum()
    torch.testing.assert_close(total, torch.ones(()))


@torch.no_grad()
def test_all_rows_make_one_given_parents() -> None:
    model = shaken(Autoregressive(finite(), MLP(2, 8), width=12))
    z = torch.randn(3, 4, 2)
    total = model(z).log_prob(ROWS[:, None, None]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(3, 4))
    assert (model(z).log_prob(ROWS[5]).flatten() != model(z).log_prob(ROWS[5])[0, 0]).any()


@pytest.mark.parametrize("hole", [(0,), (1, 2), (0, 2), (0, 1, 2)])
@torch.no_grad()
def test_what_is_missing_comes_last_so_the_rest_is_a_marginal(hole: tuple[int, ...]) -> None:
    """Summed over the missing cells, in the order that has them last, it is what is scored."""
    model = shaken(Autoregressive(finite(), width=12))
    rest = [d for d in range(3) if d not in hole]
    x = ROWS[17].clone()
    same = (ROWS[:, rest] == x[rest]).all(-1)
    positions = positions_of([*rest, *hole])
    joint = model.given_earlier(ROWS[same], positions, None).log_prob(ROWS[same])
    x[list(hole)] = math.nan
    found = model().observed_log_prob(x, ~x.isnan())
    torch.testing.assert_close(found, joint.logsumexp(0))
    # beside rows with other holes, it is the same
    other = ROWS[:4].clone()
    other[0, 1] = math.nan
    both = torch.cat([other, x.unsqueeze(0)])
    torch.testing.assert_close(model().observed_log_prob(both, ~both.isnan())[-1], found)


@pytest.mark.parametrize("orders", [1, 2])
@torch.no_grad()
def test_draws_are_those_of_the_density(orders: int) -> None:
    """A chi-squared test of all 24 rows: fails by chance once in 1,000; the seed is fixed."""
    model = shaken(Autoregressive(finite(), width=12, orders=orders))
    torch.manual_seed(0)
    draws = model().sample((5000,))
    index = (draws * torch.tensor([12.0, 4.0, 1.0])).sum(-1).long()
    expected = model().log_prob(ROWS).exp() * 5000
    likely = expected > 5
    counts = index.bincount(minlength=24).double()
    found = torch.cat([counts[likely], counts[~likely].sum(0, keepdim=True)])
    wanted = torch.cat([expected[likely], expected[~likely].sum(0, keepdim=True)])
    assert stats.chisquare(found[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3


@torch.no_grad()
def test_any_cells_are_drawn_given_any_others() -> None:
    """Within five standard errors: fails by chance once in 1.7 million; the seed is fixed."""
    model = shaken(Autoregressive(finite(), width=12))
    given = torch.tensor([[math.nan, 2.0, math.nan], [1.0, math.nan, 3.0]]).repeat(4000, 1)
    torch.manual_seed(0)
    filled = model().complete(given)
    known = ~given.isnan()
    assert torch.equal(filled[known], given[known])
    assert not filled.isnan().any()
    one = ROWS[ROWS[:, 1] == 2]
    joint = model.given_earlier(one, positions_of([1, 0, 2]), None).log_prob(one)
    exact = float(joint.softmax(0)[one[:, 0] == 1].sum())
    share = float((filled[::2, 0] == 1).double().mean())
    assert abs(share - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000)


@pytest.mark.parametrize("orders", [1, 3])
@torch.no_grad()
def test_what_is_given_conditions_the_mixture_of_orders(orders: int) -> None:
    """As p(all) / p(given), draws too; fails by chance once in 100,000, the seed is fixed."""
    model = shaken(Autoregressive(finite(), width=12, orders=orders))
    given = torch.tensor([1.0, math.nan, math.nan])
    rest = model().conditioned(given, ~given.isnan())
    same = ROWS[ROWS[:, 0] == 1]
    if orders == 1:  # in the order of the columns; others say otherwise
        expected = model().log_prob(same) - model().observed_log_prob(given, ~given.isnan())
        torch.testing.assert_close(rest.log_prob(same), expected)
    probability = rest.log_prob(same).exp()
    torch.testing.assert_close(probability.sum(), torch.ones(()))
    draws = rest.sample((6000,))
    assert (draws[:, 0] == 1).all()
    shares = (draws[:, None] == same).all(-1).double().mean(0)
    error = (probability * (1 - probability) / 6000).sqrt()
    assert ((shares - probability).abs() < 5 * error + 1e-9).all()


def test_columns_of_every_kind() -> None:
    model = Autoregressive(table(), MLP(2, 8), width=20)
    x = torch.tensor([[0.0, 3.0, 2.0, 3.0, 1.0], [2.5, math.nan, 0.0, math.nan, math.nan]])
    z = torch.randn(2, 2)
    log_prob = model(z).observed_log_prob(x, ~x.isnan())
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    draws = model.eval()(z).sample((7,))
    assert draws.shape == (7, 2, 5)
    assert model(z).log_prob(draws).isfinite().all()


def test_training_draws_an_order_a_call_and_measuring_does_not() -> None:
    model = Autoregressive(finite(), width=12)
    shaken(model)
    x = ROWS[:6]
    assert torch.equal(model().log_prob(x), model().log_prob(x))
    model.train()
    found = torch.stack([model().log_prob(x) for _ in range(12)])
    assert len(found.unique(dim=0)) > 2
    fixed = shaken(Autoregressive(finite(), width=12, any_order=False)).train()
    assert torch.equal(fixed().log_prob(x), fixed().log_prob(x))


def test_it_learns_what_a_product_cannot() -> None:
    """Two equal bits: log 2 a row, where independent ones have 2 log 2."""
    torch.manual_seed(0)
    model = Autoregressive(Bernoulli(2), width=16)
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (-model().log_prob(x).mean()).backward()
        optimizer.step()
    assert float(-model.eval()().log_prob(x).mean().detach()) < math.log(2) + 0.05


@pytest.mark.parametrize(
    "conditional",
    [
        lambda: StandardNormal(3),
        lambda: FullCovarianceGaussian(2),
        lambda: Gaussian(2, MLP(3, 4)),
        lambda: Multinomial(3, total=5),  # its elements share a constant
        lambda: Dirichlet(3),
    ],
)
def test_what_is_not_a_conditional_of_free_elements_is_refused(conditional: object) -> None:
    with pytest.raises(ValueError, match="independent elements depend on each other"):
        Autoregressive(conditional())  # type: ignore[operator]


def test_orders_of_one_order_are_refused() -> None:
    with pytest.raises(ValueError, match="has orders=1, found 2"):
        Autoregressive(Bernoulli(2), orders=2, any_order=False)
    with pytest.raises(TypeError, match="takes no parents, found 1"):
        Autoregressive(Bernoulli(2))(torch.zeros(1, 3))


class Sums(nn.Module):
    """A causal network in one or two fixed orders: outputs are sums of what is earlier.

    It counts passes; with ``remembers`` it draws by steps.
    """

    def __init__(
        self, inputs: Tensor, outputs: Tensor, *, context: Sequence[int], many: int = 1
    ) -> None:
        super().__init__()
        elements = int(outputs.max()) + 1
        self.register_buffer("orders", torch.arange(elements).repeat(many, 1))
        self.orders[1:] = self.orders[1:].flip(-1)
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)
        self.weight = nn.Parameter(torch.randn(len(outputs), len(inputs)))
        self.context = nn.Linear(Size(context).numel(), len(outputs)) if context else None
        self.passes, self.stepped = 0, []

    def forward(self, seen: Tensor, positions: Tensor, context: Tensor | None = None) -> Tensor:
        self.passes += 1
        mask = positions[self.inputs] < positions[self.outputs].unsqueeze(-1)
        total = seen @ (self.weight * mask).t()
        return total if self.context is None else total + self.context(context.flatten(-2))


class Remembering(Sums):
    def steps(self, lead: Size, positions: Tensor, context: Tensor | None = None) -> Step:
        total = seen_before = torch.zeros(())

        def step(seen: Tensor, place: int) -> Tensor:
            nonlocal total, seen_before
            assert seen.shape[:-1] == lead
            self.stepped.append(place)
            total = total + (seen - seen_before) @ self.weight.t()  # what is new
            seen_before = seen
            return total if self.context is None else total + self.context(context.flatten(-2))

        return step


@pytest.mark.parametrize("conditional", [lambda: Bernoulli((3, 2)), lambda: OneHot(3, shape=(4,))])
@pytest.mark.parametrize("many", [1, 2])
@torch.no_grad()
def test_a_network_of_fixed_orders(conditional: Callable[..., nn.Module], many: int) -> None:
    """All rows make one, and draws are those of the density: once in 1,000 it fails by chance."""
    model = shaken(Autoregressive(conditional(), causal=Sums, many=many))
    binary = model.event_shape == (3, 2)
    rows = torch.cartesian_prod(*[torch.arange(2.0 if binary else 3.0)] * (6 if binary else 4))
    rows = rows.reshape(-1, 3, 2) if binary else nn.functional.one_hot(rows.long(), 3).float()
    probability = model().log_prob(rows).exp()
    assert model.masked.passes == many
    torch.testing.assert_close(probability.sum(), torch.ones(()))
    torch.manual_seed(0)
    draws = model().sample((2000,))
    same = (draws.flatten(1).unsqueeze(1) == rows.flatten(1)).all(-1)
    assert (same.sum(1) == 1).all()
    found, wanted = same.sum(0).double(), probability.double() * 2000
    likely = wanted > 5
    found = torch.cat([found[likely], found[~likely].sum(0, keepdim=True)])
    wanted = torch.cat([wanted[likely], wanted[~likely].sum(0, keepdim=True)])
    assert stats.chisquare(found[wanted > 0], wanted[wanted > 0]).pvalue > 1e-3


@torch.no_grad()
def test_a_network_that_remembers_draws_what_passes_draw() -> None:
    z, drawn = torch.randn(3, 4, 2), []
    for causal in (Sums, Remembering):
        torch.manual_seed(1)
        features = Features(nn.Unflatten(-1, (2, 1)), (2, 1))  # a map, as it comes
        model = shaken(Autoregressive(Bernoulli(5), features, causal=causal))
        torch.manual_seed(0)
        drawn.append(model(z).sample((2,)))
        passes, stepped = model.masked.passes, model.masked.stepped
        assert (passes, stepped) == ((5, []) if causal is Sums else (0, [*range(5)]))
    assert drawn[0].shape == (2, 3, 4, 5)
    assert torch.equal(*drawn)


def test_fixed_orders_know_no_marginal_and_no_other_order() -> None:
    model = Autoregressive(Bernoulli(3), causal=Sums)
    with pytest.raises(ValueError, match="has no marginal of the others"):
        score("x", model(), torch.tensor([1.0, math.nan, 0.0]), missing=True)
    with pytest.raises(ValueError, match=r"Sums serves 1 fixed order, so .* any_order=True"):
        Autoregressive(Bernoulli(3), causal=Sums, any_order=True)
    with pytest.raises(ValueError, match="found any_order=None and orders=2"):
        Autoregressive(Bernoulli(3), causal=Sums, orders=2)


@torch.no_grad()
def test_what_is_drawn_in_training_is_scored_in_its_order() -> None:
    """A posterior's weight is that of the order it drew from: q is then normalised."""
    model = shaken(Autoregressive(finite(), width=12)).train()
    one = model()
    torch.testing.assert_close(one.log_prob(ROWS).exp().sum(), torch.ones(()))
    assert torch.equal(one.log_prob(ROWS), one.log_prob(ROWS))
    assert torch.equal(one.expand(Size((2,))).orders, one.orders)


def test_a_temperature_stays_with_what_is_made_of_it() -> None:
    for model in (Autoregressive(finite(), width=12), Autoregressive(Bernoulli(3), causal=Sums)):
        cold = tempered(model(), 0.5)
        assert cold.expand(Size((2,))).temperature == 0.5
        if hasattr(cold, "conditioned"):
            known = cold.conditioned(ROWS[0], torch.tensor([True, False, False]))
            assert known.expand(Size((2,))).temperature == 0.5
            assert known.expand(Size((2,))).known is known.known
