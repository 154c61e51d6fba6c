"""Data-copying: the statistic against SciPy, no alarm for fresh draws, alarm for copies."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from torch import Tensor

from deeplvm.evaluation.samples import memorisation as module
from deeplvm.evaluation.samples.memorisation import memorisation, nearest_rows, rank_sum_z


def scipy_z(samples: Tensor, fresh: Tensor) -> float:
    """The z of SciPy's asymptotic test, from its one-sided p-value."""
    test = scipy.stats.mannwhitneyu(
        samples.numpy(),
        fresh.numpy(),
        alternative="less",
        use_continuity=False,
        method="asymptotic",
    )
    return float(scipy.stats.norm.ppf(test.pvalue))


@pytest.mark.parametrize("tied", [False, True])
def test_rank_sums(tied: bool) -> None:
    samples, fresh = torch.randn(30), torch.randn(45) + 0.5
    if tied:
        samples, fresh = samples.round(), fresh.round()
    assert rank_sum_z(samples, fresh) == pytest.approx(scipy_z(samples, fresh), abs=1e-6)
    assert rank_sum_z(torch.ones(5), torch.ones(7)) == 0  # nothing to tell them apart


def test_nearest_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the origin, where squares cancel, and a copy is at zero exactly."""
    monkeypatch.setattr(module, "_CHUNK", 9)
    train = torch.randn(70, 5) + 1_000
    rows = torch.cat([torch.randn(20, 5) + 1_000, train[7:8]])
    nearest, distance = nearest_rows(rows, train)
    every = cdist(rows.numpy(), train.numpy())
    assert nearest.tolist() == every.argmin(1).tolist()
    assert np.allclose(distance.numpy(), every.min(1), rtol=1e-9)
    assert (int(nearest[-1]), float(distance[-1])) == (7, 0.0)


def test_statistic_of_cells() -> None:
    """C_T and its p-value from SciPy's tests, cell by cell."""
    train, fresh = torch.randn(300, 2), torch.randn(150, 2)
    samples = 0.8 * torch.randn(200, 2)
    found = memorisation(samples, train, fresh, cells=3)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(300, generator=generator)
    means: Any = KMeans(3, n_init=1, random_state=0)
    means.fit(train[order].numpy())
    near = [torch.from_numpy(cdist(a.numpy(), train.numpy()).min(1)) for a in (samples, fresh)]
    cells = [means.predict(a.numpy()) for a in (samples, fresh)]
    z = np.array([scipy_z(near[0][cells[0] == c], near[1][cells[1] == c]) for c in range(3)])
    weight = np.bincount(np.asarray(cells[1])) / 150
    expected = float((weight * z).sum())
    assert found.cells == 3
    assert found.covered == 1
    assert found.statistic == pytest.approx(expected, abs=1e-6)
    p = scipy.stats.norm.cdf(expected / math.sqrt((weight**2).sum()))
    assert found.p_value == pytest.approx(p, abs=1e-8)
    assert found.ratio.value == pytest.approx(float(near[0].median() / near[1].median()))
    limit = np.quantile(near[1].numpy(), 0.05, method="higher")
    assert found.close.value == pytest.approx(float((near[0] <= limit).double().mean()))


def test_fresh_draws_are_silent() -> None:
    """p-values of 120 models without copying are uniform: this seed's could fail one in 1,000."""
    many = [
        memorisation(torch.randn(150, 2), torch.randn(300, 2), torch.randn(150, 2), seed=i)
        for i in range(120)
    ]
    p_values = [each.p_value for each in many]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3
    close = torch.tensor([each.close.value for each in many])
    assert float(close.mean()) == pytest.approx(0.05, abs=4 * float(close.std()) / 11 + 1 / 150)
    assert many[0].close.stderr == pytest.approx(float(close.std()), rel=0.3)
    ratio = torch.tensor([each.ratio.value for each in many])
    told = torch.tensor([each.ratio.stderr for each in many]).square().mean().sqrt()
    assert float(told / ratio.std()) == pytest.approx(1, abs=0.3)


def test_copies_are_found() -> None:
    """One sample in seven a copy; and all of them near copies, none exact."""
    train, fresh, samples = (torch.randn(n, 3) for n in (500, 400, 400))
    few = samples.clone()
    few[:57] = train[:57]
    found = memorisation(few, train, fresh)
    assert found.p_value < 1e-3
    assert found.exact == pytest.approx(57 / 400)
    assert found.exact_fresh == 0
    assert found.close.value > 0.05 + 4 * found.close.stderr
    assert found.nearest[:57].tolist() == list(range(57))
    near = memorisation(train[:400] + 0.01 * samples, train, fresh)
    assert near.p_value < 1e-12
    assert near.exact == 0
    assert near.ratio.value < 0.2


def test_copies_among_samples_that_are_far_off() -> None:
    """What the rank sums do not see, the share of close ones does."""
    train, fresh = torch.randn(500, 3), torch.randn(400, 3)
    samples = 3 * torch.randn(400, 3)
    samples[:80] = train[:80] + 0.001
    found = memorisation(samples, train, fresh)
    assert found.statistic > 0
    assert found.close.value > 0.05 + 4 * found.close.stderr


def test_a_region_left_out_is_no_copying() -> None:
    """Without cells the sparse mode's absence looks like copying; with them it does not."""

    def mixture(rows: int, *, wide: bool = True) -> Tensor:
        side = torch.arange(rows) % 2 * wide
        return torch.randn(rows, 2) * (1 + 4 * side[:, None]) + 60 * side[:, None]

    train, fresh, samples = mixture(400), mixture(400), mixture(400, wide=False)
    assert memorisation(samples, train, fresh, cells=1).p_value < 1e-6
    split = memorisation(samples, train, fresh, cells=2)
    assert split.p_value > 1e-3
    assert (split.cells, split.covered) == (1, 0.5)


def test_binary_rows() -> None:
    """Distances that are nearly all tied, fewer distinct rows than cells."""
    train, fresh, samples = (torch.randint(2, (200, 2)).double() for _ in range(3))
    found = memorisation(samples, train, fresh, cells=9)
    assert (found.exact, found.exact_fresh, found.p_value) == (1, 1, 0.5)
    assert math.isnan(found.ratio.value)
    assert json.loads(json.dumps(found.to_dict()))["ratio"]["value"] is None


def test_few_rows() -> None:
    found = memorisation(torch.randn(1, 2), torch.randn(3, 2), torch.randn(2, 2))
    assert found.cells == 1
    assert 0 < found.p_value < 1
    assert "C_T" in str(found)


def test_refusals() -> None:
    x = torch.randn(9, 2)
    with pytest.raises(ValueError, match="at least 1; the samples have 0"):
        memorisation(x[:0], x, x)
    with pytest.raises(ValueError, match="at least one cell, found cells=0"):
        memorisation(x, x, x, cells=0)
    with pytest.raises(ValueError, match="training rows have 2 features and the fresh rows 3"):
        memorisation(x, x, torch.randn(9, 3))
