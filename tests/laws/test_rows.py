"""One row, one number: whatever batch, order, partition or chunk it is evaluated in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm import Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import (
    Bernoulli,
    Beta,
    Categorical,
    Concrete,
    Dirichlet,
    FullCovarianceGaussian,
    Gamma,
    Gaussian,
    GaussianMixture,
    LowRankGaussian,
    NegativeBinomial,
    Poisson,
    StandardNormal,
    StudentT,
    VonMisesFisher,
)
from deeplvm.data.records import Selection
from deeplvm.evaluation.bound.rate_distortion import rate_distortion
from deeplvm.inference import SemiAmortised, embed, refine, sample_posterior
from deeplvm.likelihood import (
    annealed_importance_sampling,
    harmonic_likelihood,
    importance_sampling,
    particle_filter,
    quadrature_likelihood,
    sequential_monte_carlo,
)
from deeplvm.networks import GRU, MLP

ROWS = 7


def two_of(make: Callable[..., nn.Module], features: int = 2) -> LatentVariableModel:
    p = Joint({"z": make(), "x | z": Gaussian(3, MLP(features, 5), scale=0.7)})
    return LatentVariableModel(p, Joint({"z | x": make(MLP(3, 5))}))


def semi_amortised() -> LatentVariableModel:
    model = two_of(lambda *network: Gaussian(2, *network))
    return LatentVariableModel(model.p, SemiAmortised(model.q, model.p, steps=2))


def with_features() -> LatentVariableModel:
    p = Joint({"y": Categorical(3), "z": StandardNormal(2), "x | y, z": Gaussian(3, MLP(5))})
    q = Joint({"y | x": Categorical(3, MLP(3)), "z | x, y": Gaussian(2, MLP(6))})
    return LatentVariableModel(p, q)


KINDS: dict[str, Callable[[], LatentVariableModel]] = {
    "Gaussian": lambda: two_of(lambda *n: Gaussian(2, *n)),
    "full covariance": lambda: two_of(lambda *n: FullCovarianceGaussian(2, *n)),
    "low rank": lambda: two_of(lambda *n: LowRankGaussian(2, *n, rank=1)),
    "Beta": lambda: two_of(lambda *n: Beta(2, *n)),
    "Gamma": lambda: two_of(lambda *n: Gamma(2, *n)),
    "Dirichlet": lambda: two_of(lambda *n: Dirichlet(2, *n)),
    "Student's t": lambda: two_of(lambda *n: StudentT(2, *n)),
    "von Mises–Fisher": lambda: two_of(lambda *n: VonMisesFisher(2, *n)),
    "mixture": lambda: two_of(lambda *n: GaussianMixture(2, *n, components=3)),
    "negative binomial": lambda: two_of(lambda *n: NegativeBinomial(2, *n)),
    "Poisson": lambda: two_of(lambda *n: Poisson(2, *n)),
    "Bernoulli": lambda: two_of(lambda *n: Bernoulli(2, *n)),
    "Categorical": lambda: two_of(lambda *n: Categorical(3, *n), 3),
    "Concrete": lambda: two_of(lambda *n: Concrete(3, *n), 3),
    "semi-amortised": semi_amortised,
    "two latents": with_features,
}


def rows(count: int = ROWS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(count, 3, generator=generator, dtype=torch.float64)}


def made(make: Callable[[], LatentVariableModel]) -> LatentVariableModel:
    torch.manual_seed(0)
    return make().double()


@pytest.mark.parametrize("kind", KINDS)
def test_importance_sampling_of_a_row(kind: str) -> None:
    """Chunks, batches, order and partition change nothing beyond rounding."""
    model, data = made(KINDS[kind]), rows()
    whole = importance_sampling(model, data, 208, chunk=208, batch_size=ROWS).log_px
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    for chunk in (16, 48, 112):
        assert close(importance_sampling(model, data, 208, chunk=chunk).log_px, whole)
    assert close(importance_sampling(model, data, 208, batch_size=2).log_px, whole)
    turned = importance_sampling(model, {"x": data["x"][order]}, 208, batch_size=3).log_px
    assert close(turned, whole[order])
    part = importance_sampling(model, {"x": data["x"][4:]}, 208).log_px
    assert close(part, whole[4:])


def hidden_markov() -> LatentVariableModel:
    p = Recurrent({"z | z[-1]": Gaussian(2, MLP(2)), "x | z": Gaussian(1, MLP(2))}, start={"z": 2})
    q = Recurrent({"z | x, z[-1]": Gaussian(2, MLP(3))}, start={"z": 2})
    return LatentVariableModel(p, q)


ESTIMATES: dict[str, Callable[..., Tensor]] = {
    "annealing": lambda m, x, **o: annealed_importance_sampling(m, x, 4, 6, steps=3, **o).log_px,
    "sequential": lambda m, x, **o: sequential_monte_carlo(m, x, 6, steps=2, **o).log_px,
    "sequential, adaptive": lambda m, x, **o: (
        sequential_monte_carlo(m, x, 16, steps=2, adaptive=True, **o).log_px
    ),
    "harmonic": lambda m, x, **o: harmonic_likelihood(m, x, 4, 10, warmup=10, **o).log_px,
    "no-U-turn": lambda m, x, **o: (
        sample_posterior(m, x, warmup=8, draws=8, chains=2, **o).draws["z"].movedim(2, 0)
    ),
    "Hamiltonian": lambda m, x, **o: (
        sample_posterior(m, x, method="hmc", warmup=8, draws=8, **o).draws["z"].movedim(2, 0)
    ),
    "refined": lambda m, x, **o: refine(m, x, steps=5, **o).after,
    "rate and distortion": lambda m, x, **o: (
        rate_distortion(m, x, betas=[0.5, 1.0], particles=4, temperatures=4, **o).curve[0].rate
    ),
    "quadrature": lambda m, x, batch_size=0, **o: quadrature_likelihood(m, x, 8, **o).log_px,
}


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_chains_of_a_row(estimate: str) -> None:
    model, data, measure = made(KINDS["Gaussian"]), rows(), ESTIMATES[estimate]
    whole = measure(model, data)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    assert close(measure(model, {"x": data["x"][order]}, batch_size=3), whole[order], 1e-8)
    assert close(measure(model, {"x": data["x"][4:]}), whole[4:], 1e-8)
    assert not close(measure(model, data, seed=1), whole, 1e-8) or estimate == "quadrature"


def test_particles_of_a_sequence() -> None:
    model = made(hidden_markov)
    data = {"x": torch.randn(5, 4, 1, dtype=torch.float64)}
    whole = particle_filter(model, data, 20).log_px
    assert close(particle_filter(model, data, 20, batch_size=2).log_px, whole)
    assert close(particle_filter(model, {"x": data["x"][3:]}, 20).log_px, whole[3:])


def test_rows_that_say_the_same_are_independent() -> None:
    """Their order tells them apart, so that errors over rows are what they say."""
    model = made(KINDS["Gaussian"])
    found = importance_sampling(model, {"x": torch.ones(50, 3, dtype=torch.float64)}, 16)
    assert len(found.log_px.unique()) == 50


@pytest.mark.parametrize("kind", ["Gaussian", "Gamma", "two latents"])
def test_rows_of_a_source_with_one_noise_are_alike(kind: str) -> None:
    """What a row says is all that its number depends on: twins have the same."""
    model = made(KINDS[kind])
    twins = Selection({"x": torch.cat([rows(4)["x"], rows(4)["x"]])}, common=True)
    found = importance_sampling(model, twins, 16, batch_size=3).log_px
    assert close(found[:4], found[4:])
    assert close(importance_sampling(model, twins[7:], 16).log_px, found[7:])
    latents = embed(model, twins)["z"]
    assert close(latents[:4], latents[4:])
    own = Selection({"x": twins["x"]})
    one, other = importance_sampling(model, own, 16).log_px.chunk(2)
    assert not close(one, other)


def test_names_shared_by_all_rows_are_drawn_alike_in_every_batch() -> None:
    torch.manual_seed(0)
    p = Joint({"w": StandardNormal(1), "x | w": Gaussian(3, MLP(1))}, shared=["w"])
    model = LatentVariableModel(p, Joint({"w": Gaussian(1)}, shared=["w"])).double()
    data = rows()
    whole = importance_sampling(model, data, 64, batch_size=ROWS).log_px
    for size in (1, 2, 5):
        assert close(importance_sampling(model, data, 64, batch_size=size).log_px, whole)


class Drawn(nn.Module):
    """A distribution whose draw takes numbers that have no rows."""

    def forward(self, x: Tensor) -> Distribution:
        class Odd(torch.distributions.Normal):
            def rsample(self, sample_shape: Any = ()) -> Tensor:
                return self.loc + torch.randn(5).sum()

            def expand(self, batch_shape: Any, _instance: Any = None) -> Distribution:
                return Odd(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

        return Odd(x[..., 0], torch.ones_like(x[..., 0]))


def test_a_draw_in_which_no_row_is_seen_is_refused() -> None:
    p = Joint({"z": StandardNormal(()), "x | z": Gaussian(3, MLP(1))})
    model = LatentVariableModel(p, Joint({"z | x": Drawn()}))
    with pytest.raises(ValueError, match="no row can have its own"):
        importance_sampling(model, {"x": torch.ones(3, 3)}, 16)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-9) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() < tolerance)


def variational_recurrent() -> LatentVariableModel:
    shared = GRU(5, 4)
    p = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(4)),
            "x | z, h[-1]": Gaussian(3, MLP(6)),
            "h | x, z, h[-1]": shared,
        },
        start={"h": 4},
        length="n",
    )
    q = Recurrent(
        {"z | x, h[-1]": Gaussian(2, MLP(7)), "h | x, z, h[-1]": shared},
        start={"h": 4},
        length="n",
    )
    return LatentVariableModel(p, q)


def deep_markov(latent: Callable[..., nn.Module] = Gaussian) -> LatentVariableModel:
    p = Recurrent(
        {"z | z[-1]": latent(2, MLP(2)), "x | z": Gaussian(3, MLP(2))}, start={"z": 2}, length="n"
    )
    back = Recurrent({"a | x, a[+1]": GRU(3, 4)}, start={"a": 4}, length="n")
    steps = Recurrent({"z | z[-1], a": latent(2, MLP(6))}, start={"z": 2}, length="n")
    return LatentVariableModel(p, Joint({"a | x": back, "z | a": steps}))


SEQUENCES: dict[str, Callable[[], LatentVariableModel]] = {
    "variational recurrent": variational_recurrent,
    "deep Markov": deep_markov,
    "deep Markov of gammas": lambda: deep_markov(Gamma),
    "no latents": lambda: LatentVariableModel(
        Recurrent({"x | x[-1]": Gaussian(3, MLP(3))}, start={"x": 3}, length="n")
    ),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_padding_changes_no_sequence(kind: str) -> None:
    """What lies beyond the end of a row, and how much, says nothing, and draws nothing."""
    model, lengths = made(SEQUENCES[kind]), torch.tensor([6, 2, 4, 1, 6])
    values = torch.randn(5, 6, 3, dtype=torch.float64)

    def padded(order: list[int], steps: int) -> dict[str, Tensor]:
        x = torch.full((len(order), steps, 3), 7.0, dtype=torch.float64)
        for place, row in enumerate(order):
            x[place, : lengths[row]] = values[row, : lengths[row]]
        return {"x": x, "n": lengths[order]}

    some = [3, 1, 2]
    estimates: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
        "importance": lambda rows: importance_sampling(model, rows, 20).log_px,
        "filter": lambda rows: particle_filter(model, rows, 20, proposal="prior").predictive,
    }
    if kind != "no latents":
        estimates["filter from q"] = lambda rows: particle_filter(model, rows, 20).predictive
        estimates["means"] = lambda rows: embed(model, rows)["z"]
    for estimate in estimates.values():
        whole, part = estimate(padded([0, 1, 2, 3, 4], 6)), estimate(padded(some, 9))
        if part.dim() > 1:
            whole, part = whole[:, :4], part[:, :4]
        assert close(part, whole[some])
