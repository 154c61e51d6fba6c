"""What a run computes as functions of plain tensors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.core.draws import Enumerated, Sampled
from deeplvm.distributions.centre import centre
from deeplvm.export import programs
from deeplvm.export.functions import Decoder, Encoder, ExportError, LogLikelihood
from deeplvm.inference import embed
from deeplvm.likelihood import importance_sampling

Make = Callable[..., Any]


def test_a_decoder_gives_the_means_in_the_units_of_the_file(
    make: Make, mixed: pd.DataFrame
) -> None:
    run = make(mixed)
    decoder = Decoder(run)
    (z,) = decoder.example(5)
    mean, *shares = decoder(z)
    site = run.model.sample(5, {"z": z})["x"]
    expected = run.description.variables["x"].restored(centre(site.distribution), mean=True)
    days = expected["since"].astype("datetime64[s]").astype(float) / 86_400
    columns = list(run.description.columns)
    found = {column: mean[:, place].detach().numpy() for place, column in enumerate(columns)}
    np.testing.assert_allclose(found["age"], expected["age"])
    np.testing.assert_allclose(found["income"], expected["income"], rtol=1e-6, atol=0.01)
    np.testing.assert_allclose(found["since"], days, atol=1.0)
    named = dict(zip([port.name for port in decoder.outputs[1:]], shares, strict=True))
    part = run.description.columns["job"]
    assert {"probability_job", "probability_kind"} <= set(named)
    for each in named.values():
        np.testing.assert_allclose(each.sum(-1).detach(), 1)
    codes = named["probability_job"].argmax(-1)
    assert [part.categories[code] for code in codes] == list(expected["job"])


def test_a_graph_of_a_decoder_is_of_any_number_of_rows(make: Make) -> None:
    decoder = Decoder(make("digits"))
    graph = decoder.program().module()
    for rows in (1, 7):
        (z,) = decoder.example(rows, seed=rows)
        with torch.no_grad():
            torch.testing.assert_close(graph(z), decoder(z))


def test_a_latent_that_is_not_moved_has_its_mean_given_those_above(make: Make) -> None:
    run = make("digits", "iwae", options={"layers": 2, "latent": 4, "hidden": 8})
    whole, top = Decoder(run), Decoder(run, ["z2"])
    assert [port.name for port in whole.inputs] == ["z2", "z1"]
    (z2,) = top.example(4)
    own: Any = run.model.p({}, (4,), default=Sampled(), draw={"z2": _Value(z2)})["z1"].distribution
    torch.testing.assert_close(top(z2), whole(z2, own.mean))


def test_a_decoder_reads_the_label_that_p_reads(make: Make) -> None:
    decoder = Decoder(make("digits", "conditional_vae", options={"latent": 2, "hidden": (8,)}))
    assert [(port.name, port.dtype.is_floating_point) for port in decoder.inputs] == [
        ("z", True),
        ("y", False),
    ]
    z, y = decoder.example(3)
    assert not torch.equal(decoder(z, y)[0], decoder(z, (y + 1) % 10)[0])


@pytest.mark.parametrize(
    "recipe, options, said",
    [
        ("pixel_cnn", {"width": 4, "blocks": 1}, "draws no latents, so there is nothing to"),
        (
            "pixel_vae",
            {"latent": 2, "channels": (2,), "features": 4, "width": 2, "layers": 1},
            "'x' has no mean that is known",
        ),
        ("vae", {"latent": 2, "hidden": (8,)}, "There is no latent 'w'; there are z."),
    ],
)
def test_what_is_no_function_of_latents(make: Make, recipe: str, options: Any, said: str) -> None:
    run = make("digits", recipe, options=options)
    with pytest.raises(ExportError, match=re.escape(said)):
        Decoder(run, ["w"] if recipe == "vae" else None)


class _Value:
    """A draw that is a value."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __call__(self, name: str, distribution: Any, shape: Any, dims: int) -> Any:
        from deeplvm.core.draws import Held

        return Held(self.value)(name, distribution, shape, dims)


def in_units(run: Any, rows: Any, name: str = "x") -> torch.Tensor:
    """Rows of the data as their file has them."""
    return programs.in_units(run.description.variables[name], rows.exact(name))


@pytest.mark.parametrize("source", ["digits", "mixed"])
def test_rows_in_the_units_of_the_file_are_what_the_library_scores(
    make: Make, mixed: pd.DataFrame, source: str
) -> None:
    run = make(mixed.drop(columns="since") if source == "mixed" else source)
    rows = dataclasses.replace(run.data.test[:6], common=True)
    own = in_units(run, rows)
    likelihood, encoder = LogLikelihood(run, particles=5), Encoder(run)
    expected = importance_sampling(run.model, rows, 5, seed=0).log_px
    close = {"rtol": 1e-6, "atol": 1e-6}  # rows rest in single precision
    torch.testing.assert_close(likelihood(own)[0].double(), expected, **close)
    assert rows["x"].isnan().any() == (source == "mixed")
    moments = embed(run.model, rows, scales=True)
    for port, found in zip(encoder.outputs, encoder(own), strict=True):
        torch.testing.assert_close(found, moments[port.name].to(found), **close)


def test_a_posterior_without_moments_has_those_of_draws(make: Make) -> None:
    options = {"latent": 2, "hidden": (8,), "widths": (8,)}
    run = make("digits", "inverse_autoregressive_flow_vae", options=options)
    rows = dataclasses.replace(run.data.test[:3], common=True)
    moments = embed(run.model, rows, scales=True)
    found = Encoder(run)(in_units(run, rows))
    torch.testing.assert_close(found[0], moments["z"].to(found[0]))
    torch.testing.assert_close(found[1], moments["z_sd"].to(found[1]))


def test_latents_of_steps_have_moments_of_each_step(make: Make) -> None:
    """Those of the first step are as embedded; the others are given the means before them."""
    run = make("digits", "draw", options={"steps": 3, "latent": 2, "hidden": 6})
    rows = dataclasses.replace(run.data.test[:3], common=True)
    moments = embed(run.model, rows, scales=True)
    found = Encoder(run)(in_units(run, rows))
    for own, name in zip(found, ("z", "z_sd"), strict=True):
        assert own.shape == (3, 3, 2)
        assert (own[:, 0] != own[:, 1]).any()
        first = moments[name].to(own).reshape(3, 3, 2)[:, 0]
        torch.testing.assert_close(own[:, 0], first)


@pytest.mark.parametrize(
    "options", [{"binarize": "dynamic"}, {"likelihood": "gaussian", "dequantize": "uniform"}]
)
def test_what_is_drawn_when_rows_are_read_is_drawn_once(make: Make, options: Any) -> None:
    run = make("digits", **options)
    (own,) = LogLikelihood(run).example(4)
    prepared = LogLikelihood(run).given.prepared["x"]
    value, good = prepared(own)
    assert good.all()
    assert torch.equal(value, prepared(own)[0])
    if "binarize" in options:
        assert set(value.unique().tolist()) == {0.0, 1.0}
        extremes = torch.stack([torch.zeros(1, 8, 8), torch.full((1, 8, 8), 16.0)])
        assert prepared(extremes)[0].flatten(1).mean(1).tolist() == [0, 1]
    else:
        assert torch.equal(value.floor(), own)


@pytest.mark.parametrize(
    "column, value", [("job", 3.0), ("job", 0.5), ("income", math.inf), ("kind", math.nan)]
)
def test_a_row_that_the_model_cannot_have_gives_nan(
    make: Make, mixed: pd.DataFrame, column: str, value: float
) -> None:
    # a run that saw no hole says nothing of a row with one
    run = make(mixed if not math.isnan(value) else mixed.dropna())
    own = in_units(run, run.data.test[:3])
    place = list(run.description.columns).index(column)
    own[1, place] = value
    for function in (LogLikelihood(run, particles=3), Encoder(run)):
        for found in function(own):
            assert found.reshape(3, -1).isnan().any(1).tolist() == [False, True, False]


def test_noise_of_codes_is_that_of_the_library(make: Make) -> None:
    # torch draws codes with particles, rows and elements along one axis
    options = {"categories": 2, "classes": 3, "hidden": (4,)}
    run = make("digits", "gumbel_softmax_vae", options=options)
    rows = dataclasses.replace(run.data.test[:3], common=True)
    likelihood = LogLikelihood(run, particles=4)
    expected = importance_sampling(run.model, rows, 4, draw=likelihood.draw, seed=0).log_px
    with torch.no_grad():
        (found,) = likelihood(in_units(run, rows))
    torch.testing.assert_close(found.double(), expected)


def test_a_bound_of_one_particle_has_one(make: Make) -> None:
    options = {"channels": (4, 4), "measured": 2, "draws": 3}
    run = make("digits", "diffusion", options=options)
    likelihood = LogLikelihood(run, particles=3)
    assert likelihood.particles == 1
    rows = dataclasses.replace(run.data.test[:3], common=True)
    expected = importance_sampling(run.model, rows, 3, seed=0).log_px
    with torch.no_grad():
        (found,) = likelihood(in_units(run, rows))
    torch.testing.assert_close(found.double(), expected)


def test_a_function_that_draws_is_none(make: Make) -> None:
    class Noisy(Decoder):
        def forward(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple([each + torch.rand(()) for each in super().forward(*arguments)])

    with pytest.raises(ExportError, match="draws numbers that are no latent's"):
        Noisy(make("digits"))


def test_a_label_that_q_draws_is_summed_over(make: Make) -> None:
    run = make("digits", "semi_supervised_vae")
    likelihood, encoder = LogLikelihood(run, particles=3), Encoder(run)
    assert [port.name for port in likelihood.inputs] == ["x"]
    rows = dataclasses.replace(run.data.test[:4], common=True)
    own = in_units(run, rows)
    draw = {"y": Enumerated()}
    expected = importance_sampling(run.model, rows, 3, draw=draw, seed=0).log_px
    torch.testing.assert_close(likelihood(own)[0].double(), expected)
    assert [port.name for port in encoder.outputs] == ["probability_y", "z", "z_sd"]
    torch.testing.assert_close(encoder(own)[0].sum(1), torch.ones(4))


def test_a_graph_of_a_likelihood_is_of_any_number_of_rows(make: Make) -> None:
    likelihood = LogLikelihood(make("digits"), particles=5)
    graph = likelihood.program().module()
    for rows in (1, 5, 7):
        own = likelihood.example(rows, seed=rows)
        with torch.no_grad():
            torch.testing.assert_close(graph(*own), likelihood(*own))
