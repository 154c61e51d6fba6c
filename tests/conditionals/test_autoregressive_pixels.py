"""Pixels one after another: densities that sum to one, in one pass; draws by steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Autoregressive, Bernoulli, DiscretizedLogisticMixture, Gaussian
from deeplvm.networks import (
    MLP,
    CausalAttention,
    ConvolutionalDecoder,
    Features,
    GatedPixelCNN,
    LocallyMaskedPixelCNN,
    PixelCNN,
    RowLSTM,
    ShiftedPixelCNN,
)

NETWORKS = {
    "plain": partial(PixelCNN, width=6, blocks=2),
    "gated": partial(GatedPixelCNN, width=6, layers=2),
    "shifted": partial(ShiftedPixelCNN, width=4, blocks=1, levels=2),
    "row-lstm": partial(RowLSTM, width=4),
    "attention": partial(CausalAttention, width=4, blocks=1, heads=2),
    "locally-masked": partial(LocallyMaskedPixelCNN, width=4, blocks=1, curves=3),
}
networks = pytest.mark.parametrize("name", NETWORKS)


def pixels(name: str, conditional: nn.Module, network: nn.Module | None = None) -> Autoregressive:
    """A conditional whose pixels depend on each other strongly."""
    torch.manual_seed(0)
    causal = partial(NETWORKS[name], shape=tuple(conditional.event_shape))  # type: ignore[arg-type]
    made = Autoregressive(conditional, network, causal=causal).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def every(levels: int, *shape: int) -> Tensor:
    """All values there are."""
    numbers = torch.cartesian_prod(*[torch.arange(float(levels))] * torch.Size(shape).numel())
    return numbers.reshape(-1, *shape)


@networks
@torch.no_grad()
def test_all_binary_images_make_one(name: str) -> None:
    images = every(2, 1, 3, 3)
    alone = pixels(name, Bernoulli((1, 3, 3)))().log_prob(images)
    torch.testing.assert_close(alone.exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-10)
    assert alone.std() > 0.1
    # a vector that all pixels see, and a map
    for network in (MLP(2, 4), ConvolutionalDecoder(2, (1, 3, 3), (4,), 3)):
        given = pixels(name, Bernoulli((1, 3, 3)), network)(torch.tensor([[1.0, -2.0], [0.5, 3]]))
        found = given.log_prob(images.unsqueeze(1))
        torch.testing.assert_close(found.exp().sum(0), torch.ones(2), rtol=0, atol=1e-10)
        assert (found[:, 0] - found[:, 1]).abs().max() > 0.01


@networks
@torch.no_grad()
def test_all_images_of_coupled_channels_make_one(name: str) -> None:
    conditional = DiscretizedLogisticMixture((2, 1, 3), components=2, levels=3, coupled=True)
    found = pixels(name, conditional)().log_prob(every(3, 2, 1, 3))
    torch.testing.assert_close(found.exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-10)


@networks
@torch.no_grad()
def test_a_density_is_a_pass_an_order_and_a_draw_a_step_an_element(name: str) -> None:
    conditional = pixels(name, Bernoulli((2, 3, 2)), MLP(2, 4))
    network: Any = conditional.masked
    calls: list[object] = []
    maps = network.maps
    network.maps = lambda image, context, order, place: (
        calls.append(place) or maps(image, context, order, place)
    )
    given = conditional(torch.randn(2, 5, 2))
    orders = len(network.orders)
    given.log_prob(torch.zeros(5, 2, 3, 2))
    assert calls == [None] * orders
    calls.clear()
    torch.manual_seed(1)
    drawn = given.sample()
    assert len(calls) == 12 * orders
    assert None not in calls
    # a draw that computes everything again for each element
    network.steps = lambda lead, positions, context: (
        lambda seen, _: network(seen, positions, context)
    )
    torch.manual_seed(1)
    torch.testing.assert_close(given.sample(), drawn, rtol=0, atol=0)
    assert calls[-1] is None


@torch.no_grad()
def test_draws_of_coupled_channels_are_those_of_the_density() -> None:
    conditional = DiscretizedLogisticMixture((2, 1, 2), components=2, levels=2, coupled=True)
    given = pixels("gated", conditional)()
    values = every(2, 2, 1, 2)
    torch.manual_seed(2)
    drawn = given.sample(torch.Size((4000,)))
    shares = (drawn.unsqueeze(1) == values).flatten(2).all(-1).double().mean(0)
    expected = given.log_prob(values).exp()
    # a chi-square of 15 degrees of freedom is above 37.7 once in a thousand seeds
    assert (4000 * (shares - expected).square() / expected).sum() < 37.7


def test_a_prior_over_latent_maps() -> None:
    prior = pixels("gated", Gaussian((2, 3, 3)))
    p = Joint({"z": prior, "x | z": Bernoulli((1, 3, 3), Features(nn.Flatten(-3), 18))})
    q = Joint({"z | x": Gaussian((2, 3, 3), Features(nn.Flatten(-3), 9))})
    model = LatentVariableModel(p, q)
    x = torch.ones(4, 1, 3, 3)
    evidence = model.evidence({"x": x}, particles=2)
    assert evidence.terms["z"].shape == (2, 4)
    elbo(evidence).mean().backward()
    assert all(bool(each.grad.any()) for each in q.parameters())  # through the prior too
    assert all(each.grad is not None for each in prior.parameters())
    assert model.sample(3)["z"].value.shape == (3, 2, 3, 3)
