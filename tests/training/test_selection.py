"""Which epoch is best: what is measured, and which epochs can be compared."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from deeplvm.conditionals import StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import MLP, Features
from deeplvm.objectives import Constrained, GrowingCapacity, free_bits, maximum_mean_discrepancy
from deeplvm.training import Phase, Schedule, cyclical, linear
from training_models import (
    OnEpoch,
    digits,
    digits_vae,
    gaussian_rows,
    linear_gaussian,
    quietly,
    same,
    weights,
)

ROWS = {"x": gaussian_rows()}
HELD_OUT = {"x": gaussian_rows(32, seed=4)}


class TestWarmUp:
    def test_patience_and_best_count_from_its_end(self):
        """A learning rate that is far too high makes the first of all bounds the best."""
        options = {"valid": HELD_OUT, "learning_rate": 1.0, "batch_size": 64}
        plain = quietly(linear_gaussian(), ROWS, epochs=8, kl_weight=linear(4), **options)
        values = plain.values("valid")
        comparable = [record.get("comparable", True) for record in plain.epochs]
        assert comparable == [False] * 4 + [True] * 4  # the weight of an epoch's last step is 1
        assert plain.best_epoch == 5 + max(range(4), key=lambda i: values[4 + i])
        waiting = quietly(
            linear_gaussian(), ROWS, epochs=9, kl_weight=linear(7), patience=2, **options
        )
        assert len(waiting.epochs) == 9

    def test_a_run_that_ends_before_it_keeps_the_last_and_says_so(self, capsys):
        model, seen = linear_gaussian(), []
        history = quietly(
            model,
            ROWS,
            valid=HELD_OUT,
            epochs=5,
            kl_weight=linear(150),
            patience=1,
            learning_rate=1.0,
            quiet=False,
            callbacks=[OnEpoch(lambda _: seen.append(weights(model)))],
        )
        assert (history.best_epoch, history.stopped) == (5, "epochs")
        assert same(weights(model), seen[-1])
        said = capsys.readouterr().err
        assert "has not come to 1 after 5 epochs" in said
        assert "(best)" not in said

    def test_resumed(self, tmp_path):
        options = {"valid": HELD_OUT, "learning_rate": 1.0, "kl_weight": linear(4), "patience": 2}
        whole, parts = linear_gaussian(), linear_gaussian(seed=8)
        expected = quietly(whole, ROWS, epochs=12, **options)
        quietly(linear_gaussian(), ROWS, epochs=3, folder=tmp_path, **options)
        history = quietly(parts, ROWS, epochs=12, folder=tmp_path, resume=True, **options)
        assert history.best_epoch == expected.best_epoch > 4
        assert len(history.epochs) == len(expected.epochs)
        assert same(weights(whole), weights(parts))

    @pytest.mark.parametrize(
        "weight, comparable",
        [
            (0.3, [True] * 6),
            (lambda epoch: min(1.0, epoch / 3), [False] * 2 + [True] * 4),
            (lambda epoch: epoch, [False] * 6),
            (cyclical(3, ramp=0.5), [False, True, True] * 2),
            (Schedule("rising", lambda epoch: epoch), [False] * 6),
        ],
        ids=["number", "function", "function without end", "cyclical", "schedule without end"],
    )
    def test_any_weight(self, weight, comparable):
        rows = {"x": ROWS["x"][:100]}
        history = quietly(
            linear_gaussian(), rows, valid=HELD_OUT, epochs=6, batch_size=1, kl_weight=weight
        )
        assert [record.get("comparable", True) for record in history.epochs] == comparable
        assert history.best_epoch == 6 or comparable[history.best_epoch - 1]

    def test_a_plateau_is_looked_for_after_it(self):
        def plateau(optimizer):
            return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)

        history = quietly(
            linear_gaussian(),
            ROWS,
            valid=HELD_OUT,
            epochs=5,
            learning_rate=1.0,
            kl_weight=linear(20),
            schedule=plateau,
        )
        assert {record["learning_rate"] for record in history.epochs} == {1.0}

    def test_a_growing_capacity(self):
        objective = GrowingCapacity(steps=3)
        history = quietly(
            linear_gaussian(), ROWS, valid=HELD_OUT, epochs=5, batch_size=64, objective=objective
        )
        assert [record.get("comparable", True) for record in history.epochs] == [False] * 2 + [
            True
        ] * 3
        assert history.best_epoch > 2

    def test_weights_that_are_chosen_anew_in_every_step(self):
        options = {"valid": HELD_OUT, "epochs": 2, "objective": Constrained(3.0)}
        assert quietly(linear_gaussian(), ROWS, **options).best_epoch == 2
        with pytest.raises(ValueError, match=r"constrained weighs its terms anew.*measure='elbo'"):
            quietly(linear_gaussian(), ROWS, patience=2, **options)
        quietly(linear_gaussian(), ROWS, patience=2, measure="elbo", **options)


class TestMeasure:
    def test_a_function_chooses(self):
        told = iter([3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 5.0, 5.0])

        def distance(model, rows):
            assert not model.training
            assert len(rows["x"]) == 32
            return next(told)

        model, seen = linear_gaussian(), []
        history = quietly(
            model,
            ROWS,
            valid=HELD_OUT,
            epochs=9,
            measure=distance,
            direction="lower",
            patience=2,
            callbacks=[OnEpoch(lambda _: seen.append(weights(model)))],
        )
        assert history.bound == "distance"
        assert history.values("valid") == [3.0, 1.0, 2.0, 5.0]
        assert (history.best_epoch, history.stopped) == (2, "patience")
        assert same(weights(model), seen[1])
        assert "nats" not in str(history)
        assert set(history.epochs[0]["valid"]) == {"distance"}

    def test_one_number_a_row_is_averaged(self):
        def error(model, rows):
            return rows["x"][:, 0]

        history = quietly(linear_gaussian(), ROWS, epochs=1, measure=error)
        assert history.values()[0] == pytest.approx(float(ROWS["x"][:, 0].mean()), rel=1e-6)

    @pytest.mark.parametrize(
        "name, direction", [("x", "higher"), ("z", "lower"), ("elbo", "lower")]
    )
    def test_a_name_chooses(self, name, direction):
        history = quietly(
            linear_gaussian(),
            ROWS,
            valid=HELD_OUT,
            epochs=6,
            objective=functools.partial(free_bits, minimum=0.1),
            measure=name,
            direction=direction,
            learning_rate=0.5,
        )
        values = history.values("valid")
        chosen = max(values) if direction == "higher" else min(values)
        assert history.best_epoch == 1 + values.index(chosen)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"measure": "accuracy"}, "one of elbo, z, x; not 'accuracy'"),
            ({"direction": "lower"}, "say what to measure"),
            ({"measure": "elbo", "direction": "up"}, "'higher' or 'lower', not 'up'"),
            ({"measure": lambda model, rows: rows["x"]}, r"returned shape \(64, 3\)"),
            ({"measure": lambda model, rows: float("nan")}, "is nan on the train rows"),
        ],
    )
    def test_nonsense_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            quietly(linear_gaussian(), ROWS, epochs=1, **options)

    def test_a_resumed_run_measures_the_same(self, tmp_path):
        quietly(linear_gaussian(), ROWS, epochs=1, measure="x", folder=tmp_path)
        with pytest.raises(ValueError, match="a run with measure 'x', and this one has 'elbo'"):
            quietly(
                linear_gaussian(), ROWS, epochs=2, measure="elbo", folder=tmp_path, resume=True
            )


class TestGames:
    def critics(self):
        torch.manual_seed(0)
        critic = nn.Linear(4, 1)

        def fool(evidence):
            return evidence.terms["x"] + critic(evidence.q["z"].value)[..., 0]

        def judge(evidence):
            z = evidence.q["z"].value.detach()
            return (critic(torch.randn_like(z)) - critic(z))[..., 0]

        return [Phase(judge, lambda model: critic.parameters()), Phase(fool)]

    def test_the_elbo_does_not_choose_unless_told(self, capsys):
        train, valid = digits(100, 60)
        options = {"valid": valid, "epochs": 4, "learning_rate": 1.0}
        last = quietly(digits_vae(), train, phases=self.critics(), quiet=False, **options)
        assert last.best_epoch == 4
        assert "objectives of their own" in capsys.readouterr().err
        told = quietly(digits_vae(), train, phases=self.critics(), measure="elbo", **options)
        values = told.values("valid")
        assert told.best_epoch == 1 + values.index(max(values)) < 4

    def test_patience_asks_what_to_wait_for(self):
        train, valid = digits(100, 60)
        with pytest.raises(ValueError, match=r"nothing says which is better.*measure='elbo'"):
            quietly(digits_vae(), train, valid=valid, phases=self.critics(), patience=2)

    def test_phases_that_ascend_the_objective_are_no_game(self):
        phases = [Phase(parameters=lambda m: m.q.parameters()), Phase(learning_rate=1.0)]
        history = quietly(linear_gaussian(), ROWS, valid=HELD_OUT, epochs=5, phases=phases)
        values = history.values("valid")
        assert history.best_epoch == 1 + values.index(max(values))


class TestWithoutDensity:
    def generator(self):
        torch.manual_seed(0)
        return LatentVariableModel(
            Joint({"z": StandardNormal(2), "x | z": Features(MLP(2, 32, 3), 3)})
        )

    def pairs(self, model, rows):
        return model.p({}, (len(rows["x"]),))["x"].value, rows["x"]

    def distance(self, model, rows):
        return maximum_mean_discrepancy(*self.pairs(model, rows))

    def match(self):
        return Phase(lambda pair: -maximum_mean_discrepancy(*pair), evidence=self.pairs)

    def test_it_is_fitted_chosen_and_stopped_by_a_measure(self):
        model = self.generator()
        rows, held_out = {"x": gaussian_rows(200)}, {"x": gaussian_rows(100, seed=5)}
        history = quietly(
            model,
            rows,
            valid=held_out,
            epochs=30,
            phases=[self.match()],
            learning_rate=1e-2,
            measure=self.distance,
            direction="lower",
            patience=20,
        )
        values = history.values("valid")
        assert history.best_epoch == 1 + values.index(min(values))
        assert min(values) < 0.5 * values[0]

    def test_without_a_measure_it_is_said_what_is_missing(self):
        with pytest.raises(ValueError, match=r"measure="):
            quietly(self.generator(), ROWS, epochs=1, phases=[self.match()])
