r"""The averaged divergence, split: what latents tell of a row, and how far q(z) is from p(z)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.evaluation.latents.mutual_information import MutualInformation, information_of
from deeplvm.evaluation.latents.pairwise import Dimensions, Scores, scores_of
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Rows
from deeplvm.results import Record, shown_mean


@dataclass(frozen=True, eq=False)
class SurgeryByDimension(Record, lists="mutual_information marginal"):
    r"""The split of every dimension of a latent by itself, nats.

    Attributes:
        mutual_information: :math:`I_q(x; z_j)`, shape ``(D,)``.
        marginal: :math:`KL(q(z_j) \| p(z_j))`, shape ``(D,)``.
    """

    mutual_information: Tensor
    marginal: Tensor


@dataclass(frozen=True, eq=False)
class SurgeryPart(Record, also="total_correlation"):
    r"""One latent, or all together: :math:`E_x KL(q(z|x) \| p(z)) = I_q(x; z) + KL(q(z)\|p(z))`.

    All of the same draws, so that the two parts sum to the divergence exactly.

    Attributes:
        latents: The latents.
        kl: Sampled :math:`KL(q(z|x) \| p(z))` of each row, shape ``(rows,)``, nats.
        mutual_information: :math:`E_{q(z|x)}[\log q(z|x) - \log q(z)]`, shape ``(rows,)``.
        marginal: :math:`E_{q(z|x)}[\log q(z) - \log p(z)]`, shape ``(rows,)``; its mean is the
            divergence of the aggregate posterior from the prior.
        information: The mutual information by other estimators.
        by_dimension: Of a latent that factorises under q and p; otherwise ``None``.
    """

    latents: tuple[str, ...]
    kl: Tensor
    mutual_information: Tensor
    marginal: Tensor
    information: MutualInformation
    by_dimension: SurgeryByDimension | None = None

    @property
    def total_correlation(self) -> float | None:
        r""":math:`KL(q(z) \| \prod_j q(z_j))`: the marginal divergence less its dimensions'."""
        if self.by_dimension is None:
            return None
        return float(self.marginal.mean() - self.by_dimension.marginal.sum())


@dataclass(frozen=True, eq=False)
class ElboSurgery(Record):
    """What :func:`elbo_surgery` found.

    Attributes:
        parts: By the latent's name; where there are several, also by all names, ``"z1, z2"``.
        rows: N.
        particles: Draws a row.
    """

    parts: dict[str, SurgeryPart]
    rows: int
    particles: int

    header: ClassVar = ("latents", "averaged KL", "= mutual information", "+ KL(q(z) ‖ p(z))")

    def __getitem__(self, key: str) -> SurgeryPart:
        """By the name of a latent, or the names of all."""
        if key not in self.parts:
            raise KeyError(f"There is no {key!r}; there are {', '.join(map(repr, self.parts))}.")
        return self.parts[key]

    @property
    def joint(self) -> SurgeryPart:
        """All latents together."""
        return list(self.parts.values())[-1]

    def table(self) -> list[tuple[str, ...]]:
        return [
            (key, *[shown_mean(each) for each in (p.kl, p.mutual_information, p.marginal)])
            for key, p in self.parts.items()
        ]

    def notes(self) -> list[str]:
        told = [f"nats, ± one standard error over {self.rows:,} rows"]
        if self.joint.information.saturated:
            told.append("the information is near its most, log N: give more rows to trust it")
        return told


def elbo_surgery(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    particles: int = 1,
    minibatch: int = 128,
    draw: Mapping[str, Draw] | None = None,
    seed: int = 0,
) -> ElboSurgery:
    r"""Split the averaged divergence into mutual information and marginal divergence.

    .. math:: \frac1N \sum_n KL(q(z|x_n) \| p(z)) = I_q(n; z) + KL(q(z) \| p(z)), \qquad
              q(z) = \frac1N \sum_n q(z|x_n)

    The first is what the code costs because it says something. The second is loss: it asks for
    another prior, or a q that keeps to it. With the rows as they are, both are estimated without
    bias. Of the distribution that the rows come from, the information is too low (it cannot
    exceed :math:`\log N`), and the marginal divergence too high by the same amount;
    ``information`` has a bound from the other side. Where a latent factorises under q and p, the
    marginal divergence is split further: total correlation, and a divergence for each dimension.

    A latent is shown by itself where its q reads no other latent and its prior nothing at all.

    It costs N² densities a particle, in bounded memory.

    ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman &
    Johnson, 2016), http://approximateinference.org/accepted/HoffmanJohnson2016.pdf; for the total
    correlation Isolating Sources of Disentanglement in VAEs (Chen et al., 2018),
    https://arxiv.org/abs/1802.04942

    Args:
        particles: Draws of every latent a row.
        minibatch: Least number of rows of the minibatches that some estimators of the information
            use.
        draw: How a latent is drawn; with ``Enumerated()`` nothing is left to chance.

    Raises:
        ValueError: If the latents have a prior of each row's own (it reads something given), all
            rows share a latent, or there are fewer than two rows.

    Examples:
        >>> import torch
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(2), "x | z": Gaussian(3, MLP(2))})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(2, MLP(3))}))
        >>> part = elbo_surgery(model, {"x": torch.randn(50, 3)})["z"]
        >>> torch.allclose(part.kl, part.mutual_information + part.marginal, atol=1e-5)
        True
    """
    scores = scores_of(
        model, data, particles=particles, minibatch=minibatch, draw=draw, seed=seed,
        by_dimension=True,
    )  # fmt: skip
    *_, joint = scores.groups.values()
    if joint.prior is None:
        names, read = (", ".join(each) for each in (joint.latents, sorted(joint.reads)))
        raise ValueError(
            f"The prior of {names} reads {read}, which is given, so each row has a prior of its "
            f"own, and the aggregate posterior none to be compared with; mutual_information needs "
            f"no prior."
        )
    parts = {key: _part(scores, key) for key, g in scores.groups.items() if g.prior is not None}
    return ElboSurgery(parts, scores.rows, particles)


def _part(scores: Scores, key: str) -> SurgeryPart:
    group = scores.groups[key]
    aggregate = group.aggregate
    prior: Any = group.prior
    return SurgeryPart(
        group.latents,
        scores.mean(group.own - prior),
        scores.mean(group.own - aggregate),
        scores.mean(aggregate - prior),
        information_of(scores, key),
        _by_dimension(scores, scores.dimensions.get(key)),
    )


def _by_dimension(scores: Scores, each: Dimensions | None) -> SurgeryByDimension | None:
    if each is None or each.prior is None:
        return None
    aggregate = each.aggregate
    return SurgeryByDimension(
        scores.mean(each.own - aggregate).mean(0), scores.mean(aggregate - each.prior).mean(0)
    )
