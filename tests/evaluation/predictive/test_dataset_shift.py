"""Rows of one source are not told apart, rows of two are; false alarms below 1 in 500 a seed."""

from __future__ import annotations

import pytest
import torch

from deeplvm.evaluation.predictive.dataset_shift import dataset_shift


def rows(count: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count, columns", [(10, 2), (200, 1), (300, 40)])
def test_one_source(count: int, columns: int) -> None:
    first, second = rows(2 * count, columns, 1), rows(count, columns, 2)
    first[::4, 0] = second[::4, 0] = torch.nan
    assert not dataset_shift(first, second).found


def test_another_unit_is_named_with_its_factor() -> None:
    other = 100.0 + rows(300, 3, 2)
    other[:, 1] *= 2.54
    found = dataset_shift(100.0 + rows(300, 3, 1), other, ["a", "b", "c"])
    (column,) = found.columns
    assert column.title == "b"
    assert column.factor == pytest.approx(2.54, rel=0.3)
    assert found.to_dict()["columns"][0]["medians"][1] == pytest.approx(254, rel=0.01)


def test_a_correlation_of_the_other_sign_is_seen_by_the_forest_alone() -> None:
    first, second = rows(400, 2, 1), rows(400, 2, 2)
    first[:, 1] += 2 * first[:, 0]
    second[:, 1] -= 2 * second[:, 0]
    found = dataset_shift(first, second)
    assert found.found
    assert not found.columns


def test_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="Ten rows"):
        dataset_shift(rows(20, 2, 1), rows(9, 2, 2))
