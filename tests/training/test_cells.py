"""Training under many masks: what is hidden, what the bound is of, and which epoch is best."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Categorical, Gaussian, StandardNormal
from deeplvm.inference import impute
from deeplvm.learning.closed_forms import in_units, linear_gaussian_of
from deeplvm.networks import MLP
from deeplvm.training import Streams, cells
from deeplvm.training.batches import batches_of
from deeplvm.training.cells import hidden, predicted
from training_models import gaussian_rows, linear_gaussian, quietly, same, weights

ROWS = {"x": gaussian_rows()}
HELD_OUT = {"x": gaussian_rows(32, seed=4)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_row_draws_its_own_share() -> None:
    """Shares of 2,000 rows of 100: uniform to 0.5, of mean 0.25 within 4 standard errors."""
    x = torch.ones(2000, 100)
    share = hidden({"x": x}, ("x",), 0.5, generator())["x"].isnan().double().mean(1)
    assert abs(float(share.mean()) - 0.25) < 4 * 0.15 / math.sqrt(2000)
    assert float(share.max()) > 0.45
    assert float(share.min()) < 0.05
    assert hidden({"x": x}, ("x",), 0.0, generator())["x"].equal(x)


def test_only_visits_in_training_hide() -> None:
    model = linear_gaussian()
    batches = batches_of(model, ROWS, HELD_OUT, None, torch.device("cpu"), 0.5)
    index = torch.arange(8)
    assert batches.missing == {"x"}
    assert batches("train", index)["x"].equal(ROWS["x"][:8].to(batches.dtype))
    first, again, other = (batches("train", index, generator(seed))["x"] for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, equal_nan=True)
    assert first.isnan().any()
    assert not first.isnan().equal(other.isnan())


def factor_analysis() -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2), scale=0.5)})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3), scale=1.0)}))


def exactly(model: LatentVariableModel, x: Tensor) -> Tensor:
    """log p of what is observed of each row of a linear-Gaussian model."""
    form = linear_gaussian_of(model)
    assert form is not None
    return form.posterior(in_units(form.likelihood, x)).log_px


def test_the_ledger_is_that_of_what_is_left() -> None:
    """Importance weights of masked rows have the exact log p of the rest as their mean."""
    model = factor_analysis()
    rest = hidden({"x": HELD_OUT["x"].double()}, ("x",), 0.9, generator())
    bound = model.evidence(rest, particles=20_000)
    found = torch.logsumexp(bound.log_weight, 0) - math.log(20_000)
    assert (found - exactly(model, rest["x"])).abs().max() < 0.3


def test_hidden_cells_are_predicted_as_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """log p(x_h | x_r) = log p(x) - log p(x_r), both exact, for the same hidden cells."""
    model, x = factor_analysis(), HELD_OUT["x"].double()
    monkeypatch.setattr(cells, "PARTICLES", 20_000)
    torch.manual_seed(3)
    found = predicted(model, {"x": x}, ("x",), missing=frozenset())
    torch.manual_seed(3)
    rest = torch.where(torch.rand_like(x) < cells.SHARE, torch.nan, x)
    assert (found - exactly(model, x) + exactly(model, rest)).abs().max() < 0.5


def test_the_best_epoch_predicts_hidden_cells_best() -> None:
    options = {"valid": HELD_OUT, "epochs": 4, "batch_size": 64}
    history = quietly(linear_gaussian(), ROWS, hide=0.5, **options)
    assert history.bound == "cells"
    values = [record["valid"]["cells"] for record in history.epochs]
    assert history.best_epoch == 1 + values.index(max(values))
    asked = quietly(linear_gaussian(), ROWS, measure="cells", **options)
    assert asked.bound == "cells"
    plain = quietly(linear_gaussian(), ROWS, **options)
    assert "cells" not in plain.epochs[0]["valid"]
    by_bound = quietly(linear_gaussian(), ROWS, hide=0.5, measure="elbo", **options)
    assert by_bound.bound == "elbo"


def test_a_run_goes_on_where_it_stopped(tmp_path) -> None:
    options = {"valid": HELD_OUT, "batch_size": 50, "hide": 0.5}
    whole, parts = linear_gaussian(), linear_gaussian()
    quietly(whole, ROWS, epochs=4, **options)
    quietly(parts, ROWS, epochs=2, folder=tmp_path, **options)
    parts = linear_gaussian()
    quietly(parts, ROWS, epochs=4, folder=tmp_path, resume=True, **options)
    assert same(weights(whole), weights(parts))
    with pytest.raises(ValueError, match="hide"):
        quietly(
            linear_gaussian(), ROWS, epochs=5, folder=tmp_path, resume=True,
            **{**options, "hide": 0.2},
        )  # fmt: skip


def labelled() -> tuple[LatentVariableModel, dict[str, Tensor]]:
    p = Joint({"y": Categorical(3), "z": StandardNormal(1), "x | y, z": Gaussian(4, MLP(4))})
    q = Joint({"z | x, y": Gaussian(1, MLP(7))})
    return LatentVariableModel(p, q), {"x": torch.randn(60, 4), "y": torch.arange(60) % 3}


def test_labels_and_conditions_are_never_hidden() -> None:
    model, rows = labelled()
    batches = batches_of(model, rows, None, None, torch.device("cpu"), 0.5)
    assert batches.hidden == ("x",)
    quietly(model, rows, epochs=1, hide=0.5)
    q = Joint({"z | x, c": Gaussian(1, MLP(6))})
    p = Joint({"z": StandardNormal(1), "x | z, c": Gaussian(4, MLP(3))})
    both = {"x": torch.randn(60, 4), "c": torch.randn(60, 2)}
    assert batches_of(
        LatentVariableModel(p, q), both, None, None, torch.device("cpu"), 0.5
    ).hidden == ("x",)


def test_streams_hide_too() -> None:
    streams = Streams({"few": {"x": torch.zeros(4, 3)}, "many": {"x": torch.zeros(9, 3)}})
    model = linear_gaussian()
    batches = batches_of(model, streams, None, None, torch.device("cpu"), 0.9)
    index = next(batches.order(1, 0, 4))
    found = batches("train", index, generator())
    assert found["few"]["x"].isnan().any()
    assert found["many"]["x"].isnan().any()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_refusals(share: float) -> None:
    with pytest.raises(ValueError, match=r"hide is a share of a row's values in \[0, 1\)"):
        quietly(linear_gaussian(), ROWS, epochs=1, hide=share)
    _, rows = labelled()
    only = LatentVariableModel(Joint({"y": Categorical(3)}), Joint({}))
    with pytest.raises(ValueError, match="these data have none; leave it out"):
        quietly(only, {"y": rows["y"]}, epochs=1, hide=0.5)
    with pytest.raises(ValueError, match="measure is a function of the model"):
        quietly(only, {"y": rows["y"]}, epochs=1, measure="cells")


def test_an_encoder_that_saw_masks_fills_in_well() -> None:
    """Without completions the filled values are as near as their spread; without masks far off."""
    torch.manual_seed(0)
    z = torch.randn(2000, 1)
    x = torch.cat([z, 0.5 * z], 1) + 0.1 * torch.randn(2000, 2)
    holes = x[:100].clone()
    holes[:50, 0], holes[50:, 1] = torch.nan, torch.nan

    def error(hide: float) -> float:
        torch.manual_seed(1)
        p = Joint({"z": StandardNormal(2), "x | z": Gaussian(2, MLP(2, 32))})
        model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(2, 32))}))
        quietly(
            model, {"x": x}, epochs=40, learning_rate=3e-3, hide=hide, measure="elbo",
            valid={"x": x[:200]},
        )  # fmt: skip
        found = impute(model, {"x": holes}, completed=False)
        return float((found.values["x"] - x[:100])[holes.isnan()].square().mean().sqrt())

    masked = error(0.7)
    assert masked < 0.3
    assert masked < error(0.0)
