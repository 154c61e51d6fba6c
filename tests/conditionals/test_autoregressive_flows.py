"""Inverse and masked autoregressive flows (R3.3, R3.4): triangular, each other's inverse, fit."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Size, Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.conditionals.flows import (
    Flow,
    InverseAutoregressiveFlow,
    Inverted,
    MaskedAutoregressiveFlow,
    NeuralAutoregressiveFlow,
    NeuralSplineFlow,
)
from deeplvm.conditionals.flows.autoregressive import InverseAutoregressive
from deeplvm.conditionals.flows.masked import (
    MaskedConvolutions,
    MaskedLinear,
    MaskedPerceptron,
    spread,
)
from deeplvm.distributions.transformed import Bound
from deeplvm.networks import MLP
from deeplvm.training.schedules import Average

SHAPES = {"vector": (5,), "map": (2, 3, 3)}
shapes = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def shaken(flow: Flow) -> Flow:
    """Every parameter away from its start, those under a mask too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return flow


def in_order(jacobian: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Rows and columns by pixel, and by channel within a pixel."""
    order = torch.arange(Size(shape).numel()).reshape(shape)
    order = (order.permute(1, 2, 0) if len(shape) == 3 else order).flatten()
    return jacobian.reshape(len(order), -1)[order][:, order]


def jacobians(flow: Flow, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Of each step in the parallel direction, with the diagonal that the step claims."""
    parallel = "inverse" if isinstance(flow, MaskedAutoregressiveFlow) else "forward"
    found = []
    for step in flow(torch.randn(1, 6)).transforms:
        value, context = torch.randn(shape), step.context[0]
        apply: Callable[..., tuple] = getattr(step, parallel)
        jacobian = torch.autograd.functional.jacobian(lambda v: apply(v, context)[0], value)  # noqa: B023
        found.append((in_order(jacobian, shape), torch.as_tensor(apply(value, context)[1])))
    return found


@shapes
@pytest.mark.parametrize("family", [InverseAutoregressiveFlow, MaskedAutoregressiveFlow])
def test_the_jacobian_is_triangular(family: Callable[..., Flow], shape: tuple[int, ...]) -> None:
    """Exactly: also where weights under the masks are not zero; in turns from either end."""
    flow = shaken(family(shape, MLP(6, 8), transforms=2, hidden=(9, 7)))
    sign = -1.0 if family is MaskedAutoregressiveFlow else 1.0
    for turn, (jacobian, log_det) in enumerate(jacobians(flow, shape)):
        jacobian = jacobian.flip(0, 1) if turn % 2 else jacobian
        assert (jacobian.triu(1) == 0).all()
        # all that it may depend on: every row of a vector, the pixel in the middle of a map
        rows = range(5) if len(shape) == 1 else range(8, 10)
        for row in rows:
            assert (jacobian[row, :row] != 0).all()
        total = jacobian.diagonal().log().sum()
        torch.testing.assert_close(total, sign * log_det)


@pytest.mark.parametrize("hidden", [(), (3,), (9, 7)])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("passes", [2, 3, 5])
def test_every_earlier_group_is_seen(hidden: tuple[int, ...], reverse: bool, passes: int) -> None:
    """Of five elements in so many groups, each number depends on all earlier groups' elements."""
    torch.manual_seed(0)
    network = MaskedPerceptron(5, 2, hidden, 2, passes, reverse=reverse)
    context = network.prepare(torch.randn(2))
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v, context)[1], torch.randn(5))
    group = torch.arange(5) * passes // 5
    group = group.flip(0) if reverse else group
    earlier = group < group[:, None]
    assert ((jacobian != 0) <= earlier).all()
    if len(hidden) == 0 or min(hidden) > passes:
        assert ((jacobian != 0) == earlier).all()


def test_passes_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match="takes 1 to 4 passes, found passes=5"):
        MaskedPerceptron(4, 0, (8,), 1, 5)


def test_an_event_that_has_no_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found an event of shape \(2, 3\); write a matrix as"):
        InverseAutoregressiveFlow((2, 3))


@shapes
def test_the_context_is_not_masked(shape: tuple[int, ...]) -> None:
    """Every element depends on every feature; of maps, on the features of its own pixel."""
    flow = shaken(
        InverseAutoregressiveFlow(shape, MLP(6, 8), transforms=1, hidden=(9,), context=2)
    )
    step = flow.transforms[0]
    value = torch.randn(shape)
    context = torch.randn(flow.sizes[-1])
    jacobian = torch.autograd.functional.jacobian(
        lambda c: step(value, step.prepare(c))[0],  # type: ignore[operator]
        context,
    )
    if len(shape) == 3:
        own = jacobian.reshape(*shape, 2, *shape[1:])  # channel, pixel, feature, pixel
        jacobian = torch.einsum("cijfij->cijf", own)
    assert (jacobian != 0).all()


@shapes
def test_network_passes(shape: tuple[int, ...]) -> None:
    """R3.3: one a step in the parallel direction, and one an element in the other."""
    counted = [0]

    def count(*_: object) -> None:
        counted[0] += 1

    elements = Size(shape).numel()
    for family, draws, scores in (
        (InverseAutoregressiveFlow, 1, elements + 1),
        (MaskedAutoregressiveFlow, elements, 1),
    ):
        flow = family(shape, MLP(6, 8), transforms=2, hidden=(4,))
        for module in flow.modules():
            if isinstance(module, MaskedPerceptron | MaskedConvolutions):
                module.register_forward_hook(count)
        distribution = flow(torch.randn(3, 6))
        value, _ = distribution.rsample_and_log_prob()
        assert counted == [2 * draws]
        counted[0] = 0
        distribution.log_prob(value)
        assert counted == [2 * scores]
        counted[0] = 0


def test_the_inverse_of_iaf_is_maf() -> None:
    """Swapping the passes gives the same densities: drawn by one, scored by the other, to 1e-10.

    An IAF takes noise e to z; its inverse, taken as a flow with noise z, draws e. So
    log q(z) + log p(e) = log N(e) + log N(z).
    """
    flow = shaken(InverseAutoregressiveFlow(5, transforms=3, hidden=(8,)))
    with torch.no_grad():
        flow.head.free.zero_()
    flow.minimum_scale = 0.0
    swapped = Flow(5, transforms=[Inverted(step) for step in reversed(flow.transforms)])  # type: ignore[call-overload]
    swapped.minimum_scale = 0.0
    q, p = flow(), swapped()
    e = torch.randn(7, 5)
    z = e
    for step in q.transforms:
        z, _ = step.forward(z, step.context)
    normal = torch.distributions.Normal(0.0, 1.0)
    both = (normal.log_prob(e) + normal.log_prob(z)).sum(-1)
    torch.testing.assert_close(q.log_prob(z) + p.log_prob(e), both, rtol=1e-10, atol=1e-10)
    calls = [0]
    for step in flow.transforms:
        step.network.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    p.log_prob(e)
    assert calls == [3]  # scoring is now the cheap direction
    drawn, log_p = p.rsample_and_log_prob(Size((7,)))
    torch.testing.assert_close(p.log_prob(drawn), log_p)


def test_maf_is_a_product_of_gaussians() -> None:
    """One step: log p(x) = sum of log N(x_i; shift_i, scale_i) with (shift, scale) of x_<i."""
    flow = shaken(MaskedAutoregressiveFlow(4, MLP(6, 8), transforms=1, hidden=(8,)))
    distribution = flow(torch.randn(3, 6))
    step, x = distribution.transforms[0], torch.randn(3, 4)
    shift, log_scale = flow.transforms[0]._parts(x, step.context)  # type: ignore[operator]
    loc = shift + log_scale.exp() * distribution.loc
    normal = torch.distributions.Normal(loc, log_scale.exp() * distribution.scale)
    torch.testing.assert_close(distribution.log_prob(x), normal.log_prob(x).sum(-1))


def test_a_linear_step_is_a_gaussian_of_full_covariance() -> None:
    """R3.4c: one location-only step without hidden layers fits N(m, C) in five dimensions.

    By the sampled divergence; the divergence that is left, in closed form, is below 1e-3 nats
    (with four other seeds 1e-4 to 4e-4).
    """
    torch.manual_seed(0)
    root = 0.4 * torch.randn(5, 5).tril(-1) + torch.eye(5)
    target = torch.distributions.MultivariateNormal(torch.randn(5), root @ root.t())
    flow = InverseAutoregressiveFlow(5, transforms=1, hidden=(), location_only=True)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        z, log_q = flow().rsample_and_log_prob(Size((1024,)))
        optimizer.zero_grad()
        (log_q - target.log_prob(z)).mean().backward()
        optimizer.step()
        rates.step()
    with torch.no_grad():
        distribution = flow()
        (step,) = distribution.transforms

        def forward(noise: Tensor) -> Tensor:
            return step.forward(distribution.loc + distribution.scale * noise, step.context)[0]

        scale = torch.func.vmap(forward)(torch.eye(5)).t() - forward(torch.zeros(5))[:, None]
        fitted = torch.distributions.MultivariateNormal(forward(torch.zeros(5)), scale @ scale.t())
        left = torch.distributions.kl_divergence(fitted, target)
    assert left < 1e-3
    diagonal = target.precision_matrix.diagonal().log().sum() + target.covariance_matrix.logdet()
    assert diagonal / 2 > 0.1  # what the best diagonal Gaussian would leave


def test_the_gate_starts_where_it_is_told() -> None:
    """The forget bias: close to sigmoid(b) z for every input, and never the other bounds."""
    for bias in (1.0, 2.0):
        flow = InverseAutoregressiveFlow(4, MLP(6, 8), transforms=1, forget_bias=bias)
        step = flow(torch.randn(3, 6)).transforms[0]
        value = torch.randn(3, 4)
        after, log_det = step.forward(value, step.context)
        sigma = torch.sigmoid(torch.tensor(bias))
        torch.testing.assert_close(after, sigma * value, rtol=0.1, atol=0.1)
        torch.testing.assert_close(
            torch.as_tensor(log_det), (4 * sigma.log()).expand(3), rtol=0.1, atol=0.1
        )


def test_location_only_preserves_volume() -> None:
    flow = shaken(InverseAutoregressiveFlow(4, MLP(6, 8), transforms=3, location_only=True))
    distribution = flow(torch.randn(3, 6))
    z, log_q = distribution.rsample_and_log_prob()
    noise = z
    for step in reversed(distribution.transforms):
        noise, log_det = step.inverse(noise, step.context)
        assert log_det == 0.0
    normal = torch.distributions.Normal(distribution.loc, distribution.scale)
    torch.testing.assert_close(log_q, normal.log_prob(noise).sum(-1))


def test_particles_share_one_prepared_context() -> None:
    """The context's part of the first layer is computed at (batch,), whatever the particles."""
    flow = InverseAutoregressiveFlow(4, MLP(6, 8), transforms=2, hidden=(16,))
    distribution = flow(torch.randn(3, 6)).expand(Size((50, 3)))
    assert [tuple(step.context.shape) for step in distribution.transforms] == [(3, 16)] * 2


def test_single_precision_and_autocast() -> None:
    """Under autocast the networks compute in bfloat16, densities stay in float32."""
    torch.set_default_dtype(torch.float32)
    for shape in SHAPES.values():
        flow = InverseAutoregressiveFlow(shape, MLP(6, 8), hidden=(16,))
        x = torch.randn(3, 6)
        torch.manual_seed(0)
        z, log_q = flow(x).rsample_and_log_prob()
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(0)
            mixed, log_mixed = flow(x).rsample_and_log_prob()
        assert mixed.dtype == log_mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, z, rtol=0.1, atol=0.1)
        torch.testing.assert_close(log_mixed, log_q, rtol=0.1, atol=0.2)


class Wedges(nn.Module):
    """p(x | z) of four points: the plane in four wedges, with narrow borders."""

    def forward(self, z: Tensor) -> torch.distributions.Categorical:
        return torch.distributions.Categorical(logits=20.0 * torch.cat([z, -z], -1))


class OneHot(nn.Module):
    """A row of parameters for each of four points."""

    out_features = 4

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x, 4).to(torch.get_default_dtype())


def four_points(posterior: nn.Module) -> float:
    """ELBO a datum, nats, of a posterior fitted to four points."""
    p = Joint({"z": StandardNormal(2), "x | z": Wedges()})
    model = LatentVariableModel(p, Joint({"z | x": posterior}))
    x = torch.arange(4)
    optimizer = torch.optim.Adam(posterior.parameters(), lr=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, 400)
    for _ in range(400):
        optimizer.zero_grad()
        (-elbo(model.evidence({"x": x}, particles=32, missing=())).mean()).backward()
        optimizer.step()
        rates.step()
    with torch.no_grad():
        return elbo(model.evidence({"x": x}, particles=5000)).mean().item()


def test_four_points() -> None:
    """R3.4c, as figure 3.2 of the monograph: posteriors that share out a prior among four points.

    By symmetry log p(x) = -log 4 for each point, which no bound exceeds (but for the noise of
    20,000 draws), and each posterior is a wedge of the normal density. An inverse autoregressive
    flow is more than 0.1 nats a datum above the diagonal Gaussian (with four seeds 0.12 to 0.24).
    """
    torch.manual_seed(0)
    diagonal = four_points(Gaussian(2, OneHot()))
    flow = InverseAutoregressiveFlow(2, OneHot(), transforms=2, hidden=(32,), context=16)
    assert diagonal + 0.1 < four_points(flow) < -math.log(4) + 0.05


def test_a_step_of_zeros_is_the_gate_alone() -> None:
    step = InverseAutoregressive(3, 0, (4,), forget_bias=1.5)
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.zero_()
    value = torch.randn(5, 3)
    bound = Bound(step, step.inverse, step.prepare(torch.zeros(5, 0)))
    after, _ = bound.forward(value, bound.context)
    torch.testing.assert_close(after, torch.sigmoid(torch.tensor(1.5)) * value)


FAMILIES: dict[str, Callable[[], Flow]] = {
    "iaf": lambda: InverseAutoregressiveFlow(4, MLP(6, 8), transforms=2, hidden=(8,)),
    "location only": lambda: InverseAutoregressiveFlow(
        4, MLP(6, 8), hidden=(8,), location_only=True
    ),
    "map": lambda: InverseAutoregressiveFlow((1, 2, 2), MLP(6, 8), hidden=(4,)),
    "maf": lambda: MaskedAutoregressiveFlow(4, MLP(6, 8), transforms=2, hidden=(8,)),
    "spline": lambda: NeuralSplineFlow(4, MLP(6, 8), transforms=2, hidden=(8,)),
    "neural": lambda: NeuralAutoregressiveFlow(4, MLP(6, 8), transforms=1, hidden=(8,)),
}


def beside_autograd(flow: Flow) -> None:
    for parameter in flow.parameters():
        parameter.data.mul_(1.5)


def loaded(flow: Flow) -> None:
    flow.load_state_dict({name: 1.5 * value for name, value in flow.state_dict().items()})


def an_optimiser_step(flow: Flow) -> None:
    """Of the one that training takes: its kernel leaves the version of a tensor as it was."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.1, fused=True)
    sum([p.square().sum() for p in flow.parameters()]).backward()  # type: ignore[union-attr]
    optimizer.step()


def an_average_in_place(flow: Flow) -> None:
    average = Average(flow, 0.5)
    an_optimiser_step(flow)
    average.update()
    average.in_place().__enter__()


CHANGES: dict[str, Callable[[Flow], Flow | None]] = {
    "in place": lambda flow: shaken(flow),
    "data": beside_autograd,
    "loaded": loaded,
    "float32": lambda flow: flow.float(),
    "an optimiser's step": an_optimiser_step,
    "an average in place": an_average_in_place,
    "deep copy": lambda flow: shaken(copy.deepcopy(flow)),
    "pickled": lambda flow: shaken(pickle.loads(pickle.dumps(flow))),  # noqa: S301 - our own
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_pass_reads_weights_of_before(family: str, change: str) -> None:
    """After any change of its parameters a used flow is a new one with the same parameters."""
    torch.manual_seed(0)
    flow = FAMILIES[family]()
    x, given = torch.randn(3, *flow.event_shape), torch.randn(3, 6)

    @torch.no_grad()
    def both_ways(flow: Flow) -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        dtype = next(flow.parameters()).dtype
        distribution = flow(given.to(dtype))
        return distribution.log_prob(x.to(dtype)), distribution.sample()

    names = list(flow.state_dict())
    before = both_ways(flow)
    flow = CHANGES[change](flow) or flow
    assert list(flow.state_dict()) == names
    new = FAMILIES[family]().to(next(flow.parameters()).dtype)
    new.load_state_dict(flow.state_dict())
    after = both_ways(flow)
    for found, expected, old in zip(after, both_ways(new), before, strict=True):
        assert torch.equal(found, expected)
        assert found.dtype != old.dtype or not torch.equal(found, old)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_inverse_multiplies_its_masks_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all passes of a step; value and gradient are those of a product for each pass."""
    flow = shaken(FAMILIES[family]())
    (network, *_) = [
        each for each in flow.modules() if isinstance(each, MaskedPerceptron | MaskedConvolutions)
    ]
    distribution = flow(torch.randn(3, 6))
    step, x = distribution.transforms[0], torch.randn(3, *flow.event_shape)
    slow = step.forward if family == "maf" else step.inverse
    counted: list[int] = []
    kernels = MaskedConvolutions.masked if family == "map" else MaskedLinear.masked

    def counting(self: MaskedLinear | MaskedConvolutions) -> list[Tensor]:
        counted.append(1)
        return kernels(self)  # type: ignore[arg-type]

    monkeypatch.setattr(type(network) if family == "map" else MaskedLinear, "masked", counting)

    def gradients() -> tuple[Tensor, ...]:
        y, log_det = slow(x, step.context)
        value = (y.sin().flatten(1).sum(-1) + log_det).sum()
        learned = [*network.parameters()]
        return value, *torch.autograd.grad(
            value, learned, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    once = gradients()
    layers = 1 if family == "map" else 2
    assert len(counted) == layers
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda value, prepared, _: forward(value, prepared))
    for one, other in zip(once, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert len(counted) > 3 * layers  # the first time, and then once a pass


def test_bands_leave_out_nothing() -> None:
    """A large layer, computed in bands, is the dense one with its mask: value and gradient."""
    torch.manual_seed(0)
    degrees = spread(300, 7, 1)
    mask = degrees <= degrees[:, None]
    layer = MaskedLinear(mask)
    assert len(layer.weights) == 2
    dense = torch.zeros(300, 300)
    for weight, rows, (first, last) in zip(
        layer.weights, torch.arange(300).chunk(2), layer.columns, strict=True
    ):
        dense[rows[:, None], torch.arange(first, last)] = weight.detach()
    assert sum([weight.numel() for weight in layer.weights]) < 0.8 * mask.numel()
    dense.requires_grad_()
    x = torch.randn(5, 300)
    expected = torch.nn.functional.linear(x, dense * mask, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    weighted = torch.randn(5, 300)
    (own,) = torch.autograd.grad((layer(x) * weighted).sum(), [layer.weights[0]])
    (theirs,) = torch.autograd.grad((expected * weighted).sum(), [dense])
    torch.testing.assert_close(own, theirs[:150, : own.shape[1]])
