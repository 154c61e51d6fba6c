"""Windows, cells and pools: what they are at the points where it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm.networks import (
    GRU,
    LSTM,
    Alignment,
    AttentionPool,
    ConvolutionalGRU,
    ConvolutionalLSTM,
    GaussianAttention,
    MeanPool,
    Memory,
    Output,
    SpatialTransformer,
    WeightedMean,
    filter_bank,
    placed,
)


def test_filters_sum_to_one_wherever_they_lie() -> None:
    numbers = 50 * torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    bank = filter_bank(numbers[0], numbers[1], numbers[2].abs() + 1e-3, 5, 9)
    torch.testing.assert_close(bank.sum(-1), torch.ones(200, 5))
    window = GaussianAttention(4, (8, 6), 3)(torch.randn(2, 7, 4))
    assert window.rows.shape == (2, 7, 3, 8)
    assert window.columns.shape == (2, 7, 3, 6)
    torch.testing.assert_close(window.columns.sum(-1), torch.ones(2, 7, 3))


def test_a_window_of_the_whole_picture_gives_it_back() -> None:
    attention = GaussianAttention(1, (8, 8), 8)
    with torch.no_grad():
        attention.numbers.weight.zero_()
        attention.numbers.bias.copy_(torch.tensor([0.0, 0.0, -6.0, 0.0, 0.7]))  # sharp filters
    image = torch.rand(4, 2, 8, 8)
    window = attention(torch.zeros(4, 1))
    torch.testing.assert_close(window.write(window.read(image)), image, atol=1e-6, rtol=0)


def test_a_window_follows_its_middle() -> None:
    """Sharp, of one filter: the glimpse is the pixel there."""
    attention = GaussianAttention(1, (5, 9), 1)
    image = torch.arange(45.0).reshape(1, 5, 9)
    for row, column in ((0, 0), (4, 2), (1, 8)):
        middle = [2 * (column + 1) / 10 - 1, 2 * (row + 1) / 6 - 1]
        with torch.no_grad():
            attention.numbers.weight.zero_()
            attention.numbers.bias.copy_(torch.tensor([*middle, -9.0, 0.0, 0.0]))
        torch.testing.assert_close(
            attention(torch.zeros(1)).read(image).item(), image[0, row, column].item()
        )
    with pytest.raises(ValueError, match="filters of at least 1, found 0"):
        GaussianAttention(1, (5, 9), 0)


def test_a_spatial_transformer_undoes_itself() -> None:
    image = torch.rand(3, 1, 4, 4)
    scale, shift = (
        torch.tensor([0.5, 0.5, 0.5]),
        torch.tensor([[0.0, 0.0], [0.5, -0.5], [-0.25, 0.25]]),
    )
    picture = SpatialTransformer((8, 8))(image, placed(scale, shift, back=True))
    torch.testing.assert_close(picture[0, 0, 2:6, 2:6], image[0, 0])
    torch.testing.assert_close(picture[1, 0, 0:4, 4:8], image[1, 0])  # right is x, up is -y
    torch.testing.assert_close(picture.sum((-1, -2)), image.sum((-1, -2)))
    again = SpatialTransformer((4, 4))(picture, placed(scale, shift))
    torch.testing.assert_close(again, image)
    many = SpatialTransformer((8, 8))(
        image, placed(scale.expand(5, 3), shift.expand(5, 3, 2), back=True)
    )
    torch.testing.assert_close(many[4], picture)


def test_gradients_of_windows_by_finite_differences() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 1, 5, 6, requires_grad=True)
    scale = torch.tensor([0.63, 1.27], requires_grad=True)
    shift = torch.tensor([[0.11, -0.23], [0.31, 0.05]], requires_grad=True)
    transformer, attention = SpatialTransformer((4, 3)), GaussianAttention(3, (5, 6), 2)

    def through(image: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return transformer(image, placed(scale, shift, back=True))

    def glimpse(image: Tensor, features: Tensor) -> Tensor:
        window = attention(features)
        return window.write(window.read(image))

    assert torch.autograd.gradcheck(through, (image, scale, shift))
    assert torch.autograd.gradcheck(glimpse, (image, torch.randn(2, 3, requires_grad=True)))


CELLS: list[tuple[Callable[[], Any], tuple[int, ...]]] = [
    (lambda: GRU(3, 4), ()),
    (lambda: LSTM(3, 4), ()),
    (lambda: ConvolutionalGRU(3, 4, (5, 6)), (5, 6)),
    (lambda: ConvolutionalLSTM(3, 4, (5, 6)), (5, 6)),
]


@pytest.mark.parametrize("build, size", CELLS, ids=["gru", "lstm", "conv gru", "conv lstm"])
def test_cells_join_inputs_of_unequal_leading_shapes(
    build: Callable[[], Any], size: tuple[int, ...]
) -> None:
    cell = build()
    x, z = torch.randn(7, 2, *size), torch.randn(2, 7, 1, *size)
    state = torch.randn(2, 7, *cell.out_shape)
    found = cell(x, z, state)
    assert found.shape == state.shape
    joined = torch.cat([x[3], z[1, 3]])
    torch.testing.assert_close(found[1, 3], cell(joined[None], state[1, 3][None])[0])
    with pytest.raises(TypeError, match=r"inputs and then the state"):
        cell(state)
    with pytest.raises(ValueError, match="sum to 3"):
        cell(x, state)


def test_convolutional_cells_of_one_pixel_are_the_cells_of_vectors() -> None:
    cell, maps = LSTM(3, 4), ConvolutionalLSTM(3, 4, (1, 1), kernel=1)
    with torch.no_grad():
        both = torch.cat([cell.cell.weight_ih, cell.cell.weight_hh], 1)
        maps.gates.weight.copy_(both[..., None, None])
        maps.gates.bias.copy_(cell.cell.bias_ih + cell.cell.bias_hh)
    x, s = torch.randn(5, 3), torch.randn(5, 8)
    torch.testing.assert_close(maps(x[..., None, None], s[..., None, None])[..., 0, 0], cell(x, s))
    gru = ConvolutionalGRU(3, 4, (1, 1), kernel=1)
    x, h = torch.randn(5, 3, 1, 1), torch.randn(5, 4, 1, 1)
    with torch.no_grad():
        gru.layer.bias[4:8] = 40.0  # the update gate keeps the state
    torch.testing.assert_close(gru(x, h), h)
    with pytest.raises(ValueError, match="odd kernel"):
        ConvolutionalGRU(3, 4, (5, 5), kernel=2)


def test_the_forget_gate_of_an_lstm_starts_open() -> None:
    cell = LSTM(3, 4, forget=30.0)
    state = torch.cat([torch.zeros(1, 4), torch.full((1, 4), 7.0)], -1)
    with torch.no_grad():
        cell.cell.weight_ih.zero_()
    kept = cell(torch.randn(1, 3), state)
    torch.testing.assert_close(kept[:, 4:], state[:, 4:], atol=1.0, rtol=0)
    torch.testing.assert_close(Output()(kept), kept[:, :4])
    biases = LSTM(3, 4).cell.bias_ih + LSTM(3, 4).cell.bias_hh
    assert torch.equal(biases[4:8], torch.ones(4))


class Aligned(nn.Module):
    """An alignment and the mean by it, called as a pool is."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh, self.mean = Alignment(3, 2), WeightedMean(3)

    def forward(self, members: Tensor, *asked: Tensor) -> Tensor:
        return self.mean(self.weigh(members, *asked), members)


@pytest.mark.parametrize("kind", ["mean", "attention", "alignment"])
def test_pools_do_not_see_the_order_and_leave_out_what_does_not_count(kind: str) -> None:
    pools = {"mean": MeanPool(3), "attention": AttentionPool(3, 2), "alignment": Aligned()}
    pool = pools[kind]
    members, query = torch.randn(2, 5, 4, 3), torch.randn(5, 2)
    asked = () if kind == "mean" else (query,)
    found = pool(members, *asked)
    assert found.shape == (2, 5, 3)
    torch.testing.assert_close(pool(members[:, :, [2, 0, 3, 1]], *asked), found)
    counts = torch.tensor([0, 1, 2, 3, 4])
    some = pool(members, *asked, counts)
    torch.testing.assert_close(some[:, 4], found[:, 4])
    torch.testing.assert_close(some[:, 1], members[:, 1, 0])
    assert not some[:, 0].any()
    two = pool(members[:, 2:3, :2], *[each[2:3] for each in asked])
    torch.testing.assert_close(some[:, 2], two[:, 0])


def test_attention_goes_to_the_member_that_is_asked_for() -> None:
    pool = AttentionPool(3, 3)
    with torch.no_grad():
        pool.query.weight.copy_(1e3 * torch.eye(3))
        pool.key.weight.copy_(torch.eye(3))
    members = torch.eye(3)[[2, 0, 1]]
    torch.testing.assert_close(pool(members[None], torch.eye(3)), torch.eye(3))


def test_a_memory_keeps_the_newest() -> None:
    memory, state = Memory(1, 2), torch.zeros(1, 2, 1)
    for member in (1.0, 2.0, 3.0):
        state = memory(torch.tensor([[member]]), state)
    assert state.flatten().tolist() == [3.0, 2.0]
