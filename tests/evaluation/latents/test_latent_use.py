"""Divergences, active units, collapse (R2.8.1c)."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm import Enumerated, Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import Bernoulli, Categorical, Gaussian, StandardNormal
from deeplvm.evaluation import latent_use
from deeplvm.evaluation.summary import collapse_warnings
from deeplvm.networks import MLP


class Fixed(nn.Module):
    """q(z | x) with mean x in the first dimension, and the prior in the second."""

    event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> Distribution:
        mean = torch.stack([x[..., 0], torch.zeros_like(x[..., 0])], -1)
        return Independent(Normal(mean, torch.tensor([0.5, 1.0])), 1)


def with_posterior(posterior: nn.Module) -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
    return LatentVariableModel(p, Joint({"z | x": posterior}))


def test_closed_form_by_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL of each dimension, and A_u = Var_x(E_q[u|x]) exactly, over several batches."""
    x = torch.randn(100, 3)
    monkeypatch.setattr(sys.modules[latent_use.__module__], "_BATCH", 17)
    use = latent_use(with_posterior(Fixed()), {"x": x})["z"]
    means = x[:, 0]
    expected = (0.5 * (means.square() + 0.25 - 1) - math.log(0.5)).mean()
    assert use.closed_form
    assert use.kl_by_dimension is not None
    assert torch.allclose(
        use.kl_by_dimension, torch.stack([expected, torch.zeros(())]), atol=1e-12
    )
    assert use.kl == pytest.approx(float(expected), abs=1e-12)
    assert use.variance is not None
    assert torch.allclose(use.variance, torch.stack([means.var(), torch.zeros(())]))
    assert use.active_units == 1
    assert use.to_dict()["dimensions"] == 2
    assert "1 of 2 dimensions carry 95 % of it" in str(use)
    assert "1 of 2 active" in str(use)
    assert use.to_dict()["dimensions_of_95_percent"] == 1


def test_a_collapsed_posterior_is_said_in_words() -> None:
    """R2.8.1c: a q that ignores x has no active unit."""
    p = Joint({"z": StandardNormal(4), "x | z": Bernoulli(3, MLP(4))})
    model = LatentVariableModel(p, Joint({"z": StandardNormal(4)}))
    use = latent_use(model, {"x": torch.randint(2, (40, 3)).double()})
    assert use["z"].active_units == 0
    assert use["z"].kl == 0
    assert use["z"].collapsed
    (text,) = collapse_warnings(use)
    assert "z has collapsed: in none of its 4 dimensions" in text


def test_noise_of_the_mean_is_no_activity() -> None:
    """A latent whose mean is only known from draws of its parent: the noise is taken off."""
    p = Joint({"a": StandardNormal(1), "b": StandardNormal(1), "x | b": Gaussian(2, MLP(1))})
    q = Joint({"a | x": Gaussian(1, MLP(2)), "b | a": Gaussian(1, MLP(1))})
    with torch.no_grad():
        a, b = (list(q[name].parameters()) for name in ("a", "b"))
        a[0].zero_()  # q does not look at x
        b[0].fill_(3.0)
    model = LatentVariableModel(p, q)
    use = latent_use(model, {"x": torch.randn(400, 2)}, particles=4)
    # without the correction this would be 9 / 4
    assert use["b"].variance is not None
    assert float(use["b"].variance) < 0.3


def test_labels_are_seen_one_hot() -> None:
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4, 8))}))
    x = torch.randint(2, (50, 4)).double()
    use = latent_use(model, {"x": x}, draw={"y": Enumerated()})["y"]
    with torch.no_grad():
        probabilities = model.q["y"](x).base_dist.probs
    assert use.variance is not None
    assert torch.allclose(use.variance, probabilities.var(0))
    assert use.shape == (3,)


def test_no_latents() -> None:
    assert (
        latent_use(LatentVariableModel(Joint({"x": Bernoulli(4)})), {"x": torch.ones(3, 4)}) == {}
    )


def test_the_steps_of_sequences_are_pooled() -> None:
    """Of a latent of each step its dimensions are told, over the steps that rows have."""
    fixed, still = Fixed(), StandardNormal(2)
    p = Recurrent({"z": still, "x | z": Gaussian(1, MLP(2))}, start={}, length="n")
    model = LatentVariableModel(p, Recurrent({"z | x": fixed}, start={}, length="n"))
    n, x = torch.tensor([3, 1, 2]), torch.randn(3, 3, 1)
    x[torch.arange(3) >= n[:, None]] = 7.0
    use = latent_use(model, {"x": x, "n": n})["z"]
    steps = x[torch.arange(3) < n[:, None]][:, 0]
    assert use.shape == (2,)
    assert use.variance is not None
    assert use.variance.tolist() == pytest.approx([float(steps.var()), 0.0], abs=1e-6)
    each = 0.5 * (steps**2 + 0.25 - 1 - math.log(0.25))
    assert use.kl == pytest.approx(float(each.sum()) / 3, rel=1e-5)
    assert use.kl_by_dimension is not None
    assert use.kl_by_dimension.tolist() == pytest.approx([use.kl, 0.0], rel=1e-5, abs=1e-6)
