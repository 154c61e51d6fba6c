"""Does this installation compute what can be computed otherwise? Exact answers, in a minute."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from deeplvm import distributions as d
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    Gaussian,
    LinearGaussian,
    OneHot,
    StandardNormal,
)
from deeplvm.conditionals import flows as f
from deeplvm.core.draws import Enumerated, Suited
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.devices import device_of
from deeplvm.diagnosis.oracles import (
    BOUNDS,
    ExactPosterior,
    binary,
    conjugate,
    every,
    linear,
    log_joint,
    marginal,
)
from deeplvm.gradients.named import estimator_of
from deeplvm.likelihood import annealed_importance_sampling, exact_likelihood, importance_sampling
from deeplvm.networks import MLP
from deeplvm.objectives import elbo
from deeplvm.randomness import own_randomness
from deeplvm.recurrent import Recurrent
from deeplvm.results import Record
from deeplvm.training import Machine, Optimization, fit
from deeplvm.training.checkpoint import load_model_into, save_model

# Standard errors by which an estimate may miss, of a few numbers, and of some forty gradients,
# whose errors are of 20 means (Student's t): by chance one seed in 5,000 fails; it is fixed.
_FAR, _FARTHER = 5.0, 6.24


@dataclass(frozen=True)
class Check(Record, also="passed"):
    """One quantity beside what it must be.

    Attributes:
        what: Which quantity.
        oracle: What it was compared with.
        difference: The largest that was found; ``nan`` where it could not be computed.
        tolerance: What it may be.
        unit: Of both.
        seconds: What it took.
        error: What went wrong, where it could not be computed.
    """

    what: str
    oracle: str
    difference: float
    tolerance: float
    unit: str
    seconds: float
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; not a number is not."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Checks(Record, also="passed"):
    """What an installation computes beside exact answers.

    Attributes:
        checks: One a quantity.
        device: Where the model of the last ones was.
        versions: Of torch and this package.
    """

    checks: tuple[Check, ...]
    device: str
    versions: str
    header = ("", "computed", "compared with", "difference", "tolerance", "")

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all([each.passed for each in self.checks])

    def heading(self) -> str:
        """Of what."""
        return f"{len(self.checks)} checks of {self.versions}, {self.device}"

    def table(self) -> list[tuple[str, ...]]:
        """One line a check."""
        return [
            (
                "ok" if e.passed else "FAILED", e.what, e.oracle,
                f"{e.difference:.2g}", f"{e.tolerance:g}", e.unit,
            )
            for e in self.checks
        ]  # fmt: skip

    def notes(self) -> list[str]:
        """Whether all is well."""
        failed = [
            f"{each.what}{f' ({each.error})' if each.error else ''}"
            for each in self.checks
            if not each.passed
        ]
        if not failed:
            return [f"All is as it must be ({sum([e.seconds for e in self.checks]):.0f} s)."]
        return [f"{len(failed)} of {len(self.checks)} failed: {'; '.join(failed)}."]


def selfcheck(
    *, device: str = "auto", seed: int = 0, told: Callable[[Check], None] = lambda _: None
) -> Checks:
    """Hold what is computed here against closed forms, enumeration, integrals and Jacobians.

    In float64, on the CPU; the last checks are of the device.

    Args:
        device: Which one: ``"auto"`` is CUDA if there is one.
        seed: Of all draws. Another one is another check of the estimates.
        told: Is told of each check when it is done.
    """
    from deeplvm.runs.run import version

    target = device_of(device)
    of_device = {
        "float32 log p(x, z)": ("float64", 1e-5, "relative", lambda: _precision(target)),
        f"log p(x) on {target.type}, float64": (
            "the CPU, row by row", 1e-10, "nats", lambda: _device(target)
        ),
    }  # fmt: skip
    found = []
    for what, (oracle, tolerance, unit, function) in (CHECKS | of_device).items():
        began, error, difference = time.perf_counter(), "", math.nan
        with _float64(), own_randomness(target, seed):
            try:
                difference = float(function())
            except Exception as raised:  # noqa: BLE001 - a broken library raises anything
                error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"[:200]
        took = time.perf_counter() - began
        found.append(Check(what, oracle, difference, tolerance, unit, took, error))
        told(found[-1])
    versions = f"deeplvm {version()}, torch {torch.__version__}"
    return Checks(tuple(found), str(target), versions)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _largest(found: Tensor, expected: Tensor | float) -> float:
    """The largest difference; infinite where either is not a number."""
    return float((found - expected).detach().abs().nan_to_num(math.inf).max())


def _evidence() -> float:
    """Every draw of the exact posterior has log-weight log p(x of what is observed)."""
    weight, bias, noise = torch.randn(6, 3), torch.randn(6), 0.5
    model = linear(weight, noise, ExactPosterior(weight, bias, noise**2), bias)
    x = 2 * torch.randn(20, 6)
    x[torch.rand(20, 6) < 0.3] = math.nan
    whole, exact = marginal(weight, noise, bias), []
    for row in x:
        known = ~row.isnan()
        part = whole.covariance_matrix[known][:, known]
        exact.append(MultivariateNormal(whole.mean[known], part).log_prob(row[known]))
    with torch.no_grad():
        found = model.evidence({"x": x}, particles=20).log_weight
    return _largest(found, torch.stack(exact))


def _bounds() -> float:
    seed = int(torch.randint(2**31, ()))
    found = importance_sampling(conjugate(), {"x": torch.ones(2_000)}, particles=200, seed=seed)
    curve = {point.particles: point for point in found.curve}
    return max([abs(curve[k].value - BOUNDS[k]) / curve[k].stderr for k in (1, 5, 50)])


def _annealing() -> float:
    x = marginal().sample((10,))
    found = annealed_importance_sampling(linear(), {"x": x}, particles=10, temperatures=10)
    error = found.log_px - marginal().log_prob(x)
    return float(error.mean().abs() / (error.std() / len(error) ** 0.5))


def _enumerated() -> float:
    model, x = binary(8), every(5)
    return _largest(exact_likelihood(model, {"x": x}).log_px, log_joint(model, x).logsumexp(1))


def _all_of_x() -> float:
    return abs(float(exact_likelihood(binary(4), {"x": every(5)}).log_px.exp().sum()) - 1)


def _hidden_markov() -> float:
    p = Recurrent(
        {"k | k[-1]": Categorical(3, MLP(3)), "x | k": Gaussian(2, MLP(3))}, start={"k": 3}
    )
    x = torch.randn(3, 4, 2)
    paths = torch.tensor([*itertools.product(range(3), repeat=4)])
    with torch.no_grad():
        found = LatentVariableModel(p).evidence({"x": x}, draw={"k": Enumerated()}).log_weight
        listed = [
            p({"k": paths, "x": row.expand(len(paths), -1, -1)}).log_prob.logsumexp(0) for row in x
        ]
    return _largest(found, torch.stack(listed))


def _kalman() -> float:
    """By log p(x) = log p(z, x) − log p(z | x), whatever the path z is."""
    state = LinearGaussian(2)
    p = Recurrent(
        {"z | z[-1]": state, "x | z": Gaussian(3, MLP(2), scale="dimension")},
        start={"z": state.start},
    )
    x, z = torch.randn(10, 5, 3), torch.randn(10, 5, 2)
    with torch.no_grad():
        evidence = LatentVariableModel(p).evidence({"x": x}, draw={"z": Enumerated()})
        posterior: Any = evidence.p["z"].distribution
        expected = p({"z": z, "x": x}).log_prob - posterior.log_prob(z).reshape(10, -1).sum(1)
    return _largest(evidence.log_weight, expected)


def _line(low: float, high: float, points: int = 20_001) -> tuple[Tensor, Tensor]:
    """Places of the trapezium rule, and their weights."""
    at = torch.linspace(low, high, points)
    weight = torch.full((points,), (high - low) / (points - 1))
    weight[[0, -1]] /= 2
    return at, weight


def _densities() -> dict[str, tuple[Distribution, Tensor, Tensor]]:
    """By name: a distribution of one element, its values, and what each counts."""
    t, whole = torch.tensor, torch.arange(400.0)
    ones, two = torch.ones(400), torch.tensor([0.0, 1.0])
    real, positive, unit = _line(-40, 40), _line(1e-9, 80), _line(1e-9, 1 - 1e-9)
    mixture = d.NormalMixture(t([0.3, 1.0]), t([[-1.0], [2.0]]), t([[0.5], [1.5]]))
    kinds = {
        "normal": (d.DiagonalNormal(t([0.3]), t([1.2]), 1), *real),
        "mixture": (mixture, *real),
        "logistic": (d.Logistic(t(0.5), t(1.1)), *real),
        "gamma": (d.Gamma(t(3.0), t(0.7)), *positive),
        "beta": (d.Beta(t(3.0), t(2.0)), *unit),
        "continuous bernoulli": (d.ContinuousBernoulli(t(0.7)), *unit),
        "bernoulli": (d.Bernoulli(logits=t(0.4)), two, ones[:2]),
        "poisson": (d.Poisson(t(7.0)), whole, ones),
        "negative binomial": (d.NegativeBinomial(t(5.0), t(2.0)), whole, ones),
        "levels": (d.DiscretizedLogistic(t(0.1), t(0.2)), whole[:256], ones[:256]),
    }
    return cast("dict[str, tuple[Distribution, Tensor, Tensor]]", kinds)


def _scored(distribution: Distribution, values: Tensor) -> Tensor:
    return distribution.log_prob(values.unsqueeze(-1) if distribution.event_shape else values)


def _normalised() -> float:
    totals = [(_scored(e, at).exp() * weight).sum() for e, at, weight in _densities().values()]
    return _largest(torch.stack(totals), 1.0)


def _divergences() -> float:
    t, found, expected = torch.tensor, [], []
    known = _densities()
    others = {
        "normal": d.DiagonalNormal(t([-0.5]), t([2.0]), 1),
        "gamma": d.Gamma(t(2.0), t(1.1)),
        "beta": d.Beta(t(1.5), t(2.5)),
        "bernoulli": d.Bernoulli(logits=t(-1.0)),
        "poisson": d.Poisson(t(5.0)),
    }
    for name, p in others.items():
        q, at, weight = known[name]
        log_q = _scored(q, at)
        found.append(kl_divergence(q, p).sum())
        expected.append((weight * log_q.exp() * (log_q - _scored(p, at))).sum())
    return _largest(torch.stack(found), torch.stack(expected))


def _flows() -> Iterator[tuple[f.Flow, bool]]:
    """Flows of four elements away from where they start, and whether they can be inverted."""
    makers: list[tuple[Any, bool]] = [
        (f.InverseAutoregressiveFlow, True), (f.MaskedAutoregressiveFlow, True),
        (f.RealNVP, True), (f.NICE, True), (f.NeuralSplineFlow, True), (f.PlanarFlow, False),
        (f.RadialFlow, False), (f.SylvesterFlow, False), (f.HouseholderFlow, True),
    ]  # fmt: skip
    for make, invertible in makers:
        flow = make(4, MLP(5, 8, activation=nn.Tanh), transforms=2)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        yield flow, invertible


def _jacobians() -> float:
    worst = [0.0]
    for flow, _ in _flows():
        for bound in flow(torch.randn(1, 5)).transforms:  # type: ignore[attr-defined]
            forward, context, value = bound.forward, bound.context[0], torch.randn(4)
            jacobian: Any = torch.autograd.functional.jacobian(
                lambda at, go=forward, c=context: go(at, c)[0], value
            )
            log_det = torch.as_tensor(forward(value, context)[1])
            worst.append(_largest(log_det, torch.linalg.slogdet(jacobian).logabsdet))
    return max(worst)


def _inverses() -> float:
    worst = [0.0]
    for flow, invertible in _flows():
        if invertible:
            with torch.no_grad():
                density: Any = flow(torch.randn(6, 5))
                value, log_prob = density.rsample_and_log_prob((3,))
                worst.append(_largest(density.log_prob(value), log_prob))
    return max(worst)


def _gradients(name: str, particles: int) -> float:
    """Of the ELBO: the mean of an estimator beside the sum over all values."""
    one_hot = name == "rebar"
    latent, seen = (OneHot(3), OneHot(3, MLP(3, 4))) if one_hot else (
        Bernoulli(2), Bernoulli(2, MLP(3, 4))
    )  # fmt: skip
    width = 3 if one_hot else 2
    p = Joint({"h": latent, "x | h": Bernoulli(3, MLP(width, 4))})
    model = LatentVariableModel(p, Joint({"h | x": seen}))
    row, parameters = torch.tensor([[1.0, 0.0, 1.0]]), list(model.parameters())
    rows = {"x": row.expand(1_000, 3)}
    exact = elbo(model.evidence({"x": row}, draw={"h": Enumerated()})).sum()
    expected = torch.cat([e.flatten() for e in torch.autograd.grad(exact, parameters)])
    way = Suited(estimator_of(name))
    model.prepare({"x": row}, particles=particles, default=way)
    means = []
    for _ in range(20):
        value, _ = model.estimate(elbo, rows, particles=particles, default=way)
        found = torch.autograd.grad(value.mean(), parameters)
        means.append(torch.cat([each.flatten() for each in found]))
    found = torch.stack(means)
    error = found.std(0) / len(means) ** 0.5
    return float(((found.mean(0) - expected).abs() / (error + 1e-9)).max())


def _vae(generator: int = 0) -> LatentVariableModel:
    torch.manual_seed(generator)
    p = Joint({"z": StandardNormal(4), "x | z": Bernoulli(30, MLP(4, 32))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(4, MLP(30, 32))}))


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def _trained() -> LatentVariableModel:
    model, x = _vae(), torch.bernoulli(torch.full((200, 30), 0.3))
    how = {
        "optimization": Optimization(learning_rate=1e-2),
        "machine": Machine("cpu", compile=False),
    }
    fit(model, {"x": x}, epochs=2, quiet=True, **how)  # type: ignore[arg-type]
    return model


def _same_seed() -> float:
    state = torch.get_rng_state()
    first = _weights(_trained())
    torch.set_rng_state(state)
    return _largest(_weights(_trained()), first)


def _saved() -> float:
    model, other = _vae(), _vae(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(model, path)
        load_model_into(other, path)
    return _largest(_weights(other), _weights(model))


def _batches() -> float:
    model, x = _vae(), torch.bernoulli(torch.full((20, 30), 0.3))
    whole, parts = [
        importance_sampling(model, {"x": x}, particles=50, batch_size=size).log_px
        for size in (20, 3)
    ]
    return _largest(parts, whole)


def _precision(device: torch.device) -> float:
    x = torch.bernoulli(torch.full((50, 30), 0.3)).to(device)
    z = torch.randn(50, 4).to(device)
    model = _vae().to(device)
    with torch.no_grad():
        double = model.p({"z": z, "x": x}).log_prob
        model.float()
        single = model.p({"z": z.float(), "x": x.float()}).log_prob.double()
    return _largest(single / double, 1.0)


def _device(device: torch.device) -> float:
    x = torch.bernoulli(torch.full((50, 30), 0.3))
    here = importance_sampling(_vae(), {"x": x}, particles=20).log_px
    there = importance_sampling(_vae().to(device), {"x": x.to(device)}, particles=20, batch_size=7)
    return _largest(there.log_px.cpu(), here)


_NATS, _ERRORS = "nats", "standard errors"
#: By what is computed: the oracle, the tolerance, its unit, and what finds the difference.
CHECKS: dict[str, tuple[str, float, str, Callable[[], float]]] = {
    "log p(x), linear Gaussian, with holes": ("closed form", 1e-9, _NATS, _evidence),
    "bounds of 1, 5 and 50 particles": ("quadrature", _FAR, _ERRORS, _bounds),
    "log p(x) by annealing": ("closed form", _FAR, _ERRORS, _annealing),
    "log p(x), binary latents": ("sum over 256 values", 1e-10, _NATS, _enumerated),
    "p(x) of all 32 values of x": ("1", 1e-10, "", _all_of_x),
    "log p(x), hidden Markov model": ("sum over 81 paths", 1e-9, _NATS, _hidden_markov),
    "log p(x), Kalman filter": ("p(z, x) / p(z | x), smoother", 1e-9, _NATS, _kalman),
    "integrals of 10 densities": ("1", 1e-6, "", _normalised),
    "5 divergences in closed form": ("integrals", 1e-6, _NATS, _divergences),
    "log-determinants of 9 flows": ("Jacobians", 1e-8, _NATS, _jacobians),
    "densities of 6 inverted flows": ("those of their draws", 1e-6, _NATS, _inverses),
    "gradient by the score function": (
        "enumeration", _FARTHER, _ERRORS, lambda: _gradients("score_function", 1)
    ),
    "gradient by VIMCO's baseline": (
        "enumeration", _FARTHER, _ERRORS, lambda: _gradients("vimco", 3)
    ),
    "gradient by MuProp": ("enumeration", _FARTHER, _ERRORS, lambda: _gradients("muprop", 1)),
    "gradient by REBAR": ("enumeration", _FARTHER, _ERRORS, lambda: _gradients("rebar", 1)),
    "weights of a training": ("the same seed again", 0.0, "", _same_seed),
    "weights from a file": ("those written", 0.0, "", _saved),
    "log p(x) in batches of 3": ("all rows at once", 1e-10, _NATS, _batches),
}  # fmt: skip
