"""Every flow obeys the laws below (R2.4.4, R3.1, R3.2.2, TB5, TB6).

A family joins by an entry in ``FLOWS``. What holds for every conditional is in
``test_conditionals.py``, which tries the same entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, StandardNormal
from deeplvm.conditionals.flows import (
    NICE,
    ActivationNormalisation,
    Flow,
    Glow,
    HouseholderFlow,
    InverseAutoregressiveFlow,
    Inverted,
    InvertibleLinear,
    LinearInverseAutoregressiveFlow,
    Logit,
    MaskedAutoregressiveFlow,
    NeuralAutoregressiveFlow,
    NeuralSplineFlow,
    Permutation,
    PlanarFlow,
    RadialFlow,
    RealNVP,
    SylvesterFlow,
    Transform,
    reversal,
)
from deeplvm.networks import MLP

BATCH = 3


@dataclass(frozen=True)
class Family:
    """A flow by its constructor ``make(shape, network)``, and the event it is tried with.

    ``inverse`` is whether values drawn elsewhere can be scored; ``free`` whether it can do
    without a network (a prior); ``points`` the side of the grid on which it is integrated, fewer
    where an inverse is costly.
    """

    make: Callable[[tuple[int, ...], nn.Module | None], Flow]
    shape: tuple[int, ...] = (4,)
    inverse: bool = True
    free: bool = True
    points: int = 481

    def build(self, shape: tuple[int, ...] | None = None, *, free: bool = False) -> Flow:
        torch.manual_seed(0)
        flow = self.make(shape or self.shape, None if free else MLP(5, 8, activation=nn.Tanh))
        with torch.no_grad():  # away from where it starts, which is often close to the identity
            for parameter in flow.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return flow


FLOWS: dict[str, Family] = {
    "inverse autoregressive": Family(lambda s, n: InverseAutoregressiveFlow(s[0], n, hidden=(8,))),
    "inverse autoregressive, linear location": Family(
        lambda s, n: InverseAutoregressiveFlow(s, n, hidden=(), location_only=True)
    ),
    "inverse autoregressive, map": Family(
        lambda s, n: InverseAutoregressiveFlow(s, n, hidden=(6,)), shape=(2, 2, 2)
    ),
    "masked autoregressive": Family(
        lambda s, n: MaskedAutoregressiveFlow(s, n, transforms=2, hidden=(8,))
    ),
    "masked autoregressive, map": Family(
        lambda s, n: MaskedAutoregressiveFlow(s, n, transforms=2, hidden=(6,)), shape=(1, 2, 3)
    ),
    "NICE": Family(lambda s, n: NICE(s, n, transforms=2, hidden=(8,))),
    "NICE, map": Family(lambda s, n: NICE(s, n, transforms=2, hidden=(6,)), shape=(1, 2, 2)),
    "Real NVP": Family(lambda s, n: RealNVP(s, n, transforms=3, hidden=(8,))),
    "Real NVP, checkerboard": Family(
        lambda s, n: RealNVP(s, n, transforms=2, mask="checkerboard", hidden=())
    ),
    "Real NVP, channels": Family(
        lambda s, n: RealNVP(s, n, transforms=2, mask="channel", hidden=(6,)), shape=(2, 2, 1)
    ),
    "Real NVP, several scales": Family(
        lambda s, n: RealNVP(s, n, transforms=2, scales=2, hidden=(6,)), shape=(1, 2, 2)
    ),
    "NICE, map, dense, logistic": Family(
        lambda s, n: NICE(s, n, transforms=2, hidden=(8,), dense=True, noise="logistic"),
        shape=(1, 2, 2),
    ),
    "Real NVP, normalised": Family(
        lambda s, n: RealNVP(s, n, hidden=(8,), transforms=2, normalised=True)
    ),
    "Glow": Family(lambda s, n: Glow(s, n, transforms=2, hidden=(8,))),
    "Glow, squeezed": Family(
        lambda s, n: Glow(s, n, transforms=1, scales=1, hidden=(6,)), shape=(1, 2, 2)
    ),
    "logit": Family(lambda s, n: Flow(s, n, [Logit(s, -9.0, 9.0)])),
    "permutations and normalisation": Family(
        lambda s, n: Flow(
            s,
            n,
            [
                Permutation(s),
                ActivationNormalisation(s),
                InvertibleLinear(s),
                Inverted(InvertibleLinear(s)),
                reversal(s),
            ],
        )
    ),
    "permutations and normalisation, map": Family(
        lambda s, n: Flow(s, n, [Permutation(s), ActivationNormalisation(s), InvertibleLinear(s)]),
        shape=(3, 2, 1),
    ),
    "planar": Family(lambda s, n: PlanarFlow(s, n, transforms=2)),
    "planar, matrix": Family(lambda s, n: PlanarFlow(s, n, transforms=2), shape=(2, 2)),
    "radial": Family(lambda s, n: RadialFlow(s, n, transforms=2)),
    "Householder": Family(lambda s, n: HouseholderFlow(s, n, transforms=3)),
    "linear inverse autoregressive": Family(LinearInverseAutoregressiveFlow),
    "convex combination, linear inverse autoregressive": Family(
        lambda s, n: LinearInverseAutoregressiveFlow(s, n, components=3)
    ),
    "Sylvester, orthogonal": Family(lambda s, n: SylvesterFlow(s, n, transforms=2, columns=2)),
    "Sylvester, Householder": Family(
        lambda s, n: SylvesterFlow(s, n, transforms=2, reflections=2, kind="householder")
    ),
    "neural autoregressive, sigmoidal": Family(
        lambda s, n: NeuralAutoregressiveFlow(s, n, sigmoids=4, hidden=(8,)), points=97
    ),
    "neural autoregressive, dense": Family(
        lambda s, n: NeuralAutoregressiveFlow(
            s, n, transforms=1, sigmoids=3, layers=2, hidden=(8,)
        ),
        points=97,
    ),
    "neural spline, coupling": Family(
        lambda s, n: NeuralSplineFlow(s, n, bins=4, bound=3.0, hidden=(8,)), points=241
    ),
    "neural spline, autoregressive": Family(
        lambda s, n: NeuralSplineFlow(s, n, bins=4, passes=None, hidden=(8,)), points=241
    ),
    "Sylvester, triangular, unbounded": Family(
        lambda s, n: SylvesterFlow(s, n, transforms=2, bounded=False, kind="triangular")
    ),
    "Sylvester, triangular": Family(
        lambda s, n: SylvesterFlow(s, n, transforms=2, kind="triangular")
    ),
}

every_flow = pytest.mark.parametrize("family", list(FLOWS.values()), ids=list(FLOWS))
invertible = pytest.mark.parametrize(
    "family",
    [f for f in FLOWS.values() if f.inverse],
    ids=[n for n, f in FLOWS.items() if f.inverse],
)


def bound(flow: Flow) -> list[tuple[Transform, Tensor]]:
    """Each transform with its context for one row."""
    torch.manual_seed(1)
    return [(each.forward, each.context[0]) for each in flow(torch.randn(1, 5)).transforms]  # type: ignore[misc]


def jacobian_of(forward: Callable[..., tuple], value: Tensor, context: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda v: forward(v, context)[0], value)  # type: ignore[return-value]


@every_flow
def test_log_determinant_is_that_of_the_jacobian(family: Family) -> None:
    """TB5: to 1e-8 in float64, at one point of each step."""
    flow = family.build()
    for forward, context in bound(flow):
        value = torch.randn(family.shape)
        _, log_det = forward(value, context)
        jacobian = jacobian_of(forward, value, context)
        size = value.numel()
        expected = torch.linalg.slogdet(jacobian.reshape(size, size)).logabsdet
        assert torch.as_tensor(log_det).expand(()).sub(expected).abs() < 1e-8


@invertible
def test_inverse_and_its_log_determinant(family: Family) -> None:
    flow = family.build()
    for transform, one in zip(flow.transforms, flow(torch.randn(1, 5)).transforms, strict=True):
        value = torch.randn(7, *family.shape)
        there, log_det = one.forward(value, one.context)
        back, again = one.inverse(there, one.context)
        torch.testing.assert_close(back, value, rtol=1e-9, atol=1e-9, msg=repr(transform))
        torch.testing.assert_close(
            torch.as_tensor(log_det).expand(7), torch.as_tensor(again).expand(7)
        )


@invertible
def test_one_pass_equals_the_inverted_density(family: Family) -> None:
    """R2.4.4: to 1e-9 in float64, with particles."""
    distribution = family.build()(torch.randn(BATCH, 5)).expand(torch.Size((6, BATCH)))
    value, log_prob = distribution.rsample_and_log_prob()
    assert value.shape == (6, BATCH, *family.shape)
    assert log_prob.shape == (6, BATCH)
    torch.testing.assert_close(distribution.log_prob(value), log_prob, rtol=1e-9, atol=1e-9)


@every_flow
def test_density_along_the_draw_is_normalised(family: Family) -> None:
    r"""Without an inverse: :math:`E_q[\phi(z) / q(z)] = 1` for a normalised density in the tails.

    5 standard errors of 20,000 draws: fails by chance once in two million; seed fixed.
    """
    shape = (2,) if len(family.shape) == 1 else family.shape
    distribution = family.build(shape)(torch.zeros(1, 5)).expand(torch.Size((20_000, 1)))
    torch.manual_seed(2)
    with torch.no_grad():
        value, log_prob = distribution.rsample_and_log_prob()
    flat = value.flatten(1)
    centre, spread = flat.mean(0), 0.5 * flat.std(0)
    inside = torch.distributions.Normal(centre, spread).log_prob(flat).sum(-1)
    weight = (inside - log_prob[:, 0]).exp()
    error = weight.std() / weight.numel() ** 0.5
    assert (weight.mean() - 1).abs() < 5 * error
    assert error < 0.1


@invertible
@torch.no_grad()
def test_density_integrates_to_one(family: Family) -> None:
    """TB6 on a grid of two dimensions, to 1e-3."""
    if len(family.shape) > 1:
        pytest.skip("a map of features has too many elements for a grid")
    axis = torch.linspace(-12, 12, family.points)
    grid = torch.cartesian_prod(axis, axis)
    density = family.build((2,))(torch.zeros(1, 5)).log_prob(grid).exp()
    assert abs((density.sum() * (axis[1] - axis[0]) ** 2).item() - 1) < 1e-3


@every_flow
def test_gradients_reach_the_encoder_and_every_parameter(family: Family) -> None:
    flow = family.build()
    x = torch.randn(BATCH, 5, requires_grad=True)
    value, log_prob = flow(x).rsample_and_log_prob()
    (value.square().sum() + log_prob.sum()).backward()
    assert x.grad is not None
    assert (x.grad != 0).any(-1).all()
    lacks = [
        n for n, p in flow.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())
    ]
    assert not lacks


@every_flow
def test_gradient_of_a_draw_is_the_finite_difference(family: Family) -> None:
    flow = family.build()
    names = [name for name, _ in flow.named_parameters()]
    x = torch.randn(2, 5)

    def draw(*parameters: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(flow, named, (x,)).rsample_and_log_prob()

    leaves = tuple([p.detach().clone().requires_grad_() for p in flow.parameters()])
    assert torch.autograd.gradcheck(draw, leaves, fast_mode=True)


@invertible
def test_gradient_of_a_log_density_is_the_finite_difference(family: Family) -> None:
    """Of a value drawn elsewhere: by the value, and through the inverse by every parameter."""
    shape = (2,) if len(family.shape) == 1 else family.shape
    flow = family.build(shape)
    names = [name for name, _ in flow.named_parameters()]
    x, value = torch.randn(1, 5), torch.randn(1, *shape).requires_grad_()

    def log_prob(value: Tensor, *parameters: Tensor) -> Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(flow, named, (x,)).log_prob(value)

    leaves = tuple([p.detach().clone().requires_grad_() for p in flow.parameters()])
    assert torch.autograd.gradcheck(log_prob, (value, *leaves), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_flow
def test_dtype_is_kept(family: Family, dtype: torch.dtype) -> None:
    value, log_prob = (
        family.build().to(dtype)(torch.randn(BATCH, 5, dtype=dtype)).rsample_and_log_prob()
    )
    assert value.dtype == log_prob.dtype == dtype


@every_flow
def test_a_permutation_of_the_batch_commutes(family: Family) -> None:
    flow, x, order = family.build(), torch.randn(BATCH, 5), torch.tensor([2, 0, 1])
    value = torch.randn(BATCH, *family.shape)
    there, here = flow(x), flow(x[order])
    for one, other in zip(there.transforms, here.transforms, strict=True):
        expected, log_det = one.forward(value, one.context)
        found, again = other.forward(value[order], other.context)
        torch.testing.assert_close(found, expected[order])
        torch.testing.assert_close(
            torch.as_tensor(again).expand(BATCH), torch.as_tensor(log_det).expand(BATCH)[order]
        )


@every_flow
def test_the_bound_trains(family: Family) -> None:
    """As a posterior in a model: the ledger, and its gradient."""
    size = family.shape
    p = Joint({"z": StandardNormal(size), "x | z": Bernoulli(5, MLP(size, 6))})
    model = LatentVariableModel(p, Joint({"z | x": family.build()}))
    x = (torch.rand(BATCH, 5) < 0.5).double()
    value = elbo(model.evidence({"x": x}, particles=2, missing=())).mean()
    assert value.isfinite()
    value.backward()
    assert all([p.grad is not None for p in model.parameters() if p.numel()])


@every_flow
def test_a_draw_is_one_graph(family: Family) -> None:
    """And its density; models with flows are traced as recipes."""
    flow, x = family.build(), torch.randn(BATCH, 5)

    def draw(x: Tensor) -> tuple[Tensor, Tensor]:
        return flow(x).expand(torch.Size((2, BATCH))).rsample_and_log_prob()

    torch._dynamo.reset()
    torch.manual_seed(2)
    traced = torch.compile(draw, fullgraph=True, backend="eager")(x)
    torch.manual_seed(2)
    torch.testing.assert_close(traced, draw(x))


@pytest.mark.parametrize("name", [n for n, f in FLOWS.items() if f.free])
def test_it_is_a_prior_too(name: str) -> None:
    """Without a network it has free parameters; scored where it can be inverted."""
    family = FLOWS[name]
    flow = family.build(free=True)
    distribution = flow()
    assert distribution.batch_shape == ()
    value, log_prob = distribution.rsample_and_log_prob(torch.Size((4,)))
    assert log_prob.shape == (4,)
    if family.inverse:
        torch.testing.assert_close(distribution.log_prob(value), log_prob)
    else:
        with pytest.raises(NotImplementedError, match="no inverse"):
            distribution.log_prob(value)


@pytest.mark.parametrize("pattern", ["+", "-", "+-", "-+"])
@every_flow
def test_extreme_parameters_stay_finite(family: Family, pattern: str) -> None:
    """Outputs of the encoder of +-1e4 give finite draws, log-densities and gradients."""
    flow = family.build()
    with torch.no_grad():
        bias = flow.head.layer.bias
        signs = torch.tensor([1.0 if sign == "+" else -1.0 for sign in pattern])
        bias.copy_(1e4 * signs.repeat(bias.numel())[: bias.numel()])
    value, log_prob = flow(torch.randn(BATCH, 5)).rsample_and_log_prob()
    assert value.isfinite().all()
    assert log_prob.isfinite().all()
    (value.mean() + log_prob.sum()).backward()
    assert all([p.grad is None or p.grad.isfinite().all() for p in flow.parameters()])
