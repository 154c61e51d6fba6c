"""Evaluation: the record, its words, bits per dimension."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from deeplvm import Enumerated, Joint, LatentVariableModel, Recurrent
from deeplvm.conditionals import (
    Bernoulli,
    Categorical,
    Gaussian,
    LinearGaussian,
    StandardNormal,
)
from deeplvm.data import load
from deeplvm.evaluation import Annealing, Evaluation, evaluate
from deeplvm.evaluation.summary import likelihood_warnings
from deeplvm.likelihood import bits_per_dimension, importance_sampling
from deeplvm.likelihood.bits_per_dimension import offset_of
from deeplvm.networks import MLP
from deeplvm.recipes import vae


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    torch.manual_seed(0)
    data = load("digits")
    return evaluate(vae(data, latent=4, hidden=(8,)), data.valid, particles=40)


def test_the_record_has_everything(evaluation: Evaluation) -> None:
    """R2.6a, R2.8.1c, X2: what evaluation.json must hold, and JSON without NaN."""
    plain = json.loads(evaluation.to_json())
    assert plain["data"]["name"] == "digits"
    assert plain["data"]["split"] == "valid"
    assert plain["data"]["rows"] == 180
    assert plain["data"]["units"] == "nats a row"
    assert plain["data"]["fingerprint"]
    assert {"value", "stderr"} <= set(plain["elbo"])
    assert {"value", "stderr", "particles", "ess", "pareto_k", "curve"} <= set(plain["log_px"])
    assert plain["elbo"]["value"] <= plain["log_px"]["value"]
    assert plain["kl"]["z"] == pytest.approx(plain["latents"]["z"]["kl"])
    assert plain["active_units"]["z"] <= 4
    assert len(plain["latents"]["z"]["kl_by_dimension"]) == 4
    expected = -plain["log_px"]["value"] / (64 * math.log(2))
    assert plain["bits_per_dim"] == pytest.approx(expected)
    # the closed form and the sampled terms are the same divergence
    sampled = plain["reconstruction"]["value"] - plain["elbo"]["value"]
    assert plain["kl"]["z"] == pytest.approx(sampled, abs=0.1)


def test_round_trip(evaluation: Evaluation) -> None:
    again = Evaluation.from_dict(json.loads(evaluation.to_json()))
    assert again.to_json() == evaluation.to_json()
    assert str(again) == str(evaluation)
    with pytest.raises(ValueError, match="lacks elbo"):
        Evaluation.from_dict({k: v for k, v in evaluation.to_dict().items() if k != "elbo"})


def test_an_evaluation_of_an_earlier_version_is_read(evaluation: Evaluation) -> None:
    """What are particles of annealing today were chains."""
    plain = evaluation.to_dict() | {"annealing": {"chains": 4, "rows": 9}}
    plain["settings"] |= {"annealed_rows": 9, "temperatures": 5, "chains": 4, "start": "prior"}
    found = Evaluation.from_dict(plain)
    assert found.annealing == {"annealed_particles": 4, "rows": 9}
    assert Annealing(**found.settings["annealing"]) == Annealing(9, None, 5, 4, "prior")
    assert "chains" not in found.settings


def test_it_shows_itself(evaluation: Evaluation) -> None:
    text = str(evaluation)
    words = ["log p(x)", "ELBO", "reconstruction", "KL(z)", "bits/dim", "Pareto", "180 rows"]
    for word in words:
        assert word in text
    assert "<table" in evaluation._repr_html_()


def test_warnings_in_words() -> None:
    """Few particles and a q that is far off: doubtful weights, a curve that still rises."""
    p = Joint({"z": StandardNormal(8), "x | z": Gaussian(8, MLP(8), scale=0.05)})
    model = LatentVariableModel(p, Joint({"z | x": Gaussian(8, MLP(8), scale=1.0)}))
    estimate = importance_sampling(model, {"x": torch.randn(40, 8)}, particles=200)
    words = " ".join(likelihood_warnings(estimate))
    assert "of 40 rows" in words
    assert "Pareto k̂" in words
    assert "From 100 to 200 particles the estimate still rose by" in words


def test_the_label_summed_out() -> None:
    p = Joint({"y": Categorical(3), "x | y": Bernoulli(4, MLP(3))})
    model = LatentVariableModel(p, Joint({"y | x": Categorical(3, MLP(4))}))
    rows = {"x": torch.randint(2, (40, 4)).double(), "y": torch.randint(3, (40,))}
    joint = evaluate(model, rows)
    assert joint.data["scored"] == ["y", "x"]
    alone = evaluate(model, rows, draw={"y": Enumerated()})
    assert alone.data["scored"] == ["x"]
    assert alone.data["integrated"] == ["y"]
    assert alone.log_px["exact"]
    assert alone.log_px["value"] > joint.log_px["value"]
    assert alone.elbo["value"] < alone.log_px["value"]  # its q is not the posterior
    assert "exact" in str(alone)


def test_one_row_has_no_error() -> None:
    model = LatentVariableModel(Joint({"x": Gaussian(2)}))
    one = evaluate(model, {"x": torch.zeros(1, 2)})
    assert one.log_px["stderr"] is None
    assert any("no standard error" in text for text in one.warnings)


def test_bits_of_a_uniform_model() -> None:
    """256 equal probabilities, or a flat density on [0, 1) with its offset, are 8 bits."""
    pixels = load("digits").variables["x"]
    whole = dataclasses.replace(pixels, kind="levels", levels=256)
    elements = torch.full((5,), 64)
    flat = torch.full((5,), -64 * math.log(256.0))
    assert bits_per_dimension(flat, elements, {"x": whole}).value == pytest.approx(8.0)
    noisy = dataclasses.replace(pixels, kind="unit", levels=256, dequantized=True)
    bits = bits_per_dimension(torch.zeros(5), elements, {"x": noisy})
    assert bits.value == pytest.approx(8.0)
    assert bits.offset == 8.0
    assert "divided by 256" in bits.explanation
    shifted = dataclasses.replace(pixels, kind="real", levels=256, dequantized=True)
    assert bits_per_dimension(flat, elements, {"x": shifted}).value == pytest.approx(8.0)


def test_offsets_in_words() -> None:
    assert "lossless code" in offset_of(load("digits").variables)[1]
    assert "the data's own units" in offset_of(load("iris").variables)[1]
    assert "not recorded" in offset_of({})[1]


def test_bits_count_observed_elements_only() -> None:
    """Half of the elements missing: the same bits a dimension for the same density each."""
    x = torch.randn(200, 4)
    x[:, :2] = math.nan
    model = LatentVariableModel(Joint({"x": Gaussian(4)}))
    full = torch.where(x.isnan(), x[:, [2, 3, 2, 3]], x)
    half = evaluate(model, {"x": x})
    whole = evaluate(model, {"x": full})
    assert half.bits_per_dim == pytest.approx(whole.bits_per_dim)


def test_nats_a_step_are_those_of_all_steps() -> None:
    """A ratio of sums, whose error is that of the residuals of the rows."""
    step = Recurrent({"x": Gaussian(1, scale=1.0)}, start={}, length="n")
    n = torch.tensor([4, 1, 3])
    x = torch.randn(3, 4, 1, generator=torch.Generator().manual_seed(0))
    found = evaluate(LatentVariableModel(step), {"x": x, "n": n})
    each = torch.distributions.Normal(0.0, 1.0).log_prob(x[..., 0])
    rows = torch.where(torch.arange(4) < n[:, None], each, 0.0).sum(1)
    told = found.log_px_a_step
    assert told is not None
    mean = float(rows.sum()) / 8
    assert told["value"] == pytest.approx(mean, rel=1e-5)
    assert told["stderr"] == pytest.approx(
        float((rows - mean * n).std()) * math.sqrt(3) / 8, rel=0.2
    )
    assert told["steps"] == 8
    assert "nats a step" in str(found)
    assert Evaluation.from_dict(found.to_dict()) == found


def test_long_sequences_are_measured_by_a_particle_filter() -> None:
    """Against the Kalman likelihood of the same linear model, which importance sampling misses.

    Within four of its errors over rows: fails for about one seed in ten thousand.
    """
    torch.manual_seed(0)
    state, row = LinearGaussian(1), Gaussian(2, MLP(1), scale="dimension")
    p = Recurrent({"z | z[-1]": state, "x | z": row}, start={"z": state.start}, length="n")
    x, n = 2 * torch.randn(20, 40, 2).cumsum(1) / 6, torch.randint(30, 41, (20,))
    kalman = LatentVariableModel(p).evidence({"x": x, "n": n}, draw={"z": Enumerated()})
    exact = kalman.log_weight.detach()
    q = Recurrent({"z | x": Gaussian(1, MLP(2))}, start={}, length="n")
    found = evaluate(LatentVariableModel(p, q), {"x": x, "n": n}, particles=500)
    assert found.log_px["by"] == "particle filter"
    assert found.filtered is not None
    assert found.filtered["proposal"] == "posterior"
    error = 4 * found.log_px["monte_carlo_stderr"]
    assert found.log_px["value"] == pytest.approx(float(exact.mean()), abs=error)
    assert error < 2
    assert found.log_px["importance_sampling"]["value"] < float(exact.mean()) - 4
    assert found.log_px_a_step is not None
    assert found.log_px_a_step["value"] == pytest.approx(
        found.log_px["value"] * 20 / int(n.sum()), rel=1e-5
    )
    assert "by a particle filter of 500 from the posterior" in str(found)
    assert Evaluation.from_dict(found.to_dict()).table() == found.table()
