"""Latents whose rows have more of a property: by its gradient, or by trying where it may be more.

Automatic Chemical Design Using a Data-Driven Continuous Representation of Molecules
(Gómez-Bombarelli et al., 2018), https://arxiv.org/abs/1610.02415
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Adam

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.distributions.centre import centre
from deeplvm.inference.embedding import embed
from deeplvm.inference.rows import at_least, at_random, evaluation_of
from deeplvm.results import Record

_NEAR = 0.3  # of the spread of the codes: how far from the best half of the candidates lie
_STARTS = 2_000  # rows whose codes are looked at
_RATE = 0.05  # of the first steps
_LEAST = 1e-9  # of a standard deviation, beside which an improvement is measured

#: From latents ``(rows, dimensions)`` to a number a row.
Value = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Climbed(Record, without="codes"):
    """Latents that were moved to where a property is larger.

    Attributes:
        codes: Shape ``(rows, dimensions)``.
        before: The property of each row where it started, shape ``(rows,)``.
        after: And where it came to.
    """

    codes: Tensor
    before: Tensor
    after: Tensor


def predicted(model: LatentVariableModel, name: str, *, latent: str = "z") -> Value:
    """What p says of a property at given latents, the mean of ``p(name | z)``.

    Raises:
        ValueError: p has no such property, or it follows from something else too.

    >>> from deeplvm import Joint
    >>> from deeplvm.conditionals import Gaussian, StandardNormal
    >>> from deeplvm.networks import MLP
    >>> p = {"z": StandardNormal(2), "y | z": Gaussian(1, MLP(2)), "x | z": Gaussian(3, MLP(2))}
    >>> model = LatentVariableModel(Joint(p), Joint({"z | x": Gaussian(2, MLP(3))}))
    >>> climbed = climb(predicted(model, "y"), torch.zeros(4, 2), weight=0.1)
    >>> bool((climbed.after > climbed.before).all())
    True
    """
    owner: Any = model.p[name] if name in model.p.names else None
    read = [] if owner is None else [str(each) for each in model.p.parents(name)]
    if read != [latent]:
        found = f"reads {', '.join(read) or 'nothing'}" if owner is not None else "is not in p"
        raise ValueError(
            f"A search for {name!r} needs 'p({name} | {latent})', but {name!r} {found}: {model.p}."
        )

    def value(codes: Tensor) -> Tensor:
        return centre(owner(model.site(latent, codes).features)).flatten(1).sum(1)

    return value


def climb(
    value: Value,
    start: Tensor,
    *,
    steps: int = 200,
    learning_rate: float = 0.05,
    weight: float = 1.0,
    prior: Value | None = None,
) -> Climbed:
    r"""Move latents to where :math:`f(z) + w \log p(z)` is largest, by its gradient.

    The prior keeps them where the decoder has learned what to make of them: with
    :math:`z \sim N(0, I)` and a linear f of slope s it is largest at s / w.

    Args:
        value: f, such as :func:`predicted`.
        start: Shape ``(rows, dimensions)``, such as posterior means of rows.
        steps: Of Adam, whose rate falls linearly to zero.
        learning_rate: The first.
        weight: w; 0 lets them go as far as the steps do.
        prior: :math:`\log p`; that of a standard normal if left out.

    Raises:
        ValueError: There are no steps.
    """
    at_least(1, steps=steps)
    prior = prior or (lambda codes: -0.5 * codes.square().sum(1))
    with torch.enable_grad():
        codes = start.detach().clone().requires_grad_()
        optimiser = Adam([codes], learning_rate)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            loss = -(value(codes) + weight * prior(codes)).sum()
            (codes.grad,) = torch.autograd.grad(loss, codes)
            optimiser.step()
    with torch.no_grad():
        return Climbed(codes.detach(), value(start), value(codes))


def visited(
    model: LatentVariableModel,
    rows: NamedRows,
    name: str,
    *,
    number: int = 64,
    lowest: bool = False,
    weight: float | None = None,
    steps: int = 200,
    rounds: int = 10,
    latent: str = "z",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Latents on the way to more of a property, from those of rows of which most is predicted.

    Args:
        model: With ``p(name | z)``; the prior that holds the latents is its own.
        rows: Where to start: the training rows, or some of them.
        name: The property.
        number: How many of the rows.
        lowest: Less of it instead.
        weight: Of the prior, as in :func:`climb`; by default a tenth of the property's spread over
            the rows, for a nat.
        steps: Of each way.
        rounds: How often on the way the latents are kept.
        latent: What the property is predicted from.
        seed: Same seed, same latents.

    Returns:
        Latents ``(number * (rounds + 1), dimensions)``, the starts first, and the prediction.

    Raises:
        ValueError: As :func:`predicted`.
    """
    at_least(1, number=number, rounds=rounds, steps=steps)
    own, sign = predicted(model, name, latent=latent), -1.0 if lowest else 1.0
    some = at_random(rows, _STARTS, seed)
    with evaluation_of(model, seed):
        device = next(model.parameters()).device
        codes = embed(model, some, seed=seed)[latent].to(device)
        known = torch.as_tensor(some[name]).double() if name in some else own(codes)
        held = 0.1 * float(known[known.isfinite()].std()) if weight is None else weight
        codes = codes[(sign * own(codes)).argsort(descending=True)[:number]]
        kept = [codes]
        for part in range(rounds):
            found = climb(
                lambda each: sign * own(each), kept[-1], steps=-(-steps // rounds),
                learning_rate=_RATE * (1 - part / rounds), weight=held,
                prior=lambda each: model.p[latent]().log_prob(each),
            )  # fmt: skip
            kept.append(found.codes)
        whole = torch.cat(kept)
        return whole, own(whole)


def expected_improvement(
    codes: Tensor, values: Tensor, *, number: int = 1, candidates: int = 2_000, seed: int = 0
) -> Tensor:
    r"""Latents at which more of a property is to be expected, shape ``(number, dimensions)``.

    A Gaussian process is fitted to what is known; of random candidates, half of them around the
    best known, half spread as the known are, that is taken whose :math:`E[\max(f - f^*, 0)]` is
    largest, :math:`f^*` the best so far. Each further one is found as if the process's mean had
    been measured at those before.

    Efficient Global Optimization of Expensive Black-Box Functions (Jones et al., 1998),
    https://doi.org/10.1023/A:1008306431147

    Args:
        codes: Known latents, shape ``(rows, dimensions)``; some hundreds.
        values: Their property, shape ``(rows,)``.
        number: How many to propose.
        candidates: Among how many.
        seed: Same seed, same proposals.

    Raises:
        ValueError: Fewer than two rows are known, or a property is no number.
    """
    at_least(1, number=number, candidates=candidates)
    if len(codes) < 2 or not bool(values.isfinite().all()):
        raise ValueError(
            f"A Gaussian process needs at least two rows whose property is a number, found "
            f"{int(values.isfinite().sum())} of {len(values)}; leave the others out."
        )
    from scipy.stats import norm
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    generator = torch.Generator().manual_seed(seed)
    known, scale = codes.double().cpu(), values.double().std().cpu().clamp(min=_LEAST)
    told = ((values.double().cpu() - values.double().mean().cpu()) / scale).tolist()
    middle, spread = known.mean(0), known.std(0).clamp(min=_LEAST)
    known = (known - middle) / spread
    size = known.shape[1]
    kernel = Matern(size**0.5, (0.1, 1e3), nu=2.5) + WhiteKernel(0.01, (1e-6, 1.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    with warnings.catch_warnings():  # a property without noise has the least that is allowed
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(known.numpy(), told)
    process = GaussianProcessRegressor(process.kernel_, optimizer=None, normalize_y=True)
    found = []
    for _ in range(number):
        process.fit(known.numpy(), told)
        best = known[int(torch.tensor(told).argmax())]
        tried = torch.randn(candidates, size, generator=generator, dtype=torch.float64)
        tried[::2] = best + _NEAR * tried[::2]
        mean, error = cast("Any", process.predict(tried.numpy(), return_std=True))
        gain = (mean - max(told)) / error.clip(_LEAST)
        expected = error * (gain * norm.cdf(gain) + norm.pdf(gain))
        chosen = int(expected.argmax())
        found.append(tried[chosen])
        known, told = torch.cat([known, tried[chosen][None]]), [*told, float(mean[chosen])]
    return (torch.stack(found) * spread + middle).to(codes)


def improve(
    measure: Value,
    codes: Tensor,
    values: Tensor,
    *,
    rounds: int = 5,
    number: int = 10,
    candidates: int = 2_000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Propose latents by their expected improvement and measure them, in rounds.

    Args:
        measure: The property of what is decoded from latents; what cannot be measured (no
            molecule) is NaN, and counts as the worst known.
        codes: Known latents, shape ``(rows, dimensions)``.
        values: Their property, shape ``(rows,)``.
        rounds: How many.
        number: Of proposals in each.
        candidates: Among how many each is found.
        seed: Same seed, same proposals.

    Returns:
        All latents, the known ones first, and their property, NaN where there is none.
    """
    at_least(1, rounds=rounds)
    for each in range(rounds):
        told = torch.where(values.isfinite(), values, values[values.isfinite()].min())
        fresh = expected_improvement(
            codes, told, number=number, candidates=candidates, seed=seed + each
        )
        codes, values = torch.cat([codes, fresh]), torch.cat([values, measure(fresh).to(values)])
    return codes, values
