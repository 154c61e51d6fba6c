"""Estimators and objectives with a state of their own: trained, saved and resumed with a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deeplvm import Joint, LatentVariableModel, elbo, iwae
from deeplvm.conditionals import Bernoulli
from deeplvm.gradients.score_function import Learned, LeaveOneOut, RunningMean, ScoreFunction
from deeplvm.networks import MLP
from deeplvm.training import Phase
from deeplvm.training.checkpoint import CheckpointError
from training_models import quietly


def model() -> LatentVariableModel:
    torch.manual_seed(0)
    p = Joint(
        {"g": Bernoulli(2), "h | g": Bernoulli(3, MLP(2, 6)), "x | h": Bernoulli(4, MLP(3, 6))}
    )
    q = Joint({"h | x": Bernoulli(3, MLP(4, 6)), "g | h": Bernoulli(2, MLP(3, 6))})
    return LatentVariableModel(p, q)


def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    code = torch.randint(2, (120, 1), generator=generator).double()
    flips = torch.rand(120, 4, generator=generator) < 0.05
    return {"x": (code.expand(-1, 4) - flips.double()).abs()}


def test_an_estimator_that_would_draw_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ScoreFunction would draw nothing.*leave it out"):
        quietly(model(), rows(), phases="wake_sleep", estimator=ScoreFunction(), epochs=1)


def test_a_belief_network_learns() -> None:
    """Two clusters: the bound comes near the entropy of the data, log 2 + 4 * 0.2 nats."""
    for estimator, particles, epochs in (
        (ScoreFunction(Learned(hidden=(8,)), normalise=True), None, 120),
        (ScoreFunction(LeaveOneOut()), 4, 60),
    ):
        history = quietly(
            model(),
            rows(),
            objective=iwae if particles else elbo,
            particles=particles,
            estimator=estimator,
            epochs=epochs,
            batch_size=30,
            learning_rate=0.02,
        )
        assert history.values()[0] < -2.7  # four fair coins have 2.77 nats
        assert history.values()[-1] > -1.6


def test_a_resumed_run_goes_on_exactly(tmp_path: Path) -> None:
    """The learned baseline, the running numbers and their optimiser are in the checkpoint."""

    def run(folder: Path | None, epochs: int, *, resume: bool = False) -> list[torch.Tensor]:
        trained = model()
        quietly(
            trained,
            rows(),
            estimator=ScoreFunction(Learned(hidden=(8,)), normalise=True),
            draw={"g": ScoreFunction(RunningMean())},
            epochs=epochs,
            folder=folder,
            resume=resume,
        )
        return [p.detach().clone() for p in trained.parameters()]

    whole = run(None, 4)
    run(tmp_path, 2)
    resumed = run(tmp_path, 4, resume=True)
    assert all([torch.equal(a, b) for a, b in zip(whole, resumed, strict=True)])


def test_another_estimator_cannot_resume(tmp_path: Path) -> None:
    quietly(model(), rows(), estimator=ScoreFunction(), epochs=1, folder=tmp_path)
    other = ScoreFunction(Learned(hidden=(8,)))
    with pytest.raises(CheckpointError, match="estimator"):
        quietly(model(), rows(), estimator=other, epochs=2, folder=tmp_path, resume=True)


def test_baselines_learn_while_the_model_does() -> None:
    estimator = ScoreFunction(Learned(hidden=(8,)))
    quietly(model(), rows(), estimator=estimator, epochs=1)
    assert set(estimator.own) == {"h", "g"}
    before = [p.detach().clone() for p in estimator.parameters()]
    quietly(model(), rows(), estimator=estimator, epochs=1)
    assert not any(
        [torch.equal(a, b) for a, b in zip(before, estimator.parameters(), strict=True)]
    )


def test_phases_have_names() -> None:
    history = quietly(
        model(), rows(), phases="wake_sleep", epochs=30, batch_size=30, learning_rate=0.02,
    )  # fmt: skip
    assert history.values()[-1] > history.values()[0]
    with pytest.raises(ValueError, match="wake_sleep, reweighted_wake_sleep, aggressive"):
        quietly(model(), rows(), phases="dreaming", epochs=1)


def test_estimators_have_names() -> None:
    quietly(model(), rows(), estimator="vimco", particles=2, epochs=1)
    with pytest.raises(ValueError, match="vimco"):
        quietly(model(), rows(), estimator="vinco", particles=2, epochs=1)
    with pytest.raises(ValueError, match="hiden"):
        quietly(model(), rows(), estimator="nvil(hiden=3)", epochs=1)


def test_a_baseline_reads_images_and_labels() -> None:
    """Whatever shapes the parents have."""
    p = Joint({"h | y": Bernoulli(2, MLP(3, 4)), "x | h": Bernoulli((1, 2, 2), MLP(2, 4))})
    q = Joint({"h | x, y": Bernoulli(2, Both())})
    x = rows()["x"].reshape(-1, 1, 2, 2)
    given = {"x": x, "y": torch.eye(3)[torch.arange(len(x)) % 3]}
    history = quietly(LatentVariableModel(p, q), given, estimator="nvil", epochs=2)
    assert len(history.values()) == 2


class Both(torch.nn.Module):
    """An image and a label to features."""

    out_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 5)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat([x.flatten(-3), y], -1))


def test_phases_choose_their_own() -> None:
    parts = [
        Phase(elbo, lambda m: m.p.parameters(), estimator=ScoreFunction()),
        Phase(
            iwae, lambda m: m.q.parameters(), estimator=ScoreFunction(LeaveOneOut()), particles=3
        ),
    ]
    history = quietly(
        model(), rows(), estimator=ScoreFunction(), phases=parts, epochs=10, learning_rate=0.02,
    )  # fmt: skip
    assert history.values()[-1] > history.values()[0]


def test_without_an_estimator_the_loss_of_a_gradient_is_refused() -> None:
    with pytest.raises(ValueError, match="estimator"):
        quietly(model(), rows(), epochs=1)


def test_the_step_compiles() -> None:
    torch._dynamo.reset()
    trained = model()
    way = ScoreFunction(LeaveOneOut())
    x = rows()["x"]
    trained.prepare({"x": x[:2]}, particles=3, default=way)

    def step(x: torch.Tensor) -> torch.Tensor:
        return trained.estimate(iwae, {"x": x}, particles=3, default=way, missing=())[0].mean()

    value = torch.compile(step, fullgraph=True, backend="eager")(x)
    assert value.isfinite()
    value.backward()
