"""A whole step in one graph is the step that is taken without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplvm import Joint, LatentVariableModel, elbo
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.objectives import Constrained
from deeplvm.parallel.steps import whole
from deeplvm.training import Phase
from deeplvm.training.graph import Graph, choose
from deeplvm.training.step import Step

ROWS = whole(torch.arange(10))
# The optimiser, what else the step has, and how far it is traced: one form as far as a compiler.
FORMS: dict[str, tuple[str, dict[str, Any], str]] = {
    "adam, clipped": ("adam", {"clip": 0.3}, "aot_eager"),
    "adamw, skipping": ("adamw", {"skip": 0.9}, "eager"),
    "adamax, decayed": ("adamax", {"weight_decay": 0.1}, "eager"),
}


def batches() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(6, 10, 5, generator=generator) < 0.4).double()


def make(optimizer: Any, objective: Any = elbo, **options: Any) -> Step:
    torch.manual_seed(0)
    p = Joint({"z": StandardNormal(2), "x | z": Bernoulli(5, MLP(2, 6))})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(5, 6))}))
    decay = options.pop("weight_decay", 0.0)
    phase = Phase(objective, optimizer=optimizer, learning_rate=0.1, weight_decay=decay)
    given: dict[str, Any] = {"clip": None, "skip": None, **options}
    return Step(
        model, phase, rows=40, missing=frozenset(), log_prior=None, batch_size=10, alone=True,
        **given,
    )  # fmt: skip


@pytest.mark.parametrize("optimizer, options, backend", FORMS.values(), ids=FORMS)
def test_the_graph_ascends_as_the_step_does(
    optimizer: str, options: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as one graph, run without a compiler: parameters, moments, skips, to rounding."""
    plain = torch.compile
    traced = lambda function, **_: plain(function, fullgraph=True, backend=backend)  # noqa: E731
    monkeypatch.setattr(torch, "compile", traced)
    torch.compiler.reset()
    by_hand, graphed = make(optimizer, **options), make(optimizer, **options)
    graphed.compile(whole=True)
    assert graphed.graph is not None
    for number, x in enumerate(batches()):
        values = []
        for step in (by_hand, graphed):
            torch.manual_seed(number)
            values.append(step({"x": x}, ROWS, 0.7))
        assert values[1] == pytest.approx(values[0], abs=1e-10)
    assert graphed.skipped == by_hand.skipped
    assert (graphed.skipped > 0) == ("skip" in options)
    for one, other in zip(graphed.parameters, by_hand.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        states = graphed.optimizer.state[one], by_hand.optimizer.state[other]
        for name, value in states[1].items():
            found = states[0][name].to(value)
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)


def test_what_is_not_finite_moves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make("adam")
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    step.compile(whole=True)
    before = [p.detach().clone() for p in step.parameters]
    x = batches()[0]
    x[0, 0] = torch.inf
    assert not torch.tensor(step({"x": x}, ROWS, 1.0)).isfinite()
    assert step.skipped == 0
    for parameter, old in zip(step.parameters, before, strict=True):
        assert torch.equal(parameter, old)


def test_who_is_suited() -> None:
    assert Graph.suits(make("adamax"))
    assert not Graph.suits(make(torch.optim.SGD))
    assert not Graph.suits(make(lambda parameters: torch.optim.Adam(parameters, amsgrad=True)))


def test_trying_it_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a multiplier that moves in each step, which no whole graph can hold."""
    torch.compiler.reset()
    plain = torch.compile
    traced = lambda function, **_: plain(function, fullgraph=True, backend="eager")  # noqa: E731
    monkeypatch.setattr(torch, "compile", traced)
    step = make("adam", Constrained(most=3.0))
    step({"x": batches()[0]}, ROWS, 1.0)
    modules = nn.ModuleList([step.model, *step.beside])
    before = {name: value.clone() for name, value in modules.state_dict().items()}
    moments = [value.clone() for value in step.optimizer.state[step.parameters[0]].values()]
    choice = choose(
        [step], {"x": batches()[1]}, ROWS, 1.0, wanted=True, left=9, budget=9.0, say=print
    )
    assert choice.compiled
    for name, value in modules.state_dict().items():
        assert torch.equal(value, before[name]), name
    after = step.optimizer.state[step.parameters[0]].values()
    assert all([torch.equal(one, other) for one, other in zip(after, moments, strict=True)])
