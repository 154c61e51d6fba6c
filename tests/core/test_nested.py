"""Joints inside p and q are the flat ones, for everything that measures them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Enumerated
from deeplvm.likelihood import (
    annealed_importance_sampling,
    exact_likelihood,
    importance_sampling,
    quadrature_likelihood,
    sequential_monte_carlo,
)
from deeplvm.networks import MLP

SUM = {"y": Enumerated()}
MEASURES: dict[str, Callable[[LatentVariableModel, Tensor], Tensor]] = {
    "importance": lambda m, x: importance_sampling(m, {"x": x}, 64, draw=SUM).log_px,
    "annealed": lambda m, x: (
        annealed_importance_sampling(m, {"x": x}, particles=4, temperatures=8, draw=SUM).log_px
    ),
    "sequential": lambda m, x: sequential_monte_carlo(m, {"x": x}, particles=8).log_px,
    "quadrature": lambda m, x: quadrature_likelihood(m, {"x": x}).log_px,
}


def models() -> tuple[LatentVariableModel, LatentVariableModel]:
    """One model flat and one with joints inside p and q, of the same conditionals."""
    torch.manual_seed(0)
    p: dict[str, nn.Module] = {
        "y": Categorical(3),
        "z": StandardNormal(1),
        "x | y, z": Gaussian(2, MLP(4, 6)),
    }
    q: dict[str, nn.Module] = {"y | x": Categorical(3, MLP(2, 6)), "z | x, y": Gaussian(1, MLP(5))}
    inner = Joint({"y": p["y"], "z": p["z"]})
    nested = Joint({"y, z": inner, "x | y, z": p["x | y, z"]}), Joint({"y, z | x": Joint(q)})
    return LatentVariableModel(Joint(p), Joint(q)), LatentVariableModel(*nested)


@pytest.mark.parametrize("name", list(MEASURES))
def test_measures_of_nested_joints(name: str) -> None:
    flat, nested = models()
    x = torch.randn(4, 2)
    found, truth = [MEASURES[name](model, x) for model in (nested, flat)]
    assert truth.isfinite().all()
    assert torch.allclose(found, truth, atol=1e-9)


def test_sums_of_nested_joints() -> None:
    """Over y alone, with nothing else latent: exact, and equal to what enumeration gives."""
    torch.manual_seed(0)
    p: dict[str, nn.Module] = {"y": Categorical(3), "x | y": Gaussian(2, MLP(3, 6))}
    q = {"y | x": Joint({"y | x": Categorical(3, MLP(2, 6))})}
    model, x = LatentVariableModel(Joint({"y, x": Joint(p)}), Joint(q)), torch.randn(4, 2)
    exact = exact_likelihood(model, {"x": x}).log_px
    assert torch.allclose(exact, exact_likelihood(LatentVariableModel(Joint(p)), {"x": x}).log_px)
    assert torch.allclose(importance_sampling(model, {"x": x}, draw=SUM).log_px, exact)
