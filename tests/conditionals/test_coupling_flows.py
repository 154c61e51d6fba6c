"""NICE and Real NVP (R3.2.2): what a step keeps and changes, masks, scales, refusals."""

from __future__ import annotations

import pytest
import torch

from deeplvm.conditionals.flows import NICE, RealNVP, coupling_mask
from deeplvm.conditionals.flows.coupling import Coupling
from deeplvm.networks import MLP


def test_masks() -> None:
    assert coupling_mask(5, "half").tolist() == [True, True, True, False, False]
    assert coupling_mask(4, "checkerboard", swapped=True).tolist() == [False, True, False, True]
    board = coupling_mask((2, 2, 3), "checkerboard").int()
    assert board.tolist() == [[[1, 0, 1], [0, 1, 0]]] * 2
    channels = coupling_mask((3, 1, 2), "channel").int()
    assert channels.tolist() == [[[1, 1]], [[1, 1]], [[0, 0]]]


@pytest.mark.parametrize(
    "shape, mask, message",
    [
        (4, "channel", "no mask 'channel'; a vector has 'half' and 'checkerboard'"),
        ((2, 3), "half", r"event of shape \(2, 3\) has no mask 'half'"),
        ((1, 4, 4), "channel", "nothing to change in an event of shape"),
        (1, "half", "it needs two elements, or two channels, at least"),
    ],
)
def test_masks_that_do_not_suit_are_refused(
    shape: int | tuple[int, ...], mask: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        coupling_mask(shape, mask)


@pytest.mark.parametrize(
    "shape, mask",
    [((5,), "half"), ((5,), "checkerboard"), ((2, 2, 3), "checkerboard"), ((3, 2, 2), "channel")],
)
def test_a_step_keeps_what_its_mask_says(shape: tuple[int, ...], mask: str) -> None:
    """Kept elements come out as they are; the others see kept ones and themselves alone."""
    torch.manual_seed(0)
    kept = coupling_mask(shape, mask)
    step = Coupling(kept, 2, (6, 6))
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    value, context = torch.randn(shape), step.prepare(torch.randn(2))
    after, log_det = step(value, context)
    assert torch.equal(after[kept], value[kept])
    assert (after[~kept] != value[~kept]).all()
    size = kept.numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: step(v, context)[0], value)
    jacobian = jacobian.reshape(size, size)  # type: ignore[union-attr]
    flat = kept.flatten()
    changed = jacobian[~flat][:, ~flat]
    assert torch.equal(changed, torch.diag(changed.diagonal()))
    assert (jacobian[~flat][:, flat] != 0).any(1).all()
    torch.testing.assert_close(changed.diagonal().log().sum(), log_det)


def test_nice_preserves_volume() -> None:
    """The density is the first draw's, at the place where the value came from."""
    flow = NICE(5, MLP(6, 8), transforms=4)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    distribution = flow(torch.randn(3, 6))
    value, log_prob = distribution.rsample_and_log_prob()
    noise = value
    for step in reversed(distribution.transforms):
        noise, log_det = step.inverse(noise, step.context)
        assert log_det == 0.0
    normal = torch.distributions.Normal(distribution.loc, distribution.scale)
    torch.testing.assert_close(log_prob, normal.log_prob(noise).sum(-1))


@pytest.mark.parametrize("family", [NICE, RealNVP])
@pytest.mark.parametrize("shape", [(4,), (1, 4, 4)])
def test_they_start_near_the_identity(family: type[NICE], shape: tuple[int, ...]) -> None:
    flow = family(shape, MLP(6, 8))
    distribution = flow(torch.randn(3, 6))
    value = torch.randn(3, *shape)
    after = value
    for step in distribution.transforms:
        after, _ = step.forward(after, step.context)
    torch.testing.assert_close(after, value, rtol=0.1, atol=0.1)


def test_several_scales_factor_out() -> None:
    """Of a map of 4x4 at three scales: 8 elements are done at the first, 4 at the second.

    Going from data to noise, an element that is done at one scale does not feel the couplings of
    the next, so its gradient with respect to their parameters is zero.
    """
    torch.manual_seed(0)
    (step,) = RealNVP((1, 4, 4), MLP(2, 2), scales=3, hidden=(6,), transforms=2).transforms
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    value, context = torch.randn(1, 4, 4), torch.randn(2)
    before, log_det = step.inverse(value, context)
    jacobian = torch.autograd.functional.jacobian(lambda v: step.inverse(v, context)[0], value)
    expected = torch.linalg.slogdet(jacobian.reshape(16, 16)).logabsdet  # type: ignore[union-attr]
    torch.testing.assert_close(-log_det, expected)
    counts = []
    deeper = step.deeper[0]
    for scale in (deeper, deeper.deeper[0]):  # type: ignore[index]
        parameters = list(scale.parameters())
        moved = [
            any(
                [
                    g is not None and bool(g.any())
                    for g in torch.autograd.grad(
                        element, parameters, retain_graph=True, allow_unused=True
                    )
                ]
            )
            for element in before.flatten()
        ]
        counts.append(sum(moved))
    assert counts == [8, 4]


def test_scales_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, and an event of shape \(1, 6, 6\)"):
        RealNVP((1, 6, 6), scales=3)
    with pytest.raises(ValueError, match="3 scales has masks of its own"):
        RealNVP((1, 8, 8), scales=3, mask="channel")
    with pytest.raises(ValueError, match="hidden layers of at least 1, found 0"):
        RealNVP((1, 8, 8), hidden=())
