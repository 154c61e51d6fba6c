"""Importance sampling: what may be given to it, what it leaves alone, what it refuses (R2.6a)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.data import load
from deeplvm.likelihood import importance_sampling
from deeplvm.networks import MLP
from deeplvm.recipes import vae
from models import Function


def small() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 4), scale=1.0)})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 4))}))


def test_data_and_the_same_rows_as_tensors_agree() -> None:
    data = load("digits")
    model = vae(data, latent=2, hidden=(8,))
    from_data = importance_sampling(model, data.valid, particles=32)
    rows = data.batch("valid", slice(None))
    from_rows = importance_sampling(model, rows, particles=32)
    assert torch.equal(from_data.log_px, from_rows.log_px)
    stored = importance_sampling(model, data.valid, particles=32)  # bytes at rest
    assert torch.equal(stored.log_px, from_data.log_px)
    assert from_data.rows == data.rows("valid")


def test_the_terms_sum_to_the_elbo() -> None:
    """R2.9c: reconstruction and divergences, separately, sum exactly."""
    estimate = importance_sampling(small(), {"x": torch.randn(4, 3)}, particles=50)
    assert set(estimate.terms) == {"z", "x"}
    total = estimate.reconstruction + estimate.terms["z"]
    assert torch.allclose(total, estimate.elbo, rtol=0, atol=1e-12)
    assert estimate.observed == ("x",)
    assert estimate.latents == ("z",)


def test_without_latents_it_is_exact() -> None:
    """R1.6: nothing to sample; also for a conditional model."""
    classifier = LatentVariableModel(Joint({"y | x": Categorical(3, MLP(2))}))
    x, y = torch.randn(5, 2), torch.randint(3, (5,))
    estimate = importance_sampling(classifier, {"x": x, "y": y}, particles=1_000)
    with torch.no_grad():
        expected = classifier.p["y"](x).log_prob(y)
    assert torch.allclose(estimate.log_px, expected)
    assert estimate.exact
    assert estimate.particles == 1
    assert estimate.monte_carlo_stderr == 0
    assert "exact" in str(estimate)


def test_conditional_inputs() -> None:
    """R1.3.1: log p(x | c), the condition read by p and by q."""
    p = Joint({"z": StandardNormal(1), "x | z, c": Gaussian(2, MLP(2), scale=1.0)})
    model = LatentVariableModel(p, Joint({"z | x, c": Gaussian(1, MLP(3))}))
    given = {"x": torch.randn(6, 2), "c": torch.randn(6, 1)}
    one = importance_sampling(model, given, particles=100)
    assert one.observed == ("x",)
    moved = importance_sampling(model, {**given, "c": given["c"] + 1}, particles=100)
    assert not torch.allclose(one.log_px, moved.log_px)


def test_missing_elements() -> None:
    """A row without anything observed has log p = 0; NaN elements are left out elsewhere."""
    x = torch.randn(3, 3)
    x[0] = math.nan
    x[1, 1] = math.nan
    estimate = importance_sampling(small(), {"x": x}, particles=2_000)
    assert estimate.log_px.isfinite().all()
    assert (float(estimate.log_px[0]), float(estimate.log_px_stderr[0])) == (0.0, 0.0)
    assert estimate.curve[-1].value == pytest.approx(float(estimate.log_px.mean()))


def test_names_shared_by_rows_are_predicted_with() -> None:
    r"""The predictive density: x ~ N(t, 1) with q(t) = N(0.3, 0.5^2) has N(0.3, 1.25).

    4 standard errors in each of 4 rows: one seed in 4,000 fails.
    """
    p = Joint(
        {
            "t": Function(lambda: Normal(torch.zeros(()), 1.0)),
            "x | t": Function(lambda t: Normal(t, 1.0)),
        },
        shared=["t"],
    )
    q = Joint({"t": Function(lambda: Normal(torch.tensor(0.3), 0.5))}, shared=["t"])
    x = torch.tensor([-1.0, 0.0, 0.4, 2.0])
    estimate = importance_sampling(LatentVariableModel(p, q), {"x": x}, particles=20_000)
    expected = Normal(0.3, math.sqrt(1.25)).log_prob(x)
    assert ((estimate.log_px - expected).abs() < 4 * estimate.log_px_stderr).all()
    # the bound has the shared term, a quarter of it a row
    assert (estimate.terms["t"] < 0).all()


def test_a_recurrent_model_does_not_depend_on_chunks() -> None:
    """Each step has its own stream."""
    p = Recurrent(
        {"z | z[-1]": Gaussian(2, MLP(2)), "x | z": Gaussian(3, MLP(2), scale=1.0)}, start={"z": 2}
    )
    q = Recurrent({"z | z[-1], x": Gaussian(2, MLP(5))}, start={"z": 2})
    model = LatentVariableModel(p, q)
    x = torch.randn(3, 4, 3)
    whole = importance_sampling(model, {"x": x}, particles=96)
    parts = importance_sampling(model, {"x": x}, particles=96, chunk=16)
    assert torch.allclose(whole.log_px, parts.log_px, rtol=0, atol=1e-11)


def test_the_encoder_runs_once_a_batch() -> None:
    model = small()
    calls = []
    model.q["z"].register_forward_hook(lambda *_: calls.append(1))
    importance_sampling(model, {"x": torch.randn(4, 3)}, particles=160, chunk=16, batch_size=2)
    assert len(calls) == 2 + 1  # two batches, and one look at sizes


def test_memory_does_not_grow_with_particles() -> None:
    """No tensor has more numbers than a chunk's."""
    model = small()
    largest = 0

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    for module in model.p.modules():
        module.register_forward_hook(look)
    importance_sampling(model, {"x": torch.randn(2, 3)}, particles=2_000, chunk=32)
    assert largest <= 32 * 2 * 4


def test_everything_is_left_as_it_was() -> None:
    """Training mode of each module, torch's random state, gradients; results are plain tensors."""
    model = small()
    model.train()
    model.p.eval()
    state = torch.get_rng_state()
    estimate = importance_sampling(model, {"x": torch.randn(2, 3)}, particles=8)
    torch.set_rng_state(state)
    before = torch.rand(3)
    torch.set_rng_state(state)
    importance_sampling(model, {"x": torch.zeros(2, 3)}, particles=8)
    assert torch.equal(torch.rand(3), before)
    assert model.q.training
    assert not model.p.training
    assert not estimate.log_px.is_inference()
    assert estimate.log_px.dtype == torch.float64


def test_seeds() -> None:
    x = torch.randn(3, 3)
    model = small()
    first, again = (importance_sampling(model, {"x": x}, 64, seed=4).log_px for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, importance_sampling(model, {"x": x}, 64, seed=5).log_px)


def test_float32_models_are_summed_in_float64() -> None:
    torch.set_default_dtype(torch.float32)
    estimate = importance_sampling(small(), {"x": torch.randn(2, 3)}, particles=100)
    assert estimate.log_px.dtype == torch.float64


def test_what_is_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="particles is at least 1, found 0"):
        importance_sampling(model, {"x": torch.zeros(2, 3)}, particles=0)
    with pytest.raises(ValueError, match="The data have y, of which the model reads none"):
        importance_sampling(model, {"y": torch.zeros(2)})
    with pytest.raises(ValueError, match="There are no rows to evaluate"):
        importance_sampling(model, {"x": torch.zeros(0, 3)})


def test_a_broken_model_is_named() -> None:
    """A NaN is not averaged away: the name and the rows are said."""
    model = small()
    with torch.no_grad():
        next(model.p["x"].parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"log p − log q of x is not a number.*3 rows.*0, 1, 2"):
        importance_sampling(model, {"x": torch.zeros(3, 3)}, particles=4)


def test_impossible_rows_are_minus_infinity() -> None:
    """log p = −inf of one row stays a number of its own; the others are not touched."""
    p = Joint({"z": StandardNormal(1), "x | z": Function(_half_line)})
    model = LatentVariableModel(p, Joint({"z": StandardNormal(1)}))
    estimate = importance_sampling(model, {"x": torch.tensor([-1.0, 1.0])}, particles=32)
    assert estimate.log_px[0] == -math.inf
    assert estimate.log_px[1].isfinite()
    assert estimate.to_dict()["value"] is None


def _half_line(z: Tensor) -> Distribution:
    rate = z.squeeze(-1).exp()
    return _Exponential(rate)


class _Exponential(torch.distributions.Exponential):
    def __init__(self, rate: Tensor) -> None:
        super().__init__(rate, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        inside = super().log_prob(value)
        return torch.where(value >= 0, inside, -math.inf)


def test_it_shows_itself() -> None:
    estimate = importance_sampling(small(), {"x": torch.randn(4, 3)}, particles=100)
    assert "log p(x), 100 particles" in str(estimate)
    assert "<table" in estimate._repr_html_()
    plain = estimate.to_dict()
    assert plain["particles"] == 100
    assert [point["particles"] for point in plain["curve"]] == [1, 5, 10, 50, 100]


def test_binary_values_of_any_type() -> None:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(4, MLP(2))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(4))}))
    x = torch.randint(2, (5, 4))
    results = [
        importance_sampling(model, {"x": x.to(kind)}, particles=16).log_px
        for kind in (torch.uint8, torch.bool, torch.float32, torch.float64)
    ]
    assert all([torch.equal(each, results[0]) for each in results])
