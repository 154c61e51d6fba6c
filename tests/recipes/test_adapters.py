"""Models written elsewhere get the numbers that a computation by hand gives."""

from __future__ import annotations

import math
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Poisson
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from deeplvm.likelihood import importance_sampling
from deeplvm.recipes.adapters import encoder_decoder

GOLDEN = -2.707313885885  # TB1 at x = (1, 1)


class Exact(nn.Module):
    """The posterior of TB1 in one of the forms in which people return it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Any:
        mean = x @ torch.tensor([[1.0], [2.0]]) / 5.5
        log_variance = torch.full_like(mean, math.log(0.5 / 5.5))
        return {
            "pair": (mean, log_variance),
            "three": (mean, log_variance, mean),
            "one tensor": torch.cat([mean, log_variance], -1),
            "pythae": OrderedDict(embedding=mean, log_covariance=log_variance),
            "object": SimpleNamespace(mu=mean, logvar=log_variance),
        }[self.form]


class Line(nn.Module):
    """The mean of TB1."""

    def forward(self, z: Tensor) -> Tensor:
        return z @ torch.tensor([[1.0, 2.0]])


@pytest.mark.parametrize("form", ["pair", "three", "one tensor", "pythae", "object"])
def test_the_exact_posterior_has_one_weight(form: str) -> None:
    model = encoder_decoder(
        Exact(form), Line(), latent=1, shape=2, likelihood="gaussian", scale=math.sqrt(0.5)
    )
    weights = model.evidence({"x": torch.ones(3, 2)}, particles=4).log_weight
    assert (weights - GOLDEN).abs().max() < 1e-10


def test_a_decoder_may_give_its_scale() -> None:
    class Both(Line):
        def forward(self, z: Tensor) -> Any:
            mean = super().forward(z)
            return mean, torch.full_like(mean, math.log(0.5))

    model = encoder_decoder(Exact("pair"), Both(), latent=1, shape=2, likelihood="gaussian")
    weights = model.evidence({"x": torch.ones(3, 2)}, particles=4).log_weight
    assert (weights - GOLDEN).abs().max() < 1e-10


def pair() -> tuple[nn.Module, nn.Module]:
    """Of images (1, 4, 3), the encoder convolutional, the decoder flat."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(36, 4))
    return encoder, nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 12))


@pytest.mark.parametrize("decoded", ["logits", "probabilities"])
def test_images_are_scored_as_by_hand(decoded: Any) -> None:
    encoder, decoder = pair()
    images = (torch.rand(6, 1, 4, 3) < 0.4).to(torch.get_default_dtype())
    given = decoder if decoded == "logits" else nn.Sequential(decoder, nn.Sigmoid())
    model = encoder_decoder(encoder, given, latent=2, shape=(1, 4, 3), decoded=decoded)
    evidence = model.evidence({"x": images}, particles=7)
    z = evidence.q["z"].value
    mean, log_variance = encoder(images).chunk(2, -1)
    normal = torch.distributions.Normal
    log_q = normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum(-1)
    log_prior = normal(0.0, 1.0).log_prob(z).sum(-1)
    logits = decoder(z)
    loss = binary_cross_entropy_with_logits(
        logits, images.flatten(1).expand_as(logits), reduction="none"
    )
    assert torch.allclose(evidence.log_weight, log_prior - log_q - loss.sum(-1), atol=1e-10)
    drawn = model.sample(5)["x"].value
    assert drawn.shape == (5, 1, 4, 3)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


class ModelOutput(OrderedDict[str, Any]):
    """What pythae's modules return: attributes as well, and a tuple to whom asks by number."""

    def __getitem__(self, key: Any) -> Any:
        plain = dict(self.items())
        return plain[key] if isinstance(key, str) else tuple(plain.values())[key]

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


class PythaeEncoder(nn.Module):
    """Of flattened images, as pythae's own; the log-variance is named first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.log_var = nn.Linear(784, 3), nn.Linear(784, 3)

    def forward(self, x: Tensor) -> ModelOutput:
        flat = x.reshape(-1, 784)
        return ModelOutput(log_covariance=self.log_var(flat), embedding=self.embedding(flat))


class PythaeDecoder(nn.Module):
    """To probabilities of image shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 784)

    def forward(self, z: Tensor) -> ModelOutput:
        raw = self.layer(z)
        return ModelOutput(raw=raw, reconstruction=raw.sigmoid().reshape(len(z), 1, 28, 28))


def test_a_pair_of_pythae_is_scored_by_its_own_loss() -> None:
    torch.manual_seed(0)
    encoder, decoder = PythaeEncoder(), PythaeDecoder()
    images = (torch.rand(4, 1, 28, 28) < 0.3).to(torch.get_default_dtype())
    model = encoder_decoder(encoder, decoder, latent=3, shape=(1, 28, 28), decoded="probabilities")
    evidence = model.evidence({"x": images}, particles=6)
    z = evidence.q["z"].value
    assert z.shape == (6, 4, 3)
    code = encoder(images)
    mean, log_variance = code.embedding, code.log_covariance
    # its get_nll: normal densities without log 2π, which the prior and q have alike
    log_q = -0.5 * (log_variance + (z - mean).square() / log_variance.exp()).sum(-1)
    log_prior = -0.5 * z.square().sum(-1)
    recon = decoder(z.reshape(-1, 3))["reconstruction"].reshape(6, 4, 784)
    loss = binary_cross_entropy(recon, images.reshape(4, 784).expand_as(recon), reduction="none")
    by_hand = log_prior - log_q - loss.sum(-1)
    assert torch.allclose(evidence.log_weight, by_hand, atol=1e-10)
    assert model.sample(5)["x"].value.shape == (5, 1, 28, 28)


def test_a_likelihood_can_be_compiled() -> None:
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid())
    model = encoder_decoder(nn.Linear(3, 4), decoder, latent=2, shape=3, decoded="probabilities")
    x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    compiled, plain = (
        importance_sampling(model, {"x": x}, 50, compile=each, batch_size=1).log_px
        for each in (True, False)
    )
    assert torch.allclose(compiled, plain, atol=1e-10)
    x[1, 2] = 0.5  # seen by what is compiled only
    with pytest.raises(ValueError, match=r"log q of x is not a number, or \+inf, in 1 rows"):
        importance_sampling(model, {"x": x}, 50, compile=True, batch_size=1)


def test_flat_encoders_take_images() -> None:
    encoder, decoder = nn.Linear(12, 4), nn.Linear(2, 12)
    model = encoder_decoder(encoder, decoder, latent=2, shape=(1, 4, 3), takes=12)
    estimate = importance_sampling(model, {"x": torch.zeros(4, 1, 4, 3)}, 50)
    assert estimate.log_px.isfinite().all()


def test_a_likelihood_of_ones_own() -> None:
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)
    model = encoder_decoder(
        encoder,
        decoder,
        latent=2,
        shape=3,
        likelihood=lambda rate: Independent(Poisson(rate.exp()), 1),
    )
    evidence = model.evidence({"x": torch.ones(5, 3)}, particles=2)
    rate = decoder(evidence.q["z"].value).exp()
    assert torch.allclose(evidence.p["x"].log_prob, (rate.log() - rate).sum(-1))  # type: ignore[arg-type]


def test_probabilities_rounded_to_one_stay_finite() -> None:
    class Certain(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.ones(len(z), 2, dtype=torch.float32)

    model = encoder_decoder(
        nn.Linear(2, 4), Certain(), latent=2, shape=2, decoded="probabilities"
    ).float()
    x = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float32)
    scores = model.evidence({"x": x}).p["x"].log_prob
    assert scores is not None
    assert scores.isfinite().all()
    assert scores.flatten()[0] > -1e-6
    assert scores.flatten()[1] < -15


@pytest.mark.parametrize("value", [0.4, 16.0, -1.0])
def test_grey_values_have_no_bernoulli(value: float) -> None:
    model = encoder_decoder(nn.Linear(3, 4), nn.Linear(2, 3), latent=2, shape=3)
    x = torch.zeros(5, 3)
    assert model.evidence({"x": x}).log_weight.isfinite().all()
    x[3, 1] = value
    for particles in (1, 4):
        with pytest.raises(ValueError, match=r"0 and 1, and x has values from .* Binarize"):
            model.evidence({"x": x}, particles=particles)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"likelihood": "mse"}, "likelihood is 'bernoulli', 'gaussian', or a function"),
        ({"decoded": "odds"}, "decoded is 'logits' or 'probabilities'"),
        ({"scale": 0.0, "likelihood": "gaussian"}, "above 0"),
        ({"takes": 5}, "takes \\(5,\\), 5 elements, and x has \\(12,\\), 12"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_decoder(nn.Linear(12, 4), nn.Linear(2, 12), latent=2, shape=12, **options)


@pytest.mark.parametrize(
    "features, options, message",
    [
        (5, {}, "4 numbers a row; found 5"),
        (4, {"likelihood": "gaussian"}, "needs scale="),
        (4, {"decoded": "probabilities"}, "say decoded='logits'"),
        (4, {"likelihood": lambda r: Poisson(r.exp())}, "Indep"),
    ],
)
def test_what_modules_return_is_checked(
    features: int, options: dict[str, Any], message: str
) -> None:
    torch.manual_seed(0)
    pair = nn.Linear(3, features), nn.Linear(2, 3)
    model = encoder_decoder(*pair, latent=2, shape=3, **options)
    with pytest.raises(ValueError, match=message):
        model.evidence({"x": torch.ones(40, 3)})


def test_names_that_nobody_knows_are_told() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"first": x, "second": x}

    model = encoder_decoder(Odd(), nn.Linear(2, 3), latent=2, shape=3)
    with pytest.raises(ValueError, match="returned first, second, where one of mean, mu"):
        model.evidence({"x": torch.ones(4, 3)})
