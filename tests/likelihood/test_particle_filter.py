"""Particle filters against the Kalman filter and the forward algorithm (TB7)."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.core.draws import Sampled
from deeplvm.inference.rows import noise_of
from deeplvm.likelihood.particle_filter import particle_filter
from deeplvm.networks import MLP, Features
from deeplvm.recurrent import Recurrent


class Scaled(nn.Module):
    """N(sum of weight * parent, scale^2)."""

    event_shape = torch.Size((1,))

    def __init__(self, scale: float, *weights: float) -> None:
        super().__init__()
        self.weights, self.scale = weights, scale

    def forward(self, *parents: Tensor) -> Distribution:
        mean = sum([w * parent for w, parent in zip(self.weights, parents, strict=True)])
        assert isinstance(mean, Tensor)
        return Independent(Normal(mean, self.scale), 1)


def chain(length: str | None = None) -> Recurrent:
    """z_t = 0.8 z_{t-1} + 0.6 e, x_t = 1.5 z_t + 0.5 e."""
    return Recurrent(
        {"z | z[-1]": Scaled(0.6, 0.8), "x | z": Scaled(0.5, 1.5)}, start={"z": 1}, length=length
    )


def optimal() -> Recurrent:
    """p(z_t | z_{t-1}, x_t): precision 1/0.36 + 2.25/0.25, so weights do not depend on z_t."""
    variance = 1 / (1 / 0.36 + 9.0)
    return Recurrent(
        {"z | x, z[-1]": Scaled(math.sqrt(variance), variance * 6.0, variance * 0.8 / 0.36)},
        start={"z": 1},
    )


def kalman(x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x_t | x_{1:t-1}) of one sequence (T,), by the Kalman filter; and their sum.

    A step with NaN is a prediction only.
    """
    mean, variance, terms = torch.tensor(0.0), torch.tensor(0.0), []
    for value in x:
        mean, variance = 0.8 * mean, 0.64 * variance + 0.36
        if value.isnan():
            terms.append(torch.tensor(0.0))
            continue
        total = 2.25 * variance + 0.25
        terms.append(Normal(1.5 * mean, total.sqrt()).log_prob(value))
        gain = 1.5 * variance / total
        mean, variance = mean + gain * (value - 1.5 * mean), (1 - 1.5 * gain) * variance
    return torch.stack(terms), torch.stack(terms).sum()


def decay(steps: int) -> Tensor:
    """How much of the noise of step s is in z at step t."""
    return torch.tensor(
        [[0.8 ** (t - s) if s <= t else 0.0 for s in range(steps)] for t in range(steps)]
    )


def simulated(rows: int, steps: int) -> Tensor:
    """Sequences of the chain, shape (rows, steps, 1)."""
    z, x = torch.zeros(rows, 1), []
    for _ in range(steps):
        z = 0.8 * z + 0.6 * torch.randn(rows, 1)
        x.append(1.5 * z + 0.5 * torch.randn(rows, 1))
    return torch.stack(x, 1)


def linear(q: nn.Module | None = None, length: str | None = None) -> LatentVariableModel:
    wide = Recurrent({"z | x, z[-1]": Scaled(0.7, 0.4, 0.3)}, start={"z": 1})
    return LatentVariableModel(chain(length), wide if q is None else q)


@pytest.mark.parametrize("proposal", ["prior", "posterior"])
def test_the_kalman_likelihood(proposal: Any) -> None:
    """TB7: each sequence within 5 of its own standard errors, seed fixed: one seed in 100,000.

    25 steps, of which some are missing.
    """
    torch.manual_seed(0)
    x = simulated(5, 25)
    x[0, 3] = x[1, 0] = x[2, 24] = math.nan
    found = particle_filter(linear(), {"x": x}, 2_000, proposal=proposal)
    exact = [kalman(each[:, 0]) for each in x]
    total = torch.stack([each[1] for each in exact])
    assert ((found.log_px - total).abs() < 5 * found.log_px_stderr).all()
    assert (found.log_px_stderr < 0.5).all()
    assert (found.resamplings > 3).all()
    steps = torch.stack([each[0] for each in exact])
    assert (found.predictive - steps).abs().max() < 0.5
    assert torch.allclose(found.predictive.sum(1), found.log_px)


def test_the_kalman_filter_is_the_joint_normal() -> None:
    """The oracle itself."""
    x = torch.randn(4)
    root = 0.6 * decay(4)
    covariance = 2.25 * root @ root.T + 0.25 * torch.eye(4)
    assert torch.allclose(kalman(x)[1], MultivariateNormal(torch.zeros(4), covariance).log_prob(x))


def test_the_estimate_is_unbiased_and_knows_its_error() -> None:
    """1,000 rows are 1,000 runs: 5 standard errors of their mean; its own error within a third."""
    torch.manual_seed(1)
    one = torch.randn(1, 8, 1)
    rows = 1_000
    found = particle_filter(linear(), {"x": one.expand(rows, 8, 1)}, 30, batch_size=rows)
    weight = (found.log_px - kalman(one[0, :, 0])[1]).exp()
    assert found.resamplings.mean() > 1
    assert abs(weight.mean() - 1) < 5 * weight.std() / math.sqrt(rows)
    said = (weight.square() * found.log_px_stderr.square()).mean().sqrt()
    assert 0.75 < float(said / weight.std()) < 1.33


def test_the_optimal_proposal_is_better_and_resampling_too() -> None:
    """p(z_t | z_{t-1}, x_t) has less noise than p(z_t | z_{t-1}); both less than no resampling."""
    torch.manual_seed(2)
    x = 1.5 * torch.randn(1, 40, 1).expand(60, 40, 1)

    def spread(proposal: Any, below: float) -> float:
        model = linear(optimal())
        found = particle_filter(model, {"x": x}, 100, proposal=proposal, resample_below=below)
        return float(found.log_px.std())

    assert 1.5 * spread("posterior", 0.5) < spread("prior", 0.5)
    assert 1.5 * spread("prior", 0.5) < spread("prior", 0.0)


def test_lengths() -> None:
    """What lies beyond the length is not read: the same as the short sequence, by Kalman."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 1)
    length = torch.tensor([6, 2, 0])
    found = particle_filter(linear(optimal(), "length"), {"x": x, "length": length}, 3_000)
    assert found.log_px[2] == 0
    for row in range(2):
        exact = kalman(x[row, : int(length[row]), 0])[1]
        assert abs(found.log_px[row] - exact) < 5 * found.log_px_stderr[row] + 1e-3
    assert (found.predictive[1, 2:] == 0).all()


def test_discrete_states_by_the_forward_algorithm() -> None:
    """A hidden Markov model of three states, 5 standard errors."""
    torch.manual_seed(0)
    p = Recurrent(
        {"z | z[-1]": Categorical(3, MLP(3)), "x | z": Categorical(4, MLP(3))},
        start={"z": torch.zeros(3)},
    )
    q = Recurrent({"z | x": Categorical(3, MLP(4))}, start={})
    model = LatentVariableModel(p, q)
    with torch.no_grad():
        p["z"].head.layer.weight.mul_(3.0)
        p["x"].head.layer.weight.mul_(3.0)
    x = torch.randint(4, (4, 6))
    with torch.no_grad():
        first = p["z"](torch.zeros(3)).log_prob(torch.arange(3))
        move = torch.stack([p["z"](each).log_prob(torch.arange(3)) for each in torch.eye(3)])
        emit = torch.stack([p["x"](each).log_prob(torch.arange(4)) for each in torch.eye(3)])
    for proposal in ("prior", "posterior"):
        found = particle_filter(model, {"x": x}, 1_000, proposal=proposal)  # type: ignore[arg-type]
        for row in range(4):
            forward = first + emit[:, x[row, 0]]
            for t in range(1, 6):
                forward = (forward.unsqueeze(1) + move).logsumexp(0) + emit[:, x[row, t]]
            assert abs(found.log_px[row] - forward.logsumexp(0)) < 5 * found.log_px_stderr[row]
            assert found.log_px_stderr[row] < 0.3


def test_one_step_is_importance_sampling_of_a_state_that_is_shared() -> None:
    """A VRNN whose state p and q share: without resampling, the weights of model.evidence."""
    torch.manual_seed(0)
    p = Recurrent(
        {
            "z | h[-1]": Gaussian(2, MLP(4)),
            "x | z, h[-1]": Bernoulli(3, MLP(6, 6)),
            "h | x, z, h[-1]": Features(MLP(9, 4)),
        },
        start={"h": 4},
    )
    q = Recurrent(
        {"z | x, h[-1]": Gaussian(2, MLP(7, 6)), "h | x, z, h[-1]": p["h"]}, start={"h": 4}
    )
    model = LatentVariableModel(p, q)
    x = torch.randint(2, (6, 5, 3)).double()
    found = particle_filter(model, {"x": x}, 32, resample_below=0.0, batch_size=6)
    # the same numbers as in the filter, the steps one by one
    draw = noise_of(model, {"x": x}, 0, x.device, Counter()).of(Sampled())
    state, total = torch.zeros(32, 6, 4), torch.zeros(32, 6)
    with torch.no_grad():
        for t in range(5):
            now = x[:, t].expand(32, 6, 3)
            z = draw("z", q["z"](now, state), (32, 6), 2).value
            total = total + p["z"](state).log_prob(z) - q["z"](now, state).log_prob(z)
            total = total + p["x"](z, state).log_prob(now)
            state = p["h"](now, z, state)
    assert torch.allclose(found.log_px, total.logsumexp(0) - math.log(32), rtol=0, atol=1e-10)
    many = particle_filter(model, {"x": x}, 2_000)
    again = particle_filter(model, {"x": x}, 2_000, proposal="prior")
    error = (many.log_px_stderr.square() + again.log_px_stderr.square()).sqrt()
    assert ((many.log_px - again.log_px).abs() < 5 * error).all()


def test_a_latent_of_the_whole_sequence_and_a_backward_network() -> None:
    """c ~ N(0, 1) is added to every z; q reads the mean of x. By the joint normal, 5 s.e."""

    class Mean(nn.Module):
        out_features = 1

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(-2)

    steps = Recurrent(
        {"z | z[-1], c": Scaled(0.6, 0.8, 0.5), "x | z": Scaled(0.5, 1.5)},
        start={"z": 1}, outside=["c"],
    )  # fmt: skip
    p = Joint({"c": StandardNormal(1), "z, x | c": steps})
    inner = Recurrent(
        {"z | x, z[-1], c": Scaled(0.5, 0.5, 0.2, 0.1)}, start={"z": 1}, outside=["c"]
    )
    q = Joint({"s | x": Features(Mean()), "c | s": Scaled(0.8, 0.5), "z | x, c": inner})
    model = LatentVariableModel(p, q)
    torch.manual_seed(0)
    x = torch.randn(4, 5, 1)
    root = decay(5)
    drift = 0.5 * root.sum(1, keepdim=True)
    of_z = 0.36 * root @ root.T + drift @ drift.T
    marginal = MultivariateNormal(torch.zeros(5), 2.25 * of_z + 0.25 * torch.eye(5))
    for proposal in ("prior", "posterior"):
        found = particle_filter(model, {"x": x}, 4_000, proposal=proposal)  # type: ignore[arg-type]
        assert (
            (found.log_px - marginal.log_prob(x[..., 0])).abs() < 5 * found.log_px_stderr
        ).all()
        assert found.log_px_stderr.max() < 0.2


class Raised(nn.Module):
    """N(1.5 z + k, 1/4), k the class 0 or 1."""

    event_shape = torch.Size((1,))

    def forward(self, z: Tensor, label: Tensor) -> Distribution:
        return Independent(Normal(1.5 * z + label[..., 1:], 0.5), 1)


def test_a_label_that_some_sequences_have() -> None:
    """It is drawn where it is missing; 5 standard errors. Elsewhere nothing changes."""
    steps = {"z | z[-1]": Scaled(0.6, 0.8), "x | z, c": Raised()}
    inner = Recurrent(steps, start={"z": 1}, outside=["c"])
    model = LatentVariableModel(Joint({"c": Categorical(2), "z, x | c": inner}))
    x = torch.randn(3, 5, 1)
    c = torch.tensor([1.0, math.nan, 0.0])
    found = particle_filter(model, {"x": x, "c": c}, 2_000, proposal="prior")
    each = torch.stack([kalman(row[:, 0] - k)[1] for row in x for k in (0.0, 1.0)])
    each = each.reshape(3, 2) - math.log(2)
    expected = torch.stack([each[0, 1], each[1].logsumexp(0), each[2, 0]])
    assert ((found.log_px - expected).abs() < 5 * found.log_px_stderr).all()
    known = {"x": x[[0, 2]], "c": c[[0, 2]]}
    alone = particle_filter(model, known, 2_000, proposal="prior")
    assert torch.allclose(found.log_px[[0, 2]], alone.log_px, atol=1e-9)


def test_the_result_is_plain_and_repeats() -> None:
    model, data = linear(), {"x": torch.randn(5, 4, 1)}
    model.train()
    before = torch.get_rng_state()
    first = particle_filter(model, data, 20)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert torch.equal(first.log_px, particle_filter(model, data, 20).log_px)
    assert json.loads(json.dumps(first.to_dict()))["steps"] == 4
    assert "20 particles from the posterior" in str(first)
    assert (
        particle_filter(model, {name: value[:1] for name, value in data.items()}, 1)
        .log_px_stderr.isnan()
        .all()
    )
    (first.log_px + 1).sum()


def test_what_cannot_be_filtered_is_said() -> None:
    plain = LatentVariableModel(
        Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1))}),
        Joint({"z | x": Gaussian(1, MLP(2))}),
    )
    with pytest.raises(ValueError, match=r"one Recurrent, and p has 0: use importance"):
        particle_filter(plain, {"x": torch.zeros(2, 2)})
    x = {"x": torch.zeros(2, 4, 1)}
    smoother = LatentVariableModel(chain(), Joint({"z | x": Gaussian((4, 1), MLP(1))}))
    with pytest.raises(ValueError, match=r"q has 0; with proposal='prior'"):
        particle_filter(smoother, x)
    assert particle_filter(smoother, x, 5, proposal="prior").rows == 2
    walk = Recurrent({"z | z[-1]": Scaled(1.0, 1.0)}, start={"z": 1}, repeats=4)
    late = Joint({"z": walk, "x | z": Scaled(1.0, 1.0)})
    with pytest.raises(ValueError, match="p computes x from the finished sequence"):
        particle_filter(LatentVariableModel(late), x, proposal="prior")
    lacking = LatentVariableModel(chain(), Recurrent({"h | x": Features(MLP(1))}, start={}))
    with pytest.raises(ValueError, match="p scores 'z', which is neither given nor drawn by q"):
        particle_filter(lacking, x)
    with pytest.raises(ValueError, match="'prior' or 'posterior'"):
        particle_filter(linear(), x, proposal="q")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="particles is at least 1"):
        particle_filter(linear(), x, 0)
