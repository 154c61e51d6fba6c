r"""The mixture of Gaussians inside a model: exact posterior, and the M-step in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.cluster import kmeans_plusplus
from torch import Tensor

from deeplvm.conditionals import Categorical, Gaussian, OneHot
from deeplvm.conditionals.heads import raw_of
from deeplvm.joint import Joint
from deeplvm.learning.linear_gaussian import is_linear
from deeplvm.model import LatentVariableModel


@dataclass(frozen=True, eq=False)
class MixtureOfGaussians:
    r""":math:`p(y = k) = \pi_k`, :math:`p(u | y = k) = N(\mu_k, \mathrm{diag}(s_k^2))`.

    u are the data in the units of the likelihood, flat; an element may be missing (NaN).

    Attributes:
        latent: Name of y.
        observed: Name of x.
        prior: The conditional that holds the weights.
        likelihood: The conditional that holds means and scales, linear in one-hot y.
    """

    latent: str
    observed: str
    prior: Any
    likelihood: Gaussian

    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights ``(K,)``, means ``(K, D)`` and variances ``(K, D)``, float64."""
        layer: Any = self.likelihood.head.layer
        raw = (layer.weight + layer.bias.unsqueeze(1)).T.detach()  # (K, outputs D)
        size = self.likelihood.event_shape.numel()
        shape = (len(raw), *self.likelihood.event_shape)
        parts = [raw[:, size:].reshape(shape)] if self.likelihood.scale.outputs else []
        scale = self.likelihood.scale(parts).detach().expand(shape).flatten(1)
        logits = self.prior.head.free.detach().double().flatten()
        return torch.log_softmax(logits, 0), raw[:, :size].double(), scale.double().square()

    @torch.no_grad()
    def write(self, log_weights: Tensor, means: Tensor, variances: Tensor) -> None:
        """Put weights, means and variances into the model."""
        layer: Any = self.likelihood.head.layer
        scale = self.likelihood.scale
        free = self.prior.head.free
        free.copy_(log_weights.reshape(free.shape))
        columns = [means]
        raw = raw_of((variances.sqrt() - scale.minimum).clamp(min=1e-12), scale.at_zero)
        if scale.outputs:
            columns.append(raw)
        elif isinstance(scale.source, str):
            shape = self.likelihood.event_shape
            scale.raw.copy_(raw[0].reshape(shape) if scale.raw.ndim else raw[0, 0])
        layer.weight.copy_(torch.cat(columns, 1).T)
        layer.bias.zero_()

    def responsibilities(self, u: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`p(y = k | x)`, shape ``(rows, K)``, and :math:`\log p(x)`, shape ``(rows,)``.

        Args:
            u: Shape ``(rows, D)``, NaN where missing.
        """
        log_weights, means, variances = self.parameters()
        there = ~u.isnan()
        filled, seen = torch.where(there, u, 0.0), there.to(u)
        precision = 1.0 / variances
        square = (
            filled.square() @ precision.T
            - 2.0 * filled @ (means * precision).T
            + seen @ (means.square() * precision).T
        )
        constant = seen @ (math.log(2 * math.pi) + variances.log()).T
        joint = log_weights - 0.5 * (square + constant)
        log_px = torch.logsumexp(joint, 1)
        return (joint - log_px.unsqueeze(1)).exp(), log_px

    def maximise(self, u: Tensor, share: Tensor) -> None:
        r"""The M-step: weighted frequencies, means and variances.

        A component that no row wants any more keeps its mean and variance.

        Args:
            u: Data, shape ``(rows, D)``, NaN where missing.
            share: Of each component in each row, shape ``(rows, K)``.
        """
        _, before, _ = self.parameters()
        there = ~u.isnan()
        filled, seen = torch.where(there, u, 0.0), there.to(u)
        count = share.T @ seen  # (K, D)
        safe = count.clamp(min=1e-10)
        means = torch.where(count > 1e-10, share.T @ filled / safe, before)
        spread = (
            share.T @ filled.square() - 2.0 * means * (share.T @ filled) + means.square() * count
        )
        source = self.likelihood.scale.source
        if source == "network":
            variances = torch.where(count > 1e-10, spread / safe, 1.0)
        elif source == "dimension":
            variances = (spread.sum(0) / count.sum(0)).expand_as(spread)
        else:
            variances = (spread.sum() / count.sum()).expand_as(spread)
        least = self.likelihood.scale.minimum**2
        weights = share.mean(0).clamp(min=1e-300).log()
        self.write(weights, means, variances.clamp(min=least))

    def start(self, u: Tensor, seed: int) -> None:
        """Rows far from one another as means (k-means++), the variance of all as variances."""
        middle = u.nanmean(0)
        filled = torch.where(u.isnan(), middle, u)
        _, _, variances = self.parameters()
        centres, _ = kmeans_plusplus(filled.cpu().numpy(), len(variances), random_state=seed)
        spread = filled.var(0, correction=0)
        if self.likelihood.scale.source == "global":
            spread = spread.mean().expand_as(spread)
        equal = torch.zeros(len(variances), dtype=torch.float64).log_softmax(0)
        self.write(equal, torch.from_numpy(centres).to(spread), spread.expand_as(variances))


def mixture_of(model: LatentVariableModel) -> MixtureOfGaussians | None:
    """The mixture of Gaussians that p is, or ``None`` if it is another model."""
    p: Any = model.p
    if not isinstance(p, Joint) or len(p.order) != 2:
        return None
    first, second = p.order
    latent, observed = first.names[0], second.names[0]
    prior, likelihood = p.conditional(latent), p.conditional(observed)
    mixture = (
        isinstance(prior, Categorical | OneHot)
        and prior.head.network is None
        and prior.head.event_shape == ()
        and isinstance(likelihood, Gaussian)
        and [str(parent) for parent in second.parents] == [latent]
        and is_linear(likelihood.head)
        and likelihood.head.layer.bias is not None
    )
    return MixtureOfGaussians(latent, observed, prior, likelihood) if mixture else None  # type: ignore[arg-type]
