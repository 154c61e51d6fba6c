"""LatentVariableModel and Evidence: the rules that make the ledger exact, and their messages."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import Joint, NotationError, as_site
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace
from deeplvm.gradients import Draw, Enumerated, Sampled
from deeplvm.gradients.named import vimco
from deeplvm.networks import MLP, Features
from deeplvm.objectives import elbo, free_bits, iwae


def vae(features: int = 6, latent: int = 2) -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(latent), "x | z": Bernoulli(features, MLP(latent, 8))})
    q = Joint({"z | x": Gaussian(latent, MLP(features, 8))})
    return LatentVariableModel(p, q)


def data(rows: int = 5, features: int = 6) -> Tensor:
    return (torch.rand(rows, features) > 0.5).double()


def test_terms_are_log_p_minus_log_q() -> None:
    model, x = vae(), data()
    evidence = model.evidence({"x": x}, particles=3)
    z = evidence.q["z"].value
    assert z.shape == (3, 5, 2)
    log_q = model.q["z"](x).log_prob(z)
    assert torch.allclose(evidence.terms["z"], model.p["z"]().log_prob(z) - log_q, atol=1e-12)
    assert torch.allclose(evidence.terms["x"], model.p["x"](z).log_prob(x), atol=1e-12)
    assert evidence.latents == ("z",)
    assert evidence.observed == ("x",)
    assert evidence.log_measure == pytest.approx(-math.log(3))


def test_encoder_runs_once_for_all_particles() -> None:
    model, x = vae(), data()
    calls: list[tuple[int, ...]] = []
    model.q["z"].register_forward_hook(lambda module, parents, out: calls.append(parents[0].shape))
    model.evidence({"x": x}, particles=7)
    ready = model.encode({"x": x})
    model.evidence({"x": x}, particles=7, ready=ready)
    model.evidence({"x": x}, particles=7, ready=ready)
    assert calls == [(5, 6), (5, 6)]


def test_errors_speak_the_users_notation() -> None:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(6, MLP(2, 8))})
    q = Joint({"a | x": Gaussian(2, MLP(6, 8)), "z | a, x": Gaussian(2, MLP(8, 8))})
    with pytest.raises(
        NotationError, match=r"q draws 'a' but p gives it no density; add 'a \| x, z' to p"
    ):
        LatentVariableModel(p, q)
    unexplained = LatentVariableModel(p)
    with pytest.raises(ValueError, match="p scores 'z', which is neither given nor drawn by q"):
        unexplained.evidence({"x": data()})
    with pytest.raises(ValueError, match="Nothing in the model is called 'X'; its names are x, z"):
        vae().evidence({"X": data()})
    two = LatentVariableModel(Joint({"a": StandardNormal(1), "b": StandardNormal(1)}))
    with pytest.raises(ValueError, match="different numbers of rows"):
        two.evidence({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})
    with pytest.raises(NotationError, match="p must be a Joint"):
        LatentVariableModel(nn.Linear(1, 1))


def test_a_foreign_conditional_without_density_in_p_fails_at_the_first_call() -> None:
    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Distribution:
            return Independent(Normal(x[..., :2], 1.0), 1)

    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(6, MLP(2, 8))})
    model = LatentVariableModel(p, Joint({"z | x": Foreign(), "a | x": Foreign()}))
    with pytest.raises(ValueError, match="q draws 'a' but p gives it no density"):
        model.evidence({"x": data()})


def test_fully_observed_model_is_a_joint_without_latents() -> None:
    """R1.6: p(y | x) by maximum likelihood."""
    model = LatentVariableModel(Joint({"y | x": Categorical(3, MLP(4, 5))}))
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    evidence = model.evidence({"x": x, "y": y})
    expected = torch.stack([model.p["y"](x).log_prob(torch.full((6,), k)) for k in range(3)])[
        y, torch.arange(6)
    ]
    assert torch.allclose(elbo(evidence), expected, atol=1e-12)
    assert torch.allclose(
        iwae(model.evidence({"x": x, "y": y}, particles=4)), expected, atol=1e-12
    )


def test_semi_supervised_m2_is_one_q() -> None:
    """R4.5.1a: the unlabelled bound by enumeration is sum_y q(y|x) (-L(x, y)) + H(q(y|x))."""
    torch.manual_seed(1)
    p = Joint({"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Bernoulli(6, MLP(5, 8))})
    q = Joint({"y | x": Categorical(3, MLP(6, 8)), "z | x, y": Gaussian(2, MLP(9, 8))})
    model, x = LatentVariableModel(p, q), data()
    labelled = model.evidence({"x": x, "y": torch.tensor([0, 1, 2, 0, 1])})
    assert labelled.latents == ("z",)
    assert set(labelled.observed) == {"x", "y"}
    unlabelled = model.evidence({"x": x}, draw={"y": Enumerated()})
    assert unlabelled.log_weight.shape == (3, 5)
    each = [model.q["y"](x).log_prob(torch.full((5,), label)).exp() for label in range(3)]
    probabilities = torch.stack(each, -1)  # (5, 3)
    z = unlabelled.q["z"].value
    total = torch.zeros(5)
    for label in range(3):
        one_hot = nn.functional.one_hot(torch.full((5,), label), 3).double()
        bound = (
            model.p["x"](one_hot, z[label]).log_prob(x)
            + model.p["z"]().log_prob(z[label])
            - model.q["z"](x, one_hot).log_prob(z[label])
            + model.p["y"]().log_prob(torch.full((5,), label))
        )
        total = total + probabilities[:, label] * (bound - probabilities[:, label].log())
    assert torch.allclose(elbo(unlabelled), total, atol=1e-10)
    with pytest.raises(ValueError, match=r"no reparameterised draw.*Enumerated\(\)"):
        model.evidence({"x": x})


def test_closed_form_is_decided_by_the_names() -> None:
    """p's parents of a name must be drawn before it in q."""
    p = Joint(
        {"b": StandardNormal(2), "a | b": Gaussian(2, MLP(2, 4)), "x | a": Bernoulli(6, MLP(2, 4))}
    )
    top_down = Joint({"b | x": Gaussian(2, MLP(6)), "a | b, x": Gaussian(2, MLP(8))})
    bottom_up = Joint({"a | x": Gaussian(2, MLP(6)), "b | a": Gaussian(2, MLP(2))})
    first = LatentVariableModel(p, top_down).evidence({"x": data()})
    second = LatentVariableModel(p, bottom_up).evidence({"x": data()})
    assert first.closed == {"a", "b"}
    assert second.closed == {"b"}
    with pytest.raises(ValueError, match="not all drawn before it in q"):
        second.closed_kl("a")


def test_closed_form_sees_through_deterministic_nodes() -> None:
    features = Features(MLP(2, 4))
    p = Joint(
        {
            "b": StandardNormal(2),
            "d | b": features,
            "a | d": Gaussian(2, MLP(4)),
            "x | a": Bernoulli(6, MLP(2, 4)),
        }
    )
    bottom_up = Joint({"a | x": Gaussian(2, MLP(6)), "b | a": Gaussian(2, MLP(2))})
    assert LatentVariableModel(p, bottom_up).evidence({"x": data()}).closed == {"b"}


def test_shared_path_is_evaluated_once() -> None:
    """A 12-layer top-down path is evaluated 12 times, not 24."""
    torch.manual_seed(0)
    layers, width = 12, 4
    p: dict[str, nn.Module] = {"z12": StandardNormal(2)}
    q: dict[str, nn.Module] = {"h | x": Features(MLP(6, width))}
    q["z12 | h"] = Gaussian(2, MLP(width))
    for layer in range(11, 0, -1):
        above = f"d{layer + 1}, z{layer + 1}" if layer < 11 else "z12"
        node = Features(MLP(width + 2 if layer < 11 else 2, width))
        p[f"d{layer} | {above}"] = q[f"d{layer} | {above}"] = node
        p[f"z{layer} | d{layer}"] = Gaussian(2, MLP(width))
        q[f"z{layer} | d{layer}, h"] = Gaussian(2, MLP(2 * width))
    last = Features(MLP(width + 2, width))
    p["d0 | d1, z1"] = q["d0 | d1, z1"] = last
    p["x | d0"] = Bernoulli(6, MLP(width))
    model = LatentVariableModel(Joint(p), Joint(q))
    calls = [0]
    for module in {m for m in model.modules() if isinstance(m, Features)}:
        module.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    evidence = model.evidence({"x": data()})
    assert calls == [layers + 1]  # and the encoder's own h
    assert len(evidence.latents) == layers
    assert len(list(model.parameters())) == len(set(model.parameters()))


def test_a_shared_module_is_one_node_only_where_its_parents_are() -> None:
    """p computes d from z and q from x: what both make of d by one module differs."""
    torch.manual_seed(0)
    both, more = Features(MLP(3, 4)), Features(MLP(4, 4))
    p = Joint(
        {
            "z": StandardNormal(2),
            "d | z": Features(MLP(2, 3)),
            "e | d": both,
            "f | e": more,
            "x | f": Gaussian(6, MLP(4, 4)),
        }
    )
    posterior = Gaussian(2, MLP(4, 4))
    q = Joint({"d | x": Features(MLP(6, 3)), "e | d": both, "f | e": more, "z | f": posterior})
    model, x = LatentVariableModel(p, q), torch.randn(5, 6)
    assert model.common == set()
    evidence = model.evidence({"x": x}, particles=3)
    z = evidence.q["z"].value
    expected = p["x"](more(both(p["d"](z)))).log_prob(x)
    assert torch.allclose(evidence.terms["x"], expected, atol=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_given_and_drawn_names_are_the_same_value_in_p_and_q(label: bool) -> None:
    """A node of an input, of an observed name and of a draw is shared: each has one value."""
    torch.manual_seed(0)
    nodes: dict[str, nn.Module] = {"d | y": Features(MLP(3, 4)), "e | d, c": Features(MLP(5, 4))}
    p = Joint({"y": Categorical(3), "x | e": Gaussian(6, MLP(4, 4)), **nodes})
    q = Joint({"y | x": Categorical(3, MLP(6, 4)), **nodes})
    model = LatentVariableModel(p, q)
    assert model.common == {"d", "e"}
    calls: list[int] = []
    nodes["e | d, c"].register_forward_hook(lambda *_: calls.append(1))
    given = {"x": torch.randn(5, 6), "c": torch.randn(5, 1)}
    given |= {"y": torch.arange(5) % 3} if label else {}
    evidence = model.evidence(given, draw={} if label else {"y": Enumerated()})
    assert len(calls) == 1
    d = nodes["d | y"](nn.functional.one_hot(evidence.p["y"].value.long(), 3).double())
    e = nodes["e | d, c"](d, given["c"].expand(*d.shape[:-1], 1))
    assert torch.allclose(evidence.terms["x"], p["x"](e).log_prob(given["x"]), atol=1e-12)


class Prior(nn.Module):
    """A distribution of torch as it is, without a batch shape."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution, self.event_shape = distribution, distribution.event_shape

    def forward(self) -> Distribution:
        return self.distribution


class Bits(nn.Module):
    event_shape = torch.Size([3])

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Distribution:
        return Independent(torch.distributions.Bernoulli(logits=self.layer(x)), 1)


PRIORS = {
    "normal": (Normal(torch.ones(3), 2.0), Gaussian(3, MLP(6, 4))),
    "bits of torch": (torch.distributions.Bernoulli(torch.tensor([0.2, 0.5, 0.9])), Bits()),
    "bits": (torch.distributions.Bernoulli(torch.tensor([0.2, 0.5, 0.9])), Bernoulli(3, MLP(6))),
}


@pytest.mark.parametrize("kind", list(PRIORS))
def test_a_prior_of_torch_without_batch_shape(kind: str) -> None:
    """A divergence in closed form, by dimension and with free bits, against the sum of terms."""
    torch.manual_seed(0)
    prior, posterior = PRIORS[kind]
    posterior = copy.deepcopy(posterior).double()
    p = Joint({"z": Prior(Independent(prior, 1)), "x | z": Gaussian(6, MLP(3, 4))})
    model, x = LatentVariableModel(p, Joint({"z | x": posterior})), torch.randn(5, 6)
    bits = kind != "normal"
    evidence = model.evidence({"x": x}, particles=2, draw={"z": Enumerated()} if bits else {})
    each = evidence.kl_by_dimension("z")
    assert each.shape[-1] == 3
    assert torch.allclose(each.sum(-1), evidence.closed_kl("z"), atol=1e-12)
    if bits:
        sampled = evidence.expectation(-evidence.terms["z"].expand(evidence.batch_shape))
        assert torch.allclose(sampled, evidence.kl("z").expand(5), atol=1e-12)
    expected = elbo(evidence.temper(0.0)) - each.mean(0).clamp(min=0.7).sum()
    assert torch.allclose(free_bits(evidence, 0.7, groups="dimension"), expected, atol=1e-6)
    assert elbo(evidence, "analytic").isfinite().all()


def test_missing_elements_are_summed_out() -> None:
    model, x = vae(), data()
    holes = x.clone()
    holes[0, 2] = holes[3] = torch.nan
    evidence = model.evidence({"x": holes})
    z = evidence.q["z"].value
    each = model.p["x"](z).base_dist.log_prob(x)
    expected = torch.where(torch.isnan(holes), torch.zeros(()), each).sum(-1)
    assert torch.allclose(evidence.terms["x"], expected, atol=1e-12)
    assert evidence.terms["x"][3] == 0
    elbo(evidence).mean().backward()
    assert all([torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None])


class Exact(nn.Module):
    """The posterior of a linear-Gaussian model given the elements that are there."""

    accepts_missing = True

    def __init__(self, weight: Tensor, variance: float) -> None:
        super().__init__()
        self.weight, self.variance = weight, variance

    def forward(self, x: Tensor) -> Distribution:
        there = (~torch.isnan(x)).double()  # (B, D)
        weighted = torch.einsum("dk,bd,dl->bkl", self.weight, there, self.weight)
        precision = torch.eye(self.weight.shape[1]) + weighted / self.variance
        covariance = torch.linalg.inv(precision)
        covariance = 0.5 * (covariance + covariance.mT)
        mean = covariance @ (torch.nan_to_num(x) @ self.weight / self.variance)[..., None]
        return MultivariateNormal(mean[..., 0], covariance)


class LinearGaussian(nn.Module):
    def __init__(self, weight: Tensor, variance: float) -> None:
        super().__init__()
        self.weight, self.variance = weight, variance

    def forward(self, z: Tensor) -> Distribution:
        return Independent(Normal(z @ self.weight.T, self.variance**0.5), 1)


@pytest.mark.parametrize("holes", [False, True])
def test_exact_posterior_makes_the_log_weight_constant(holes: bool) -> None:
    """R2.2: every single-sample value equals log p(x), also with missing elements."""
    torch.manual_seed(0)
    weight = torch.randn(5, 2)
    p = Joint({"z": StandardNormal(2), "x | z": LinearGaussian(weight, 0.5)})
    model = LatentVariableModel(p, Joint({"z | x": Exact(weight, 0.5)}))
    x = torch.randn(6, 5)
    if holes:
        x[torch.rand(6, 5) > 0.6] = torch.nan
        x[0] = torch.nan
    evidence = model.evidence({"x": x}, particles=50)
    weights = evidence.log_weight
    assert (weights - weights[:1]).abs().max() < 1e-10
    covariance = weight @ weight.T + 0.5 * torch.eye(5)
    for row in range(6):
        there = ~torch.isnan(x[row])
        if there.any():
            part = MultivariateNormal(torch.zeros(int(there.sum())), covariance[there][:, there])
            assert torch.allclose(weights[0, row], part.log_prob(x[row][there]), atol=1e-10)
        else:
            assert weights[:, row].abs().max() < 1e-12


def test_names_shared_by_all_rows() -> None:
    """Bayesian linear regression: with the exact posterior over weights, the sum of the rows'
    log-weights is the log marginal likelihood of the data set."""
    torch.manual_seed(0)
    x, rows = torch.randn(8, 2), 8
    y = x @ torch.tensor([[1.0], [-2.0]]) + 0.3 * torch.randn(8, 1)
    precision = torch.eye(2) + x.T @ x / 0.09
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (x.T @ y)[:, 0] / 0.09

    class Weights(nn.Module):
        def forward(self) -> Distribution:
            return MultivariateNormal(mean, covariance)

    class Regression(nn.Module):
        def forward(self, w: Tensor, x: Tensor) -> Distribution:
            return Independent(Normal((w * x).sum(-1, keepdim=True), 0.3), 1)

    p = Joint({"w": StandardNormal(2), "y | w, x": Regression()}, shared=["w"])
    model = LatentVariableModel(p, Joint({"w": Weights()}, shared=["w"]))
    evidence = model.evidence({"x": x, "y": y}, particles=4, rows=rows)
    assert evidence.q["w"].value.shape == (4, 1, 2)
    total = evidence.log_weight.sum(-1)
    marginal = MultivariateNormal(torch.zeros(8), x @ x.T + 0.09 * torch.eye(8)).log_prob(y[:, 0])
    assert torch.allclose(total, marginal.expand(4), atol=1e-9)
    with pytest.raises(ValueError, match="All rows share w; say how many rows"):
        model.evidence({"x": x, "y": y})
    with pytest.raises(NotationError, match="both must name the same"):
        LatentVariableModel(p, Joint({"w": Weights()}))


def test_conditional_model_with_constant_context_is_the_unconditional_one() -> None:
    """R1.3.1: bit for bit."""
    torch.manual_seed(0)
    decoder, encoder = MLP(2, 8), MLP(6, 8)

    class Ignore(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.event_shape = inner.event_shape

        def forward(self, *parents: Tensor) -> Distribution:
            return self.inner(parents[0])

    likelihood, posterior = Bernoulli(6, decoder), Gaussian(2, encoder)
    plain = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z": likelihood}), Joint({"z | x": posterior})
    )
    conditional = LatentVariableModel(
        Joint({"z": StandardNormal(2), "x | z, c": Ignore(likelihood)}),
        Joint({"z | x, c": Ignore(posterior)}),
    )
    x = data()
    torch.manual_seed(3)
    first = elbo(plain.evidence({"x": x}))
    torch.manual_seed(3)
    assert torch.equal(elbo(conditional.evidence({"x": x, "c": torch.ones(5, 1)})), first)


def test_temper_weights_latent_terms_only() -> None:
    evidence = vae().evidence({"x": data()})
    tempered = evidence.temper(0.25)
    expected = evidence.terms["x"] + 0.25 * evidence.terms["z"]
    assert torch.allclose(tempered.log_weight, expected, atol=1e-12)
    assert torch.equal(evidence.temper(torch.tensor(0.25)).log_weight, tempered.log_weight)


class Program(nn.Module):
    """p(z) p(y) p(x | z, y) of ``joint``, written by hand: the same conditionals, other code."""

    names = ("z", "y", "x")
    inputs: tuple[str, ...] = ()

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint

    def forward(
        self,
        given: dict[str, Site],
        batch_shape: tuple[int, ...],
        *,
        default: Draw | None = None,
        **options: object,
    ) -> Trace:
        sites = dict(given)
        for name, parents in (("z", ()), ("y", ()), ("x", ("z", "y"))):
            distribution = self.joint[name](*[sites[parent].features for parent in parents])
            if name in given:
                density = distribution.log_prob(given[name].value)
                sites[name] = replace(given[name], distribution=distribution, log_prob=density)
            else:
                dims = max([sites[parent].batch_dims for parent in parents], default=0)
                drawn = (default or Sampled())(name, distribution, batch_shape, dims)
                site = as_site(name, drawn.value, self.joint, batch_dims=len(batch_shape))
                sites[name] = replace(
                    site, distribution=distribution, log_prob=drawn.log_prob, drawn=True
                )
        return Trace(sites, batch_shape)


def test_a_program_may_be_ordinary_code() -> None:
    """R4.5.3r: the ELBO of a program is that of the joint, and its gradient; it samples too."""
    torch.manual_seed(0)
    joint = Joint({"z": Gaussian(2), "y": Categorical(3), "x | z, y": Gaussian(4, MLP(5, 8))})
    q = Joint({"y | x": Categorical(3, MLP(4, 8)), "z | x, y": Gaussian(2, MLP(7, 8))})
    x, found = torch.randn(5, 4), []
    for p in (joint, Program(joint)):
        model, values = LatentVariableModel(p, q), []
        for way in (Enumerated(), vimco()):
            model.zero_grad()
            torch.manual_seed(1)
            value, evidence = model.estimate(elbo, {"x": x}, particles=3, draw={"y": way})
            value.sum().backward()
            values += [value, iwae(evidence)]
            values += [each.grad.clone() for each in (*joint.parameters(), *q.parameters())]
        torch.manual_seed(2)
        values += [model.sample(6)["x"].value, model.reconstruct({"x": x})["x"].value]
        found.append(values)
    for each, truth in zip(*found, strict=True):
        torch.testing.assert_close(each, truth, rtol=1e-10, atol=1e-10)


def test_sampling_and_reconstruction() -> None:
    model, x = vae(), data()
    trace = model.sample(4)
    assert trace["x"].value.shape == (4, 6)
    fixed = model.sample(given={"z": torch.zeros(3, 2)})
    assert torch.equal(fixed["z"].value, torch.zeros(3, 2))
    again = model.reconstruct({"x": x}, particles=2)
    assert again["x"].value.shape == (2, 5, 6)
    assert again["x"].distribution.mean.shape == (2, 5, 6)


def test_models_and_evidence_show_themselves() -> None:
    model = vae()
    assert model.factorisation == "p(z) p(x | z) · q(z | x)"
    text = str(model)
    assert "p(x | z)" in text
    assert "(6,)" in text
    assert "parameters" in text
    assert "<table" in model._repr_html_()
    evidence = model.evidence({"x": data()})
    assert "z:" in repr(evidence)
    assert "<table" in evidence._repr_html_()
    assert "drawn" in repr(evidence.q)


@pytest.mark.parametrize("particles", [None, 3])
def test_step_is_one_graph(particles: int | None) -> None:
    model, x = vae(), data()

    def loss(x: Tensor) -> Tensor:
        return -elbo(model.evidence({"x": x}, particles=particles)).mean()

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.manual_seed(0)
    expected = loss(x)
    torch.manual_seed(0)
    assert torch.allclose(compiled(x), expected)


def test_evidence_is_frozen() -> None:
    evidence: Evidence = vae().evidence({"x": data()})
    with pytest.raises(AttributeError):
        evidence.kl_weight = 2.0  # type: ignore[misc]
