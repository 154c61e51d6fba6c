"""MuProp, REBAR and RELAX stay unbiased where latents depend on each other, and vary less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, OneHot, Poisson
from deeplvm.gradients import Draw, Reparameterised, Sampled, Suited
from deeplvm.gradients.credit import Objective
from deeplvm.gradients.muprop import MuProp
from deeplvm.gradients.rebar import Rebar, relax
from deeplvm.gradients.score_function import Learned, LeaveOneOut, ScoreFunction
from deeplvm.networks import MLP

ROUNDS = 40


def agreeing(start: float) -> Bernoulli:
    """A bit that takes its parent's value, nearly."""
    bit = Bernoulli(1, nn.Linear(1, 1))
    with torch.no_grad():
        bit.head.network.weight.fill_(1.0)
        bit.head.network.bias.fill_(-0.5)
        bit.head.layer.weight.fill_(5.0)
        bit.head.layer.bias.fill_(start)
    return bit


def tied() -> LatentVariableModel:
    """Two bits that agree in q and in p, not symmetric: what holds the second one is far off."""
    p = Joint({"g": Bernoulli(1), "h | g": agreeing(1.0), "x | h": Bernoulli(3, MLP(1, 4))})
    q = Joint({"h | x": Bernoulli(1, MLP(3, 4), mean=0.77), "g | h": agreeing(-1.0)})
    return LatentVariableModel(p, q)


def continuous() -> LatentVariableModel:
    """A Gaussian latent that q draws after the discrete one, and depends on it."""
    network = MLP(3, 4, activation=nn.Tanh)
    p = Joint({"h": OneHot(2), "z | h": Gaussian(1, MLP(2, 4)), "x | h, z": Bernoulli(3, network)})
    q = Joint({"h | x": OneHot(2, MLP(3, 4)), "z | x, h": Gaussian(1, MLP(5, 4))})
    with torch.no_grad():
        for parameter in (*p["z"].parameters(), *q.parameters()):
            parameter.mul_(2.0)
    return LatentVariableModel(p, q)


def strong() -> LatentVariableModel:
    """One layer whose log-weight is far from linear."""
    network = MLP(2, 4, activation=nn.Tanh)
    p = Joint({"h": Bernoulli(2), "x | h": Bernoulli(3, network)})
    model = LatentVariableModel(p, Joint({"h | x": Bernoulli(2, MLP(3, 4))}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


MODELS: dict[str, Callable[[], LatentVariableModel]] = {
    "tied": tied,
    "continuous": continuous,
    "strong": strong,
}


@dataclass(frozen=True)
class Member:
    make: Callable[[], Draw]
    particles: int | None = None
    objective: Objective = elbo


MEMBERS = {
    "MuProp": Member(MuProp),
    "MuProp, leave one out": Member(lambda: MuProp(LeaveOneOut()), 2, iwae),
    "REBAR": Member(lambda: Rebar(learn=False)),
    "REBAR, half": Member(
        lambda: Rebar(LeaveOneOut(), weight=0.5, temperature=1.0, learn=False), 2, iwae
    ),
    "RELAX": Member(lambda: relax(hidden=(4,))),
}

every_member = pytest.mark.parametrize("member", list(MEMBERS.values()), ids=list(MEMBERS))


def gradients(
    model: LatentVariableModel, draw: dict[str, Draw], member: Member, rows: int, rounds: int
) -> Tensor:
    """Means over rows, one a round, of all parameters."""
    x, parameters, found = {"x": torch.tensor([[1.0, 0.0, 1.0]])}, list(model.parameters()), []
    model.prepare(x, particles=member.particles, draw=draw)
    for _ in range(rounds):
        value, _ = model.estimate(
            member.objective, {"x": x["x"].expand(rows, -1)}, particles=member.particles, draw=draw
        )
        each = torch.autograd.grad(value.mean(), parameters)
        found.append(torch.cat([gradient.flatten() for gradient in each]))
    return torch.stack(found)


@pytest.mark.parametrize("make", list(MODELS.values()), ids=list(MODELS))
@every_member
def test_unbiased_where_latents_depend_on_each_other(
    member: Member, make: Callable[[], LatentVariableModel]
) -> None:
    """Against leave-one-out scores, or the sum where one particle allows it.

    Within 5.5 standard errors of the difference of two means, for each of about 50 parameters:
    fails in 1 of 4,000 seeds. A slope off by a fifth, a later latent that is held, or one that is
    drawn without a path is 10 and more standard errors away.
    """
    torch.manual_seed(0)
    model = make()
    names = [n for n in ("h", "g") if n in model.q]
    rest: dict[str, Draw] = {"z": Reparameterised()} if "z" in model.q else {}
    found = gradients(model, dict.fromkeys(names, Suited(member.make())) | rest, member, 1000, 40)
    if member.particles is None:
        exact = gradients(model, dict.fromkeys(names, Enumerated()) | rest, member, 1000, 10)
    else:
        score = Suited(ScoreFunction(LeaveOneOut()))
        exact = gradients(model, dict.fromkeys(names, score) | rest, member, 4000, 40)
    error = (found.var(0) / len(found) + exact.var(0) / len(exact)).sqrt()
    distance = (found.mean(0) - exact.mean(0)).abs()
    assert (distance <= 5.5 * error + 1e-9).all(), (distance / (error + 1e-12)).max()


def test_they_vary_less_than_the_score() -> None:
    """Total variance of one row's gradient, as a part of the plain score function's.

    Measured: MuProp 0.05, REBAR 0.09; the standard error of such a ratio of 10,000 rows is a few
    per cent of it.
    """
    spread = {}
    ways: dict[str, Callable[[], Draw]] = {
        "score": ScoreFunction,
        "MuProp": MuProp,
        "REBAR": lambda: Rebar(learn=False),
    }
    for name, make in ways.items():
        torch.manual_seed(0)
        found = gradients(strong(), {"h": Suited(make())}, Member(make), 100, 100)
        spread[name] = float(found.var(0).sum())
    assert spread["MuProp"] < 0.2 * spread["score"]
    assert spread["REBAR"] < 0.3 * spread["score"]


def test_mu_prop_is_exact_where_the_objective_is_linear() -> None:
    """Nothing remains for the score: every draw has the exact gradient."""
    torch.manual_seed(0)
    p = Joint({"h": OneHot(3), "x | h": Bernoulli(3, MLP(3, 4))})
    model = LatentVariableModel(p, Joint({"h | x": OneHot(3, MLP(3, 4))}))
    with torch.no_grad():  # h says nothing of x, and its own term is linear
        for parameter in model.p["x"].parameters():
            parameter.zero_()
    x = {"x": torch.tensor([[1.0, 0.0, 1.0]])}
    parameters = list(model.q.parameters())

    def of_q(draw: Draw) -> list[Tensor]:
        value, _ = model.estimate(elbo, x, draw={"h": draw})
        return list(torch.autograd.grad(value.mean(), parameters))

    for _ in range(5):
        for found, exact in zip(of_q(MuProp()), of_q(Enumerated()), strict=True):
            torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("hidden", [None, (4,)], ids=["REBAR", "RELAX"])
def test_the_control_variate_descends_the_squared_gradient(hidden: tuple[int, ...] | None) -> None:
    """Against central differences of the squared gradient of free logits, at the same draws."""
    torch.manual_seed(0)
    p = Joint({"h": OneHot(3), "x | h": Bernoulli(3, MLP(3, 4, activation=nn.Tanh))})
    model = LatentVariableModel(p, Joint({"h": OneHot(3)}))
    x, way = {"x": torch.tensor([[1.0, 0.0, 1.0]])}, Rebar(weight=0.7, hidden=hidden)
    model.prepare(x, draw={"h": way})
    logits = model.q["h"].head.free

    def run(draw: Draw) -> Tensor:
        torch.manual_seed(1)
        value, _ = model.estimate(elbo, x, draw={"h": draw})
        return value.mean()

    def square() -> Tensor:
        whole, direct = [torch.autograd.grad(run(each), logits)[0] for each in (way, Sampled())]
        return (whole - direct).square().sum()

    learnt = list(way.own["h"].parameters())
    found = torch.autograd.grad(run(way), learnt, allow_unused=True)
    checked = 0
    for parameter, slope in zip(learnt, found, strict=True):
        if slope is None:  # the last bias: a constant has no slope, and its score none either
            continue
        with torch.no_grad():
            start, step = parameter.flatten()[0].item(), 1e-6
            values = []
            for sign in (1, -1):
                parameter.view(-1)[0] = start + sign * step
                with torch.enable_grad():
                    values.append(square())
            parameter.view(-1)[0] = start
        expected = -(values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(slope.flatten()[0], expected, rtol=1e-5, atol=1e-7)
        checked += 1
    assert checked >= 2


def test_learning_the_control_variate_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model, found = strong(), []
    for learn in (True, False):
        torch.manual_seed(1)
        value, _ = model.estimate(
            elbo, {"x": torch.ones(5, 3)}, particles=2, draw={"h": Rebar(learn=learn)}
        )
        found.append(torch.autograd.grad(value.mean(), list(model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_learning_lowers_the_variance() -> None:
    """From a bad weight and temperature, in 150 steps."""
    torch.manual_seed(0)
    model, way = strong(), Rebar(weight=0.0, temperature=3.0)
    x = {"x": torch.tensor([[1.0, 0.0, 1.0]]).expand(100, -1)}
    model.prepare(x, draw={"h": way})
    before = gradients(model, {"h": way}, Member(lambda: way), 100, 60).var(0).sum()
    optimizer = torch.optim.Adam(way.parameters(), 0.05)
    for _ in range(150):
        value, _ = model.estimate(elbo, x, draw={"h": way})
        optimizer.zero_grad()
        (-value.mean()).backward()
        optimizer.step()
    after = gradients(model, {"h": way}, Member(lambda: way), 100, 60).var(0).sum()
    assert after < 0.5 * before


def test_a_free_function_needs_its_network_before_the_optimiser() -> None:
    with pytest.raises(ValueError, match=r"model\.prepare"):
        strong().estimate(elbo, {"x": torch.ones(2, 3)}, draw={"h": relax()})


def test_a_learned_baseline_of_what_remains_learns() -> None:
    model, way = strong(), MuProp(Learned(hidden=(4,)))
    x = {"x": torch.ones(2, 3)}
    model.prepare(x, draw={"h": way})
    value, _ = model.estimate(elbo, x, draw={"h": way})
    value.sum().backward()
    assert all(
        [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in way.score.own.parameters()]
    )


@pytest.mark.parametrize("make", [MuProp, Rebar])
def test_what_cannot_be_drawn_anew_is_refused(make: Callable[[], Draw]) -> None:
    """Integers have no value between; a later latent must have a path, and not be enumerated."""
    p = Joint({"h": Bernoulli(1), "n | h": Poisson(1, MLP(1, 4)), "x | n": Bernoulli(3, MLP(1))})
    q = Joint({"h | x": Bernoulli(1, MLP(3, 4)), "n | h": Poisson(1, MLP(1, 4))})
    x = {"x": torch.ones(2, 3)}
    with pytest.raises(ValueError, match="'n' depends on 'h'"):
        LatentVariableModel(p, q).estimate(elbo, x, draw={"h": make(), "n": ScoreFunction()})
    with pytest.raises(ValueError, match="not enumerated"):
        tied().estimate(elbo, x, draw={"h": make(), "g": Enumerated()})
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(3, MLP(3, 4))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(3, 4))}))
    with pytest.raises(ValueError, match="OneHot"):
        model.estimate(elbo, x, draw={"y": make()})
    with pytest.raises(ValueError, match="positive temperature"):
        Rebar(temperature=0.0)
