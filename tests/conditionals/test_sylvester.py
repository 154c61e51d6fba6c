"""Sylvester flows: the planar case, orthonormal columns, the inverse as a trained likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.flows import SylvesterFlow
from deeplvm.conditionals.flows.planar import NO_STEP, invertible_direction, planar
from deeplvm.conditionals.flows.sylvester import (
    Basis,
    NearestOrthonormal,
    Order,
    Reflections,
    Sylvester,
)
from deeplvm.networks import MLP

BASES: dict[str, Basis] = {
    "nearest orthonormal": NearestOrthonormal(6, 3),
    "nearest orthonormal, square": NearestOrthonormal(6, 6),
    "reflections": Reflections(6, 4),
    "order": Order(6, reverse=False),
    "reversal": Order(6, reverse=True),
}


@pytest.mark.parametrize("bounded", [True, False])
def test_one_hidden_unit_is_a_planar_step(bounded: bool) -> None:
    """Without the bound, of the planar step with the same raw numbers in its direction."""
    step = Sylvester(4, NearestOrthonormal(4, 1), bounded=bounded)
    context = step.prepare(torch.randn(5, step.parameters_per_row))
    q, r, r_tilde, b = context.split([4, 1, 1, 1], -1)
    z, bound = torch.randn(7, 5, 4), math.sqrt(0.999)
    if bounded:
        u, w = q * bound * r.tanh(), q * bound * r_tilde.tanh()
    else:
        w = q * r_tilde
        u = invertible_direction(q * r, w, NO_STEP)
    expected = planar(z, u, w, b)
    torch.testing.assert_close(step(z, context), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("basis", list(BASES.values()), ids=list(BASES))
def test_columns_are_orthonormal(basis: Basis) -> None:
    """Q^T Q = I, and project is the transpose of lift."""
    raw = 10.0 ** torch.randint(-3, 4, (50, 1)) * torch.randn(50, basis.parameters_per_row)
    prepared = basis.prepare(raw)
    columns = basis.lift(prepared, torch.eye(basis.columns)[:, None])  # (M, 50, d)
    gram = torch.einsum("mbd,nbd->bmn", columns, columns)
    assert torch.linalg.matrix_norm(gram - torch.eye(basis.columns)).max() < 1e-6
    z = torch.randn(50, basis.features)
    expected = torch.einsum("mbd,bd->bm", columns, z)
    torch.testing.assert_close(basis.project(prepared, z), expected)


def test_nearest_orthonormal_columns_are_the_polar_factor() -> None:
    basis = NearestOrthonormal(5, 3)
    raw = torch.randn(20, 5, 3)
    left, _, right = torch.linalg.svd(raw, full_matrices=False)
    found = basis.prepare(raw.flatten(1)).reshape(20, 5, 3)
    torch.testing.assert_close(found, left @ right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_without_full_rank_takes_unit_vectors(dtype: torch.dtype) -> None:
    """Equal columns have no nearest orthonormal ones; good rows beside it keep theirs."""
    basis = NearestOrthonormal(64, 32)
    raw = torch.randn(3, 64, 32, dtype=dtype)
    raw[1] = raw[1, :, :1]
    raw[2] = 0.0
    raw = raw.flatten(1).requires_grad_()
    found = basis.prepare(raw).reshape(3, 64, 32)
    units = torch.eye(64, 32, dtype=dtype)
    assert torch.equal(found[1], units)
    assert torch.equal(found[2], units)
    assert not torch.allclose(found[0], units, atol=0.1)
    gram = found.mT @ found - torch.eye(32, dtype=dtype)
    assert gram.abs().max() < 1e-6
    found.square().sum(-1).sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_diagonals_keep_every_step_invertible() -> None:
    """Where r and r~ are as opposed as they can be, and at the steepest place."""
    step = Sylvester(3, Order(3, reverse=False))
    square, opposed = torch.diag(torch.full((3,), 1e4)), torch.full((3,), -1e4)
    context = torch.cat([square.flatten(), opposed, torch.zeros(3)])
    for z in (torch.zeros(3), torch.tensor([1e-3, 0.4, -30.0])):
        value, log_det = step(z, context)
        assert log_det >= 3 * math.log(0.001 - 1e-12)
        back, again = step.inverse(value, context)
        torch.testing.assert_close(back, z, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(again, log_det)


def test_order_alternates() -> None:
    flow = SylvesterFlow(3, transforms=3, kind="triangular")
    reversed_ = [step.basis.reverse for step in flow.transforms]
    assert reversed_ == [False, True, False]


def test_a_likelihood_trains_and_is_one_graph() -> None:
    """Observed values are scored by the inverse, inside a compiled step."""
    likelihood = SylvesterFlow(2, MLP(2, 8), transforms=1, units=(5.0, 2.0), kind="triangular")
    p = Joint({"z": StandardNormal(2), "x | z": likelihood})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(2, 8))}))

    def step(x: torch.Tensor) -> torch.Tensor:
        return elbo(model.evidence({"x": x}, particles=2, missing=())).mean()

    torch._dynamo.reset()
    x = 5 + 2 * torch.randn(4, 2)
    torch.manual_seed(0)
    compiled = torch.compile(step, fullgraph=True, backend="eager")(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled, step(x))
    compiled.backward()
    assert all([p.grad is not None and p.grad.isfinite().all() for p in model.parameters()])


def test_more_columns_than_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="at most as many columns as elements, found 5 columns"):
        SylvesterFlow(4, columns=5)
