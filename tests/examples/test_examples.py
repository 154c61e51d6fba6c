"""Every example runs, on real data, and says something; the core changes for none of them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import deeplvm.likelihood
import deeplvm.training
from deeplvm.core.model import LatentVariableModel
from deeplvm.objectives import elbo

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
NAMES = [path.stem for path in EXAMPLES]
# The others' models are recipes, or an estimator's, and are traced as such.
MODELS = [path for path in EXAMPLES if path.stem in ("top_down_ladder", "variational_rnn")]


@pytest.mark.parametrize("path", EXAMPLES, ids=NAMES)
def test_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ``python FILE`` would, in this process, which has torch loaded, on little."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    source = path.read_text()
    shorter, found = re.subn(r"\b(epochs|max_iter)=\d+", r"\1=2", source)
    assert found
    shorter = re.sub(r"\bparticles=\d{2,}", "particles=10", shorter)
    shorter = shorter.replace('load("digits"', 'load("digits", limit=500')
    shorter = shorter.replace('load("pendulum"', 'load("pendulum", limit=20')
    shorter = shorter.replace("range(40)", "range(3)")
    exec(compile(shorter, str(path), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()
    assert len(source.splitlines()) <= 60


@pytest.mark.parametrize("path", MODELS, ids=[path.stem for path in MODELS])
def test_evidence_of_the_example_is_one_graph(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model that the example would train, traced with fullgraph=True on its own data."""
    torch.set_default_dtype(torch.float32)
    models: dict[str, tuple[LatentVariableModel, dict[str, Tensor]]] = {}  # each kind once

    def keep(model: LatentVariableModel, data: object, **options: object) -> None:
        rows = data if isinstance(data, dict) else data.batch("train", slice(8))  # type: ignore[attr-defined]
        batch = {n: v[:8] for n, v in rows.items() if n in model.names}
        models[repr(model)] = (model, batch)

    class Estimate:
        mean = stderr = 0.0

    monkeypatch.setattr(deeplvm.training, "fit", keep)
    monkeypatch.setattr(deeplvm.likelihood, "importance_sampling", lambda *_, **__: Estimate)
    runpy.run_path(str(path))
    assert models
    for model, batch in models.values():

        def loss(batch: dict[str, Tensor], model: LatentVariableModel = model) -> Tensor:
            return -elbo(model.evidence(batch, missing=())).mean()

        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.manual_seed(1)
        expected = loss(batch)
        torch.manual_seed(1)
        assert torch.allclose(compiled(batch), expected, rtol=1e-5)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6
