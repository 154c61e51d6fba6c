"""What a phase may say of itself: a schedule, an update, what its functions ask for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm.objectives import elbo
from deeplvm.training import Phase, constant, linear
from training_models import gaussian_rows, linear_gaussian, quietly


class Asking(nn.Module):
    """Evidence of a phase that is told the KL weight and the numbers of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, model: Any, batch: Any, *, kl_weight: Any, index: Tensor) -> Tensor:
        self.weights += kl_weight
        self.seen += index.tolist()
        return model.evidence(batch).log_weight


def test_a_module_is_told_what_its_forward_asks_for() -> None:
    """Its own call takes anything, and says nothing of what it wants."""
    asking = Asking()
    phase = Phase(lambda values: values, evidence=asking)
    rows = gaussian_rows()
    quietly(
        linear_gaussian(), {"x": rows}, epochs=1, batch_size=len(rows), kl_weight=0.5,
        phases=[phase], measure="elbo",
    )  # fmt: skip
    assert float(asking.weights) == 0.5
    assert sorted(asking.seen) == [*range(len(rows))]
    with pytest.raises(ValueError, match="A step with Asking cannot be compiled"):
        quietly(linear_gaussian(), {"x": rows}, epochs=1, phases=[phase], compile=True)


def test_a_schedule_of_its_own() -> None:
    """The run's schedule, that ends at no rate, is not that of a phase that says otherwise."""
    moved = {}
    for name, own in {"own": constant(), "common": None}.items():
        model = linear_gaussian()
        before = [each.detach().clone() for each in model.parameters()]
        quietly(
            model, {"x": gaussian_rows()}, epochs=1, phases=[Phase(elbo, schedule=own)],
            schedule=linear(1, 0.0, 0.0),
        )  # fmt: skip
        after = zip(before, model.parameters(), strict=True)
        moved[name] = any([not torch.equal(one, other) for one, other in after])
    assert moved == {"own": True, "common": False}


def test_training_ends_when_no_phase_is_left(capsys: Any) -> None:
    """As resumed runs and records have it: two epochs of nine."""
    left = iter([True, True, False])
    phase = Phase(when=lambda: next(left))
    history = quietly(
        linear_gaussian(), {"x": gaussian_rows()}, epochs=9, phases=[phase], quiet=False
    )
    assert (history.stopped, len(history.epochs)) == ("phases", 2)
    assert "no phase is to be done after epoch 2" in capsys.readouterr().err


def test_an_update_moves_parameters_in_place_of_a_gradient() -> None:
    """The mean of the data, by hand; averages of parameters leave it alone."""
    rows, model = gaussian_rows(), linear_gaussian()
    weight = next(iter(model.p.parameters()))

    def update(model: Any, batch: dict[str, Tensor], share: float) -> Tensor:
        weight.add_(1.0)
        return torch.full((len(batch["x"]),), 3.0)

    before = weight.detach().clone()
    history = quietly(
        model, {"x": rows}, epochs=2, batch_size=len(rows), averaging=0.9,
        phases=[Phase(update=update, parameters=lambda _: [weight])],
    )  # fmt: skip
    assert torch.equal(weight.detach(), before + 2.0)
    assert [each["objective"] for each in history.epochs] == [3.0, 3.0]
    with pytest.raises(ValueError, match="has no part in a phase that moves its parameters"):
        quietly(
            model, {"x": rows}, kl_weight=linear(2), phases=[Phase(elbo), Phase(update=update)]
        )
    for idle in ({"learning_rate": 1e-2}, {"optimizer": "adamax"}):
        with pytest.raises(ValueError, match=f"{next(iter(idle))} has no part in a phase"):
            quietly(model, {"x": rows}, phases=[Phase(update=update)], **idle)
