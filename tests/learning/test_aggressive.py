"""Steps of q for each of p, until the mutual information of held-out rows no longer climbs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.evaluation.latents.mutual_information import mutual_information
from deeplvm.learning.aggressive import Rising, aggressive
from deeplvm.training import Callback, Phase
from training_models import (
    Linear,
    digits,
    digits_vae,
    gaussian_rows,
    quietly,
    same,
    untimed,
    weights,
)


class Scaled(nn.Module):
    """z | x ~ N(a x, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Distribution:
        return Independent(Normal(self.a * x, torch.ones_like(x)), 1)


def test_it_climbs_until_it_does_not() -> None:
    """Looked at with a known a: I by its definition, with the same random numbers each time."""
    p = Joint({"z": StandardNormal(1), "x | z": Linear(1, 1)})
    q = Scaled()
    model = LatentVariableModel(p, Joint({"z | x": q}))
    x = torch.linspace(-2.0, 2.0, 30)[:, None]
    rising = Rising(rows=20)
    asked: list[int] = []

    def take(rows: int) -> dict[str, Tensor]:
        asked.append(rows)
        return {"x": x[:rows]}

    told, found, climbing = [], [], []
    for a in (0.0, 1.0, 3.0, 2.9, 9.0):
        with torch.no_grad():
            q.a.fill_(a)
        state = torch.get_rng_state()
        told.append(rising.judge(model, take))
        assert torch.equal(state, torch.get_rng_state())
        found.append(float(rising.information))
        climbing.append(rising())
    assert climbing == [True, True, True, False, False]
    assert asked == [20] * 4  # not looked at again
    assert [bool(text) for text in told] == [False, False, False, True, False]
    assert "climbs no more" in told[3]
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert found[3] == found[4] < found[2]
    # I by quadrature over z, of 20 rows as they are
    z = torch.linspace(-15.0, 15.0, 4001)
    for a, value in zip((1.0, 3.0, 2.9), found[1:4], strict=True):
        each = Normal(a * x[:20, 0], 1.0).log_prob(z[:, None])
        mixed = each.logsumexp(1) - math.log(20)
        exact = torch.trapezoid((each.exp() * (each - mixed[:, None])).mean(1), z)
        assert value == pytest.approx(float(exact), abs=0.35)  # 20 draws, deviation about 0.15


class Watching(Callback):
    """The mutual information of held-out rows after each epoch, and who took the steps."""

    def __init__(self, model: LatentVariableModel, valid: dict[str, Tensor]) -> None:
        self.model, self.valid = model, valid
        self.optimizers: list[torch.optim.Adam] = []
        self.information: list[float] = []
        self.steps: list[list[int]] = []

    def make(self, parameters: list[nn.Parameter]) -> torch.optim.Adam:
        self.optimizers.append(torch.optim.Adam(parameters, lr=0.03))
        return self.optimizers[-1]

    def epoch_ended(self, record: dict[str, object]) -> None:
        found = mutual_information(self.model, self.valid)["z"]
        self.information.append(found["aggregate"].value)
        counts = [
            [int(memory["step"]) for memory in optimizer.state.values()][:1] or [0]
            for optimizer in self.optimizers
        ]
        self.steps.append([count[0] for count in counts])


@pytest.mark.parametrize("held_out", [True, False])
def test_fit_returns_to_ordinary_training(held_out: bool) -> None:
    """q alone and p alone up to the first epoch without a climb, and all together after it."""
    train, valid = digits(100, 60)
    model = digits_vae()
    watching = Watching(model, valid if held_out else train)
    quietly(
        model, train, valid=valid if held_out else None, epochs=12, batch_size=50,
        phases=aggressive(repeats=3, rows=1000 if held_out else 100), optimizer=watching.make,
        callbacks=[watching],
    )  # fmt: skip
    pairs = zip(watching.information, watching.information[1:], strict=False)
    last = next(i for i, (before, now) in enumerate(pairs, 2) if now <= before)
    assert 2 < last < 11, watching.information
    for epoch, taken in enumerate(watching.steps, 1):
        lagging, together = min(epoch, last), max(epoch - last, 0)
        assert taken == [6 * lagging, 2 * lagging, 2 * together]


def test_ordinary_it_is() -> None:
    """From the epoch after, the weights move as by a fit that starts from there."""
    x = {"x": gaussian_rows(60)}
    p = Joint({"z": StandardNormal(2), "x | z": Linear(2, 3)})
    model = LatentVariableModel(p, Joint({"z | x": Linear(3, 2)}))
    kept: dict[str, dict[str, Tensor]] = {}
    phases = aggressive(repeats=2)
    rising = phases[0].when

    class Keeping(Callback):
        def epoch_ended(self, record: dict[str, object]) -> None:
            kept[f"{len(kept) + 1}"] = weights(model)
            if len(kept) == 2:
                rising.climbing.fill_(False)  # type: ignore[union-attr]

    quietly(model, x, epochs=3, batch_size=60, phases=phases, callbacks=[Keeping()])
    moved = [name for name in kept["2"] if not torch.equal(kept["2"][name], kept["3"][name])]
    assert set(moved) == set(dict(model.named_parameters()))
    # the first step of a fresh Adam moves every number by its rate
    for name in moved:
        step = (kept["3"][name] - kept["2"][name]).abs()
        torch.testing.assert_close(step, torch.full_like(step, 1e-3), rtol=1e-3, atol=0.0)


class TestResume:
    @pytest.mark.parametrize("stop", [2, 5, 7])
    def test_is_the_run_that_was_never_stopped(self, tmp_path, stop):
        """Bit for bit, while q is ahead (2), at the change (5), and after it (7)."""
        train, valid = digits(100, 60)

        def learn(model: LatentVariableModel, epochs: int, folder: str, *, resume: bool = False):
            return quietly(
                model, train, valid=valid, epochs=epochs, batch_size=50, learning_rate=0.03,
                phases=aggressive(repeats=3), averaging=0.5, checkpoint_every=1,
                folder=tmp_path / folder, resume=resume,
            )  # fmt: skip

        whole = digits_vae()
        expected = learn(whole, 8, "whole")
        learn(digits_vae(), stop, "parts")
        model = digits_vae(seed=77)
        history = learn(model, 8, "parts", resume=True)
        assert same(weights(whole), weights(model))
        assert untimed(history.epochs) == untimed(expected.epochs)


def test_it_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    train, valid = digits(100, 60)
    quietly(digits_vae(), train, valid=valid, epochs=12, batch_size=50, learning_rate=0.03,
        phases="aggressive(repeats=3)", quiet=False)  # fmt: skip
    assert capsys.readouterr().err.count("climbs no more") == 1


def test_a_torch_scheduler_that_waits_does_not_warn() -> None:
    quietly(
        digits_vae(), digits(20)[0], epochs=2, phases=aggressive(repeats=1),
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
    )  # fmt: skip


def test_without_information_to_see() -> None:
    """Latents that all rows share have none of a row."""
    p = Joint({"w": StandardNormal(2), "x": Gaussian(3)}, shared=["w"])
    model = LatentVariableModel(p, Joint({"w": Gaussian(2)}, shared=["w"]))
    rows = {"x": torch.randn(20, 3)}
    with pytest.raises(ValueError, match=r"aggressive\(stop=False\) does without"):
        quietly(model, rows, epochs=1, phases=aggressive())
    quietly(model, rows, epochs=1, phases=aggressive(stop=False))
    with pytest.raises(ValueError, match="give two rows or more"):
        quietly(digits_vae(), digits(1)[0], epochs=1, phases=aggressive())
    with pytest.raises(ValueError, match="1 or more, not 0"):
        aggressive(repeats=0)
    with pytest.raises(ValueError, match="2 or more, not 1"):
        aggressive(rows=1)


def test_phases_that_all_wait() -> None:
    with pytest.raises(ValueError, match="No phase is to be done in epoch 1"):
        quietly(digits_vae(), digits(20)[0], epochs=1, phases=[Phase(when=lambda: False)])
