"""Networks of pixels: what they see, exactly; at a place they say what they say of the whole."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Size, Tensor

from deeplvm.networks import (
    CausalAttention,
    GatedPixelCNN,
    LocallyMaskedPixelCNN,
    PixelCNN,
    RowLSTM,
    ShiftedPixelCNN,
)
from deeplvm.networks.locally_masked import s_curves

NETWORKS = {
    "plain": partial(PixelCNN, width=8, blocks=2),
    "gated": partial(GatedPixelCNN, width=8, layers=3),
    "shifted": partial(ShiftedPixelCNN, width=6, blocks=1, levels=3),
    "row-lstm": partial(RowLSTM, width=6),
    "attention": partial(CausalAttention, width=8, blocks=2, heads=2),
    "locally-masked": partial(LocallyMaskedPixelCNN, width=6, blocks=1),
    "one-curve": partial(LocallyMaskedPixelCNN, width=6, blocks=1, curves=1),
}
# shape, features of a number, whether an element is a whole pixel, shape of the context
LAYOUTS = {
    "grey": ((1, 4, 3), 1, False, (2,)),
    "colours": ((3, 2, 3), 2, False, (2, 2, 3)),
    "whole-pixels": ((3, 3, 3), 1, True, ()),
    "one-row": ((2, 1, 3), 1, False, ()),
}


def laid_out(shape, features=1, whole=False):
    """The element of each input and of each output; of these an element has two."""
    channels, height, width = shape
    pixels = height * width
    numbers = torch.arange(pixels).repeat(channels) if whole else torch.arange(channels * pixels)
    return numbers.repeat_interleave(features), torch.arange(int(numbers.max()) + 1).repeat(2)


def made(name, shape, features=1, whole=False, context=(), **options):
    torch.manual_seed(0)
    inputs, outputs = laid_out(shape, features, whole)
    network = NETWORKS[name](inputs, outputs, shape=shape, context=context, **options)
    with torch.no_grad():  # no derivative is zero by the size of first weights
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network, inputs, outputs


def depends(network, positions, inputs, context=None) -> Tensor:
    """Which outputs depend on which inputs, at any of a few random values."""
    found = torch.autograd.functional.jacobian(
        lambda x: network(x, positions, context).sum(0), torch.randn(4, len(inputs))
    )
    return (found != 0).any(1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_only_earlier_elements_are_seen_and_a_step_says_what_a_pass_says(name, layout):
    *_, context_shape = shape, features, whole, _ = LAYOUTS[layout]
    network, inputs, outputs = made(name, shape, features, whole, context_shape)
    positions = network.orders[-1]
    x = torch.randn(2, len(inputs))
    context = torch.randn(3, 1, *context_shape) if context_shape else None
    lead = (3, 2) if context_shape else (2,)
    said = network(x, positions, context)
    assert said.shape == (*lead, len(outputs))
    read = depends(network, positions, inputs, None if context is None else context[0])
    earlier = positions[inputs] < positions[outputs].unsqueeze(-1)
    assert not (read & ~earlier).any()
    assert (read & earlier).sum() > 0.7 * earlier.sum()
    if context is not None:
        assert (said[0] - said[1]).abs().max() > 1e-3
    step = network.steps(Size(lead), positions, context)
    with torch.no_grad():
        for place in range(int(positions.max()) + 1):
            undrawn = torch.where(positions[inputs] >= place, 1e3 * torch.randn_like(x), x)
            here = positions[outputs] == place
            torch.testing.assert_close(
                step(undrawn, place)[..., here], said[..., here], rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("name", ["gated", "shifted", "attention", "locally-masked"])
def test_every_earlier_pixel_is_seen(name):
    network, inputs, outputs = made(name, (1, 5, 5))
    positions = network.orders[0]
    earlier = positions[inputs] < positions[outputs].unsqueeze(-1)
    torch.testing.assert_close(depends(network, positions, inputs), earlier)


def test_the_plain_network_has_a_blind_spot_and_the_gated_one_has_none():
    sizes = {"window": (2, 3), "kernel": 3}
    plain, inputs, _ = made("plain", (1, 6, 9), blocks=9, **sizes)
    gated, _, _ = made("gated", (1, 6, 9), layers=10, **sizes)
    row, column = 4, 4
    for network, right_of_column in ((plain, 1), (gated, 4)):
        seen = depends(network, network.orders[0], inputs)[row * 9 + column].reshape(6, 9)
        expected = torch.zeros(6, 9, dtype=torch.bool)
        expected[row, :column] = True
        for above in range(1, row + 1):
            # a step up brings one column to the right; only the gated one walks there first
            reach = above if right_of_column == 1 else 4
            expected[row - above, : column + reach + 1] = True
        torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("name", ["plain", "gated"])
def test_a_window_is_all_that_is_seen(name):
    network, inputs, _ = made(name, (1, 6, 7), window=(3, 5), kernel=1)
    seen = depends(network, network.orders[0], inputs)[4 * 7 + 3].reshape(6, 7)
    expected = torch.zeros(6, 7, dtype=torch.bool)
    expected[2:4, 1:6] = True
    expected[4, 1:3] = True
    torch.testing.assert_close(seen, expected)


@pytest.mark.parametrize("size", [(3, 4), (4, 4)])
def test_s_curves_go_from_neighbour_to_neighbour(size):
    curves = s_curves(size)
    assert len({tuple(curve.flatten().tolist()) for curve in curves}) == 8
    for curve in curves:
        pixels = curve.flatten().argsort()
        rows, columns = pixels // size[1], pixels % size[1]
        torch.testing.assert_close(
            rows.diff().abs() + columns.diff().abs(), torch.ones(len(pixels) - 1, dtype=torch.long)
        )


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: made("plain", (1, 3, 3), kernel=2), "odd kernel; found window=.* and kernel=2"),
        (lambda: made("plain", (1, 3, 3), window=(4, 6)), "odd number of columns"),
        (lambda: made("gated", (1, 3, 3), window=(1, 3)), "at least 2 rows"),
        (lambda: made("locally-masked", (1, 3, 3), curves=9), "1 to 8 orders .* curves=9"),
        (lambda: made("attention", (1, 3, 3), heads=3), "width=8 and heads=3"),
        (lambda: made("plain", (1, 3, 3), context=(2, 4, 4)), "a map of 3 x 3, found"),
        (
            lambda: PixelCNN(torch.arange(5), torch.arange(5), shape=(1, 3, 3)),
            r"found shape \(1, 3, 3\) for 5 elements",
        ),
    ],
)
def test_refused_in_words(make, match):
    with pytest.raises(ValueError, match=match):
        make()
