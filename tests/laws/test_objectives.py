"""Every objective on every kind of model: the laws they obey (R2.2b, R2.6b, R2.8.1)."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm import (
    Enumerated,
    Evidence,
    Joint,
    LatentVariableModel,
    beta_elbo,
    elbo,
    free_bits,
    iwae,
    objectives,
)
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    FullCovarianceGaussian,
    Gaussian,
    StandardNormal,
)
from deeplvm.gradients import Draw
from deeplvm.networks import MLP
from deeplvm.objectives import (
    Constrained,
    GrowingCapacity,
    SoftFreeBits,
    alpha_energy,
    beta_tc_elbo,
    info_vae,
    renyi,
    vr_max,
)
from models import linear, marginal

Objective = Callable[[Evidence], Tensor]

OBJECTIVES: dict[str, Objective] = {
    "elbo": elbo,
    "elbo, analytic": lambda e: elbo(e, form="analytic"),
    "elbo, entropy": lambda e: elbo(e, form="entropy"),
    "beta_elbo": lambda e: beta_elbo(e, 4.0),
    "iwae": iwae,
    "free_bits by variable": lambda e: free_bits(e, 0.5),
    "free_bits by dimension": lambda e: free_bits(e, 0.1, groups="dimension"),
    "free_bits per row": lambda e: free_bits(e, 0.5, per="row"),
    "free_bits by dimension, per row": lambda e: free_bits(e, 0.1, groups="dimension", per="row"),
    "beta_elbo with a capacity": lambda e: beta_elbo(e, 4.0, capacity=0.5),
    "renyi 0.5": lambda e: renyi(e, 0.5),
    "renyi 2": lambda e: renyi(e, 2.0),
    "renyi -1": lambda e: renyi(e, -1.0),
    "vr_max": vr_max,
    "alpha_energy": lambda e: alpha_energy(e, 0.3),
    "beta_tc_elbo": lambda e: beta_tc_elbo(e, 100, name=e.latents[0]),
    "beta_tc_elbo, weighted": lambda e: beta_tc_elbo(
        e, 100, name=e.latents[0], sampler="weighted"
    ),
    "info_vae": lambda e: info_vae(e, name=e.latents[-1]),
    "info_vae, imq": lambda e: info_vae(e, 0.5, kernel="imq", name=e.latents[-1]),
    "elbo + iwae": lambda e: 0.5 * (elbo(e) + iwae(e)),
}

# Objectives with a state: a fresh one for each ledger.
WITH_STATE: dict[str, Callable[[Evidence], nn.Module]] = {
    "SoftFreeBits": lambda e: SoftFreeBits(dict.fromkeys(e.latents, 0.5)),
    "Constrained": lambda e: Constrained(1.0),
    "GrowingCapacity": lambda e: GrowingCapacity(0.5, steps=3, beta=4.0),
}
OBJECTIVES |= {
    name: lambda e, make=make: make(e)(e)  # type: ignore[misc]
    for name, make in WITH_STATE.items()
}

# Objectives that read one latent, or several by name, and those whose latents must factorise.
OF_A_LATENT = {name for name in OBJECTIVES if "tc_elbo" in name or "info_vae" in name}
OF_A_LATENT |= {"SoftFreeBits"}
OF_DIMENSIONS = {name for name in OBJECTIVES if "dimension" in name or "tc_elbo" in name}

ROWS = 6


@dataclass(frozen=True)
class Case:
    """A model, how its latents are drawn, and whether its latents factorise over dimensions."""

    model: Callable[[], LatentVariableModel]
    draw: Mapping[str, Draw] | None = None
    factorises: bool = True

    def evidence(self, model: LatentVariableModel, particles: int | None) -> Evidence:
        x = torch.randint(2, (ROWS, 4)).to(torch.get_default_dtype())
        return model.evidence({"x": x}, particles=particles, draw=self.draw, missing=())


def diagonal() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(4, MLP(2, 5))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4, 5))}))


def full_covariance() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(4, MLP(2, 5))})
    return LatentVariableModel(p, Joint({"z | x": FullCovarianceGaussian(2, MLP(4, 5))}))


def two_layers() -> Joint:
    return Joint(
        {
            "z2": StandardNormal(2),
            "z1 | z2": Gaussian(3, MLP(2, 5)),
            "x | z1": Bernoulli(4, MLP(3, 5)),
        }
    )


def top_down() -> LatentVariableModel:
    q = Joint({"z2 | x": Gaussian(2, MLP(4, 5)), "z1 | x, z2": Gaussian(3, MLP(6, 5))})
    return LatentVariableModel(two_layers(), q)


def bottom_up() -> LatentVariableModel:
    """Here p's parent of z1 is drawn after it: its divergence has no closed form."""
    q = Joint({"z1 | x": Gaussian(3, MLP(4, 5)), "z2 | z1": Gaussian(2, MLP(3, 5))})
    return LatentVariableModel(two_layers(), q)


def enumerated_label() -> LatentVariableModel:
    p = Joint({"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Bernoulli(4, MLP(5, 5))})
    q = Joint({"y | x": Categorical(3, MLP(4, 5)), "z | x, y": Gaussian(2, MLP(7, 5))})
    return LatentVariableModel(p, q)


def no_latents() -> LatentVariableModel:
    return LatentVariableModel(Joint({"x": Bernoulli(4)}))


CASES = {
    "diagonal": Case(diagonal),
    "full covariance": Case(full_covariance, factorises=False),
    "two layers, top-down": Case(top_down),
    "two layers, bottom-up": Case(bottom_up, factorises=False),
    "enumerated label": Case(enumerated_label, {"y": Enumerated()}),
    "no latents": Case(no_latents),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def has(case: Case, name: str) -> bool:
    """Whether a case has what an objective needs."""
    if name in OF_A_LATENT and case.model is no_latents:
        return False
    # of the two layers, the first is drawn given x alone and does factorise
    diagonal = case.factorises or (case.model is bottom_up and "tc_elbo" in name)
    return diagonal or name not in OF_DIMENSIONS


def skip_if_not_factorised(case: Case, objective: Objective) -> None:
    (name,) = [name for name, each in OBJECTIVES.items() if each is objective]
    if not has(case, name):
        pytest.skip("no such latent, or no divergence by dimension")


@every_objective
@every_case
def test_shape_and_gradient(case: Case, objective: Objective) -> None:
    """One value a row, finite, and every parameter gets a finite gradient, for any particles."""
    skip_if_not_factorised(case, objective)
    model = case.model()
    for particles in (None, 1, 5):
        values = objective(case.evidence(model, particles))
        assert values.shape == (ROWS,), particles
        assert values.isfinite().all(), particles
        gradients = torch.autograd.grad(
            values.sum(), list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        assert all([gradient.isfinite().all() for gradient in gradients]), particles
        assert any([gradient.abs().max() > 0 for gradient in gradients]), particles


@every_objective
def test_missing_elements_are_left_out(objective: Objective) -> None:
    """Rows with NaN elements: finite values and gradients, and a row of NaN has its own too."""
    model = diagonal()
    x = torch.randint(2, (ROWS, 4)).double()
    x[0, 1], x[2] = torch.nan, torch.nan
    values = objective(model.evidence({"x": x}, particles=3))
    assert values.shape == (ROWS,)
    assert values.isfinite().all()
    gradients = torch.autograd.grad(values.sum(), list(model.parameters()))
    assert all([gradient.isfinite().all() for gradient in gradients])


@every_objective
@every_case
def test_kl_weight_is_taken_by_every_objective(case: Case, objective: Objective) -> None:
    """R2.8.1a: weight 1, number or tensor, changes nothing; weight 0 leaves E_q log p(x|z)."""
    skip_if_not_factorised(case, objective)
    evidence = case.evidence(case.model(), 5)

    def value(weight: Tensor | float) -> Tensor:
        torch.manual_seed(0)  # an objective may draw from the prior
        return objective(evidence.temper(weight))

    torch.manual_seed(0)
    plain = objective(evidence)
    assert torch.equal(value(1.0), plain)
    assert torch.allclose(value(torch.tensor(1.0)), value(1.0))
    if objective in (elbo, OBJECTIVES["elbo, analytic"], OBJECTIVES["free_bits by variable"]):
        reconstruction = evidence.expectation(
            evidence.total([evidence.terms[name] for name in evidence.observed])
        )
        assert torch.allclose(objective(evidence.temper(0.0)), reconstruction)


@pytest.mark.parametrize(
    "name, particles",
    [
        ("diagonal", None), ("diagonal", 5), ("full covariance", None),
        ("two layers, top-down", 5), ("two layers, bottom-up", 5), ("enumerated label", None),
        ("enumerated label", 5), ("no latents", None),
    ],
)  # fmt: skip
def test_traces_as_one_graph(name: str, particles: int | None) -> None:
    """`torch.compile(fullgraph=True)` of a step with every objective gives what eager gives.

    Whether there are several particles matters to what is drawn and to what is enumerated.
    """
    case = CASES[name]
    model = case.model()
    x = torch.ones(ROWS, 4)
    names = [name for name in OBJECTIVES if has(case, name) and name not in WITH_STATE]
    if particles is None or case.model is not diagonal:  # all of them once
        core = (
            "elbo",
            "elbo, analytic",
            "iwae",
            "free_bits by variable",
            "free_bits by dimension",
        )
        names = [name for name in names if name in core]

    def step(x: Tensor) -> Tensor:
        evidence = model.evidence({"x": x}, particles=particles, draw=case.draw, missing=())
        return torch.stack([OBJECTIVES[name](evidence) for name in names])

    torch._dynamo.reset()
    torch.manual_seed(1)
    expected = step(x)
    torch.manual_seed(1)
    compiled = torch.compile(step, fullgraph=True, backend="eager")(x)
    assert torch.allclose(compiled, expected)


@every_objective
@every_case
def test_equal_weights_are_a_monte_carlo_mean(case: Case, objective: Objective) -> None:
    """A log-measure of -log K for each particle says what the number -log K says."""
    skip_if_not_factorised(case, objective)
    if case.draw:
        pytest.skip("enumerated values have weights of their own")
    evidence = case.evidence(case.model(), 5)
    measure = torch.full(evidence.batch_shape, -math.log(5))
    torch.manual_seed(0)
    drawn = objective(evidence)
    torch.manual_seed(0)
    assert torch.allclose(objective(replace(evidence, log_measure=measure)), drawn)


@every_case
def test_one_particle_is_the_elbo(case: Case) -> None:
    """R2.6b: iwae(K=1) is the ELBO, and so are its gradients, exactly (no enumerated names)."""
    if case.draw:
        pytest.skip("an enumerated name has as many particles as values")
    model = case.model()
    evidence = case.evidence(model, 1)
    assert torch.equal(iwae(evidence), elbo(evidence))
    parameters = list(model.parameters())
    one = torch.autograd.grad(elbo(evidence).sum(), parameters, retain_graph=True)
    other = torch.autograd.grad(iwae(evidence).sum(), parameters)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@every_case
def test_iwae_gradient_is_the_weighted_sum(case: Case) -> None:
    """R2.6b: sum_k w~_k grad log w_k with normalised weights w~, held fixed."""
    model = case.model()
    evidence = case.evidence(model, 5)
    parameters = list(model.parameters())
    automatic = torch.autograd.grad(
        iwae(evidence).sum(), parameters, retain_graph=True, allow_unused=True
    )
    total = evidence.log_measure + evidence.log_weight
    normalised = torch.exp(total - iwae(evidence)).detach()
    assert torch.allclose(normalised.sum(evidence.particle_dims), torch.ones(ROWS))
    # where values are enumerated the measure log q(y | x) has a gradient too
    by_hand = torch.autograd.grad((normalised * total).sum(), parameters, allow_unused=True)
    for a, b in zip(automatic, by_hand, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["diagonal", "full covariance", *[n for n in CASES if "two layers" in n]]
)
def test_three_forms_agree(name: str) -> None:
    """R2.2b: differences have mean zero within 4 standard errors; one seed in 2,000 fails."""
    model = CASES[name].model()
    x = torch.randint(2, (1, 4)).double().expand(20_000, 4)
    with torch.no_grad():
        evidence = model.evidence({"x": x})
        sampled = elbo(evidence)
        others = [elbo(evidence, form="analytic"), elbo(evidence, form="entropy")]
    for other in others:
        difference = sampled - other
        error = difference.std() / math.sqrt(len(difference))
        assert difference.mean().abs() < 4 * error + 1e-12


def test_enumeration_makes_the_forms_equal() -> None:
    """R2.2b: nothing is drawn, so sampled and analytic are the same number."""
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    evidence = model.evidence({"x": torch.ones(ROWS, 4)}, draw={"y": Enumerated()})
    assert torch.allclose(elbo(evidence), elbo(evidence, form="analytic"), rtol=0, atol=1e-12)
    assert torch.allclose(elbo(evidence), elbo(evidence, form="entropy"), rtol=0, atol=1e-12)


def test_bounds_are_ordered_on_a_linear_gaussian_model() -> None:
    """TB1: E[free_bits] <= E[elbo] <= E[iwae] <= log p, and beta above 1 is below the ELBO.

    Each gap is more than 10 standard errors of 20,000 draws.
    """
    model, log_px = linear(q=Gaussian(1, MLP(2), scale=0.5)), marginal()
    with torch.no_grad():
        evidence = model.evidence({"x": torch.ones(20_000, 2)}, particles=5)
        value = {
            name: float(each(evidence).mean())
            for name, each in OBJECTIVES.items()
            if name not in OF_A_LATENT
        }
        kl = float(evidence.kl("z").mean())
    exact = float(log_px.log_prob(torch.ones(2)))
    assert exact == pytest.approx(-2.707313885885, abs=1e-11)
    assert value["elbo"] < value["iwae"] - 0.01
    assert value["iwae"] < exact - 0.01
    assert value["beta_elbo"] < value["elbo"]
    assert value["free_bits by variable"] <= value["elbo"] + 0.01
    assert float(free_bits(evidence, kl + 1.0).mean()) < value["elbo"] - 0.5
    assert value["free_bits per row"] <= value["elbo"] + 0.01
    # alpha 2, 1, 0.7, 0.5, 0, -1, minus infinity
    order = ["renyi 2", "elbo", "alpha_energy", "renyi 0.5", "iwae", "renyi -1", "vr_max"]
    assert [value[name] for name in order] == sorted([value[name] for name in order])
    assert all([value[name] < exact for name in order[: order.index("renyi -1")]])


class Fixed(nn.Module):
    """q(z | x) = N(x, 1): the divergence of dimension i is x_i^2 / 2."""

    event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        unit = torch.distributions.Normal(x, 1.0)
        return torch.distributions.Independent(unit, 1)


def with_divergences(*divergences: float) -> Evidence:
    """Rows whose divergence has these values in dimension 0, and none in dimension 1."""
    means = torch.tensor(divergences).mul(2).sqrt()
    x = torch.stack([means, torch.zeros_like(means)], 1).requires_grad_()
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": Fixed()})).evidence({"x": x})


def observed_terms(evidence: Evidence) -> Tensor:
    return evidence.terms["x"]


@pytest.mark.parametrize("groups", ["variable", "dimension"])
def test_free_bits_has_the_mean_inside_the_maximum(groups: str) -> None:
    """R2.8.1b, the trap: rows with divergences 0 and 2 lambda cost lambda, not 1.5 lambda."""
    allowed = 0.7
    evidence = with_divergences(0.0, 2 * allowed)
    value = free_bits(evidence, allowed, groups=groups)  # type: ignore[arg-type]
    cost = (observed_terms(evidence) - value).mean().detach()
    # the second dimension, a group of its own, has no divergence and costs its lambda too
    assert float(cost) == pytest.approx(allowed * (2 if groups == "dimension" else 1), abs=1e-12)


@pytest.mark.parametrize("groups", ["variable", "dimension"])
def test_free_bits_below_the_minimum_have_no_gradient(groups: str) -> None:
    """R2.8.1b: exactly zero, so a latent may be used at no cost up to lambda."""
    evidence = with_divergences(0.1, 0.3)
    x = evidence.q["z"].distribution.mean  # type: ignore[union-attr]
    cost = (observed_terms(evidence) - free_bits(evidence, 0.5, groups=groups)).sum()  # type: ignore[arg-type]
    (below,) = torch.autograd.grad(
        cost, x, retain_graph=True, materialize_grads=True, allow_unused=True
    )
    assert (below == 0).all()
    cost = (observed_terms(evidence) - free_bits(evidence, 0.05, groups=groups)).sum()  # type: ignore[arg-type]
    (above,) = torch.autograd.grad(cost, x, materialize_grads=True, allow_unused=True)
    assert (above[:, 0] != 0).all()


@pytest.mark.parametrize("groups", ["variable", "dimension"])
def test_no_free_bits_is_the_elbo(groups: str) -> None:
    """R2.8.1b: lambda = 0 gives the ELBO, averaged over rows as the objective is."""
    evidence = diagonal().evidence({"x": torch.randint(2, (ROWS, 4)).double()}, particles=3)
    value = free_bits(evidence, 0.0, groups=groups)  # type: ignore[arg-type]
    assert torch.allclose(value.mean(), elbo(evidence, form="analytic").mean())
    assert free_bits(evidence, 0.4, groups=groups).mean() <= value.mean() + 1e-12  # type: ignore[arg-type]


def test_beta() -> None:
    """R4.5.1d: beta = 1 is the ELBO, beta = 0 a plain autoencoder, to the encoder's gradient."""
    model = diagonal()
    evidence = model.evidence({"x": torch.randint(2, (ROWS, 4)).double()}, particles=3)
    assert torch.allclose(beta_elbo(evidence, 1.0), elbo(evidence))
    encoder = list(model.q.parameters())
    plain = torch.autograd.grad(observed_terms(evidence).mean(0).sum(), encoder, retain_graph=True)
    zero = torch.autograd.grad(beta_elbo(evidence, 0.0).sum(), encoder)
    for a, b in zip(plain, zero, strict=True):
        assert torch.allclose(a, b, atol=1e-14)


def public_objectives() -> dict[str, Any]:
    """What deeplvm.objectives offers that is an objective: functions of evidence, and modules."""
    found = {name: getattr(objectives, name) for name in objectives.__all__}
    return {
        name: each
        for name, each in found.items()
        if (inspect.isclass(each) and issubclass(each, nn.Module))
        or (
            inspect.isfunction(each)
            and next(iter(inspect.signature(each).parameters)) == "evidence"
            and inspect.signature(each).return_annotation in (Tensor, "Tensor")
        )
    }


@pytest.mark.parametrize("name", public_objectives())
def test_every_objective_says_whether_it_is_a_bound(name: str) -> None:
    text = " ".join((public_objectives()[name].__doc__ or "").split())
    assert re.search(r"\b([Aa] lower bound|[Nn]ot a bound) on ``log p\(x\)``", text), name
    assert "https://" in text


def test_every_objective_is_in_the_table() -> None:
    """Those of wake and sleep, of labels, graphs, and of what p computes: see tests/objectives."""
    tested = {re.split("[ ,]", name)[0] for name in OBJECTIVES}
    others = {"auxiliary_elbo", "balanced_elbo", "fair_elbo", "semi_supervised_elbo", "sleep"}
    others |= {"wake_phi"}
    assert set(public_objectives()) - tested == others


@pytest.mark.parametrize("name", WITH_STATE)
def test_a_state_moves_in_training_only(name: str) -> None:
    """In eval mode no buffer changes; in training mode one does, without a gradient."""
    model = diagonal()
    evidence = model.evidence({"x": torch.ones(ROWS, 4)}, particles=3)
    objective = WITH_STATE[name](evidence)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    assert before
    objective.eval()
    still = objective(evidence)
    assert all([torch.equal(value, before[key]) for key, value in objective.state_dict().items()])
    objective.train()
    for _ in range(3):
        objective(evidence).sum().backward(retain_graph=True)
    after = objective.state_dict()
    assert any([not torch.equal(value, before[key]) for key, value in after.items()])
    assert all([not value.requires_grad for value in after.values()])
    other = WITH_STATE[name](evidence)
    other.load_state_dict(before)
    assert torch.equal(other.eval()(evidence), still)


@pytest.mark.parametrize("name", WITH_STATE)
def test_a_state_traces_as_one_graph(name: str) -> None:
    model = diagonal()
    x = torch.ones(ROWS, 4)
    first = model.evidence({"x": x}, particles=3, missing=())
    runs = []
    for compiled in (False, True):
        objective = WITH_STATE[name](first)

        def step(x: Tensor, objective: nn.Module = objective) -> Tensor:
            return objective(model.evidence({"x": x}, particles=3, missing=()))

        torch._dynamo.reset()
        run = torch.compile(step, fullgraph=True, backend="eager") if compiled else step
        torch.manual_seed(1)
        values = torch.stack([run(x) for _ in range(3)])
        runs.append((values, objective.state_dict()))
    assert torch.allclose(runs[0][0], runs[1][0])
    for key, value in runs[0][1].items():
        assert torch.allclose(value, runs[1][1][key])


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(
        ValueError, match="form is 'sampled', 'analytic' or 'entropy', not 'exact'"
    ):
        elbo(diagonal().evidence({"x": torch.ones(2, 4)}), form="exact")  # type: ignore[arg-type]


def test_free_bits_by_dimension_need_dimensions() -> None:
    with pytest.raises(ValueError, match="'z' does not factorise over its dimensions"):
        free_bits(full_covariance().evidence({"x": torch.ones(2, 4)}), groups="dimension")
