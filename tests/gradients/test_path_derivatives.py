"""Path derivatives have the mean of the plain gradient, and none at the posterior (R2.9e)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from scipy.special import roots_hermitenorm
from torch import Tensor, nn

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import (
    Bernoulli,
    Beta,
    Categorical,
    Gamma,
    Gaussian,
    LowRankGaussian,
    StandardNormal,
)
from deeplvm.conditionals.flows import (
    InverseAutoregressiveFlow,
    NeuralSplineFlow,
    PlanarFlow,
    Transform,
)
from deeplvm.conditionals.flows.planar import Planar
from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import view_of
from deeplvm.core.trace import Site
from deeplvm.distributions import DiagonalNormal
from deeplvm.gradients import Draw, Reparameterised
from deeplvm.gradients.credit import Objective
from deeplvm.gradients.path_derivatives import DoublyReparameterised, StickingTheLanding
from deeplvm.gradients.score_function import ScoreFunction
from deeplvm.networks import MLP
from deeplvm.objectives import free_bits, renyi
from deeplvm.recurrent import Plate, Recurrent

BOTH = [StickingTheLanding(), DoublyReparameterised()]
both = pytest.mark.parametrize("way", BOTH, ids=["sticking", "doubly"])


def network(inputs: int) -> MLP:
    return MLP(inputs, 3, activation=nn.Tanh)


def one_latent() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, network(1), scale=0.8)})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(1, network(1))}))


def bottom_up() -> LatentVariableModel:
    """q draws z1, then z2 given it; p the other way, with a learned prior of z1 given z2."""
    p = Joint(
        {
            "z2": StandardNormal(1),
            "z1 | z2": Gaussian(1, network(1)),
            "x | z1": Gaussian(1, network(1), scale=0.8),
        }
    )
    q = Joint({"z1 | x": Gaussian(1, network(1)), "z2 | z1": Gaussian(1, network(1))})
    return LatentVariableModel(p, q)


def top_down() -> LatentVariableModel:
    """A network of p is q's too: the direct part of its gradient must stay whole."""
    p = Joint(
        {
            "z2": StandardNormal(1),
            "z1 | z2": Gaussian(1, network(1)),
            "x | z1, z2": Gaussian(1, network(2), scale=0.8),
        }
    )
    q = Joint({"z2 | x": Gaussian(1, network(1)), "z1 | z2": p["z1"]})
    return LatentVariableModel(p, q)


def with_a_label() -> LatentVariableModel:
    p = Joint({"y": Categorical(2), "z": StandardNormal(1), "x | y, z": Gaussian(1, network(3))})
    q = Joint({"z | x": Gaussian(1, network(1)), "y | z": Categorical(2, network(1))})
    return LatentVariableModel(p, q)


MODELS: dict[str, tuple[Callable[[], LatentVariableModel], int, int]] = {
    # by the number of latents drawn and of nodes for each draw
    "one latent": (one_latent, 1, 60),
    "bottom-up": (bottom_up, 2, 14),
    "top-down": (top_down, 2, 14),
    "a label enumerated after it": (with_a_label, 1, 60),
}
OBJECTIVES: dict[str, Objective] = {
    "elbo": elbo,
    "iwae": iwae,
    "renyi": partial(renyi, alpha=0.5),
    "renyi, negative": partial(renyi, alpha=-1.0),
}


def mean_gradient(
    model: LatentVariableModel,
    objective: Objective,
    way: Draw,
    monkeypatch: pytest.MonkeyPatch,
    *,
    latents: int = 1,
    nodes: int = 60,
    particles: int = 2,
    kl_weight: float = 1.0,
) -> Tensor:
    """Of an estimator, by Gauss-Hermite quadrature over the noise of all its draws.

    One row a node: the noise of the draws is the grid's instead of random.
    """
    points, weights = (torch.as_tensor(each) for each in roots_hermitenorm(nodes))
    weights = weights / weights.sum()
    dims = latents * particles
    grid = torch.cartesian_prod(*[points] * dims).reshape(-1, latents, particles)
    measure = torch.cartesian_prod(*[weights] * dims).reshape(-1, dims).prod(-1)
    noise = iter([grid[:, n].T.unsqueeze(-1) for n in range(latents)])
    monkeypatch.setattr(DiagonalNormal, "_noise", lambda self, shape: next(noise))
    x = {"x": torch.full((len(grid), 1), 0.7)}
    draw: dict[str, Draw] = dict.fromkeys([n for n in ("z", "z1", "z2") if n in model.q], way)
    draw |= {"y": Enumerated()} if "y" in model.q else {}
    value, _ = model.estimate(objective, x, particles=particles, draw=draw, kl_weight=kl_weight)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad((measure * value).sum(), parameters, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(gradients, parameters, strict=True)
        ]
    )


def calmed(build: Callable[[], LatentVariableModel]) -> LatentVariableModel:
    """Smooth enough for a quadrature of few nodes."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    return model


@pytest.mark.parametrize("objective", list(OBJECTIVES))
@pytest.mark.parametrize("name", list(MODELS))
def test_the_doubly_reparameterised_mean_is_the_plain_one(
    name: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, latents, nodes = MODELS[name]
    model, function = calmed(build), OBJECTIVES[objective]
    found = [
        mean_gradient(model, function, way, monkeypatch, latents=latents, nodes=nodes)
        for way in (Reparameterised(), DoublyReparameterised())
    ]
    assert found[0].abs().max() > 0.01
    # what is left is the error of 14 nodes a draw; with 24 it is a tenth of that
    close = 1e-6 if latents == 1 else 2e-5 if "negative" not in objective else 2e-4
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=close)


@both
def test_a_tempered_bound(way: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    model = calmed(one_latent)
    objective = elbo if isinstance(way, StickingTheLanding) else iwae
    found = [
        mean_gradient(model, objective, each, monkeypatch, kl_weight=0.3)
        for each in (Reparameterised(), way)
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-7)


def test_sticking_is_unbiased_for_the_elbo_and_biased_for_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its bias for the importance-weighted bound of two particles, relative to the gradient."""
    for build, latents, nodes in MODELS.values():
        model, bias = calmed(build), {}
        for objective in (elbo, iwae):
            plain, path = [
                mean_gradient(model, objective, way, monkeypatch, latents=latents, nodes=nodes)
                for way in (Reparameterised(), StickingTheLanding())
            ]
            bias[objective] = ((path - plain).norm() / plain.norm()).item()
        assert bias[elbo] < 1e-10
        assert 0.02 < bias[iwae] < 0.4


class Linear(nn.Module):
    r"""N(a x + b, s), each learned: the exact posterior of a linear-Gaussian model."""

    def __init__(self, weight: list[float], variance: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.log_scale = nn.Parameter(torch.tensor([0.5 * math.log(variance)]))
        self.event_shape = torch.Size([1])

    def forward(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal((x @ self.weight).unsqueeze(-1), self.log_scale.exp(), 1)


def exact_posterior() -> LatentVariableModel:
    """TB1: W = (1, 2), s2 = 0.5; q is N((2 x_1 + 4 x_2) / 11, 1 / 11)."""
    likelihood = Gaussian(2, nn.Linear(1, 2, bias=False), scale=math.sqrt(0.5))
    with torch.no_grad():
        likelihood.head.network.weight.copy_(torch.tensor([[1.0], [2.0]]))  # type: ignore[union-attr]
        likelihood.head.layer.weight.copy_(torch.eye(2))
        likelihood.head.layer.bias.zero_()  # type: ignore[union-attr]
    p = Joint({"z": StandardNormal(1), "x | z": likelihood})
    return LatentVariableModel(p, Joint({"z | x": Linear([2 / 11, 4 / 11], 1 / 11)}))


def exact_chain() -> LatentVariableModel:
    """z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1), and the posterior of each factor."""
    p = Joint(
        {"z2": StandardNormal(1), "z1 | z2": Linear([1.0], 1.0), "x | z1": Linear([1.0], 1.0)}
    )
    q = Joint({"z1 | x": Linear([2 / 3], 2 / 3), "z2 | z1": Linear([0.5], 0.5)})
    return LatentVariableModel(p, q)


@pytest.mark.parametrize("build", [exact_posterior, exact_chain])
@pytest.mark.parametrize(
    "way, objective",
    [(BOTH[0], elbo), (BOTH[1], elbo), (BOTH[1], iwae), (BOTH[1], OBJECTIVES["renyi"])],
)
def test_no_variance_at_the_posterior(
    build: Callable[[], LatentVariableModel], way: Draw, objective: Objective
) -> None:
    torch.manual_seed(0)
    model = build()
    x = torch.randn(50, 2 if build is exact_posterior else 1)
    parameters = list(model.q.parameters())
    for draw, largest in ((Reparameterised(), math.inf), (way, 1e-12)):
        value, _ = model.estimate(objective, {"x": x}, particles=5, default=draw)
        found = torch.autograd.grad(value.sum(), parameters)
        size = max([each.abs().max().item() for each in found])
        assert size > 0.1 if draw is not way else size < largest


def families() -> dict[str, LatentVariableModel]:
    """Posteriors of several families, with log-densities of every form."""
    torch.manual_seed(0)

    def of(q: nn.Module, p: nn.Module | None = None) -> LatentVariableModel:
        joint = Joint({"z": p or StandardNormal(2), "x | z": Bernoulli(3, network(2))})
        return LatentVariableModel(joint, Joint({"z | x": q}))

    return {
        "Gaussian": of(Gaussian(2, network(3))),
        "low rank": of(LowRankGaussian(2, network(3), rank=1)),
        "flow": of(InverseAutoregressiveFlow(2, network(3), hidden=(4,))),
        "planar": of(PlanarFlow(2, network(3))),
        "spline": of(NeuralSplineFlow(2, network(3))),
        "gamma": of(Gamma(2, network(3)), Gamma(2)),
        "beta": of(Beta(2, network(3)), Beta(2)),
    }


@pytest.mark.parametrize("name", list(families()))
def test_the_gradient_is_that_of_the_path(name: str) -> None:
    """Against the same draw scored by a copy of q whose parameters are constants."""
    model = families()[name]
    x = torch.ones(6, 3)
    torch.manual_seed(1)
    value, _ = model.estimate(elbo, {"x": x}, particles=2, default=StickingTheLanding())
    found = torch.autograd.grad(value.sum(), list(model.q.parameters()))
    still = copy.deepcopy(model.q["z"]).requires_grad_(False)
    torch.manual_seed(1)
    z = model.evidence({"x": x}, particles=2).q["z"].value
    site = Site(z, batch_dims=2, view=view_of(still))
    log_p = model.p({"x": x, "z": site}, (2, 6)).log_prob
    expected = torch.autograd.grad(
        (log_p - still(x).log_prob(z)).mean(0).sum(), list(model.q.parameters())
    )
    for each, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(each, truth, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_the_weights_of_the_path(alpha: float) -> None:
    r"""Draw by draw: :math:`\alpha \tilde w + (1 - \alpha) \tilde w^2` into q, w̃ into p (R2.6b).

    Against the gradient of the log-weights by a copy of q whose parameters are constants.
    """
    torch.manual_seed(0)
    model, x = one_latent(), torch.randn(6, 1)
    objective = partial(renyi, alpha=alpha) if alpha else iwae
    torch.manual_seed(1)
    value, _ = model.estimate(objective, {"x": x}, particles=4, default=BOTH[1])
    found = torch.autograd.grad(value.sum(), list(model.parameters()))
    torch.manual_seed(1)
    plain = model.evidence({"x": x}, particles=4)
    z, still = plain.q["z"].value, copy.deepcopy(model.q["z"]).requires_grad_(False)
    site = Site(z, batch_dims=2)
    log_weight = model.p({"x": x, "z": site}, (4, 6)).log_prob - still(x).log_prob(z)
    share = ((1 - alpha) * log_weight).softmax(0).detach()
    parts = [
        ((share * log_weight).sum(), list(model.p.parameters())),
        (((alpha * share + (1 - alpha) * share**2) * log_weight).sum(), [*model.q.parameters()]),
    ]
    expected = [
        gradient
        for total, parameters in parts
        for gradient in torch.autograd.grad(total, parameters, retain_graph=True)
    ]
    torch.testing.assert_close(value, objective(plain))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    # and the plain gradient is that of the log-weights by their shares
    by_hand = torch.autograd.grad(
        (share * plain.log_weight).sum(), [*model.parameters()], retain_graph=True
    )
    for one, other in zip(
        torch.autograd.grad(objective(plain).sum(), [*model.parameters()]), by_hand, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_one_particle_is_the_elbo() -> None:
    model, x = one_latent(), {"x": torch.randn(6, 1)}
    found = []
    for objective, way in ((elbo, BOTH[0]), (elbo, BOTH[1]), (iwae, BOTH[1])):
        torch.manual_seed(0)
        value, _ = model.estimate(objective, x, particles=1, default=way)
        found.append(torch.autograd.grad(value.sum(), list(model.parameters())))
    for one, other, third in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(one, third, rtol=1e-12, atol=1e-14)


def test_a_latent_that_all_rows_share() -> None:
    """Its score counts as its term does, 1/N of the data a row; of the doubly it is refused."""
    torch.manual_seed(0)
    p = Joint({"w": StandardNormal(1), "x | w": Gaussian(1, network(1))}, shared=["w"])
    q = Joint({"w": Gaussian(1)}, shared=["w"])
    model, x = LatentVariableModel(p, q), torch.randn(6, 1)
    torch.manual_seed(1)
    value, _ = model.estimate(elbo, {"x": x}, particles=2, default=BOTH[0], rows=50)
    found = torch.autograd.grad(value.mean(), list(q.parameters()))
    torch.manual_seed(1)
    plain = model.evidence({"x": x}, particles=2, rows=50)
    w = plain.q["w"].value
    still = copy.deepcopy(q["w"]).requires_grad_(False)
    terms = plain.terms["x"] + (p["w"]().log_prob(w) - still().log_prob(w)) / 50
    expected = torch.autograd.grad(terms.mean(), list(q.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="All rows share w"):
        model.estimate(elbo, {"x": x}, particles=2, default=BOTH[1], rows=50)


def path_oracle(
    model: LatentVariableModel, given: dict[str, Tensor], particles: int
) -> tuple[Tensor, Tensor]:
    """Log-weights of draws by a copy of q whose parameters are constants, and with whole q."""
    evidence = model.evidence(given, particles=particles)
    drawn = {n: Site(evidence.q[n].value, batch_dims=2) for n in evidence.latents}
    still: Any = copy.deepcopy(model.q).requires_grad_(False)
    log_p = sum([evidence.p[n].log_prob for n in evidence.terms])  # type: ignore[misc]
    return log_p - still({**given, **drawn}, (particles, 2)).log_prob, evidence.log_weight


def members() -> LatentVariableModel:
    p = Plate({"z": StandardNormal(1), "x | z": Gaussian(1, network(1), scale=0.8)}, length="n")
    return LatentVariableModel(p, Plate({"z | x": Gaussian(1, network(1))}, length="n"))


def steps() -> LatentVariableModel:
    p = Recurrent(
        {"z | z[-1]": Gaussian(1, network(1)), "x | z": Gaussian(1, network(1), scale=0.8)},
        start={"z": 1},
        length="n",
    )
    q = Recurrent({"z | x, z[-1]": Gaussian(1, network(2))}, start={"z": 1}, length="n")
    return LatentVariableModel(p, q)


@pytest.mark.parametrize("build", [members, steps])
def test_repetitions_of_unequal_lengths(build: Callable[[], LatentVariableModel]) -> None:
    """Members of a set and steps of a sequence, of which some rows have fewer."""
    torch.manual_seed(0)
    model = build()
    given = {"x": torch.randn(2, 3, 1), "n": torch.tensor([3, 1])}
    parameters = list(model.q.parameters())
    for way, objective, power in ((BOTH[0], elbo, 0), (BOTH[1], elbo, 0), (BOTH[1], iwae, 2)):
        torch.manual_seed(1)
        value, _ = model.estimate(objective, given, particles=4, default=way)
        found = torch.autograd.grad(value.sum(), parameters)
        torch.manual_seed(1)
        path, whole = path_oracle(model, given, 4)
        weight = whole.softmax(0).detach() ** power if power else torch.full_like(whole, 0.25)
        expected = torch.autograd.grad((weight * path).sum(), parameters)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


class EachRow(nn.Module):
    """A Gaussian of its own for each row, so that a backward pass gives a gradient a row."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.full((rows, 1), 0.5))
        self.log_scale = nn.Parameter(torch.full((rows, 1), -0.2))
        self.event_shape = torch.Size([1])

    def forward(self, x: Tensor) -> DiagonalNormal:
        return DiagonalNormal(self.loc, self.log_scale.exp(), 1)


def signal_to_noise(way: Draw, particles: int) -> float:
    model = one_latent()
    with torch.no_grad():
        for parameter in model.p.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    rows = 8_000
    model = LatentVariableModel(model.p, Joint({"z | x": EachRow(rows)}))
    value, _ = model.estimate(
        iwae, {"x": torch.full((rows, 1), 0.7)}, particles=particles, default=way
    )
    found = torch.autograd.grad(value.sum(), list(model.q.parameters()))
    return max([(each.mean() / each.std()).abs().item() for each in found])


def test_signal_and_noise_of_many_particles() -> None:
    """Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018).

    The plain ratio falls as 1 / sqrt(K), the other grows as sqrt(K). Each ratio has a standard
    error of about 0.01, so another seed would fail once in more than 10,000 times.
    """
    torch.manual_seed(0)
    few, many = [
        [signal_to_noise(way, k) for way in (Reparameterised(), BOTH[1])] for k in (2, 32)
    ]
    assert many[0] < 0.5 * few[0]
    assert many[1] > 2.0 * few[1]


def test_a_graph_holds_the_sticking_step() -> None:
    model = one_latent()
    way = StickingTheLanding()

    def step(x: Tensor) -> Tensor:
        return model.estimate(elbo, {"x": x}, particles=2, default=way)[0].sum()

    x = torch.ones(4, 1)
    torch.manual_seed(3)
    plain = torch.autograd.grad(step(x), list(model.parameters()))
    torch.manual_seed(3)
    whole = torch.compile(step, fullgraph=True, backend="eager")(x)
    for one, other in zip(
        torch.autograd.grad(whole, list(model.parameters())), plain, strict=True
    ):
        torch.testing.assert_close(one, other)


@both
def test_what_cannot_be_done_is_refused(way: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    x = {"x": torch.ones(4, 1)}
    model = one_latent()
    with pytest.raises(ValueError, match="sampled form"):
        model.estimate(partial(elbo, form="analytic"), x, default=way)
    with pytest.raises(ValueError, match="reads values or distributions"):
        model.estimate(lambda e: elbo(e, form="entropy"), x, default=way)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(1, network(2))})
    flow = LatentVariableModel(p, Joint({"z | x": PlanarFlow(2, network(1))}))
    monkeypatch.setattr(Planar, "inverse", Transform.inverse)
    with pytest.raises(ValueError, match="flow with an inverse"):
        flow.estimate(elbo, x, default=way)


def test_what_the_doubly_reparameterised_draw_refuses() -> None:
    x, way = {"x": torch.ones(4, 1)}, DoublyReparameterised()
    with pytest.raises(ValueError, match="mixes the rows"):
        one_latent().estimate(free_bits, x, default=way)
    with pytest.raises(ValueError, match="'z2' is drawn otherwise beside z1"):
        bottom_up().estimate(iwae, x, draw={"z1": way})
    label = with_a_label()
    with pytest.raises(ValueError, match="'y' is drawn otherwise beside z"):
        label.estimate(iwae, x, draw={"z": way, "y": ScoreFunction()})

    def uneven(evidence: Evidence) -> Tensor:
        terms = evidence.terms
        return iwae(evidence) - 0.1 * evidence.expectation(terms["z1"].square())

    with pytest.raises(ValueError, match="weighs the terms of z1, z2 differently"):
        bottom_up().estimate(uneven, x, default=way)
