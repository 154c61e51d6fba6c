"""A compiled p says what p says, and is taken only where it is faster or asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm import Joint, LatentVariableModel
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.inference.rows import rows_of
from deeplvm.likelihood import compiled, importance_sampling
from deeplvm.likelihood.chunks import Chunks, plan
from deeplvm.likelihood.compiled import CompiledJoint, choose
from deeplvm.networks import MLP
from deeplvm.randomness import evaluating

ROWS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


def small() -> LatentVariableModel:
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(3, MLP(2, 4))})
    return LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3, 4))}))


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str
)
def test_compiled_equals_eager(dtype: torch.dtype, tolerance: float) -> None:
    """The draws are the same; the last batch, a smaller one, is scored by p itself."""
    model = small().to(dtype)
    eager, fast = [
        importance_sampling(model, {"x": ROWS}, particles=40, batch_size=2, compile=wanted)
        for wanted in (False, True)
    ]
    assert eager.compile_seconds == 0
    assert fast.compile_seconds > 0
    assert "compiling took" in str(fast)
    for name in ("log_px", "elbo"):
        difference = getattr(fast, name) - getattr(eager, name)
        assert difference.abs().max() <= tolerance * getattr(eager, name).abs().max()
    for name, term in eager.terms.items():
        assert torch.allclose(fast.terms[name], term, rtol=tolerance, atol=tolerance)
    assert fast.ess == pytest.approx(eager.ess, rel=1e3 * tolerance)
    assert str(model.p) == str(small().p)


class Compiler:
    """In place of torch's: the function as it is, or an error when it is first called."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.functions = 0

    def __call__(self, function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        self.functions += 1

        def run(*arguments: Any) -> Any:
            if self.error is not None:
                raise self.error
            Distribution.set_default_validate_args(False)  # as tracing does
            return function(*arguments)

        return run


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    wanted: compiled.Compile,
    *,
    seconds: tuple[float, ...] = (),
    total: int = 600,
    compiler: Compiler | None = None,
) -> tuple[bool, int]:
    """Whether the compiled form is taken, and how many functions were compiled.

    Args:
        monkeypatch: Undoes all.
        wanted: What the user said.
        seconds: Of a chunk, of p as it is and then compiled.
        total: Chunks to come.
        compiler: In place of torch's.
    """
    compiler = compiler or Compiler()
    times = iter(seconds)
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(compiled, "_seconds", lambda chunks: next(times))
    model = small()
    rows = rows_of(model, {"x": ROWS})
    with evaluating(model, 0):
        chunks = Chunks(model, rows, plan(model, rows, 64, chunk=16), None)
        found, took = choose(chunks, wanted, total)
        assert chunks.model is model
        assert (took > 0) == (compiler.functions > 0)
    assert next(times, None) is None
    assert found is model or isinstance(found.p, CompiledJoint)
    return found is not model, compiler.functions


@pytest.mark.parametrize(
    "seconds, taken", [((1.0, 0.5), True), ((1.0, 0.95), False), ((1.0, 2.0), False)]
)
def test_the_faster_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], taken: bool
) -> None:
    """By enough that noise does not decide."""
    assert chosen(monkeypatch, "auto", seconds=seconds) == (taken, 1)


def test_what_is_short_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few chunks are not even timed; many fast ones are, and then left."""
    assert chosen(monkeypatch, "auto", total=499) == (False, 0)
    assert chosen(monkeypatch, "auto", seconds=(0.05,), total=600) == (False, 0)


def test_yes_and_no_look_at_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, True, total=1) == (True, 1)
    assert chosen(monkeypatch, False, total=10**6) == (False, 0)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error where compiling was asked for; p as it is where it was not."""
    broken = Compiler(RuntimeError("\nno C++ compiler\nat the usual places"))
    with pytest.raises(
        ValueError,
        match=r"The densities of p cannot be compiled here \(no C\+\+ compiler\); leave out "
        r"compile, or see what torch.compile needs \(a C\+\+ compiler on a CPU\).",
    ):
        chosen(monkeypatch, True, compiler=broken)
    assert chosen(monkeypatch, "auto", seconds=(1.0,), compiler=broken)[0] is False


def test_an_error_of_another_kind_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match="theirs"):
        chosen(monkeypatch, "auto", seconds=(1.0,), compiler=Compiler(KeyError("theirs")))


def test_the_validation_of_distributions_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = Distribution._validate_args
    assert chosen(monkeypatch, True) == (True, 1)
    assert Distribution._validate_args == before


def test_it_stands_for_the_joint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of a joint, and shapes that it was not compiled for, go to the joint."""
    monkeypatch.setattr(torch, "compile", Compiler())
    p = small().p
    fast = CompiledJoint(p, (16, 3))
    assert fast["x"] is p["x"]
    assert "z" in fast
    assert "q" not in fast
    assert fast.parents("x") == p.parents("x")
    assert fast.names == p.names
    z = torch.randn(8, 3, 2)

    def log_prob(joint: Any, particles: int) -> Tensor:
        model = LatentVariableModel(joint, small().q)
        torch.manual_seed(0)
        with torch.no_grad():
            model.q.load_state_dict(q)
            evidence = model.evidence({"x": ROWS.double()}, particles=particles)
        return evidence.total(list(evidence.terms.values()))

    q = small().q.state_dict()
    for particles in (16, len(z)):
        assert torch.equal(log_prob(fast, particles), log_prob(p, particles))
    assert len(fast.compiled) == 1
