"""Hierarchies: several layers of latents, each drawn given those above it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import nn

from deeplvm.conditionals import Gaussian, LowRankGaussian, PrecisionWeighted, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.distributions import LowRankPrecisionNormal
from deeplvm.networks import MLP, BatchNorm
from deeplvm.recipes.catalogue import RecipeError, trained_with
from deeplvm.recipes.labelled import given_label
from deeplvm.recipes.plain import at_least_one, observed, seen
from deeplvm.training.schedules import linear

# How q goes through the layers; see `hierarchy`.
Inference = Literal["top_down", "ladder", "bottom_up"]


def hierarchy(
    likelihood: nn.Module,
    *,
    up: Sequence[nn.Module],
    down: Sequence[nn.Module],
    priors: Sequence[nn.Module],
    posteriors: Sequence[nn.Module],
    inference: Inference = "top_down",
    carried: bool = True,
    reads: Sequence[int] | None = None,
    beside: Sequence[tuple[nn.Module, nn.Module]] = (),
) -> LatentVariableModel:
    r"""Layers of latents :math:`z_1, \dots, z_L` with paths of features down and up.

    .. math:: p(x, z) = p(z_L)\, p(x | d_0) \prod_{l < L} p(z_l | d_l), \qquad
              d_l = f_l(d_{l+1}, z_{l+1}), \qquad h_l = g_l(h_{l-1}), \; h_0 = x

    Top-down, :math:`q(z | x) = q(z_L | h_L) \prod_{l<L} q(z_l | d_l, h_l)`: drawn in the order of
    p, whose path d is its own, evaluated once. The ladder is that, with q(z_l) the normalised
    product of :math:`p(z_l | d_l)` and a Gaussian given :math:`h_l`. Bottom-up,
    :math:`q = \prod_l q(z_l | h_l)` with :math:`h_{l+1} = g_{l+1}(h_l, z_l)`.

    Args:
        likelihood: Of ``"x | d0"``.
        up: The networks g of :math:`h_1, h_2, \dots`
        down: The networks f of :math:`d_0, \dots, d_{L-1}`; the last reads z alone.
        priors: Of :math:`z_1, \dots, z_L`, the last without parents.
        posteriors: Of the same; that of L reads h alone, and for the ladder, or bottom-up, the
            others do too.
        inference: How q goes through the layers.
        carried: Whether a path goes by the latents: :math:`d_l` reads :math:`d_{l+1}` too, and
            bottom-up :math:`h_{l+1}` reads :math:`h_l` too.
        reads: The number of the h that each layer reads, where it is not its own.
        beside: Prior and posterior of a second latent :math:`u_l` of each layer below L, which q
            draws bottom-up, :math:`q(u_l | h_l)`, and both paths read:
            :math:`p(u_l | d_l)`, :math:`d_{l-1} = f(d_l, z_l, u_l)` and
            :math:`h_{l+1} = g(h_l, u_l)`.
    """
    top = len(priors)
    reads = range(1, top + 1) if reads is None else reads
    p: dict[str, nn.Module] = {f"z{top}": priors[-1]}
    q: dict[str, nn.Module] = {"h1 | x": up[0]}
    for n in range(1, len(up)):
        if beside:
            q[f"u{n} | h{n}"] = beside[n - 1][1]
        drawn = f"u{n}" if beside else f"z{n}" if inference == "bottom_up" else ""
        q[f"h{n + 1} | {_listed(f'h{n}' if carried or not drawn else '', drawn)}"] = up[n]
    q[f"z{top} | h{reads[-1]}"] = posteriors[-1]
    for n in reversed(range(top)):
        own = n + 1 < top
        path = f"d{n + 1}" if own and carried else ""
        second = f"u{n + 1}" if own and beside else ""
        node = f"d{n} | {_listed(path, f'z{n + 1}', second)}"
        p[node] = down[n]
        if not n:
            continue
        p[f"z{n} | d{n}"], posterior = priors[n - 1], posteriors[n - 1]
        if beside:
            p[f"u{n} | d{n}"] = beside[n - 1][0]
        if inference == "bottom_up":
            q[f"z{n} | h{reads[n - 1]}"] = posterior
            continue
        q[node] = down[n]
        merged = PrecisionWeighted(priors[n - 1], posterior) if inference == "ladder" else None
        q[f"z{n} | d{n}, h{reads[n - 1]}"] = merged or posterior
    p["x | d0"] = likelihood
    return LatentVariableModel(Joint(p), Joint(q))


def _listed(*names: str) -> str:
    return ", ".join([name for name in names if name])


# The paper's warm-up takes 200 of its 2,000 epochs.
@trained_with(kl_weight=linear(50), averaging=0.0)
@given_label
def ladder_vae(
    data: Data | Description,
    *,
    latent: tuple[int, ...] = (64, 32, 16, 8, 4),
    hidden: tuple[int, ...] = (512, 256, 128, 64, 64),
    inference: Inference = "ladder",
    batch_norm: bool = True,
) -> LatentVariableModel:
    """Layers of latents with dense networks, whose posterior merges what x and the prior say.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282

    Leaky rectifiers, batch normalisation and a warm-up of the divergence; without the last two
    the upper layers say nothing, which ``diagnose`` shows.

    Args:
        data: What is modelled; its kind decides the likelihood.
        latent: Dimensions of each layer, z1 next to x.
        hidden: Width of the two hidden layers that lead to each.
        inference: How q goes through the layers: ``"ladder"`` down p's own path, merged with p by
            precision, ``"top_down"`` so and not merged, ``"bottom_up"`` from z1 upwards.
        batch_norm: Whether layers are normalised over the batch.

    Raises:
        RecipeError: If latent and hidden are not as many.
    """
    at_least_one(latent=latent, hidden=hidden)
    if len(latent) != len(hidden) or not latent:
        raise RecipeError(
            f"ladder_vae has a width for each layer of latents, but found latent {latent} and "
            f"hidden {hidden}; give as many of one as of the other."
        )
    x = observed(data)

    def network(features: int | tuple[int, ...], width: int) -> MLP:
        normal = BatchNorm if batch_norm else None
        return MLP(features, width, width, activation=_leaky, normalization=normal)

    layers = len(latent)
    below = [*latent[:-1]] if inference == "bottom_up" else [*hidden[:-1]]
    merged = inference == "top_down"
    return hierarchy(
        likelihood_of(x, MLP(hidden[0])),
        up=[network(a, b) for a, b in zip([seen(x), *below], hidden, strict=True)],
        down=[network(latent[n], hidden[max(0, n - 1)]) for n in range(layers)],
        priors=[
            *[Gaussian(latent[n], MLP(hidden[n])) for n in range(layers - 1)],
            StandardNormal(latent[-1]),
        ],
        posteriors=[
            Gaussian(latent[n], MLP(hidden[n] * (1 + (merged and n + 1 < layers))))
            for n in range(layers)
        ],
        inference=inference,
        carried=False,
    )


_leaky = partial(nn.LeakyReLU, 0.1)


@given_label
def deep_latent_gaussian_model(
    data: Data | Description,
    *,
    layers: int = 2,
    latent: int = 50,
    hidden: int = 200,
    rank: int = 1,
) -> LatentVariableModel:
    r"""Layers of Gaussian noise that a network adds up; posteriors of low-rank precision.

    .. math:: z_l \sim N(0, I), \qquad h_L = G_L z_L, \qquad h_l = T_l(h_{l+1}) + G_l z_l, \qquad
              q(z | x) = \prod_l N(z_l; \mu_l(x), (D_l(x) + W_l(x) W_l(x)^T)^{-1})

    Stochastic Backpropagation and Approximate Inference in Deep Generative Models (Rezende et
    al., 2014), https://arxiv.org/abs/1401.4082

    Args:
        data: What is modelled; its kind decides the likelihood.
        layers: How many layers of latents, z1 next to x.
        latent: Dimensions of each.
        hidden: Width of the hidden layers.
        rank: Columns of W; 1 in the paper.
    """
    at_least_one(layers=layers, latent=latent, hidden=hidden, rank=rank)
    x = observed(data)
    p: dict[str, nn.Module] = {f"z{n}": StandardNormal(latent) for n in range(layers, 0, -1)}
    p[f"h{layers} | z{layers}"] = _linear(latent, latent)
    for n in range(layers - 1, 0, -1):
        p[f"t{n} | h{n + 1}"] = MLP(latent, hidden)
        p[f"h{n} | t{n}, z{n}"] = _linear(hidden + latent, latent)
    p["x | h1"] = likelihood_of(x, MLP(latent, hidden))
    gaussian: Callable[..., nn.Module] = partial(
        LowRankGaussian, latent, rank=rank, family=LowRankPrecisionNormal
    )
    q = {f"z{n} | x": gaussian(MLP(seen(x), hidden, hidden)) for n in range(layers, 0, -1)}
    return LatentVariableModel(Joint(p), Joint(q))


def _linear(fan_in: int, fan_out: int) -> MLP:
    """The linear map of all parents together."""
    return MLP(fan_in, fan_out, activation=nn.Identity)
