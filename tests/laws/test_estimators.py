"""Every unbiased estimator has the exact gradient in the mean (R2.9.1, TB2).

The exact gradient of :math:`E_{z_1 \\dots z_K \\sim q}[L(w_1, \\dots, w_K)]` is that of the sum
over all tuples of values, for any objective that is a function of the ledger.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo, free_bits, iwae
from deeplvm.conditionals import Bernoulli, Gaussian, OneHot, StandardNormal
from deeplvm.core.evidence import Evidence
from deeplvm.gradients import Draw, Reparameterised, Sampled, Suited
from deeplvm.gradients.credit import Objective, ledger_alone
from deeplvm.gradients.muprop import MuProp
from deeplvm.gradients.rebar import Rebar, relax
from deeplvm.gradients.regression import RegressedScore
from deeplvm.gradients.score_function import Learned, LeaveOneOut, RunningMean, ScoreFunction
from deeplvm.networks import MLP
from deeplvm.objectives import renyi

ROWS, ROUNDS = 400, 60


@dataclass(frozen=True)
class Case:
    """A model of enumerable latents, small enough for the sum over all tuples of values."""

    model: Callable[[], LatentVariableModel]
    latents: tuple[str, ...]


def one_layer() -> LatentVariableModel:
    p = Joint({"h": Bernoulli(2), "x | h": Bernoulli(3, MLP(2, 4))})
    return LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(3, 4))}))


def one_hot() -> LatentVariableModel:
    p = Joint({"h": OneHot(3), "x | h": Bernoulli(3, MLP(3, 4))})
    return LatentVariableModel(p, Joint({"h | x": OneHot(3, MLP(3, 4))}))


def bottom_up() -> LatentVariableModel:
    """A sigmoid belief network: q draws from below, p from above."""
    p = Joint(
        {"g": Bernoulli(1), "h | g": Bernoulli(2, MLP(1, 4)), "x | h": Bernoulli(3, MLP(2, 4))}
    )
    q = Joint({"h | x": Bernoulli(2, MLP(3, 4)), "g | h": Bernoulli(1, MLP(2, 4))})
    return LatentVariableModel(p, q)


CASES = {
    "one layer": Case(one_layer, ("h",)),
    "one-hot": Case(one_hot, ("h",)),
    "bottom-up": Case(bottom_up, ("h", "g")),
}

OBJECTIVES: dict[str, Objective] = {
    "elbo": elbo,
    "iwae": iwae,
    "renyi": lambda evidence: renyi(evidence, 0.5),
}


@dataclass(frozen=True)
class Member:
    """An estimator by its constructor, and what it needs."""

    make: Callable[[], Draw]
    particles: tuple[int | None, ...] = (None, 2)
    cases: tuple[str, ...] = tuple(CASES)
    objectives: tuple[str, ...] = tuple(OBJECTIVES)


ESTIMATORS: dict[str, Member] = {
    "score function": Member(ScoreFunction),
    "score function, all terms": Member(lambda: ScoreFunction(local=False)),
    "running mean": Member(lambda: ScoreFunction(RunningMean())),
    "learned": Member(lambda: ScoreFunction(Learned(hidden=(4,)))),
    "leave one out": Member(lambda: ScoreFunction(LeaveOneOut()), particles=(2, 3)),
    "MuProp": Member(lambda: MuProp(LeaveOneOut()), particles=(2,), objectives=("elbo", "iwae")),
    "REBAR": Member(lambda: Rebar(learn=False), particles=(2,), objectives=("elbo", "iwae")),
    "RELAX": Member(lambda: relax(hidden=(4,)), particles=(None,), objectives=("elbo",)),
    "regressed score": Member(RegressedScore, particles=(3,), objectives=("elbo", "iwae")),
}

every_estimator = pytest.mark.parametrize(
    "member", list(ESTIMATORS.values()), ids=list(ESTIMATORS)
)


def exact_gradient(
    model: LatentVariableModel, case: Case, objective: Objective, x: Tensor, particles: int | None
) -> list[Tensor]:
    """Of the mean over all tuples of values, weighted by their probabilities."""
    evidence = model.evidence({"x": x}, draw=dict.fromkeys(case.latents, Enumerated()))
    shape = evidence.batch_shape
    states = torch.Size(shape[:-1]).numel()
    terms = {n: t.expand(shape).reshape(states, -1) for n, t in evidence.terms.items()}
    log_q = evidence.log_measure.expand(shape).reshape(states, -1)  # type: ignore[union-attr]
    total = torch.zeros(())
    for index in itertools.product(range(states), repeat=particles or 1):
        chosen = list(index) if particles else index[0]
        alone = Evidence(
            terms={n: t[chosen] for n, t in terms.items()},
            log_measure=0.0 if particles is None else -torch.tensor(float(particles)).log().item(),
            p=evidence.p,
            q=type(evidence.q)({}, tuple(terms["x"][chosen].shape)),
            latents=evidence.latents,
            observed=evidence.observed,
        )
        probability = log_q[list(index)].sum(0).exp()
        total = total + (probability * objective(alone)).sum()
    return [
        gradient if gradient is not None else torch.zeros_like(parameter)
        for gradient, parameter in zip(
            torch.autograd.grad(total, list(model.parameters()), allow_unused=True),
            model.parameters(),
            strict=True,
        )
    ]


def prepared(
    member: Member, model: LatentVariableModel, case: Case, particles: int | None
) -> Suited:
    """The estimator with whatever it learns, and after some steps of learning."""
    way = Suited(member.make())
    model.prepare({"x": torch.ones(2, 3)}, particles=particles, default=way)
    return way


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
@pytest.mark.parametrize("objective", list(OBJECTIVES), ids=list(OBJECTIVES))
@every_estimator
def test_the_mean_is_the_exact_gradient(member: Member, objective: str, case: Case) -> None:
    """Within 5 standard errors of 60 means of 400 draws, for every parameter.

    With 60 means the statistic has Student's t distribution of 59 degrees of freedom: one of
    about 60 parameters fails by chance in 1 of 3,000 tests; seed fixed.
    """
    name = next(key for key, value in CASES.items() if value is case)
    if name not in member.cases or objective not in member.objectives:
        pytest.skip("not one of its cases")
    torch.manual_seed(0)
    model, x = case.model(), torch.tensor([[1.0, 0.0, 1.0]])
    for particles in member.particles:
        exact = exact_gradient(model, case, OBJECTIVES[objective], x, particles)
        way = prepared(member, model, case, particles)
        parameters = list(model.parameters())
        found = []
        for _ in range(ROUNDS):
            value, _ = model.estimate(
                OBJECTIVES[objective], {"x": x.expand(ROWS, -1)}, particles=particles, default=way
            )
            gradients = torch.autograd.grad(value.mean(), parameters, allow_unused=True)
            found.append(
                torch.cat(
                    [
                        torch.zeros_like(p).flatten() if g is None else g.flatten()
                        for g, p in zip(gradients, parameters, strict=True)
                    ]
                )
            )
        means = torch.stack(found)
        error = means.std(0) / ROUNDS**0.5
        distance = (means.mean(0) - torch.cat([g.flatten() for g in exact])).abs()
        assert (distance <= 5 * error + 1e-9).all(), (particles, (distance / error).max())


@every_estimator
def test_the_credit_changes_no_value(member: Member) -> None:
    torch.manual_seed(0)
    case = CASES[member.cases[0]]
    model = case.model()
    particles = member.particles[-1]
    way = prepared(member, model, case, particles)
    x = (torch.rand(5, 3) < 0.5).double()
    torch.manual_seed(1)
    value, evidence = model.estimate(elbo, {"x": x}, particles=particles, default=way)
    assert value.shape == (5,)
    torch.testing.assert_close(value.detach(), elbo(evidence).detach(), rtol=0, atol=1e-12)


def variance_of(way: Draw, particles: int) -> float:
    """Total variance of the gradient of q's parameters in one step of one row."""
    torch.manual_seed(0)
    model, x = one_layer(), torch.tensor([[1.0, 0.0, 1.0]])
    model.prepare({"x": x}, particles=particles, default=way)
    optimizer = torch.optim.Adam(way.parameters(), 0.05) if list(way.parameters()) else None
    parameters = list(model.q.parameters())
    found = []
    for _ in range(400):
        value, _ = model.estimate(elbo, {"x": x}, particles=particles, default=way)
        found.append(
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(value.mean(), parameters, retain_graph=True)
                ]
            )
        )
        if optimizer is not None:
            optimizer.zero_grad()
            (-value.mean()).backward()
            optimizer.step()
    return torch.stack(found[200:]).var(0).sum().item()


def test_baselines_lower_the_variance() -> None:
    plain = variance_of(Suited(ScoreFunction()), 4)
    for baseline in (RunningMean(), Learned(hidden=(4,)), LeaveOneOut()):
        assert variance_of(Suited(ScoreFunction(baseline)), 4) < 0.5 * plain


def test_terms_elsewhere_add_nothing_but_variance() -> None:
    """Local signals: the mean is the same (above), the variance at most that of all terms."""
    torch.manual_seed(0)
    model, x = bottom_up(), torch.tensor([[1.0, 0.0, 1.0]]).expand(2000, -1)
    spread = []
    for local in (True, False):
        way = Suited(ScoreFunction(local=local))
        parameters = list(model.q["g"].parameters())
        found = []
        for _ in range(60):
            value, _ = model.estimate(elbo, {"x": x}, default=way)
            found.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), parameters)])
            )
        spread.append(torch.stack(found).var(0).sum().item())
    assert spread[0] < 0.7 * spread[1]


def mixed() -> LatentVariableModel:
    p = Joint(
        {
            "h": Bernoulli(2),
            "z | h": Gaussian(1, MLP(2, 4)),
            "x | h, z": Bernoulli(3, MLP(3, 4)),
        }
    )
    q = Joint({"h | x": Bernoulli(2, MLP(3, 4)), "z | x, h": Gaussian(1, MLP(5, 4))})
    return LatentVariableModel(p, q)


def test_a_reparameterised_latent_beside_it() -> None:
    """Chosen per name: against the gradient with the discrete one enumerated.

    5 standard errors of the difference of two means; one of about 80 parameters fails by chance
    in 1 of 2,000 seeds.
    """
    torch.manual_seed(0)
    model, x = mixed(), torch.tensor([[1.0, 0.0, 1.0]]).expand(ROWS, -1)
    parameters = list(model.parameters())
    means = []
    for draw in ({"h": ScoreFunction(LeaveOneOut())}, {"h": Enumerated(), "z": Reparameterised()}):
        found = []
        for _ in range(ROUNDS):
            value, _ = model.estimate(elbo, {"x": x}, particles=3, draw=draw)
            gradients = torch.autograd.grad(value.mean(), parameters)
            found.append(torch.cat([g.flatten() for g in gradients]))
        means.append(torch.stack(found))
    error = (means[0].var(0) / ROUNDS + means[1].var(0) / ROUNDS).sqrt()
    assert ((means[0].mean(0) - means[1].mean(0)).abs() <= 5 * error + 1e-9).all()


def coupled() -> LatentVariableModel:
    """Two bits that agree in q and in p, with biases that are far apart."""

    def agreeing(bias: float) -> Bernoulli:
        bit = Bernoulli(1, MLP(1))
        with torch.no_grad():
            bit.head.layer.weight.fill_(4.0)  # type: ignore[union-attr]
            bit.head.layer.bias.fill_(bias - 2.0)  # type: ignore[union-attr]
        return bit

    p = Joint({"g": Bernoulli(1), "h | g": agreeing(1.0), "x | h": Bernoulli(3, MLP(1, 4))})
    q = Joint({"h | x": Bernoulli(1, MLP(3, 4), mean=0.77), "g | h": agreeing(-1.0)})
    return LatentVariableModel(p, q)


@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_a_latent_enumerated_after_it(objective: str) -> None:
    """What is enumerated later weighs by q given the very draw that is credited.

    Against the exact gradient; 5 standard errors, one of about 60 parameters fails by chance in
    1 of 3,000 seeds.
    """
    torch.manual_seed(0)
    model, case = coupled(), CASES["bottom-up"]
    x = torch.tensor([[1.0, 0.0, 1.0]])
    parameters = list(model.parameters())
    way = {"h": ScoreFunction(LeaveOneOut()), "g": Enumerated()}
    found = []
    for _ in range(ROUNDS):
        value, _ = model.estimate(
            OBJECTIVES[objective], {"x": x.expand(ROWS, -1)}, particles=2, draw=way
        )
        gradients = torch.autograd.grad(value.mean(), parameters)
        found.append(torch.cat([g.flatten() for g in gradients]))
    means = torch.stack(found)
    if objective == "elbo":
        exact = exact_gradient(model, case, elbo, x, 2)
    else:  # the values of g are summed inside the logarithm, for each draw of h
        exact = enumerated_inside(model, x)
    distance = (means.mean(0) - torch.cat([g.flatten() for g in exact])).abs()
    assert (distance <= 5 * means.std(0) / ROUNDS**0.5 + 1e-9).all()


def enumerated_inside(model: LatentVariableModel, x: Tensor) -> list[Tensor]:
    r"""Of the mean over pairs of h of :math:`\log \frac12 \sum_k \sum_g q(g | h_k) w_{k, g}`."""
    both = {"h": Enumerated(), "g": Enumerated()}
    evidence = model.evidence({"x": x}, draw=both)
    log_h = evidence.q["h"].log_prob[:, 0]  # type: ignore[index]
    log_weight = torch.logsumexp(evidence.log_weight + evidence.q["g"].log_prob, 0)[:, 0]
    total = torch.zeros(())
    for first, second in itertools.product(range(len(log_h)), repeat=2):
        pair = torch.stack([log_weight[first], log_weight[second]])
        value = torch.logsumexp(pair, 0) - torch.log(torch.tensor(2.0))
        total = total + (log_h[first] + log_h[second]).exp() * value
    return list(torch.autograd.grad(total, list(model.parameters())))


@every_estimator
def test_evidence_alone_is_refused(member: Member) -> None:
    """It would have a wrong gradient; without gradients it is fine."""
    model = one_layer()
    way = member.make()
    if not hasattr(way, "credit"):
        pytest.skip("its gradient is whole")
    with pytest.raises(ValueError, match="estimate"):
        model.evidence({"x": torch.ones(2, 3)}, draw={"h": way})
    with torch.no_grad():
        assert elbo(model.evidence({"x": torch.ones(2, 3)}, draw={"h": way})).isfinite().all()


def test_objectives_that_cannot_be_credited_are_refused() -> None:
    model, way = one_layer(), {"h": ScoreFunction()}
    x = {"x": torch.ones(4, 3)}
    with pytest.raises(ValueError, match="mixes the rows"):
        model.estimate(free_bits, x, draw=way)
    with pytest.raises(ValueError, match="sampled form"):
        model.estimate(lambda e: elbo(e, form="entropy"), x, draw=way)
    with pytest.raises(ValueError, match="particles=2"):
        model.estimate(elbo, x, draw={"h": ScoreFunction(LeaveOneOut())})


def test_a_ledger_alone_gives_the_same_value() -> None:
    model = one_layer()
    with torch.no_grad():
        evidence = model.evidence({"x": torch.ones(4, 3)}, particles=3, default=Sampled())
    for objective in OBJECTIVES.values():
        torch.testing.assert_close(
            objective(ledger_alone(evidence, evidence.terms)), objective(evidence)
        )


def test_reparameterised_gradients_have_less_variance() -> None:
    r"""R2.9.1, on :math:`E[-(x - z)^2 / 2] - KL`; both have the mean of the closed form.

    5 standard errors: fails by chance once in 300,000 seeds.
    """
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(1), "x | z": Gaussian(1, torch.nn.Linear(1, 1), scale=1.0)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(1, 4))}))
    x = {"x": torch.ones(2000, 1)}
    parameters = list(model.q.parameters())

    def gradient(particles: int, draw: Draw) -> Tensor:
        value, _ = model.estimate(elbo, x, particles=particles, default=draw)
        return torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), parameters)])

    spread, means = [], []
    for draw in (Reparameterised(), ScoreFunction()):
        found = torch.stack([gradient(1, draw) for _ in range(50)])
        spread.append(found.var(0))
        means.append(found.mean(0))
    assert (spread[0] <= spread[1]).all()  # a unit that never fires has none in either
    assert spread[0].sum() < 0.5 * spread[1].sum()
    error = ((spread[0] + spread[1]) / 50).sqrt()
    assert ((means[0] - means[1]).abs() <= 5 * error).all()
