"""Scores of rows with holes, of cells, and of rows among others: exact where Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Gaussian, LatentClasses, StandardNormal
from deeplvm.distributions import FullCovarianceNormal
from deeplvm.inference.rows import rows_of
from deeplvm.likelihood import (
    Reference,
    UsualSurprise,
    score_cells,
    score_rows,
    tail_probability,
)
from deeplvm.networks import MLP

NAN = math.nan


class Exact(nn.Module):
    """The posterior of a complete row; zeros in place of what is missing mislead it."""

    def __init__(self, weight: Tensor, mean: Tensor) -> None:
        super().__init__()
        covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / 0.25)
        self.gain, self.mean = covariance @ weight.T / 0.25, mean
        self.root = 1.1 * torch.linalg.cholesky(covariance)
        self.event_shape = torch.Size([2])

    def forward(self, x: Tensor) -> Distribution:
        root = self.root.expand(*x.shape[:-1], 2, 2)
        return FullCovarianceNormal((x - self.mean) @ self.gain.T, root)


@pytest.fixture
def linear() -> tuple[LatentVariableModel, MultivariateNormal]:
    """Factor analysis, and the exact distribution of its rows."""
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(5, MLP(2), scale=0.5)})
    layer = p["x"].head.layer
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    weight, mean = layer.weight.detach(), layer.bias.detach()
    model = LatentVariableModel(p, Joint({"z | x": Exact(weight, mean)}))
    return model, MultivariateNormal(mean, weight @ weight.T + 0.25 * torch.eye(5))


def marginal(law: MultivariateNormal, row: Tensor) -> float:
    """log p of what is observed of a row."""
    o = ~row.isnan()
    if not bool(o.any()):
        return 0.0
    own = MultivariateNormal(law.mean[o], law.covariance_matrix[o][:, o])
    return float(own.log_prob(row[o]))


def with_holes(law: MultivariateNormal, rows: int, share: float) -> Tensor:
    torch.manual_seed(1)
    x = law.sample(torch.Size([rows]))
    return torch.where(torch.rand(rows, 5) < share, NAN, x)


def test_rows_with_holes_have_their_exact_likelihood(
    linear: tuple[LatentVariableModel, MultivariateNormal],
) -> None:
    model, law = linear
    x = with_holes(law, 60, 0.3)
    right = torch.tensor([marginal(law, row) for row in x])
    found = score_rows(model, {"x": x}, 500, completed=True)
    assert (found.log_px - right).abs().max() < 0.5
    assert found.holes.equal(x.isnan().any(1))
    plain = score_rows(model, {"x": x}, 500, completed=False)
    assert (plain.log_px - right).abs().max() > 0.7
    assert "k-hat is above 0.7" in plain.warnings[0]
    whole = x[~x.isnan().any(1)]
    kept = score_rows(model, {"x": whole}, 500, completed=True)
    assert kept.log_px.equal(score_rows(model, {"x": whole}, 500, completed=False).log_px)


def test_cells_have_their_exact_surprise(
    linear: tuple[LatentVariableModel, MultivariateNormal],
) -> None:
    r"""-log p(x_d | others) = log p(others) - log p(all), of plain, odd and incomplete rows."""
    model, law = linear
    x = with_holes(law, 8, 0.2)
    x[0], x[1] = law.mean, law.mean
    x[1, 3] += 6.0
    found = score_cells(model, {"x": x}, 1000, completed=True)
    for row, each in zip(x, found.surprise["x"], strict=True):
        for d in range(5):
            if row[d].isnan():
                assert each[d].isnan()
                continue
            rest = row.clone()
            rest[d] = NAN
            right = marginal(law, rest) - marginal(law, row)
            assert abs(float(each[d]) - right) < 0.15 + 0.15 * abs(right)
    assert found.surprise["x"][1].argmax() == 3


def test_rows_are_compared_with_rows_of_the_same_holes(
    linear: tuple[LatentVariableModel, MultivariateNormal],
) -> None:
    """The share of less odd rows is that of the exact scores, to 0.12 with 200 rows of each."""
    model, law = linear
    torch.manual_seed(2)
    held_out = law.sample(torch.Size([400]))
    x = law.sample(torch.Size([40]))
    x[:20, 0] = NAN
    x[20:30, 1:4] = NAN
    x[39] = NAN
    scored = score_rows(model, {"x": held_out}, 200, completed=True)
    reference = Reference(rows_of(model, {"x": held_out}), scored.log_px, 200, completed=True)
    found = score_rows(model, {"x": x}, 200, completed=True)
    less, tail = reference.compare(model, {"x": x}, found.log_px)
    for row, got in zip(x[:39], less, strict=False):
        known = ~row.isnan()
        one = MultivariateNormal(law.mean[known], law.covariance_matrix[known][:, known])
        exact = one.log_prob(held_out[:, known]) > one.log_prob(row[known])
        assert abs(float(got) - float(exact.double().mean())) < 0.12
    assert ((tail > 0) & (tail <= 1)).all()
    none = Reference(rows_of(model, {"x": held_out}), scored.log_px, 200, most=10)
    less, _ = none.compare(model, {"x": x}, found.log_px)
    assert less[:30].isnan().all()
    assert not less[30:39].isnan().any()


@pytest.fixture(scope="module")
def classes() -> LatentVariableModel:
    """An exact mixture of eight numbers, whose columns differ in scale."""
    torch.manual_seed(0)
    row = LatentClasses(Gaussian(8), classes=4)
    with torch.no_grad():
        row.table[:, :8] *= torch.linspace(0.5, 3, 8)
    return LatentVariableModel(Joint({"x": row}))


@pytest.mark.parametrize("complete", [False, True])
def test_rows_of_many_patterns_of_holes_are_compared_for_their_holes(
    classes: LatentVariableModel,
    complete: bool,
) -> None:
    """Each has a percentile, near that among rows of the model with its holes, in any company.

    Of exchangeable rows a tenth have a tail probability of a tenth, of those of few and of many
    holes: within 4 standard errors of some 700 rows, so by chance once in 10,000.
    """
    torch.manual_seed(0)
    held_out, x = classes.sample(2000)["x"].value, classes.sample(2000)["x"].value
    x[torch.rand(x.shape) < 0.3] = NAN
    if not complete:
        held_out[torch.rand(x.shape) < 0.3] = NAN
    scored = score_rows(classes, {"x": held_out}).log_px
    reference = Reference(rows_of(classes, {"x": held_out}), scored, 1, most=4000)
    log_px = score_rows(classes, {"x": x}).log_px
    less, tail = reference.compare(classes, {"x": x}, log_px)
    assert not less.isnan().any()
    holes = x.isnan().sum(1)
    for some in (holes < 2, holes == 2, holes > 2):
        error = (0.09 / int(some.sum())) ** 0.5 + 0.09**0.5 / 2000**0.5
        assert abs(float((tail[some] <= 0.1).double().mean()) - 0.1) < 4 * error
    drawn = classes.sample(1000)["x"].value
    off = []
    for row in range(40):
        alike = score_rows(classes, {"x": torch.where(x[row].isnan(), NAN, drawn)}).log_px
        off.append(abs(float((alike > log_px[row]).double().mean()) - float(less[row])))
    assert sum(off) / 40 < 0.04
    if not complete:  # what all held-out rows have is hidden in them by patterns, up to a number
        part = torch.arange(1999, 0, -7)
        again, _ = reference.compare(classes, {"x": x[part]}, log_px[part])
        torch.testing.assert_close(again, less[part], rtol=0, atol=1e-3)


def test_cells_of_latent_classes_have_their_exact_surprise(classes: LatentVariableModel) -> None:
    """Without a draw, and without a row for each cell."""
    x = torch.randn(6, 8)
    x[torch.rand(x.shape) < 0.3] = NAN
    found = score_cells(classes, {"x": x}, 7).surprise["x"]
    whole = score_rows(classes, {"x": x}).log_px
    for place in range(8):
        rest = x.index_fill(1, torch.tensor([place]), NAN)
        right = score_rows(classes, {"x": rest}).log_px - whole
        right[x[:, place].isnan()] = NAN
        torch.testing.assert_close(found[:, place], right, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_false_alarms_are_as_rare_as_said() -> None:
    """Of 20,000 exchangeable rows: a share of 0.05 within 4 standard errors, reference included.

    The rate given 999 rows of reference is a beta variable of standard deviation 0.007.
    """
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(999, generator=generator)
    rate = (tail_probability(torch.randn(20_000, generator=generator), reference) <= 0.05).double()
    assert abs(float(rate.mean()) - 0.05) < 4 * (0.007 + 0.0015)
    assert tail_probability(torch.tensor([9.0]), reference).item() == pytest.approx(1 / 1000)


def test_what_is_usual_of_values_that_repeat() -> None:
    """Zeros have a probability and other payments a density: each is compared with its like."""
    values = torch.tensor([[0.0, 1.0], [0.0, 2.0], [5.0, 3.0], [7.0, math.nan]])
    surprise = torch.tensor([[0.2, 1.0], [0.4, 2.0], [6.0, 3.0], [8.0, math.nan]])
    usual = UsualSurprise.of(surprise, values, ((0.0,), ()))
    excess = usual.excess(surprise, values)
    assert excess[:, 0].tolist() == pytest.approx([-0.1, 0.1, -1.0, 1.0])
    assert excess[:3, 1].tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert math.isnan(excess[3, 1])
    alone = UsualSurprise.of(surprise[2:], values[2:], ((0.0,), ()))  # no zero was seen
    assert alone.excess(surprise[:1], values[:1])[0, 0] == pytest.approx(0.2 - 7.0)
