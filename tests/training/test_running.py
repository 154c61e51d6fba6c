"""A run of training: stopping in the middle, watching, metering, compiling, precision, sharing."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from typing import Any

import pytest
import torch
from torch import nn

from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.networks import MLP
from deeplvm.objectives import elbo
from deeplvm.parallel.noise import SharedNoise
from deeplvm.parallel.processes import Processes
from deeplvm.parallel.steps import Together, whole
from deeplvm.randomness import seed_of
from deeplvm.training import (
    Callback,
    Phase,
    TensorBoard,
    TrainingInterrupted,
)
from deeplvm.training import (
    callbacks as metering,
)
from deeplvm.training import checkpoint as files_of_a_run
from deeplvm.training import (
    graph as compiling,
)
from deeplvm.training.batches import Batches, Tensors
from deeplvm.training.callbacks import TIMINGS, Signals
from deeplvm.training.checkpoint import load_checkpoint
from deeplvm.training.step import Step
from training_models import (
    digits,
    digits_vae,
    gaussian_rows,
    linear_gaussian,
    quietly,
    same,
    untimed,
    weights,
)


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step, function) -> None:
        self.step, self.function = step, function

    def step_ended(self, step, objective):
        if step == self.step:
            self.function()


def signalled(number):
    return lambda: os.kill(os.getpid(), number)


class TestStop:
    """R2.3c: the state is exact at every step, not only after an epoch."""

    @pytest.mark.parametrize(
        "number, step",
        [
            *[(number, step) for number in ("SIGINT", "SIGTERM") for step in (1, 8, 12, 13)],
            *[(number, 8) for number in ("SIGHUP", "SIGXCPU", "SIGUSR1")],
        ],
    )
    def test_a_signal_finishes_the_step_and_resume_is_exact(self, tmp_path, number, step):
        number = getattr(signal, number)
        train, valid = digits(120, 40)
        options = {
            "epochs": 3,
            "batch_size": 10,
            "valid": valid,
            "averaging": 0.9,
            "clip": 1.0,
            "schedule": "cosine",
            "kl_weight": lambda epoch: min(1.0, 0.2 + epoch),
        }
        whole = digits_vae()
        expected = quietly(whole, train, **options)
        with pytest.raises(TrainingInterrupted, match="All of it is saved") as caught:
            quietly(
                digits_vae(),
                train,
                folder=tmp_path,
                callbacks=[At(step, signalled(number))],
                **options,
            )
        assert caught.value.signal == number
        assert caught.value.epoch == (step - 1) // 12
        state, _ = load_checkpoint(tmp_path / "checkpoint" / "state.safetensors")
        assert state["epoch"] * 12 + state["position"] == step
        model = digits_vae(seed=9)
        history = quietly(model, train, folder=tmp_path, resume=True, **options)
        assert same(weights(whole), weights(model))
        assert untimed(history.epochs) == untimed(expected.epochs)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert untimed([json.loads(line) for line in lines]) == untimed(expected.epochs)

    def test_while_measuring(self, tmp_path):
        """A held-out set may take long: the signal is heard between its batches."""
        train, valid = digits(40, 700)
        whole = digits_vae()
        quietly(whole, train, valid=valid, epochs=2)
        measured = []

        class Heard(nn.Module):
            def forward(self, value):
                if not self.training and len(value) > 100 and not measured:
                    measured.append(os.kill(os.getpid(), signal.SIGTERM))
                return value

        def model(seed=1):
            vae = digits_vae(seed)
            vae.q["z"].register_forward_pre_hook(
                lambda module, given: Heard.forward(vae.q["z"], *given)
            )
            return vae

        with pytest.raises(TrainingInterrupted, match="after 1 of its 1 batches"):
            quietly(model(), train, valid=valid, epochs=2, folder=tmp_path)
        again = digits_vae(seed=4)
        quietly(again, train, valid=valid, epochs=2, folder=tmp_path, resume=True)
        assert same(weights(whole), weights(again))

    def test_old_checkpoints_are_followed_in_mid_epoch(self, tmp_path, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr(files_of_a_run.time, "monotonic", lambda: clock[0])
        positions = []

        class Saves(Callback):
            def saved(self, path):
                state, _ = load_checkpoint(path)
                positions.append((state["epoch"], state["position"]))

        train, _ = digits(60)
        quietly(
            digits_vae(),
            train,
            batch_size=20,
            epochs=1,
            folder=tmp_path,
            callbacks=[Saves(), At(2, lambda: clock.__setitem__(0, 61.0))],
        )
        assert positions == [(0, 2), (1, 0)]

    def test_without_a_folder_the_best_is_kept(self):
        model = linear_gaussian()
        x = gaussian_rows()
        with pytest.raises(TrainingInterrupted, match=r"best weights so far \(epoch 2\)\.$"):
            quietly(model, {"x": x}, epochs=9, callbacks=[At(3, signalled(signal.SIGINT))])

    def test_the_second_signal_acts_at_once(self):
        # a shell ignores it for what runs in its background
        own = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with Signals() as signals:
                signal.raise_signal(signal.SIGINT)
                assert signals.received == signal.SIGINT
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, own)

    def test_what_would_not_end_the_process_is_left_alone(self):
        """nohup ignores SIGHUP; a handler of SIGUSR1 is the user's own."""
        heard = []
        own = signal.signal(signal.SIGUSR1, lambda *_: heard.append("USR1"))
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with Signals() as signals:
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGUSR1)
                assert signals.received is None
            assert heard == ["USR1"]
        finally:
            signal.signal(signal.SIGUSR1, own)
            signal.signal(signal.SIGHUP, ignored)

    def test_a_terminal_that_closes_says_so_twice(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            with Signals() as signals:
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGHUP)
                assert signals.received == signal.SIGHUP
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_in_another_thread_nothing_is_listened_for(self):
        heard = []

        def listen():
            with Signals() as signals:
                heard.append(signals.received)

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        assert heard == [None]


class TestOrder:
    def test_is_a_pure_function_and_covers_every_row(self):
        batches = Batches(
            Tensors({"x": torch.zeros(23, 3)}),
            frozenset({"x"}),
            torch.device("cpu"),
            torch.float64,
        )
        first, again, other = (list(batches.order(e, 5, 4)) for e in (1, 1, 2))
        assert torch.cat(first).sort().values.equal(torch.arange(23))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(torch.cat(first), torch.cat(other))
        late = list(batches.order(1, 5, 4, first=3))
        assert all(torch.equal(a, b) for a, b in zip(first[3:], late, strict=True))

    def test_seeds_do_not_collide(self):
        assert len({seed_of(a, b) for a in range(30) for b in range(30)}) == 900


class TestWatching:
    def test_every_event_is_told(self, tmp_path):
        events: list[tuple[Any, ...]] = []

        class All(Callback):
            def started(self, options):
                events.append(("started", options["epoch"], options["epochs"]))

            def step_ended(self, step, objective):
                events.append(("step", step))

            def epoch_ended(self, record):
                events.append(("epoch", record["epoch"]))

            def saved(self, path):
                assert path.exists()
                events.append(("saved",))

            def ended(self, history, error):
                events.append(("ended", len(history.epochs), error))

        quietly(
            linear_gaussian(),
            {"x": gaussian_rows(40)},
            batch_size=20,
            epochs=2,
            folder=tmp_path,
            checkpoint_every=1,
            callbacks=[All()],
        )
        one = [("step", 1), ("step", 2), ("saved",), ("epoch", 1)]
        two = [("step", 3), ("step", 4), ("saved",), ("epoch", 2)]
        assert events == [("started", 0, 2), *one, *two, ("ended", 2, None)]

    def test_an_error_in_one_ends_the_run_and_is_told_to_it(self):
        told = []

        class Fails(Callback):
            def epoch_ended(self, record):
                raise RuntimeError("watched badly")

            def ended(self, history, error):
                told.append((history, str(error)))

        with pytest.raises(RuntimeError, match="watched badly"):
            quietly(linear_gaussian(), {"x": gaussian_rows(40)}, epochs=3, callbacks=[Fails()])
        assert told == [(None, "watched badly")]

    def test_tensorboard(self, tmp_path):
        event_accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        )
        folder = tmp_path / "tensorboard"
        train, valid = digits(60, 20)
        history = quietly(
            digits_vae(), train, valid=valid, epochs=3, callbacks=[TensorBoard(folder)]
        )
        events = event_accumulator.EventAccumulator(str(folder)).Reload()
        shown = [event.value for event in events.Scalars("elbo/valid")]
        assert shown == pytest.approx(history.values("valid"), rel=1e-6)
        assert [event.step for event in events.Scalars("training/seconds")] == [1, 2, 3]

    def test_tensorboard_that_is_not_installed(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard.writer", None)
        with pytest.raises(ValueError, match=r"pip install deeplvm\[tensorboard\]"):
            TensorBoard(tmp_path)

    def test_the_machine_is_in_the_metrics(self):
        history = quietly(digits_vae(), digits(200)[0], epochs=1)
        record = history.epochs[0]
        assert set(TIMINGS) <= set(record)
        assert record["rows_per_second"] > 0
        assert 0 < record["fraction_of_limit"] < 2
        assert record["peak_memory"] > 50e6


class Gone(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error: OSError | ValueError, *, terminal: bool = False) -> None:
        super().__init__()
        self.error, self.terminal = error, terminal

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "bar"])
@pytest.mark.parametrize(
    "error",
    [BrokenPipeError(), OSError(28, "No space left"), ValueError("I/O operation on closed file")],
    ids=["pipe", "disk", "closed"],
)
def test_output_that_nobody_sees_does_not_end_training(error, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone(error, terminal=terminal))
    history = quietly(linear_gaussian(), {"x": gaussian_rows()}, epochs=3, quiet=False)
    assert len(history.epochs) == 3


def test_without_a_stream(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert quietly(linear_gaussian(), {"x": gaussian_rows()}, epochs=2, quiet=False).epochs


class TestMetering:
    def test_counts_products(self):
        a, b = torch.zeros(7, 5), torch.zeros(5, 3)
        assert metering.flops_of(lambda: a @ b) == 2 * 7 * 5 * 3

    def test_a_step_counts_forward_and_backward(self, tmp_path):
        """64-16-8 and 4-16-64, three products a layer, but for the encoder's first two."""
        quietly(digits_vae(), digits(50)[0], epochs=1, folder=tmp_path)
        state, _ = load_checkpoint(tmp_path / "checkpoint" / "state.safetensors")
        forward = 2 * (64 * 16 + 16 * 8 + 4 * 16 + 16 * 64)
        assert state["flops"] == 3 * forward - 2 * 64 * 16

    def test_leaves_random_numbers_alone(self):
        before = torch.get_rng_state()
        metering.product_rate.cache_clear()
        assert metering.product_rate() > 1e8
        assert torch.equal(before, torch.get_rng_state())


def step_of(model, **more):
    settings: dict[str, Any] = {
        "rows": 60,
        "missing": frozenset(),
        "log_prior": None,
        "clip": None,
        "skip": None,
        "batch_size": 60,
        "alone": True,
    }
    return Step(model, Phase(elbo, None, torch.optim.SGD, 0.1, 0.0), **(settings | more))


class TestCompiling:
    """Which form of a step is taken, with a compiler of known cost in the compiler's place."""

    @pytest.fixture
    def slow(self, monkeypatch):
        """Make eager or compiled steps take a known time."""
        times = {"eager": 0.0, "compiled": 0.0}
        clock = [0.0]
        monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
        real = Step.gradient

        def gradient(step, *args, **kwargs):
            clock[0] += times["compiled" if step.compiled is not None else "eager"]
            return real(step, *args, **kwargs)

        monkeypatch.setattr(Step, "gradient", gradient)
        monkeypatch.setattr(
            Step, "compile", lambda step, **_: setattr(step, "compiled", step._value)
        )
        return times

    def choose(self, wanted: Any = "auto", left=100_000, budget=60.0):
        model = digits_vae()
        batch = {"x": digits(60)[0]["x"]}
        before, state = weights(model), torch.get_rng_state()
        step = step_of(model)
        choice = compiling.choose(
            [step],
            batch,
            whole(torch.arange(60)),
            1.0,
            wanted=wanted,
            left=left,
            budget=budget,
            say=lambda line: None,
        )
        assert same(before, weights(model))
        assert torch.equal(state, torch.get_rng_state())
        assert all(p.grad is None for p in model.parameters())
        assert (step.compiled is not None) == choice.compiled
        return choice

    def test_the_faster_is_taken(self, slow):
        slow |= {"eager": 0.02, "compiled": 0.01}
        choice = self.choose()
        assert choice.compiled
        assert choice.by_clock
        assert "10.00 ms compiled, 20.00 ms not" in choice.reason
        slow |= {"eager": 0.01, "compiled": 0.02}
        assert not self.choose().compiled

    @pytest.mark.parametrize("held", [True, False], ids=["module", "parameter alone"])
    def test_what_closures_hold_is_put_back(self, slow, held, monkeypatch):
        """A trial moves a critic, its running statistics and its optimiser: all are as before."""
        slow |= {"eager": 0.02, "compiled": 0.03}
        monkeypatch.setattr(metering, "product_rate", lambda *_: 1e9)  # it reads the clock
        monkeypatch.setattr(compiling, "_FEWEST", 1)
        runs = []
        for compiled in (False, "auto"):
            torch.manual_seed(2)
            net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
            scale, model = nn.Parameter(torch.zeros(())), digits_vae()

            def judge(evidence, net=net, scale=scale):
                value = evidence.q["z"].value.detach()
                return (net(value) if held else value)[..., 0] * scale.exp()

            own = [*net.parameters(), scale] if held else [scale]
            phases = [Phase(judge, lambda _, own=own: own), Phase(elbo)]
            options = {"epochs": 1, "batch_size": 10, "compile_budget": 1e-3, "phases": phases}
            quietly(model, digits(40)[0], compile=compiled, **options)
            runs.append(weights(net) | weights(model) | {"scale": scale.detach().clone()})
        assert same(*runs)

    def test_short_training_is_not_compiled(self, slow):
        slow |= {"eager": 0.02, "compiled": 0.001}
        assert not self.choose(left=999).compiled
        assert not self.choose(left=10_000).compiled  # 200 s, of which 60 would go
        assert self.choose(left=10_000, budget=30.0).compiled

    def test_a_compiler_that_fails(self, slow, monkeypatch):
        slow |= {"eager": 0.02}

        def broken(step, **_):
            def fails(*given):
                raise RuntimeError("no C++ compiler\nand a long story")

            step.compiled = fails

        monkeypatch.setattr(Step, "compile", broken)
        choice = self.choose()
        assert not choice.compiled
        assert choice.reason == "not compiled: torch.compile fails here (no C++ compiler)"
        with pytest.raises(ValueError, match=r"cannot be compiled here \(no C\+\+ compiler\)"):
            self.choose(wanted=True)

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
    def test_over_budget_is_given_up(self, slow, monkeypatch):
        slow |= {"eager": 0.02}
        waited = threading.Event()

        def endless(step, **_):
            step.compiled = lambda *given: waited.wait(30.0)

        monkeypatch.setattr(Step, "compile", endless)
        choice = self.choose(budget=0.05)
        assert not choice.compiled
        assert "more than the 0 s allowed" in choice.reason

    def test_a_resumed_run_does_not_choose_again(self, tmp_path, monkeypatch):
        asked = []

        def choose(steps, batch, part, weight, *, wanted, **_):
            asked.append(wanted)
            return compiling.Compilation(compiled=False, by_clock=True)

        monkeypatch.setattr("deeplvm.training.loop.choose", choose)
        for epochs in (1, 2):
            quietly(
                linear_gaussian(),
                {"x": gaussian_rows()},
                epochs=epochs,
                folder=tmp_path,
                resume=epochs == 2,
            )
        assert asked == ["auto", False]

    def test_nonsense(self):
        nonsense: Any = "maybe"
        with pytest.raises(ValueError, match="compile is True, False or 'auto'"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, compile=nonsense)


class TestPrecision:
    def test_bfloat16_learns_like_float32(self):
        """Log-densities stay in float32: the bounds differ by the rounding of products alone."""
        torch.set_default_dtype(torch.float32)
        train, valid = digits(200, 60)
        values = {}
        for precision in ("float32", "bfloat16"):
            model = digits_vae()
            history = quietly(
                model, train, valid=valid, epochs=20, learning_rate=1e-2, precision=precision
            )
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            values[precision] = history.values("valid")
        assert values["bfloat16"] != values["float32"]
        assert values["bfloat16"][-1] == pytest.approx(values["float32"][-1], abs=0.5)

    def test_a_density_in_bfloat16_is_refused(self):
        torch.set_default_dtype(torch.float32)

        class Rough(nn.Module):
            def __init__(self):
                super().__init__()
                self.mean = nn.Linear(4, 64)

            def forward(self, z):
                logits = self.mean(z).bfloat16()
                return torch.distributions.Independent(
                    torch.distributions.Normal(logits, torch.ones_like(logits)), 1
                )

        p = Joint({"z": StandardNormal(4), "x | z": Rough()})
        model = LatentVariableModel(p, Joint({"z | x": Gaussian(4, MLP(64, 8))}))
        train = {"x": digits(20)[0]["x"].bfloat16()}
        step = step_of(model, bfloat16=True)
        with pytest.raises(ValueError, match=r"log-density of 'x' is computed in bfloat16"):
            step.mean({"x": train["x"]}, 1.0)

    def test_nonsense(self):
        nonsense: Any = "float16"
        with pytest.raises(ValueError, match="precision is 'auto'"):
            quietly(linear_gaussian(), {"x": gaussian_rows()}, precision=nonsense)


class Half(Processes):
    """One of two processes, whose sums are put in place of a network."""

    def sum(self, tensor):
        return tensor


class TestSharing:
    """What two processes compute adds up to what one does."""

    @pytest.mark.parametrize("particles", [None, 1, 3, 5])
    @pytest.mark.parametrize("rows", [1, 5, 10])
    def test_the_halves_are_the_whole(self, particles, rows):
        model = digits_vae()
        model.q["z"].register_forward_pre_hook(
            lambda module, given: (nn.functional.dropout(given[0], 0.3),)
        )
        x = digits(rows)[0]["x"]
        batch, index = {"x": x}, torch.arange(rows)

        def gradient(together, part):
            torch.manual_seed(4)
            for parameter in model.parameters():
                parameter.grad = None
            with together.noise(part, particles):
                given = {"x": batch["x"][part.index]}
                evidence = model.evidence(given, particles=particles)
                value = elbo(evidence).mean() * part.share
            value.backward()
            after = torch.get_rng_state()
            return value.detach(), [p.grad.clone() for p in model.parameters()], after

        whole = Together(Processes())
        expected, gradients, state = gradient(whole, whole.part(index))
        halves = []
        for rank in (0, 1):
            half = Together(Half(rank, 2))
            halves.append(gradient(half, half.part(index)))
            assert torch.equal(halves[-1][2], state)  # the streams stay the same
        assert halves[0][0] + halves[1][0] == pytest.approx(float(expected), rel=1e-12)
        for one, other, both in zip(halves[0][1], halves[1][1], gradients, strict=True):
            assert torch.allclose(one + other, both, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        "draw, particles",
        [
            (lambda n: torch.randn(n, 3), None),
            (lambda n: torch.rand((4, n)), 4),
            (lambda n: torch.empty(n, 2).normal_(), None),
            (lambda n: torch.empty(2, n, 2).exponential_(), 2),
            (lambda n: torch.randn_like(torch.empty(n)), None),
            (lambda n: torch.bernoulli(torch.full((n, 3), 0.4)), None),
            (lambda n: torch.multinomial(torch.ones(n, 4), 1), None),
            (lambda n: torch.normal(torch.zeros(n), torch.ones(n)), None),
            (lambda n: torch.distributions.Categorical(logits=torch.zeros(n, 5)).sample(), None),
            (lambda n: torch.distributions.Laplace(torch.zeros(n), 1.0).rsample((3,)), 3),
            (lambda n: torch.distributions.Categorical(torch.ones(n, 5)).sample((3,)), 3),
            (lambda n: torch.distributions.Categorical(torch.ones(3, n, 5)).sample(), 3),
            (lambda n: torch.distributions.OneHotCategorical(torch.ones(3, n, 5)).sample(), 3),
        ],
    )
    def test_parts_of_a_draw(self, draw, particles):
        torch.manual_seed(1)
        whole = draw(7)
        axis = tuple(whole.shape).index(7)
        for start, size in ((0, 4), (4, 3)):
            torch.manual_seed(1)
            with SharedNoise(size, 7, start, particles):
                part = draw(size)
            assert torch.equal(part, whole.narrow(axis, start, size))

    def test_what_all_rows_share_is_the_same(self):
        drawn = []
        for rank in (0, 1):
            torch.manual_seed(1)
            with SharedNoise(5, 10, 5 * rank):
                drawn.append(torch.randn(3, 2))
        assert torch.equal(*drawn)

    def test_rejection_draws_have_the_right_law(self):
        """A Gamma's gradient goes through; its numbers are not those of one process."""
        concentration = torch.full((4, 1000), 2.0, requires_grad=True)
        torch.manual_seed(0)
        with SharedNoise(4, 8, 4):
            drawn = torch.distributions.Gamma(concentration, 1.0).rsample()
        drawn.sum().backward()
        # standard error 0.022: a failure is a matter of 5 sigma
        assert float(drawn.detach().mean()) == pytest.approx(2.0, abs=0.11)
        assert concentration.grad is not None
        assert concentration.grad.shape == (4, 1000)

    def test_a_stand_in_counts_nothing(self):
        together = Together(Half(3, 4))
        part = together.part(torch.tensor([8, 9]))
        assert part.index.tolist() == [8]
        assert part.share == 0.0

    def test_gradients_of_one_process_only(self):
        """One that no process has a gradient of has none afterwards either."""

        class Added(Processes):
            def sum(self, tensor):
                return tensor + torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])

        a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
        a.grad = torch.tensor([3.0, 4.0])
        together = Together(Added(0, 2))
        total = together.sum_gradients([a, b], torch.tensor(1.5))
        assert total == 2.5
        assert a.grad.tolist() == [4.0, 5.0]
        assert b.grad is None
        assert together.stop
