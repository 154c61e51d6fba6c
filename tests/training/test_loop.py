"""fit: seeds, gradients, early stopping, phases, odd data (R1.6, R2.3, R2.8.1a, RA.2.1, RA.3)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import math
from typing import Any

import docstring_parser
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributions import Bernoulli, Independent, Normal

from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import MLP
from deeplvm.objectives import elbo, free_bits, iwae
from deeplvm.randomness import seed_of
from deeplvm.training import (
    Machine,
    Optimization,
    Phase,
    Saving,
    Stopping,
    cosine,
    fit,
    linear,
    unfolded,
)
from deeplvm.training.callbacks import TIMINGS
from deeplvm.training.options import make_optimizer
from deeplvm.training.step import Step
from training_models import (
    Linear,
    OnEpoch,
    digits,
    digits_vae,
    gaussian_rows,
    linear_gaussian,
    quietly,
    same,
    untimed,
    weights,
)

GROUPS = (Optimization, Stopping, Saving, Machine)


def step_of(model, objective=elbo, **options):
    settings: dict[str, Any] = {
        "rows": 6,
        "missing": frozenset(),
        "log_prior": None,
        "clip": None,
        "skip": None,
        "batch_size": 6,
        "alone": True,
    }
    phase = Phase(objective, None, torch.optim.SGD, 1.0, 0.0)
    return Step(model, phase, **(settings | options))


def gradients(model, value):
    return torch.autograd.grad(value, list(model.parameters()), allow_unused=True)


class TestLearning:
    def test_improves_and_returns_what_it_measured(self):
        train, valid = digits()
        model = digits_vae()
        history = quietly(model, train, valid=valid, epochs=6, learning_rate=1e-2)
        values = history.values("valid")
        assert values[-1] > values[0] + 3
        assert set(history.epochs[0]) == {
            "epoch",
            "train",
            "valid",
            "objective",
            "kl_weight",
            "learning_rate",
            *TIMINGS,
        }
        record = history.epochs[-1]["train"]
        assert record["elbo"] == pytest.approx(record["x"] + record["z"], abs=1e-9)
        assert "best" in str(history)

    def test_same_seed_same_run_bit_for_bit(self):
        train, valid = digits()
        runs = []
        for seed in (5, 5, 6):
            model = digits_vae()
            torch.rand(3)  # torch's own stream does not matter
            history = quietly(model, train, valid=valid, epochs=2, seed=seed)
            runs.append((weights(model), untimed(history.epochs)))
        assert same(runs[0][0], runs[1][0])
        assert runs[0][1] == runs[1][1]
        assert not same(runs[0][0], runs[2][0])

    def test_leaves_torchs_random_numbers_alone(self):
        before = torch.get_rng_state()
        model = linear_gaussian()
        torch.set_rng_state(before)
        quietly(model, {"x": gaussian_rows()}, epochs=2)
        assert torch.equal(torch.get_rng_state(), before)

    def test_maximum_likelihood_without_latents_finds_the_mean(self):
        x = gaussian_rows(50)
        model = LatentVariableModel(Joint({"x": Free(3)}))
        quietly(model, {"x": x}, epochs=150, batch_size=50, learning_rate=0.1, schedule="cosine")
        assert torch.allclose(model.p["x"].mean, x.mean(0), atol=1e-3)

    def test_categorical_optimum_is_the_empirical_frequency(self):
        """R1.6."""
        x = (torch.arange(20) % 5 == 0).double().unsqueeze(-1)
        model = LatentVariableModel(Joint({"x": Coin()}))
        quietly(model, {"x": x}, epochs=150, batch_size=20, learning_rate=0.1, schedule="cosine")
        assert float(torch.sigmoid(model.p["x"].logit.detach())) == pytest.approx(0.2, abs=1e-3)

    def test_agrees_with_a_loop_by_hand(self):
        x = gaussian_rows(60)
        model, hand = linear_gaussian(), linear_gaussian()
        quietly(model, {"x": x}, epochs=2, batch_size=25, seed=3)
        optimizer = torch.optim.Adam(hand.parameters(), lr=1e-3, fused=True)
        torch.manual_seed(3)
        for epoch in (1, 2):
            order = torch.Generator().manual_seed(seed_of(3, epoch))
            for index in torch.randperm(60, generator=order).split(25):
                optimizer.zero_grad()
                (-elbo(hand.evidence({"x": x[index]})).mean()).backward()
                optimizer.step()
        assert same(weights(model), weights(hand))


class TestGradients:
    def test_mean_over_all_minibatches_is_the_full_gradient(self):
        """R1.6, N = 6, M = 2."""
        x = gaussian_rows(6)
        model = LatentVariableModel(Joint({"x": Free(3)}))
        step = step_of(model)
        full = gradients(model, step.mean({"x": x}, 1.0)[0])
        parts = [
            gradients(model, step.mean({"x": x[list(rows)]}, 1.0)[0])
            for rows in itertools.combinations(range(6), 2)
        ]
        assert len(parts) == 15
        for i, gradient in enumerate(full):
            mean = torch.stack([part[i] for part in parts]).mean(0)
            assert torch.allclose(mean, gradient, atol=1e-14)

    def test_without_kl_the_encoder_learns_as_an_autoencoder(self):
        """R2.8.1a: at weight 0 the gradient of q is that of the reconstruction alone."""
        x, model = gaussian_rows(6), linear_gaussian()
        step = step_of(model)
        torch.manual_seed(0)
        tempered = gradients(model, step.mean({"x": x}, torch.zeros(()))[0])
        torch.manual_seed(0)
        z = model.q["z"](x).rsample()
        plain = gradients(model, model.p["x"](z).log_prob(x).mean())
        for one, other in zip(tempered, plain, strict=True):
            assert torch.allclose(one, other, atol=1e-12)

    def test_gaussian_prior_is_weight_decay(self):
        """RA.2.1: log p(θ) = -λ/2 |θ|² counts 1/N per row."""
        x, decay = gaussian_rows(12), 3.0

        def prior(model):
            return -decay / 2 * torch.stack([(p**2).sum() for p in model.parameters()]).sum()

        one, other = linear_gaussian(), linear_gaussian()
        common = {
            "epochs": 2,
            "batch_size": 5,
            "optimizer": torch.optim.SGD,
            "learning_rate": 0.01,
        }
        quietly(one, {"x": x}, log_prior=prior, **common)
        quietly(other, {"x": x}, weight_decay=decay / 12, **common)
        for name, value in weights(one).items():
            assert torch.allclose(value, weights(other)[name], atol=1e-12)

    @pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adamax])
    def test_adam_does_not_see_the_scale_of_the_objective(self, kind):
        """RA.3, with eps = 0."""
        x, results = gaussian_rows(), []
        for scale in (1.0, 1024.0):
            model = linear_gaussian()
            quietly(
                model,
                {"x": x},
                epochs=1,
                batch_size=16,
                objective=lambda evidence, scale=scale: scale * elbo(evidence),
                optimizer=lambda parameters: kind(parameters, eps=0.0),
            )
            results.append(weights(model))
        for name, value in results[0].items():
            assert torch.allclose(value, results[1][name], atol=1e-12)

    def test_clip_bounds_the_step(self):
        x, model = 1e3 * gaussian_rows(), linear_gaussian()
        before = weights(model)
        quietly(
            model,
            {"x": x},
            epochs=1,
            batch_size=64,
            optimizer=torch.optim.SGD,
            learning_rate=1.0,
            clip=0.5,
        )
        moved = torch.cat(
            [(value - before[name]).flatten() for name, value in weights(model).items()]
        )
        assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)

    def test_skip_leaves_long_gradients_out(self, capsys):
        x, model = 1e3 * gaussian_rows(), linear_gaussian()
        before = weights(model)
        history = quietly(model, {"x": x}, epochs=1, batch_size=16, skip=1e-3, quiet=False)
        assert history.epochs[0]["skipped"] == 4
        assert same(before, weights(model))
        assert "no step of epoch 1 was taken" in capsys.readouterr().err


class TestOptimizers:
    @pytest.mark.parametrize(
        "choice, kind",
        [
            ("adam", "Adam"),
            ("adamax", "Adamax"),
            ("adamw", "AdamW"),
            (torch.optim.RMSprop, "RMSprop"),
            (lambda p: torch.optim.SGD(p, lr=0.5), "SGD"),
        ],
    )
    def test_any(self, choice, kind):
        optimizer = make_optimizer(choice, [nn.Parameter(torch.ones(2))], 0.5, 0.0)
        assert type(optimizer).__name__ == kind
        assert optimizer.param_groups[0]["lr"] == 0.5
        assert optimizer.param_groups[0]["weight_decay"] == 0.0

    def test_unknown(self):
        unknown: Any = "adagrad"
        with pytest.raises(ValueError, match=r"'adam', 'adamax', 'adamw'.*not 'adagrad'"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, optimizer=unknown)

    def test_schedules_set_the_rate(self):
        rates = {}
        for name in ("cosine", "exponential", "tripling", "constant", None, cosine(4)):
            history = quietly(
                linear_gaussian(),
                {"x": gaussian_rows()},
                epochs=4,
                batch_size=64,
                schedule=name,
                learning_rate=0.1,
            )
            rates[str(name)] = [record["learning_rate"] for record in history.epochs]
        assert (
            rates["cosine"]
            == rates["cosine(epochs=4, end=0.0)"]
            == pytest.approx([0.1, 0.085355, 0.05, 0.014645], rel=1e-4)
        )
        assert rates["constant"] == rates["None"] == [0.1] * 4
        assert rates["tripling"] == pytest.approx([0.1, *[0.1 * 10 ** (-1 / 7)] * 3])
        assert rates["exponential"][2] == pytest.approx(0.01)

    @pytest.mark.parametrize(
        "make",
        [
            lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
            lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
        ],
    )
    def test_torchs_schedulers(self, make, tmp_path):
        history = quietly(
            linear_gaussian(),
            {"x": gaussian_rows()},
            epochs=3,
            schedule=make,
            folder=tmp_path,
            checkpoint_every=1,
        )
        assert history.epochs[-1]["learning_rate"] <= 1e-3
        more = quietly(
            linear_gaussian(),
            {"x": gaussian_rows()},
            epochs=4,
            schedule=make,
            folder=tmp_path,
            resume=True,
        )
        assert more.epochs[3]["learning_rate"] <= history.epochs[2]["learning_rate"]

    def test_unknown_schedule(self):
        with pytest.raises(ValueError, match=r"schedule is one of .*cosine.* not 'step'"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, schedule="step")


class TestKLWeight:
    def test_schedule_is_read_before_each_step_and_recorded(self):
        history = quietly(
            linear_gaussian(), {"x": gaussian_rows()}, epochs=3, batch_size=32, kl_weight=linear(2)
        )
        assert [record["kl_weight"] for record in history.epochs] == [0.25, 0.75, 1.0]

    def test_measuring_uses_weight_one(self):
        model, x = linear_gaussian(), gaussian_rows()
        history = quietly(model, {"x": x}, epochs=1, kl_weight=0.0, learning_rate=1e-12)
        record = history.epochs[0]
        assert record["train"]["elbo"] == pytest.approx(
            record["train"]["x"] + record["train"]["z"]
        )
        assert record["objective"] > record["train"]["elbo"]

    def test_negative_is_refused(self):
        with pytest.raises(ValueError, match="kl_weight must be"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, kl_weight=-1.0)


class TestBest:
    def test_early_stopping_returns_the_argmax(self):
        """RA.3: the weights are those of the best held-out epoch."""
        x, seen = gaussian_rows(16), []
        model = linear_gaussian()
        valid = {"x": 2 * gaussian_rows(16, seed=4)}
        history = quietly(
            model,
            {"x": x},
            valid=valid,
            epochs=200,
            learning_rate=0.05,
            patience=3,
            callbacks=[OnEpoch(lambda record: seen.append(weights(model)))],
        )
        values = history.values("valid")
        assert history.stopped == "patience"
        assert history.best_epoch == 1 + values.index(max(values))
        assert len(values) == history.best_epoch + 3
        assert same(weights(model), seen[history.best_epoch - 1])

    def test_the_time_ends_in_the_middle_of_an_epoch(self):
        """What is learned by then is measured; the run goes on with more of it."""
        x, rates = gaussian_rows(100), list[float]()
        options = {"valid": {"x": gaussian_rows(10, seed=4)}, "batch_size": 10, "epochs": 500}
        history = quietly(linear_gaussian(), {"x": x}, minutes=1e-9, **options)
        assert (history.stopped, len(history.epochs)) == ("minutes", 1)
        assert history.epochs[0]["part"] == 0.1  # a step at least
        assert math.isfinite(history.epochs[0]["valid"]["elbo"])
        history = quietly(
            linear_gaussian(),
            {"x": x},
            minutes=1 / 60,
            schedule="cosine",
            callbacks=[OnEpoch(lambda record: rates.append(record["learning_rate"]))],
            **options,
        )
        assert history.stopped == "minutes"
        assert len(history.epochs) < 500
        assert rates[-1] < 0.1 * rates[0]  # the schedule follows the clock
        assert history.epochs[-1]["rows_per_second"] > 0

    def test_minutes_that_go_on(self, tmp_path):
        x, options = {"x": gaussian_rows(100)}, {"batch_size": 10, "folder": tmp_path}
        first = quietly(linear_gaussian(), x, epochs=3, minutes=1e-9, **options)
        again = quietly(linear_gaussian(), x, epochs=3, minutes=1e-9, resume=True, **options)
        assert (len(again.epochs), again.stopped) == (1, "minutes")  # it was over already
        more = quietly(linear_gaussian(), x, epochs=3, minutes=5.0, resume=True, **options)
        assert (len(more.epochs), more.stopped) == (3, "epochs")
        assert untimed(more.epochs[:1]) == untimed(first.epochs)
        with pytest.raises(ValueError, match="minutes must be a positive number, not 0"):
            Stopping(minutes=0)

    def test_patience_needs_held_out_rows(self):
        with pytest.raises(ValueError, match="Early stopping needs held-out rows"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, patience=2)

    def test_without_held_out_rows_the_last_is_best(self):
        history = quietly(linear_gaussian(), {"x": gaussian_rows()}, epochs=3)
        assert history.best_epoch == 3
        assert history.stopped == "epochs"
        assert "valid" not in history.epochs[0]

    def test_average_is_kept_and_measured(self):
        x, model, raw = gaussian_rows(), linear_gaussian(), []

        def average(one, other, steps, decay=0.9):
            factor = min(decay, (1 + steps) / (10 + steps))
            return {name: factor * one[name] + (1 - factor) * other[name] for name in one}

        expected = weights(model)
        quietly(
            model,
            {"x": x},
            epochs=3,
            batch_size=64,
            averaging=0.9,
            learning_rate=0.1,
            callbacks=[OnEpoch(lambda record: raw.append(weights(model)))],
        )
        for steps, after in enumerate(raw, start=1):
            expected = average(expected, after, steps)
        for name, value in weights(model).items():
            assert torch.allclose(value, expected[name], atol=1e-12)
        assert not same(weights(model), raw[-1])


class TestObjectives:
    @pytest.mark.parametrize(
        "objective, name",
        [
            (iwae, "iwae"),
            (functools.partial(free_bits, minimum=0.1), "free_bits"),
            (lambda evidence: elbo(evidence, "sampled"), "objective"),
        ],
    )
    def test_bound_has_the_objectives_name(self, objective, name):
        history = quietly(
            linear_gaussian(), {"x": gaussian_rows()}, epochs=1, objective=objective, particles=3
        )
        assert history.bound == name
        assert {"elbo", name, "x", "z"} == set(history.epochs[0]["train"])

    def test_compiled_is_the_same_number_in_one_graph(self, monkeypatch):
        """One graph for all full batches and KL weights; the odd last batch runs as it is."""
        counter = CompileCounterWithBackend("aot_eager")  # its random numbers are those of eager
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
        runs = []
        for compiled in (False, True):
            model = digits_vae()
            history = quietly(
                model,
                digits(20, 5)[0],
                epochs=3,
                batch_size=8,
                compile=compiled,
                kl_weight=linear(2),
            )
            runs.append(history.values())
        assert len([graph for graph in counter.graphs if len(graph.graph.nodes)]) == 1
        assert runs[0] == pytest.approx(runs[1], rel=1e-9)


class TestPhases:
    def test_each_moves_its_own_parameters(self):
        model = linear_gaussian()
        before = weights(model)
        quietly(
            model,
            {"x": gaussian_rows()},
            epochs=1,
            phases=[Phase(parameters=lambda m: m.q.parameters())],
        )
        changed = [
            name for name, value in weights(model).items() if not torch.equal(value, before[name])
        ]
        assert changed
        assert all(name.startswith("q.") for name in changed)

    def test_two_phases_are_two_optimisers(self, tmp_path):
        phases = [
            Phase(parameters=lambda m: m.q.parameters(), repeats=2, learning_rate=1e-2),
            Phase(parameters=lambda m: m.p.parameters(), optimizer=torch.optim.SGD),
        ]
        whole, part = linear_gaussian(), linear_gaussian()
        data = {"x": gaussian_rows()}
        quietly(whole, data, epochs=4, phases=phases, batch_size=32)
        quietly(part, data, epochs=2, phases=phases, batch_size=32, folder=tmp_path)
        again = linear_gaussian(seed=9)
        quietly(again, data, epochs=4, phases=phases, batch_size=32, folder=tmp_path, resume=True)
        assert same(weights(whole), weights(again))

    def test_wake_and_sleep_is_two_phases(self):
        """R2.9a: sleep fits q to dreams of the model; here q finds the exact posterior."""

        def dream(model, batch):
            trace = model.sample(len(batch["x"]))
            return model.q["z"](trace["x"].value).log_prob(trace["z"].value)

        model = linear_gaussian()
        with torch.no_grad():
            model.p["x"].log_scale.fill_(-1.0)
        sleep = Phase(
            objective=lambda log_q: log_q, evidence=dream, parameters=lambda m: m.q.parameters()
        )
        quietly(
            model,
            {"x": gaussian_rows(256)},
            epochs=150,
            batch_size=256,
            phases=[sleep],
            learning_rate=0.05,
            schedule="cosine",
        )
        with torch.no_grad():
            loading, noise = model.p["x"].mean.weight, model.p["x"].log_scale.exp() ** 2
            precision = torch.eye(2) + loading.T @ (loading / noise[:, None])
            exact = torch.linalg.solve(precision, (loading / noise[:, None]).T)
        assert torch.allclose(model.q["z"].mean.weight, exact, atol=0.1)


class TestData:
    def test_names_the_model_does_not_know_are_left_out(self):
        train, valid = digits(50, 20)
        quietly(digits_vae(), train, valid=valid, epochs=1)

    def test_no_name_known(self):
        with pytest.raises(ValueError, match=r"called y, but the model knows only x, z"):
            quietly(linear_gaussian(), {"y": torch.ones(3, 2)})

    def test_different_numbers_of_rows(self):
        with pytest.raises(ValueError, match="different numbers of rows"):
            quietly(linear_gaussian(), {"x": torch.ones(3, 3), "y": torch.ones(2)})

    @pytest.mark.parametrize("rows", [1, 7, 33])
    def test_any_number_of_rows(self, rows):
        history = quietly(linear_gaussian(), {"x": gaussian_rows(rows)}, epochs=2, batch_size=16)
        assert len(history.epochs) == 2

    def test_no_rows(self):
        with pytest.raises(ValueError, match="no rows"):
            quietly(linear_gaussian(), {"x": torch.ones(0, 3)})

    def test_every_row_is_visited_once_an_epoch(self):
        seen = []

        class Watched:
            missing = frozenset()

            def rows(self, split):
                return 10 if split == "train" else 0

            def batch(self, split, index, generator=None):
                if generator is not None:
                    seen.append(index)
                return {"x": torch.ones(len(index), 3)}

        quietly(linear_gaussian(), Watched(), epochs=2, batch_size=4)
        assert [len(index) for index in seen] == [4, 4, 2] * 2
        assert sorted(torch.cat(seen[:3]).tolist()) == list(range(10))
        assert torch.cat(seen[:3]).tolist() != torch.cat(seen[3:]).tolist()

    def test_missing_elements_are_left_out(self):
        x = gaussian_rows(40)
        x[::3, 1] = torch.nan
        p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2, 8))})
        model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 8))}))
        history = quietly(model, {"x": x}, epochs=3)
        assert history.values()[-1] > history.values()[0]

    def test_precision_is_the_models(self):
        torch.set_default_dtype(torch.float32)
        model = linear_gaussian().double()
        quietly(model, {"x": gaussian_rows().float()}, epochs=1)
        assert {value.dtype for value in weights(model).values()} == {torch.float64}

    def test_names_shared_by_all_rows_count_once(self):
        """A weight w ~ N(0, 1) of all rows: its posterior mean is Σx/(N + 1)."""
        x = 1.0 + torch.randn(30, 1)

        class Around(nn.Module):
            def forward(self, w):
                return Independent(Normal(w, torch.ones_like(w)), 1)

        p = Joint({"w": StandardNormal(1), "x | w": Around()}, shared=["w"])
        q = Joint({"w": Free(1)}, shared=["w"])
        model = LatentVariableModel(p, q)
        quietly(
            model,
            {"x": x},
            epochs=300,
            batch_size=30,
            learning_rate=0.05,
            particles=20,
            schedule="cosine",
            averaging=0.99,
        )
        assert float(model.q["w"].mean.detach()) == pytest.approx(float(x.sum()) / 31, abs=0.05)
        assert float(model.q["w"].log_scale.detach().exp()) == pytest.approx(31**-0.5, rel=0.2)

    def test_a_module_reached_by_two_names_is_moved_once(self):
        shared = Linear(2, 2)
        p = Joint({"z": StandardNormal(2), "x | z": shared})
        model = LatentVariableModel(p, Joint({"z | x": shared}))
        step = step_of(model)
        assert len(step.parameters) == 3
        quietly(model, {"x": torch.randn(20, 2)}, epochs=1)

    def test_buffers_are_kept(self):
        class Normalised(Linear):
            def __init__(self):
                super().__init__(3, 2)
                self.norm = nn.BatchNorm1d(3)

            def forward(self, parent):
                return super().forward(self.norm(parent))

        p = Joint({"z": StandardNormal(2), "x | z": Linear(2, 3)})
        model = LatentVariableModel(p, Joint({"z | x": Normalised()}))
        quietly(model, {"x": 5 + gaussian_rows()}, epochs=20)
        assert model.training
        assert torch.allclose(
            model.q["z"].norm.running_mean, 5 + gaussian_rows().mean(0), atol=1.0
        )


class TestUnfolded:
    """Options in groups, flat as flags are."""

    def test_every_option_of_every_group_is_there_and_says_what_it_is(self):
        flat = unfolded(fit)
        names = {each.name for group in GROUPS for each in dataclasses.fields(group)}
        assert names < set(inspect.signature(flat).parameters)
        texts = {
            each.arg_name: each.description for each in docstring_parser.parse(flat.__doc__).params
        }
        assert all(texts.get(name) for name in inspect.signature(flat).parameters)

    def test_the_same_run_either_way(self):
        x, one, other = gaussian_rows(), linear_gaussian(), linear_gaussian()
        told = Optimization(learning_rate=0.1, clip=1.0)
        fit(one, {"x": x}, epochs=2, optimization=told, machine=Machine("cpu"), quiet=True)
        flat = unfolded(fit)
        flat(other, {"x": x}, epochs=2, learning_rate=0.1, clip=1.0, device="cpu", quiet=True)
        assert same(weights(one), weights(other))

    def test_an_option_beside_its_group(self):
        """What is not said flat is the group's."""
        plain, group = Optimization(), Optimization(clip=3.0, learning_rate=0.5)
        told = unfolded(lambda model, *, optimization=plain: optimization)
        assert told(None, optimization=group, learning_rate=0.2) == dataclasses.replace(
            group, learning_rate=0.2
        )


class TestOptions:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"epochs": 0}, "epochs must be a positive integer, not 0"),
            ({"batch_size": 2.5}, "batch_size must be a positive integer"),
            ({"particles": -1}, "particles must be a positive integer"),
            ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
            ({"clip": 0.0}, "clip must be a positive number"),
            ({"weight_decay": -1.0}, "weight_decay must be a number of at least 0"),
            ({"checkpoint_every": 2}, "say where as well: folder"),
            ({"averaging": 1.0}, "averaging is a decay"),
            ({"device": "abacus"}, "device is 'auto', 'cpu' or 'cuda', not 'abacus'"),
        ],
    )
    def test_nonsense_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, **options)

    def test_nothing_to_learn(self):
        model = linear_gaussian().requires_grad_(False)
        with pytest.raises(ValueError, match="nothing to learn"):
            quietly(model, {"x": gaussian_rows()})

    def test_plain_lines_where_there_is_no_terminal(self, capsys):
        train, valid = digits(40, 20)
        quietly(digits_vae(), train, valid=valid, epochs=2, quiet=False)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("epoch 1/2  elbo -")
        assert "held out" in lines[0]
        assert lines[0].endswith("left")

    def test_metrics_are_one_line_an_epoch(self, tmp_path):
        history = quietly(linear_gaussian(), {"x": gaussian_rows()}, epochs=3, folder=tmp_path)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == list(history.epochs)


class Free(nn.Module):
    """N(m, s²) with free parameters."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self):
        return Independent(Normal(self.mean, self.log_scale.exp()), 1)


class Coin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(1))

    def forward(self):
        return Independent(Bernoulli(logits=self.logit, validate_args=False), 1)
