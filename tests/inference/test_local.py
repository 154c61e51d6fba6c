"""Local parameters, alone and in variational expectation maximisation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import (
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    PrecisionWeighted,
    StandardNormal,
)
from deeplvm.conditionals.flows import InverseAutoregressiveFlow
from deeplvm.conditionals.local import Local, corrected
from deeplvm.networks import MLP, ConvolutionalDecoder
from deeplvm.training import Machine, Phase, fit

FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "Gaussian": lambda: Gaussian(3, MLP(5, 8)),
    "Gaussian, one scale": lambda: Gaussian(3, MLP(5, 8), scale="global"),
    "full covariance": lambda: FullCovarianceGaussian(3, MLP(5, 8)),
    "categories": lambda: Categorical(4, MLP(5, 8), shape=2),
    "inverse autoregressive flow": lambda: InverseAutoregressiveFlow(3, MLP(5, 8), hidden=(8,)),
    "map": lambda: Gaussian(
        (2, 4, 4), ConvolutionalDecoder(5, (2, 4, 4), channels=(4,), features=3)
    ),
}
Maximise = Callable[[Callable[[], Tensor], list[Tensor]], float]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_correction_is_a_bias_of_the_row(family: str) -> None:
    """Zero changes no bit; a number for every row is the same as a bias of the last layer."""
    conditional: Any = FAMILIES[family]()
    local = Local(conditional, rows=7)
    row = torch.tensor([6, 0, 3])
    parent = torch.randn(2, 3, 5)  # particles, batch
    value = conditional(parent).sample()
    before = conditional(parent).log_prob(value)
    assert torch.equal(local(parent, row).log_prob(value), before)
    assert local.event_shape == conditional.event_shape

    layer = conditional.head.layer
    number = torch.randn(layer.bias.shape)
    with torch.no_grad():
        table = local.corrections[0]
        table.copy_(number.reshape(-1, *(1,) * (table.dim() - 2)).expand_as(table))
        moved = local(parent, row).log_prob(value)
        layer.bias += number
        assert torch.allclose(conditional(parent).log_prob(value), moved, atol=1e-12)
    assert (moved - before).abs().max() > 0.01


def test_each_row_has_its_own() -> None:
    """The gradient of rows that are not in the batch is zero, that of a row its own."""
    local = Local(Gaussian(2), rows=5)  # no network: nothing is amortised
    value = torch.randn(2, 2)
    local(torch.tensor([4, 1])).log_prob(value).sum().backward()
    gradient = local.corrections[0].grad
    assert gradient is not None
    assert torch.equal(gradient.abs().sum(1) > 0, torch.tensor([False, True, False, False, True]))
    assert torch.allclose(gradient[4, :2], value[0] / 1.001**2, atol=1e-12)  # (x - 0) / scale^2


def test_p_is_left_alone_where_q_shares_its_conditional() -> None:
    """The ladder's q(z) holds p's own conditional: what corrects q must not move p."""
    prior = Gaussian(2)
    p = Joint({"z": prior, "x | z": Gaussian(3, MLP(2, 4))})
    ladder = PrecisionWeighted(prior, Gaussian(2, MLP(3, 4)), first_parents=0)
    q = Joint({"z | x, row": Local(ladder, rows=4)})
    with torch.no_grad():
        for table in q["z"].corrections:
            table.normal_()
    model = LatentVariableModel(p, q)
    x = torch.randn(4, 3)
    evidence: Any = model.evidence({"x": x, "row": torch.arange(4)})
    z = evidence.q["z"].value
    assert torch.equal(evidence.p["z"].log_prob, prior().log_prob(z))
    assert not torch.equal(evidence.q["z"].log_prob, ladder(x).log_prob(z))


def test_corrections_go_when_they_are_over() -> None:
    """They add up, and an error in between leaves none behind."""
    conditional = Gaussian(2, MLP(3))
    one = [torch.ones(1, 4)]
    x = torch.randn(5, 3)
    mean = conditional(x).mean
    with corrected([conditional.head], one), corrected([conditional.head], one):
        assert torch.allclose(conditional(x).mean, mean + 2)
        with pytest.raises(ValueError, match="features"):
            conditional(x[:, :2])
    assert torch.equal(conditional(x).mean, mean)
    with pytest.raises(ValueError, match="features"):
        Local(conditional, rows=5)(x[:, :2], torch.arange(5))
    assert torch.equal(conditional(x).mean, mean)


def test_a_copy_corrects_itself() -> None:
    local = Local(Gaussian(2, MLP(3)), rows=2)
    twin = copy.deepcopy(local)
    with torch.no_grad():
        twin.corrections[0].fill_(1.0)
    x, row = torch.randn(2, 3), torch.arange(2)
    assert torch.allclose(twin(x, row).mean, local(x, row).mean + 1)


def test_one_graph() -> None:
    """A training step with local parameters is one graph, and computes the same."""
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4))})
    q = Joint({"z | x, row": Local(Gaussian(2, MLP(3, 4)), rows=9)})
    model = LatentVariableModel(p, q)

    def loss(x: Tensor, row: Tensor) -> Tensor:
        return -elbo(model.evidence({"x": x, "row": row}, missing=())).mean()

    x, row = torch.randn(4, 3), torch.tensor([8, 2, 3, 5])
    torch.manual_seed(0)
    expected = loss(x, row)
    torch.manual_seed(0)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")(x, row)
    assert torch.allclose(compiled, expected, atol=1e-12)


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: Local(StandardNormal(2), 3), ValueError, "no parameters to make local"),
        (lambda: Local(Gaussian(2), 0), ValueError, "rows of at least 1"),
        (lambda: Local(Gaussian(2), 3)(torch.zeros(3)), TypeError, r"write 'z \| x, row'"),
        (lambda: Local(Gaussian(2), 3)(), TypeError, r"write 'z \| x, row'"),
    ],
    ids=["no head", "no rows", "no whole number", "no number"],
)
def test_errors(make: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


class Factor:
    """One factor, three observed elements, known noise: Roweis' EM for W in closed form."""

    def __init__(self, nodes: dict[str, Any]) -> None:
        torch.manual_seed(5)
        self.noise = 0.6
        truth = torch.tensor([[1.0], [-2.0], [0.5]])
        self.x = torch.randn(12, 1) @ truth.T + math.sqrt(self.noise) * torch.randn(12, 3)
        likelihood = Gaussian(3, MLP(1), scale=math.sqrt(self.noise))
        self.layer: Any = likelihood.head.layer
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.3], [0.4], [0.5]]))
            self.layer.bias.zero_()
        self.layer.bias.requires_grad_(False)
        self.local = Local(Gaussian(1, minimum_scale=1e-6), rows=12)
        p = Joint({"z": StandardNormal(1), "x | z": likelihood})
        self.model = LatentVariableModel(p, Joint({"z | row": self.local}))
        self.data = {"x": self.x, "row": torch.arange(12)}
        self.nodes = nodes

    def bound(self) -> Tensor:
        return elbo(self.model.evidence(self.data, draw=self.nodes)).mean()

    def log_px(self) -> float:
        weight = self.layer.weight.detach()
        covariance = weight @ weight.T + self.noise * torch.eye(3)
        return float(MultivariateNormal(torch.zeros(3), covariance).log_prob(self.x).mean())

    def roweis(self) -> Tensor:
        """(sum x E[z]) / (sum E[z^2]), the next W."""
        weight = self.layer.weight.detach()
        variance = 1 / (1 + weight.square().sum() / self.noise)
        mean = variance * self.x @ weight / self.noise
        return (self.x.T @ mean) / (mean.square() + variance).sum()


def test_variational_em_is_em_where_the_family_has_the_posterior(
    nodes: dict[str, Any], maximise: Maximise
) -> None:
    """RA.2.2: after an E-step the bound is log p; log p never falls; W follows Roweis' EM."""
    factor = Factor(nodes)
    before = -math.inf
    for _ in range(4):
        bound = maximise(factor.bound, list(factor.local.parameters()))
        assert bound == pytest.approx(factor.log_px(), abs=1e-9)
        assert factor.log_px() > before
        before = factor.log_px()
        expected = factor.roweis()
        maximise(factor.bound, [factor.layer.weight])
        assert torch.allclose(factor.layer.weight.detach(), expected, atol=1e-6)


def test_variational_em_by_phases(nodes: dict[str, Any]) -> None:
    """RA.2.2 through `fit`: some E-steps and an M-step a batch come to the maximum likelihood."""
    factor = Factor(nodes)
    tables = list(factor.local.parameters())
    e_step = Phase(parameters=lambda _: tables, learning_rate=0.05, repeats=3, draw=nodes)
    m_step = Phase(parameters=lambda m: m.p.parameters(), learning_rate=0.05, draw=nodes)
    fit(
        factor.model,
        factor.data,
        phases=[e_step, m_step],
        epochs=150,
        batch_size=12,
        machine=Machine(device="cpu"),
        quiet=True,
    )
    best = Factor(nodes)
    with torch.no_grad():
        for _ in range(300):
            best.layer.weight.copy_(best.roweis())
    assert float(factor.bound().detach()) <= best.log_px() + 1e-9
    assert float(factor.bound().detach()) == pytest.approx(best.log_px(), abs=1e-3)
