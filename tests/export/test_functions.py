"""What a run computes as functions of plain tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from deeplvm.core.draws import Sampled
from deeplvm.distributions.centre import centre
from deeplvm.export.functions import Decoder, ExportError

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
    decoder = Decoder(
        make("digits", "convolutional_vae", options={"latent": 2, "channels": (4,), "features": 8})
    )
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
    assert [(port.name, port.whole) for port in decoder.inputs] == [("z", False), ("y", True)]
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
