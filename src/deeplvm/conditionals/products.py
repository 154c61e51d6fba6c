"""Products and mixtures of experts, each of which sees one parent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from deeplvm.conditionals.gaussian import StandardNormal
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.distributions.mixture import NormalMixture

View = Callable[[Tensor], Tensor]


class _Experts(nn.Module):
    """Experts, each shown one parent, and a prior; a subclass says what they make together."""

    # an expert is left out where its parent is NaN
    accepts_missing = True

    def __init__(
        self,
        experts: Sequence[nn.Module],
        *,
        prior: nn.Module | None = None,
        views: Sequence[View | None] | None = None,
    ) -> None:
        super().__init__()
        shapes = {tuple(getattr(each, "event_shape", ())) for each in experts}
        if len(shapes) != 1:
            found = ", ".join([str(shape) for shape in sorted(shapes)]) or "no expert"
            raise ValueError(f"{self._owner} expects experts of one event shape, found {found}.")
        if views is not None and len(views) != len(experts):
            raise ValueError(
                f"{self._owner} expects a view for each of its {len(experts)} experts (None "
                f"for a parent shown as it is), found {len(views)}."
            )
        (shape,) = shapes
        self.event_shape = torch.Size(shape)
        self.experts = nn.ModuleList(experts)
        self.prior = StandardNormal(shape) if prior is None else prior
        self.views = [None] * len(experts) if views is None else list(views)

    @property
    def _owner(self) -> str:
        return type(self).__name__

    def _prior(self) -> DiagonalNormal:
        return normal_of(self.prior(), self._owner, "its prior")

    def _factors(self, *parents: Tensor) -> Iterator[tuple[DiagonalNormal, Tensor]]:
        """What each expert says, and in which rows it has its parent, ``(*particles, batch)``."""
        if len(parents) != len(self.experts):
            raise TypeError(
                f"{self._owner} has {len(self.experts)} experts, so it takes as many parents, "
                f"found {len(parents)}; a missing one is given as NaN."
            )
        for expert, view, parent in zip(self.experts, self.views, parents, strict=True):
            shown = parent if view is None else view(parent)
            shown = torch.nan_to_num(shown, nan=0.0) if shown.is_floating_point() else shown
            factor = normal_of(expert(shown), self._owner, "an expert")
            seen, lead = ~parent.isnan(), len(factor.batch_shape)
            yield factor, seen.flatten(lead).any(-1) if parent.dim() > lead else seen


class ProductOfExperts(_Experts):
    r"""The normalised product of a prior and of Gaussian experts, one for each parent.

    .. math:: q(z | x_1, \dots, x_N) \propto p(z) \prod_{i \text{ observed}} q_i(z | x_i), \qquad
              \sigma^{-2} = \sum_i \sigma_i^{-2}, \qquad
              \mu = \sigma^2 \sum_i \sigma_i^{-2} \mu_i

    An expert whose parent is missing in a row (all of it NaN) is left out of that row's product:
    with no parent at all the posterior is the prior. Elements that are missing in a parent seen
    in part are zero to its network. The product is the exact posterior where each expert is
    proportional to :math:`p(x_i | z)` and the parents are independent given z.

    Args:
        experts: conditionals that return independent normals, in the order of the parents.
        prior: one more factor, without parents; by default :math:`N(0, I)`.
        views: how each parent is shown to its expert: the ``embed`` of the conditional that owns
            it in p, ``[p["x1"].embed, p["x2"].embed]``, where the parents have units or
            categories. By default as it is.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape.

    Training Products of Experts by Minimizing Contrastive Divergence (Hinton, 2002),
    https://doi.org/10.1162/089976602760128018, and for latents of several views Multimodal
    Generative Models for Scalable Weakly-Supervised Learning (Wu & Goodman, 2018),
    https://arxiv.org/abs/1802.05335

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> experts = [Gaussian(1, nn.Linear(each, 4), scale=1.0) for each in (2, 3)]
        >>> product, x1, x2 = ProductOfExperts(experts), torch.zeros(1, 2), torch.zeros(1, 3)
        >>> product(x1, x2).variance, product(x1, x2 * torch.nan).variance  # 1 / 3, 1 / 2
        (tensor([[0.3333]]), tensor([[0.5000]]))
    """

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The product, given a parent for each expert, of shapes ``(*particles, batch, ...)``."""
        product, dims = self._prior(), len(self.event_shape)
        for factor, seen in self._factors(*parents):
            seen = seen.reshape(*seen.shape, *[1] * dims)
            both = merged(product, factor)
            product = DiagonalNormal(
                torch.where(seen, both.loc, product.loc),
                torch.where(seen, both.scale, product.scale),
                dims,
            )
        return product


class MixtureOfExperts(_Experts):
    r"""The mixture of Gaussian experts, one for each parent, of equal weights.

    .. math:: q(z | x_1, \dots, x_N) = \frac{1}{|O|} \sum_{i \in O} q_i(z | x_i), \qquad
              O = \{i : x_i \text{ observed}\}

    An expert whose parent is missing in a row (all of it NaN) has no weight there: with no parent
    at all the posterior is the prior. Its density is that of the whole mixture, so bounds are of
    :math:`\log p(x)`; a draw carries gradients to all experts by implicit reparameterisation, and
    with ``draw={"z": Stratified()}`` each expert is drawn from once, as in the paper. Unlike a
    product's, an expert has to say by itself what z is.

    Args:
        experts: conditionals that return independent normals, in the order of the parents.
        prior: the posterior of a row that lacks every parent; by default :math:`N(0, I)`.
        views: how each parent is shown to its expert, as for :class:`ProductOfExperts`.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape.

    Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative Models (Shi et al.,
    2019), https://arxiv.org/abs/1911.03393

    Examples:
        >>> from deeplvm.conditionals import Gaussian
        >>> experts = [Gaussian(1, nn.Linear(each, 4), scale=1.0) for each in (2, 3)]
        >>> mixture, x1, x2 = MixtureOfExperts(experts), torch.zeros(1, 2), torch.zeros(1, 3)
        >>> both, one = mixture(x1, x2), mixture(x1, x2 * torch.nan)
        >>> both.log_weights.exp(), one.log_weights.exp()  # the first is the prior's
        (tensor([[0.0000, 0.5000, 0.5000]]), tensor([[0., 1., 0.]]))
    """

    def forward(self, *parents: Tensor) -> NormalMixture:
        """The mixture, given a parent for each expert, of shapes ``(*particles, batch, ...)``."""
        factors, seen = zip(*self._factors(*parents), strict=True)
        shape = torch.broadcast_shapes(*[factor.batch_shape for factor in factors])
        there = torch.stack([each.expand(shape) for each in seen], -1)
        there = torch.cat([~there.any(-1, keepdim=True), there], -1)
        whole = (*shape, *self.event_shape)
        every = [self._prior(), *factors]
        loc, scale = (
            torch.stack([getattr(each, name).expand(whole) for each in every], len(shape))
            for name in ("loc", "scale")
        )
        logits = torch.zeros(there.shape, dtype=loc.dtype, device=loc.device)
        logits = logits.masked_fill(~there, -torch.inf)
        return NormalMixture(logits, loc, scale, len(self.event_shape))


class PrecisionWeighted(nn.Module):
    r"""The normalised product of two Gaussians, :math:`q \propto q_1 q_2`, as in the ladder VAE.

    .. math:: \sigma^{-2} = \sigma_1^{-2} + \sigma_2^{-2}, \qquad
              \mu = \sigma^2 (\sigma_1^{-2} \mu_1 + \sigma_2^{-2} \mu_2)

    The first is usually p's own conditional of the same name (the same module, so its parameters
    are shared), the second what the data say.

    Args:
        first: a conditional that returns independent normals.
        second: another, of the same event shape.
        first_parents: how many of the parents go to ``first``; the rest go to ``second``.

    Ladder Variational Autoencoders (Sønderby et al., 2016), https://arxiv.org/abs/1602.02282

    Examples:
        >>> merged = PrecisionWeighted(StandardNormal(1), StandardNormal(1), first_parents=0)
        >>> merged().variance
        tensor([0.5000])
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, first_parents: int = 1) -> None:
        super().__init__()
        shapes = [getattr(part, "event_shape", None) for part in (first, second)]
        if None not in shapes and shapes[0] != shapes[1]:
            raise ValueError(
                "PrecisionWeighted expects two conditionals of one event shape, found "
                f"{tuple(shapes[0])} and {tuple(shapes[1])}."  # type: ignore[arg-type]
            )
        self.event_shape = shapes[0] or shapes[1]
        self.first = first
        self.second = second
        self.first_parents = first_parents

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The product, given the parents of ``first`` and then those of ``second``."""
        if len(parents) < self.first_parents:
            raise TypeError(
                f"PrecisionWeighted expects {self.first_parents} parents for its first "
                f"conditional, then those of its second, found {len(parents)} in all; write more "
                "after '|', or set first_parents."
            )
        first = normal_of(
            self.first(*parents[: self.first_parents]), _OWNER, "its first conditional"
        )
        second = normal_of(
            self.second(*parents[self.first_parents :]), _OWNER, "its second conditional"
        )
        return merged(first, second)

    def extra_repr(self) -> str:
        return f"first_parents={self.first_parents}"


_OWNER = "PrecisionWeighted"


def merged(first: DiagonalNormal, second: DiagonalNormal) -> DiagonalNormal:
    """The normalised product of two diagonal normals."""
    # sigma^2 = s1^2 s2^2 / (s1^2 + s2^2), the weight of the second mean is sigma^2 / s2^2
    first_square, second_square = first.scale.square(), second.scale.square()
    total = first_square + second_square
    loc = first.loc + (second.loc - first.loc) * (first_square / total)
    scale = first.scale * second.scale * total.rsqrt()
    return DiagonalNormal(loc, scale, len(first.event_shape))


def normal_of(distribution: Distribution, owner: str, which: str) -> DiagonalNormal:
    """A distribution of independent normals, in the form that :func:`merged` takes.

    Raises:
        TypeError: it is another one.
    """
    if isinstance(distribution, DiagonalNormal):
        return distribution
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        base, dims = distribution.base_dist, len(distribution.event_shape)
        return DiagonalNormal(base.loc, base.scale, dims)
    raise TypeError(
        f"{owner} expects {which} to return independent normals, found "
        f"{type(distribution).__name__}; use Gaussian or StandardNormal."
    )
