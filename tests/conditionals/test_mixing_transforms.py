"""Permutations, learned matrices and activation normalisation."""

from __future__ import annotations

import pytest
import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals.flows import (
    ActivationNormalisation,
    Flow,
    InvertibleLinear,
    Permutation,
    RealNVP,
    coupling_mask,
    reversal,
    start_from,
)
from deeplvm.conditionals.flows.coupling import Coupling
from deeplvm.training import fit, unfolded

NONE = torch.zeros(0)


def test_reversal_and_permutation() -> None:
    value = torch.arange(6.0).reshape(2, 3)
    assert reversal(3)(value, NONE)[0].tolist() == [[2, 1, 0], [5, 4, 3]]
    maps = torch.arange(8.0).reshape(2, 2, 2)
    assert torch.equal(reversal((2, 2, 2))(maps, NONE)[0], maps.flip(0))
    torch.manual_seed(0)
    step = Permutation(50)
    value = torch.randn(4, 50)
    after, log_det = step(value, NONE)
    assert log_det == 0.0
    assert not torch.equal(after, value)
    assert torch.equal(after.sort(-1).values, value.sort(-1).values)
    assert torch.equal(step.inverse(after, NONE)[0], value)


def test_a_random_order_is_kept_with_the_parameters() -> None:
    torch.manual_seed(0)
    one, other = Permutation(20), Permutation(20)
    assert not torch.equal(one.order, other.order)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.order, other.order)


def test_an_order_that_repeats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"each of 0 to 2 once, found \[0, 0, 2\]"):
        Permutation(3, [0, 0, 2])


@pytest.mark.parametrize("shape", [(6,), (6, 2, 3)])
def test_a_learned_matrix_starts_as_a_rotation(shape: tuple[int, ...]) -> None:
    step = InvertibleLinear(shape)
    value = torch.randn(5, *shape)
    after, log_det = step(value, NONE)
    torch.testing.assert_close(log_det, torch.zeros(()), rtol=0, atol=1e-12)
    torch.testing.assert_close(after.square().sum(1), value.square().sum(1))
    assert (after - value).abs().max() > 0.1


def test_a_learned_matrix_reaches_any_covariance() -> None:
    """Sampled divergence to N(0, C) in closed form: W W^T = C is a solution, found to 1e-6."""
    torch.manual_seed(0)
    root = 0.4 * torch.randn(4, 4).tril(-1) + torch.eye(4)
    target = torch.distributions.MultivariateNormal(torch.zeros(4), root @ root.t())
    step = InvertibleLinear(4)
    optimizer = torch.optim.LBFGS(step.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def divergence() -> torch.Tensor:
        columns, log_det = step(torch.eye(4), NONE)
        covariance = columns.t() @ columns
        trace = (target.precision_matrix * covariance).sum()
        return 0.5 * (trace - 4 + target.covariance_matrix.logdet()) - log_det

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = divergence()
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    assert divergence().abs() < 1e-6


def deep(shape: tuple[int, ...], times: int = 3) -> Flow:
    """A flow as Glow has it: normalisation, matrix, coupling; so many times."""
    torch.manual_seed(0)
    mask = coupling_mask(shape, "half" if len(shape) == 1 else "channel")
    steps = []
    for _ in range(times):
        steps += [Coupling(mask, 0, (8,)), InvertibleLinear(shape), ActivationNormalisation(shape)]
    return Flow(shape, transforms=steps)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)])
def test_normalisations_start_from_data(shape: tuple[int, ...]) -> None:
    """Each gives mean 0 and standard deviation 1 to every channel of what it met."""
    flow, data = deep(shape), 5.0 + 3.0 * torch.randn(200, *shape)
    start_from(flow, data)
    others = [d for d in range(data.dim()) if d != 1]
    value, seen = data, 0
    bound = flow().transforms
    for module, step in zip(reversed(flow.transforms), reversed(bound), strict=True):  # type: ignore[call-overload]
        value, _ = step.inverse(value, step.context)
        if isinstance(module, ActivationNormalisation):
            seen += 1
            std, mean = torch.std_mean(value, others, correction=0)
            torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
            torch.testing.assert_close(std, torch.ones_like(std))
    assert seen == 3


def test_a_start_from_data_is_in_the_state_and_in_one_graph() -> None:
    """After it there is nothing but parameters: a copy is equal, a later batch changes nothing."""
    flow, data = deep((4,), 1), 5.0 + 3.0 * torch.randn(200, 4)
    compiled = torch.compile(lambda x: flow().log_prob(x), fullgraph=True, backend="eager")
    before = compiled(data)
    start_from(flow, data)
    after = compiled(data)
    assert after.mean() > before.mean()
    torch.testing.assert_close(after, flow().log_prob(data))
    kept = {name: value.clone() for name, value in flow.state_dict().items()}
    flow().log_prob(10.0 * data)
    assert all([torch.equal(value, kept[name]) for name, value in flow.state_dict().items()])
    copy = deep((4,), 1)
    copy.load_state_dict(kept)
    assert torch.equal(copy().log_prob(data), flow().log_prob(data))


def test_training_starts_from_data_once() -> None:
    """By a fit that moves nothing: unit variance in every direction; a second one leaves it."""
    model = LatentVariableModel(Joint({"x": deep((4,), 2)}))
    data = 5.0 + 3.0 * torch.randn(200, 4)
    for _ in range(2):
        unfolded(fit)(model, {"x": data}, epochs=1, learning_rate=1e-12, quiet=True, compile=False)
        value = data
        for step in reversed(model.p["x"]().transforms):
            value, _ = step.inverse(value, step.context)
        torch.testing.assert_close(value.mean(0), torch.zeros(4), rtol=0, atol=0.1)
        torch.testing.assert_close(value.std(0), torch.ones(4), rtol=0.05, atol=0)
        kept = [each.clone() for each in model.parameters()]
        start_from(model.p["x"], 10.0 * data)
        assert all(map(torch.equal, model.parameters(), kept))


def test_a_constant_element_does_not_break_the_start() -> None:
    flow = Flow(2, transforms=[ActivationNormalisation(2)])
    start_from(flow, torch.tensor([[1.0, 2.0], [1.0, 4.0]]))
    assert flow().log_prob(torch.tensor([1.0, 3.0])).isfinite()


def test_a_flow_without_normalisations_has_nothing_to_start() -> None:
    with pytest.raises(ValueError, match=r"add ActivationNormalisation\(shape\)"):
        start_from(RealNVP(2), torch.zeros(3, 2))
