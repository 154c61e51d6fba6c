"""Networks in integers: the same in any batch, with any threads, and by numpy alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from deeplvm.compression import tables
from deeplvm.compression.exact import CompressionError, Exact, on_grid, prepared
from deeplvm.networks import MLP, ConvolutionalDecoder, ConvolutionalEncoder


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "network, shape",
    [
        (nn.Sequential(MLP(20, 50, activation=nn.Tanh), nn.Linear(50, 30)), (20,)),
        (ConvolutionalEncoder((1, 9, 7), (4, 8), 16), (1, 9, 7)),
        (ConvolutionalDecoder(5, (1, 9, 7), (4, 8)), (5,)),
    ],
    ids=["dense", "encoder", "decoder"],
)
def test_batch_and_threads_change_nothing(
    network: nn.Module, shape: tuple[int, ...], threads: None
) -> None:
    rows = on_grid(torch.randn(40, *shape, dtype=torch.float64) * 3)
    with torch.no_grad():
        exact = prepared(network)
        with Exact("p(x | z)"):
            whole = exact(rows)
            each = torch.cat([exact(rows[at : at + 1]) for at in range(40)])
            torch.set_num_threads(2)
            again = exact(rows)
        assert torch.equal(each, whole)
        assert torch.equal(again, whole)
        near = network.double()(rows)
    assert (whole - near).abs().max() < 2e-2 * near.abs().max()


def test_numpy_in_int64_computes_the_same() -> None:
    """A dense network by whole numbers alone: no float has a part in it."""
    network = prepared(nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 9)))
    rows = on_grid(torch.randn(25, 12, dtype=torch.float64) * 3)
    table = (tables.activation("tanh") * 2**16).astype(np.int64)

    def whole(value: torch.Tensor, bits: int) -> np.ndarray:
        return (value.numpy() * 2.0**bits).astype(np.int64)

    h = whole(rows, 16)
    for layer in network:
        if isinstance(layer, nn.Linear):
            total = h @ whole(layer.weight, 14).T + (whole(layer.bias, 14) << 16)
            h = np.clip((total + (1 << 13)) >> 14, -(1 << 26), 1 << 26)
        else:
            place = (np.clip(h, -(16 << 16), 16 << 16) + (16 << 16) + (1 << 4)) >> 5
            h = np.where(h > 16 << 16, 1 << 16, table[place])
    with torch.no_grad(), Exact("p(x | z)"):
        found = network(rows)
    assert np.array_equal(whole(found, 16), h)


def test_what_has_no_exact_form_is_refused() -> None:
    with torch.no_grad(), Exact("q(z | x)"), pytest.raises(CompressionError, match="computes erf"):
        torch.erf(torch.ones(2))
    a = torch.ones(2, 2, dtype=torch.float64)
    a = a + a
    with torch.no_grad(), Exact("q(z | x)"), pytest.raises(CompressionError, match="attention"):
        a @ a
    large = nn.Linear(3, 3)
    nn.init.constant_(large.weight, 1e6)
    with torch.no_grad(), pytest.raises(CompressionError, match="so large"):
        prepared(large)


def test_tables_are_those_of_the_functions() -> None:
    x = np.linspace(-9, 9, 2001)
    assert np.abs(tables.exponential(x) / np.exp(x) - 1).max() < 1e-15
    assert np.abs(tables.softplus(x) / np.logaddexp(0, x) - 1).max() < 1e-13
    reference = torch.special.ndtr(torch.from_numpy(x)).numpy()
    assert np.abs(tables.normal(x) - reference).max() < 1e-14
    for table in (tables.normal_table(), tables.logistic_table()):
        found = table(np.arange(-40 << 30, 40 << 30, 99_700_001))
        assert (np.diff(found) >= 0).all()
        assert (found[0], found[-1]) == (0, tables.ONE)
    assert tables.digest().hex()[:16] == "0eab1b2d51fdb680"  # on every machine
