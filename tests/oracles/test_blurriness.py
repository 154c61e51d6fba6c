"""Blurred samples (R2.8.2): p is wider than the data where it cannot take their shape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.networks import MLP


def settled(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor]) -> None:
    """Move parameters to where the loss is least."""
    optimizer = torch.optim.LBFGS(
        [*parameters],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]


def test_a_gaussian_fitted_to_two_modes_has_their_variance() -> None:
    """Least KL(q || p) of a mixture of two: mean and variance are the mixture's, in closed form.

    The mixture's expectations are by quadrature, exact to the last digits.
    """
    means, scales, weights = torch.tensor([-2.0, 1.0]), torch.tensor([0.5, 0.3]), (0.3, 0.7)
    grid = torch.linspace(-8, 8, 4001).double()
    parts = torch.distributions.Normal(means.double(), scales.double())
    shares = torch.tensor(weights).double()
    density = (shares * parts.log_prob(grid[:, None]).exp()).sum(-1) * (grid[1] - grid[0])
    mean = (shares * means).sum()
    variance = (shares * (scales**2 + means**2)).sum() - mean**2

    p = Gaussian(1, minimum_scale=0.0).double()
    model = LatentVariableModel(Joint({"x": p}))
    rows = {"x": grid[:, None]}
    settled(p.parameters(), lambda: -(density * elbo(model.evidence(rows, missing=()))).sum())
    assert p().mean.item() == pytest.approx(mean.item(), abs=1e-6)
    assert p().variance.item() == pytest.approx(variance.item(), rel=1e-5)


def test_a_learned_scale_of_the_decoder_is_what_it_leaves_unexplained() -> None:
    """The best variance is the mean squared residual over rows, draws and elements."""
    torch.manual_seed(0)
    decoder = Gaussian(3, MLP(2, 6), scale="global", minimum_scale=0.0)
    p = Joint({"z": StandardNormal(2), "x | z": decoder})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 6))})).double()
    x = torch.randn(40, 3).double() @ torch.randn(3, 3).double()

    def loss() -> Tensor:
        torch.manual_seed(1)  # the same draws at every step
        return -elbo(model.evidence({"x": x}, particles=5, missing=())).mean()

    scale = [each for name, each in decoder.named_parameters() if not name.startswith("head")]
    settled(scale, loss)
    torch.manual_seed(1)
    found = model.evidence({"x": x}, particles=5).p["x"].distribution
    assert found is not None
    residual = (x - found.mean).square().mean().item()
    assert found.variance.flatten()[0].item() == pytest.approx(residual, rel=1e-6)
