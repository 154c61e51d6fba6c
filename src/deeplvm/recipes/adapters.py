"""Models that were written elsewhere, as a p and a q that everything here can evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm.conditionals import StandardNormal
from deeplvm.conditionals.heads import event_shape_of
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.discrete import Bernoulli

_NONE = Size()
# What encoders call the two numbers of a latent, where they give them names.
_MEANS = ("mean", "mu", "loc", "embedding", "z_mean")
_LOG_VARIANCES = ("log_variance", "log_var", "logvar", "log_covariance", "z_log_var")
_VALUES = ("logits", "mean", "loc", "reconstruction", "x_hat", "recon_x")

# A decoder's answer at z -> the distribution of x, batch shape (rows,)
Likelihood = Callable[[Any], Distribution]


def encoder_decoder(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    latent: int,
    shape: int | Sequence[int],
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    decoded: Literal["logits", "probabilities"] = "logits",
    scale: float | None = None,
    takes: int | Sequence[int] | None = None,
    prior: nn.Module | None = None,
) -> LatentVariableModel:
    r"""A plain pair of modules as a model, :math:`q(z | x) = N(\mu(x), \sigma^2(x))`.

    .. math:: p(x, z) = N(z; 0, I)\, p(x | z), \qquad p(x | z) \text{ from } decoder(z)

    What it is then said to score is what the pair was trained on only if ``likelihood`` is: a
    squared error is a Gaussian of one fixed scale, whose constant belongs to the density; a cross
    entropy is a Bernoulli, of values 0 and 1.

    Args:
        encoder: x, shape ``(rows, *takes)``, to the mean and the log-variance of z: a pair, one
            tensor ``(rows, 2 * latent)`` with the mean first, or an object or mapping that names
            them (``mu`` and ``logvar``; ``embedding`` and ``log_covariance`` as pythae does).
        decoder: z, shape ``(rows, latent)``, to the logits of a Bernoulli, the mean of a
            Gaussian, or a pair of its mean and log-variance.
        latent: how many dimensions z has.
        shape: of one x, as the data have it.
        likelihood: ``"bernoulli"``, ``"gaussian"``, or a function of what the decoder returns
            that gives a distribution of batch shape ``(rows,)`` and event shape ``shape``.
        decoded: whether the decoder gives a Bernoulli's logits or its probabilities. A
            probability that was rounded to 0 or 1 is taken as the nearest one that is neither.
        scale: standard deviation of a Gaussian whose decoder gives the mean only.
        takes: the shape that the encoder takes, if other than ``shape``: 784 for flat images.
        prior: a conditional without parents, if other than the standard normal.

    Raises:
        ValueError: ``likelihood`` or ``decoded`` is none of these, or ``scale`` is not positive;
            when x is scored, it has other values than 0 and 1 under ``"bernoulli"``.

    Examples:
        >>> encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)
        >>> model = encoder_decoder(encoder, decoder, latent=2, shape=6)
        >>> model.evidence({"x": torch.ones(5, 6)}, particles=3).log_weight.shape
        torch.Size([3, 5])
    """
    event_shape = event_shape_of(shape, "encoder_decoder")
    if decoded not in ("logits", "probabilities"):
        raise ValueError(f"decoded is 'logits' or 'probabilities', found {decoded!r}.")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale is a standard deviation, above 0, found {scale}.")
    if likelihood == "bernoulli":
        likelihood = _Binary(event_shape, probabilities=decoded == "probabilities")
    elif likelihood == "gaussian":
        likelihood = _Real(event_shape, scale)
    elif not callable(likelihood):
        raise ValueError(
            f"likelihood is 'bernoulli', 'gaussian', or a function of what the decoder returns, "
            f"found {likelihood!r}."
        )
    taken = event_shape if takes is None else event_shape_of(takes, "encoder_decoder")
    if taken.numel() != event_shape.numel():
        raise ValueError(
            f"The encoder takes {tuple(taken)}, {taken.numel()} elements, and x has "
            f"{tuple(event_shape)}, {event_shape.numel()}."
        )
    p = Joint(
        {
            "z": StandardNormal(latent) if prior is None else prior,
            "x | z": Decoded(decoder, likelihood, event_shape),
        }
    )
    q = Joint({"z | x": ByEncoder(encoder, latent, event_shape, taken)})
    return LatentVariableModel(p, q)


class ByEncoder(nn.Module):
    """q(z | x) by somebody's encoder; see :func:`encoder_decoder`."""

    def __init__(self, encoder: nn.Module, latent: int, shape: Size, takes: Size) -> None:
        super().__init__()
        self.encoder, self.latent = encoder, latent
        self.shape, self.takes = shape, takes
        self.event_shape = Size((latent,))

    def forward(self, x: Tensor) -> Distribution:
        """The distribution of z, batch shape ``(*particles, rows)``."""
        leading = x.shape[: x.dim() - len(self.shape)]
        answer = self.encoder(x.reshape(-1, *self.takes))
        mean, log_variance = _pair(answer, self.latent)
        sized = [part.reshape(*leading, self.latent) for part in (mean, log_variance)]
        return DiagonalNormal(sized[0], (0.5 * sized[1]).exp(), 1)


class Decoded(nn.Module):
    """p(x | z) by somebody's decoder; see :func:`encoder_decoder`."""

    def __init__(self, decoder: nn.Module, likelihood: Likelihood, shape: Size) -> None:
        super().__init__()
        self.decoder, self.likelihood = decoder, likelihood
        self.event_shape = shape

    def forward(self, z: Tensor) -> Distribution:
        """The distribution of x, batch shape ``(*particles, rows)``."""
        leading = z.shape[:-1]
        flat = self.likelihood(self.decoder(z.reshape(-1, z.shape[-1])))
        found = tuple(flat.batch_shape), tuple(flat.event_shape)
        if found != ((leading.numel(),), tuple(self.event_shape)):
            raise ValueError(
                f"The decoder's distribution of {leading.numel()} rows has batch shape {found[0]} "
                f"and event shape {found[1]}, expected ({leading.numel()},) and "
                f"{tuple(self.event_shape)}; wrap elements in torch.distributions.Independent."
            )
        return flat if len(leading) == 1 else _Unfolded(flat, leading)


class _Unfolded(Distribution):
    """A distribution of rows in a line, with particles and rows apart again."""

    arg_constraints = {}  # noqa: RUF012 - torch's own form

    def __init__(self, flat: Distribution, leading: Size) -> None:
        self.flat = flat
        super().__init__(leading, flat.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.flat.support

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return self.flat.has_rsample

    @property
    def mean(self) -> Tensor:
        return self.flat.mean.reshape(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        return self.flat.mode.reshape(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.flat.variance.reshape(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: Any = _NONE) -> Tensor:
        return self.flat.sample(sample_shape).reshape(self._extended_shape(sample_shape))

    def rsample(self, sample_shape: Any = _NONE) -> Tensor:
        return self.flat.rsample(sample_shape).reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        cut = value.dim() - len(self.event_shape)
        leading = torch.broadcast_shapes(value.shape[:cut], self.batch_shape)
        extra = leading[: len(leading) - len(self.batch_shape)]
        folded = value.expand(leading + self.event_shape).reshape(
            *extra, math.prod(self.batch_shape), *self.event_shape
        )
        return self.flat.log_prob(folded).reshape(leading)


class _Binary:
    def __init__(self, shape: Size, *, probabilities: bool) -> None:
        self.shape, self.probabilities = shape, probabilities

    def __call__(self, answer: Any) -> Distribution:
        raw = _named(answer, _VALUES)
        raw = raw.reshape(len(raw), *self.shape)
        if self.probabilities:
            # what is compiled has been called as it is before
            checked = not torch.compiler.is_compiling()
            if checked and bool(((raw < 0) | (raw > 1)).any()):
                raise ValueError(
                    "The decoder's probabilities are not all between 0 and 1; if they are logits, "
                    "say decoded='logits'."
                )
            # in float32 a logit above 17 is a probability of 1: the largest below it is 1 - 6e-8
            eps = torch.finfo(raw.dtype).eps / 2
            raw = raw.clamp(torch.finfo(raw.dtype).tiny, 1.0 - eps).logit()
        elements = _Bits(logits=raw, validate_args=False)
        return Independent(elements, len(self.shape), validate_args=False)


class _Bits(Bernoulli):
    """A Bernoulli that refuses other values, for which the cross entropy is a number too."""

    def log_prob(self, value: Tensor) -> Tensor:
        other = (value != 0) & (value != 1)
        if torch.compiler.is_compiling():  # nothing can be raised there
            return torch.where(other, torch.nan, super().log_prob(value))
        if bool(other.any()):
            raise ValueError(
                f"A Bernoulli is of values 0 and 1, and x has values from {float(value.min()):g} "
                f"to {float(value.max()):g}, whose cross entropy is no likelihood. Binarize them, "
                f"load(..., binarize='static'), or say which likelihood= they have."
            )
        return super().log_prob(value)


class _Real:
    def __init__(self, shape: Size, scale: float | None) -> None:
        self.shape, self.scale = shape, scale

    def __call__(self, answer: Any) -> Distribution:
        if self.scale is None:
            mean, log_variance = _pair(answer, self.shape.numel())
            spread = (0.5 * log_variance).exp().reshape(len(mean), *self.shape)
        else:
            mean = _named(answer, _VALUES)
            spread = torch.full_like(mean, self.scale).reshape(len(mean), *self.shape)
        elements = Normal(mean.reshape(len(mean), *self.shape), spread, validate_args=False)
        return Independent(elements, len(self.shape), validate_args=False)


def _pair(answer: Any, width: int) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of what a module returned."""
    if isinstance(answer, Tensor):
        if answer[0].numel() != 2 * width:
            raise ValueError(
                f"A module that returns one tensor gives mean and log-variance side by side, "
                f"{2 * width} numbers a row; found {answer[0].numel()}. (A decoder that gives the "
                f"mean only needs scale=.)"
            )
        mean, log_variance = answer.flatten(1).chunk(2, -1)
        return mean, log_variance
    if isinstance(answer, tuple | list) and len(answer) >= 2:
        return answer[0], answer[1]
    return _named(answer, _MEANS), _named(answer, _LOG_VARIANCES)


def _named(answer: Any, names: Sequence[str]) -> Tensor:
    """The tensor that goes by one of some names, in a mapping or an object; or the tensor."""
    if isinstance(answer, Tensor):
        return answer
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], Tensor):
        return answer[0]
    for name in names:
        found = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
        if isinstance(found, Tensor):
            return found
    have = list(answer) if isinstance(answer, Mapping) else [type(answer).__name__]
    raise ValueError(
        f"The module returned {', '.join(map(str, have))}, where one of {', '.join(names)} is "
        f"looked for; wrap it in a module that returns tensors."
    )
