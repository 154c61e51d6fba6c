"""The averaged divergence split in two: closed forms, and sums over all values (R2.7, R4.2)."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)
from torch.distributions.kl import kl_divergence

from deeplvm import Enumerated, Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, FullCovarianceGaussian, Gaussian, StandardNormal
from deeplvm.conditionals import Categorical as Label
from deeplvm.evaluation.bound.surgery import elbo_surgery
from deeplvm.inference.semi_amortised import SemiAmortised
from deeplvm.likelihood.importance import importance_sampling
from deeplvm.networks import MLP

WEIGHT = torch.tensor([[1.0, 0.5], [-0.3, 0.8]])
SCALE = torch.tensor([0.5, 0.7])


class Linear(nn.Module):
    """q(z | x) = N(A x + 1, diag(s²))."""

    event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(x @ WEIGHT.to(x).T + 1, SCALE.to(x)), 1)


def linear() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": Linear()}))


def bits(latents: int = 3, observed: int = 4) -> LatentVariableModel:
    """TB2."""
    torch.manual_seed(3)
    prior = Bernoulli(latents)
    with torch.no_grad():
        prior.head.free.copy_(torch.randn(1, latents))
    p = Joint({"z": prior, "x | z": Bernoulli(observed, MLP(latents, 8))})
    return LatentVariableModel(p, Joint({"z | x": Bernoulli(latents, MLP(observed, 8))}))


def every(length: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * length)


def test_linear_gaussian() -> None:
    """x ~ N(0, I): q(z) = N(1, A A' + S), and every part is a divergence of Gaussians.

    1,500 rows; 4 standard errors and the bias of a finite aggregate: one seed in 15,000 fails.
    """
    weight, noise = WEIGHT.double(), SCALE.double().square().diag()
    spread = weight @ weight.T + noise
    aggregate = MultivariateNormal(torch.ones(2), spread)
    information = 0.5 * float(spread.logdet() - noise.logdet())
    marginal = float(kl_divergence(aggregate, MultivariateNormal(torch.zeros(2), torch.eye(2))))
    # KL(q(z) || q(z_1) q(z_2))
    correlation = 0.5 * float(spread.diagonal().log().sum() - spread.logdet())
    found = elbo_surgery(linear(), {"x": torch.randn(1_500, 2)}, particles=2)
    part = found["z"]
    plain = found.to_dict()["parts"]["z"]
    for name, exact in (
        ("kl", information + marginal),
        ("mutual_information", information),
        ("marginal", marginal),
    ):
        error = plain[name]["stderr"]
        assert 0 < error < 0.06
        # in two dimensions a finite aggregate shifts both parts by about 2 / N, far below
        assert plain[name]["value"] == pytest.approx(exact, abs=4 * error), name
    assert part.by_dimension is not None
    means = torch.ones(2)
    by_hand = 0.5 * (spread.diagonal() + means.square() - 1 - spread.diagonal().log())
    assert torch.allclose(part.by_dimension.marginal, by_hand, atol=0.15)
    each = 0.5 * (spread.diagonal().log() - noise.diagonal().log())
    assert torch.allclose(part.by_dimension.mutual_information, each, atol=0.1)
    assert part.total_correlation == pytest.approx(correlation, abs=0.03)


def test_the_parts_sum_to_the_divergence() -> None:
    """Row by row, of the same draws; and the mean is that of the closed form.

    4 standard errors of the difference row by row: one seed in 15,000 fails.
    """
    x = torch.randn(200, 2)
    part = elbo_surgery(linear(), {"x": x}, particles=50)["z"]
    assert torch.allclose(part.kl, part.mutual_information + part.marginal, atol=1e-10, rtol=0)
    mean = x @ WEIGHT.double().T + 1
    closed = (
        0.5 * (mean.square() + SCALE.double().square() - 1).sum(1) - SCALE.double().log().sum()
    )
    gap = part.kl - closed
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(200)
    assert not torch.allclose(gap, torch.zeros(()), atol=1e-3)


def test_enumeration_is_exact() -> None:
    """TB2: both parts by sums over all values, to 1e-10, dimension by dimension too."""
    model, x = bits(), torch.randint(2, (9, 4)).double()
    z = every(3)
    with torch.no_grad():
        q: Any = model.q["z"]
        p: Any = model.p["z"]
        log_q = torch.stack([q(x).log_prob(value.expand(9, 3)) for value in z], 1)  # (9, 8)
        log_p = p().log_prob(z[:, None]).flatten()
        chance = q(x).base_dist.probs.detach()  # (9, 3)
        prior = p().base_dist.probs.detach().flatten()
    aggregate = log_q.exp().mean(0)
    information = float((log_q.exp() * (log_q - aggregate.log())).sum(1).mean())
    marginal = float((aggregate * (aggregate.log() - log_p)).sum())
    found = elbo_surgery(model, {"x": x}, draw={"z": Enumerated()})["z"]
    assert float(found.mutual_information.mean()) == pytest.approx(information, abs=1e-10)
    assert float(found.marginal.mean()) == pytest.approx(marginal, abs=1e-10)
    assert float(found.kl.mean()) == pytest.approx(information + marginal, abs=1e-10)
    mean = chance.mean(0)
    each = mean * (mean / prior).log() + (1 - mean) * ((1 - mean) / (1 - prior)).log()
    assert found.by_dimension is not None
    assert torch.allclose(found.by_dimension.marginal, each, atol=1e-10, rtol=0)
    assert found.total_correlation == pytest.approx(marginal - float(each.sum()), abs=1e-10)


def test_divergence_of_the_joint() -> None:
    """R2.7 on TB2: KL(q_D(x, z) ‖ p(x, z)) = KL(q_D ‖ p(x)) + E KL(q(z|x) ‖ p(z|x)), to 1e-10.

    The left side is a sum over all rows and values; the right side is the library's: the ELBO and
    log p(x) of enumerated latents. They differ by -H(q_D) from the mean ELBO.
    """
    model = bits()
    x = every(4)[torch.tensor([0, 3, 3, 7, 12])]  # one row twice: q_D has 4 values
    unique, counts = x.unique(dim=0, return_counts=True)
    data = counts.double() / len(x)
    z = every(3)
    joint = 0.0
    with torch.no_grad():
        for share, row in zip(data, unique, strict=True):
            rows = row.expand(len(z), 4)
            log_q: Any = model.q({"x": rows, "z": z})["z"].log_prob
            log_p = model.p({"x": rows, "z": z}).log_prob
            joint += float(share * (log_q.exp() * (share.log() + log_q - log_p)).sum())
    draw = {"z": Enumerated()}
    found = importance_sampling(model, {"x": x}, draw=draw)
    entropy = -float((data * data.log()).sum())
    of_data = -entropy - float(found.log_px.mean())
    of_posterior = float((found.log_px - found.elbo).mean())
    assert joint == pytest.approx(of_data + of_posterior, abs=1e-10)
    assert of_posterior > 1e-3
    assert joint >= of_data
    with torch.no_grad():
        bound = elbo(model.evidence({"x": x}, draw=draw))
    assert joint == pytest.approx(-entropy - float(bound.mean()), abs=1e-10)
    # and the split of the same bound: reconstruction less information less marginal divergence
    split = elbo_surgery(model, {"x": x}, draw=draw)["z"]
    parts = found.reconstruction - split.mutual_information - split.marginal
    assert float(parts.mean()) == pytest.approx(float(bound.mean()), abs=1e-10)


def test_the_aggregate_as_prior() -> None:
    """R4.2: where the prior is the aggregate posterior, nothing is left but information."""
    x = torch.randn(5, 2)

    class Aggregate(nn.Module):
        event_shape = torch.Size([2])

        def forward(self) -> Distribution:
            q = Linear()(x)
            return MixtureSameFamily(Categorical(torch.ones(5)), q)

    p = Joint({"z": Aggregate(), "x | z": Gaussian(2, MLP(2))})
    part = elbo_surgery(
        LatentVariableModel(p, Joint({"z | x": Linear()})), {"x": x}, particles=100
    )["z"]
    assert part.marginal.abs().max() < 1e-10
    assert part.kl.mean() <= math.log(5)
    assert part.by_dimension is None  # this prior does not factorise


def test_several_latents() -> None:
    """A latent whose prior or whose q reads another counts in the joint part only."""
    p = Joint({"a": StandardNormal(2), "b | a": Gaussian(1, MLP(2)), "x | b": Gaussian(3, MLP(1))})
    q = Joint({"b | x": Gaussian(1, MLP(3)), "a | b, x": FullCovarianceGaussian(2, MLP(4))})
    found = elbo_surgery(LatentVariableModel(p, q), {"x": torch.randn(20, 3)})
    assert list(found.parts) == ["b, a"]  # b has no marginal prior in closed form, a no q(a | x)
    flat = Joint({"a": StandardNormal(2), "b": StandardNormal(1), "x | a, b": Gaussian(3, MLP(3))})
    q = Joint({"a | x": Gaussian(2, MLP(3)), "b | x": Gaussian(1, MLP(3))})
    found = elbo_surgery(LatentVariableModel(flat, q), {"x": torch.randn(20, 3)})
    assert list(found.parts) == ["a", "b", "a, b"]
    assert torch.allclose(found.joint.kl, found["a"].kl + found["b"].kl, atol=1e-10)
    assert torch.allclose(
        found.joint.kl, found.joint.mutual_information + found.joint.marginal, atol=1e-10
    )
    with pytest.raises(KeyError, match="There is no 'z'"):
        found["z"]


def test_printed_and_kept() -> None:
    """Readable by people, and by JSON, without a word of NaN."""
    found = elbo_surgery(linear(), {"x": 30 * torch.randn(40, 2)})
    assert not found["z"].kl.is_inference()
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert "leave_one_out" in text
    assert "mutual information" in str(found)
    assert "give more rows" in str(found)  # far apart: log N is reached
    assert "<table" in found._repr_html_()
    assert "give more rows" not in str(elbo_surgery(linear(), {"x": 0 * torch.randn(40, 2)}))


def test_a_prior_of_each_row() -> None:
    p = Joint({"z | c": Gaussian(2, MLP(1)), "x | z": Gaussian(2, MLP(2))})
    model = LatentVariableModel(p, Joint({"z | x, c": Gaussian(2, MLP(3))}))
    data = {"x": torch.randn(5, 2), "c": torch.randn(5, 1)}
    with pytest.raises(ValueError, match="prior of z reads c, which is given"):
        elbo_surgery(model, data)


def test_single_precision_and_refining() -> None:
    """float32 and holes sum to the same identity; a q that refines itself is refused."""
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2))})
    encoder = Joint({"z | x": Gaussian(2, MLP(2, 8))})
    data = {"x": torch.randn(12, 2)}
    with pytest.raises(ValueError, match="with its encoder as q"):
        elbo_surgery(LatentVariableModel(p, SemiAmortised(encoder, p, steps=2)), data)
    data["x"][0, 1] = torch.nan
    part = elbo_surgery(LatentVariableModel(p, encoder).float(), data)["z"]
    assert part.kl.dtype == torch.float64
    assert torch.allclose(part.kl, part.mutual_information + part.marginal, atol=1e-10)


def test_a_latent_whose_prior_reads_a_label_that_is_summed_out() -> None:
    """Every label is tried in one pass: the prior of z then has a density under each."""
    prior = Gaussian(2, nn.Linear(3, 2), scale=1.0)
    p = Joint({"y": Label(3), "z | y": prior, "x | z": Gaussian(2, MLP(2))})
    q = Joint({"z | x": Gaussian(2, MLP(2, 4)), "y | z": Label(3, MLP(2, 4))})
    rows = {"x": torch.randn(20, 2), "y": torch.full((20,), torch.nan)}
    found = elbo_surgery(LatentVariableModel(p, q), rows, draw={"y": Enumerated()})
    assert bool(found["z, y"].kl.isfinite().all())
