"""Masked autoencoders, running sums: exact zeros, sums to one, passes and steps (R4.3, TB6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals import Autoregressive, Bernoulli, Categorical, Columns, Gaussian, OneHot
from deeplvm.conditionals.autoregressive import _layout
from deeplvm.networks import MADE, MLP, NADE
from deeplvm.networks.masked import MaskedLinear

NETWORKS: dict[str, Callable[..., Any]] = {
    "MADE": partial(MADE, hidden=(40,)),
    "MADE, deep": partial(MADE, hidden=(40, 30, 40), activation=nn.Tanh),
    "MADE, no direct connections": partial(MADE, hidden=(40,), direct=False, activation=nn.Tanh),
    "MADE, few units": partial(MADE, hidden=(3,), activation=nn.Tanh),
    "MADE, orders": partial(MADE, hidden=(40, 30), orders=3, activation=nn.Tanh),
    "sigmoid belief network": partial(MADE, hidden=()),
    "NADE": partial(NADE, hidden=7),
    "NADE, orders": partial(NADE, hidden=7, orders=3),
}
networks = pytest.mark.parametrize("name", NETWORKS)
EVERY = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 9)


def model_of(
    name: str, conditional: nn.Module, network: nn.Module | None = None
) -> Autoregressive:
    """With weights of a size at which everything matters, in double precision."""
    torch.manual_seed(0)
    model = Autoregressive(conditional, network, causal=NETWORKS[name]).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.4)
    return model


@networks
def test_an_output_reads_what_is_earlier_and_nothing_else(name: str) -> None:
    model = model_of(name, Bernoulli((3, 3)))
    for positions in model.masked.orders:

        def of(x: Tensor, positions: Tensor = positions) -> Tensor:
            return model.masked(x, positions)

        found = torch.autograd.functional.jacobian(of, torch.rand(9).double())
        earlier = positions.unsqueeze(0) < positions.unsqueeze(1)
        assert (found[~earlier] == 0).all()
        # few units leave some connections out
        assert (found[earlier] != 0).all() or (name == "MADE, few units" and found.any())


@networks
@torch.no_grad()
def test_all_images_make_one(name: str) -> None:
    alone = model_of(name, Bernoulli((3, 3)))
    every = EVERY.reshape(-1, 3, 3)
    assert abs(float(alone().log_prob(every).exp().sum()) - 1) < 1e-10
    given = model_of(name, Bernoulli((3, 3)), MLP(2, 5))
    z = torch.randn(2, 4, 2).double()
    log_prob = given(z).log_prob(every[:, None, None])
    assert (log_prob.exp().sum(0) - 1).abs().max() < 1e-10
    assert (log_prob[:, 0, 0] - log_prob[:, 0, 1]).abs().max() > 1e-3


@networks
@pytest.mark.parametrize("context", [False, True])
@torch.no_grad()
def test_steps_give_what_a_pass_gives(name: str, *, context: bool) -> None:
    """A density is one pass an order; a draw one step an element, and no pass."""
    elements = Columns(
        [
            ((2,), partial(Categorical, 3, shape=1)),
            ((0, 3), partial(Gaussian, 2)),
            ((1,), partial(Bernoulli, 1)),
        ]
    )
    for conditional in (Bernoulli((2, 3)), OneHot(3, shape=(2, 2)), elements):
        model = model_of(name, conditional, MLP(2, 5) if context else None)
        passes = 0

        def counted(*_: object) -> None:
            nonlocal passes
            passes += 1

        model.masked.register_forward_hook(counted)
        parents = (torch.randn(4, 2).double(),) if context else ()
        given = model(*parents)
        value = given.sample((3,))
        assert passes == 0
        given.log_prob(value)
        assert passes == len(given.orders)
        seen = model._seen(value)
        *_, inputs, outputs = _layout(model.conditional, model.event_shape.numel())
        for positions in model.masked.orders:
            whole = model.masked(seen, positions, given.context)
            step = model.masked.steps(Size(seen.shape[:-1]), positions, given.context)
            blank = torch.randn_like(seen)  # what is not drawn yet is not read
            for place in range(len(positions)):
                earlier = positions[inputs] < place
                found = step(torch.where(earlier, seen, blank), place)
                here = positions[outputs] == place
                torch.testing.assert_close(found[..., here], whole[..., here])


@torch.no_grad()
def test_a_running_sum_is_the_formula() -> None:
    """Each output from its own sum over the elements before it, one by one."""
    model = model_of("NADE, orders", Categorical(3, shape=4), MLP(2, 5))
    nade, x = model.masked, torch.tensor([[2.0, 0.0, 1.0, 1.0], [0.0, 1.0, 2.0, 0.0]]).double()
    context = torch.randn(2, 5).double()
    one_hot = nn.functional.one_hot(x.long(), 3).double()
    for positions in nade.orders:
        found = nade(one_hot.flatten(-2), positions, context).unflatten(-1, (3, 4))
        for row in range(2):
            for d in range(4):
                total = nade.bias + nade.context.weight @ context[row]
                for k in range(4):
                    if positions[k] < positions[d]:
                        total = total + one_hot[row, k] @ nade.first[k]
                expected = nade.last[d] @ torch.sigmoid(total) + nade.start[d]
                torch.testing.assert_close(found[row, :, d], expected)


@pytest.mark.parametrize("name", ["MADE, orders", "NADE, orders"])
@torch.no_grad()
def test_orders_are_averaged_where_rows_are_measured(name: str) -> None:
    model = model_of(name, Bernoulli(9))
    x = EVERY[::37]
    each = torch.stack([model.given_earlier(x, p, None).log_prob(x) for p in model.masked.orders])
    torch.testing.assert_close(model().log_prob(x), each.logsumexp(0) - math.log(3))
    model.train()  # one of them a call, also of what it draws
    found = torch.stack([model().log_prob(x) for _ in range(40)]).unique(dim=0)
    assert sorted(found[:, 1].tolist()) == sorted(each[:, 1].tolist())


def test_every_parameter_moves_what_is_scored() -> None:
    for name in NETWORKS:
        model = model_of(name, Bernoulli(9), MLP(2, 5))
        model(torch.randn(8, 2).double()).log_prob(EVERY[100:108]).sum().backward()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == [], name


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_bands_are_one_matrix(bands: int) -> None:
    """A large layer in bands computes what its whole masked matrix does."""
    here = torch.arange(300)
    layer = MaskedLinear(here.unsqueeze(0) < here.unsqueeze(1), bands=bands)
    assert len(layer.weights) == bands
    x = torch.randn(2, 5, 300)
    torch.testing.assert_close(layer(x), x @ layer.dense().t() + layer.bias)
    assert (layer.dense()[here.unsqueeze(0) >= here.unsqueeze(1)] == 0).all()


def test_what_reads_nothing_is_refused() -> None:
    here = torch.arange(4)
    with pytest.raises(ValueError, match="without hidden layers reads nothing; give it direct"):
        MADE(here, here, hidden=(), direct=False)
    with pytest.raises(ValueError, match=r"at least 1 unit, found \(5, 0\)"):
        MADE(here, here, hidden=(5, 0))
    with pytest.raises(ValueError, match="MADE expects orders of at least 1, found 0"):
        MADE(here, here, orders=0)
    with pytest.raises(ValueError, match="NADE expects hidden units, at least 1, found 0"):
        NADE(here, here, hidden=0)
    with pytest.raises(ValueError, match=r"MADE serves 1 fixed order, .*causal=partial\(MADE"):
        Autoregressive(Bernoulli(4), causal=MADE, orders=3)
