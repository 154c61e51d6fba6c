"""Models of all forms that integers have give their rows back, in the order of their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplvm import Joint, LatentVariableModel
from deeplvm.compression import CompressionError, compress, decompress
from deeplvm.compression.bits_back import Codec
from deeplvm.compression.cells import Cells
from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
from deeplvm.networks import MLP
from deeplvm.runs.run import Run

DENSE: dict[str, Any] = {"latent": (3, 2), "hidden": (8, 8)}
MAPS: dict[str, Any] = {"layers": 2, "latent": 2, "channels": 4}
MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "learned prior": ("vae", {"latent": 2, "hidden": (8,), "prior": "learned"}),
    "mixture": ("vae", {"latent": 2, "hidden": (8,), "prior": "mixture(components=3)"}),
    "vamp": ("vae", {"latent": 2, "hidden": (8,), "prior": "vamp(components=4)"}),
    "ladder": ("ladder_vae", DENSE),
    "top-down": ("ladder_vae", {**DENSE, "inference": "top_down"}),
    "bottom-up": ("ladder_vae", {**DENSE, "inference": "bottom_up", "batch_norm": False}),
    "convolutional": ("convolutional_vae", {"latent": 2, "channels": (4,), "features": 8}),
    "maps": ("convolutional_ladder_vae", {**MAPS, "blocks": 1}),
    "weight norm": ("resnet_iaf_vae", {**MAPS, "posterior": "gaussian"}),
    "both ways": ("biva", MAPS),
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_come_back(make: Callable[..., Run], bits: Path, tmp_path: Path, name: str) -> None:
    recipe, options = MODELS[name]
    run, archive = make(bits, recipe, **options), tmp_path / "x.dlvm"
    made = compress(run, str(bits), archive)
    # the clean bits of a first row, words that are not full, and another draw of the latents
    assert made.message < 1.05 * made.bound + 60
    assert decompress(run, archive, like=str(bits)).same


@pytest.mark.parametrize(
    "recipe, options, said",
    [
        ("vae", {"posterior": "iaf"}, r"q\(z \| \.\.\.\) is .*--posterior gaussian"),
        ("vae", {"prior": "maf"}, r"p\(z \| \.\.\.\) is .*--prior gaussian, mixture or vamp"),
        (
            "full_covariance_vae",
            {},
            r"q\(z \| x\), FullCovarianceGaussian, computes|q\(z \| \.\.\.\) is",
        ),
        ("made", {}, "no latents with a q"),
    ],
)
def test_what_has_no_form_in_integers(
    make: Callable[..., Run], bits: Path, tmp_path: Path, recipe: str, options: Any, said: str
) -> None:
    with pytest.raises(CompressionError, match=said):
        compress(make(bits, recipe, **options), str(bits), tmp_path / "x.dlvm")


def _codec(q: Mapping[str, torch.nn.Module]) -> Codec:
    """Two layers under p(x | z1) p(z1 | z2) p(z2)."""
    p = {
        "z2": StandardNormal(2),
        "z1 | z2": Gaussian(3, MLP(2, 8)),
        "x | z1": Bernoulli(5, MLP(3, 8)),
    }
    x = np.random.default_rng(0).integers(0, 2, (20, 5)).astype(float)
    cells = Cells.of(x, [2])
    codec = Codec(LatentVariableModel(Joint(p), Joint(q)), cells)
    codec.calibrate({}, cells.places(x))
    return codec


def test_the_names_decide_the_order() -> None:
    upwards = {"z1 | x": Gaussian(3, MLP(5, 8)), "z2 | z1": Gaussian(2, MLP(3, 8))}
    bit_swap = [("pop", "z1"), ("push", "x"), ("pop", "z2"), ("push", "z1"), ("push", "z2")]
    assert _codec(upwards).steps == bit_swap
    down = {"z2 | x": Gaussian(2, MLP(5, 8)), "z1 | z2, x": Gaussian(3, MLP(7, 8))}
    plain = [("pop", "z2"), ("pop", "z1"), ("push", "x"), ("push", "z1"), ("push", "z2")]
    assert _codec(down).steps == plain


def test_rows_at_once_change_no_row() -> None:
    """What the decoder computes of a row is the same alone as among others."""
    codec = _codec({"z1 | x": Gaussian(3, MLP(5, 8)), "z2 | z1": Gaussian(2, MLP(3, 8))})
    places = np.random.default_rng(1).integers(0, 2, (20, 5))
    whole = codec.begin({}, 20, places)
    law = codec._law("q", "z1", whole)
    k = np.full((20, 3), int(law.levels.max()) // 2)
    each = [codec._law("q", "z1", codec.begin({}, 1, places[i : i + 1])) for i in range(20)]
    alone = np.concatenate([one.below(k[:1]) for one in each])
    assert np.array_equal(law.below(k), alone)
