"""Latent classes: a mixture of products of elements, whose component is summed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, constraints
from torch.nn.functional import embedding

from deeplvm.conditionals.heads import Head, Network, at_least, shown
from deeplvm.conditionals.local import corrected, heads_of
from deeplvm.core.evidence import elementwise
from deeplvm.core.trace import base_of, inside_support, score
from deeplvm.distributions.mixture import MixtureElements
from deeplvm.distributions.product import Product
from deeplvm.distributions.spiked import Spiked

_IMPOSSIBLE = -1e4  # nats: beyond that an element is as good as impossible
_FEWER = 4  # times fewer different values than rows make a table of all of them worth it


class LatentClasses(nn.Module):
    r"""A mixture of one family of independent elements, :math:`\sum_c w_c \prod_d p(x_d | c, h)`.

    The class c is summed out, so the likelihood is exact. Each class has raw parameters of its
    own, to which a network of the parents may add what is common to all classes.

    Args:
        conditional: a conditional of elements without a network, such as ``Bernoulli(784)`` or
            :class:`~deeplvm.conditionals.Columns`.
        network: maps the parents to features; ``None`` without parents.
        classes: how many there are.
        spread: standard deviation of the classes' raw parameters at first: classes that start
            alike would stay alike.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape and the
        conditional's event.

    Raises:
        ValueError: the conditional has a network, or takes no parameters from a head.

    Exploratory latent structure analysis using both identifiable and unidentifiable models
    (Goodman, 1974), https://doi.org/10.1093/biomet/61.2.215

    Examples:
        >>> from deeplvm.conditionals import Bernoulli
        >>> groups = LatentClasses(Bernoulli(3), classes=2)
        >>> every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
        >>> print(f"{groups().log_prob(every).exp().sum():.5f}")
        1.00000
        >>> groups().class_probabilities(every).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        conditional: nn.Module,
        network: Network = None,
        *,
        classes: int = 20,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        at_least(classes, 1, "LatentClasses", "classes")
        self.heads = heads_of(conditional)
        if not self.heads or any([head.network is not None for head in self.heads]):
            raise ValueError(
                f"LatentClasses gives each class parameters of its own: it expects a conditional "
                f"built on heads, without a network, such as Bernoulli(784) or Columns([...]), "
                f"found {type(conditional).__name__}."
            )
        self.conditional = conditional
        self.event_shape = Size(getattr(conditional, "event_shape", ()))
        self.sizes = [head.raw_shape[0] for head in self.heads]
        self.weights = nn.Parameter(torch.zeros(classes))
        self.table = nn.Parameter(spread * torch.randn(classes, sum(self.sizes)))
        self.common = (
            None
            if network is None
            else Head(network, Size((sum(self.sizes) + classes,)), 1, "LatentClasses")
        )

    def forward(self, *parents: Tensor) -> LatentClassesDistribution:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        if self.common is None:
            if parents:
                raise TypeError(
                    f"LatentClasses has no network, so it takes no parents, found {len(parents)}; "
                    f"give it one: LatentClasses(conditional, MLP(...))."
                )
            return LatentClassesDistribution(self, self.weights, self.table, Size())
        (raw,) = self.common.each(*parents)
        shift, weights = raw.split([sum(self.sizes), len(self.weights)], -1)
        table = self.table + shift.unsqueeze(-2)
        return LatentClassesDistribution(self, self.weights + weights, table, raw.shape[:-1])

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, as the conditional shows it."""
        return shown(self.conditional, value)

    def of(self, raw: Tensor) -> Distribution:
        """The distribution of the elements by what is added to their raw parameters."""
        with corrected(self.heads, raw.split(self.sizes, -1)):
            return self.conditional()


class LatentClassesDistribution(Distribution):
    """What :class:`LatentClasses` returns.

    Args:
        owner: The conditional.
        weights: Raw weights, shape ``(*batch, classes)``.
        table: What each class adds to the raw parameters, ``(*batch, classes, parameters)``.
        batch_shape: ``(*particles, batch)``.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False
    _read: tuple[Tensor, Tensor, Tensor] | None = None  # a value, what is seen of it, log p(x, c)

    def __init__(
        self, owner: LatentClasses, weights: Tensor, table: Tensor, batch_shape: Size
    ) -> None:
        self.owner, self.table = owner, table
        self.log_weights = weights.log_softmax(-1)
        super().__init__(batch_shape, owner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The elements' own support may be narrower."""
        return constraints.real_vector

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> LatentClassesDistribution:
        new = LatentClassesDistribution(
            self.owner, self.log_weights, self.table, Size(batch_shape)
        )
        new._read = self._read
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        return self._summed(self._joint(value, missing=False))

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Of the elements that are not missing: the mixture of the classes' marginals."""
        return self._summed(self._seen(value, observed))

    def class_probabilities(self, value: Tensor) -> Tensor:
        """p(c | x) of a value of which elements may be missing, ``(*sample, *batch, classes)``."""
        return self._joint(value, missing=True).softmax(-1)

    def _summed(self, joint: Tensor) -> Tensor:
        total = joint.logsumexp(-1)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def _seen(self, value: Tensor, observed: Tensor) -> Tensor:
        """Log p(x, c) of what is observed, looked at once where it is scored and then given."""
        if torch.is_grad_enabled():
            return self._joint(torch.where(observed, value, torch.nan), missing=True)
        read = self._read
        if read is None or read[0] is not value or not torch.equal(read[1], observed):
            joint = self._joint(torch.where(observed, value, torch.nan), missing=True)
            self._read = read = value, observed, joint
        return read[2]

    def _joint(self, value: Tensor, *, missing: bool) -> Tensor:
        """Log p(x, c), shape ``(*sample, *batch, classes)``."""
        each = self.owner.of(self.table)
        parts = [(each, value)]
        if isinstance(each, Product):
            parts = list(zip(each.parts, each.split(value), strict=True))
        terms = [_of_classes(part, piece, missing=missing) for part, piece in parts]
        return sum(terms[1:], start=terms[0]) + self.log_weights

    def marginals(self) -> Distribution | None:
        """Of single elements, one mixture each; ``None`` where a family has none by itself."""
        if (single := self._single()) is None:
            return None
        log_weights = self.log_weights.expand(*self.batch_shape, -1)
        weights = log_weights.exp()
        mixed = [Independent(MixtureElements(log_weights, part, weights), 1) for part in single]
        each = self.owner.of(self.table)
        return Product(mixed, each.order, each.back) if isinstance(each, Product) else mixed[0]

    def left_out(self, value: Tensor) -> Tensor | None:
        r"""Each element given the others, :math:`\log p(x_d | x_{o \setminus d})`, exactly.

        Args:
            value: Shape ``(*sample, *batch, *event)``, NaN where missing.

        Returns:
            Of the same shape, 0 where missing; ``None`` where a family has no single elements.
        """
        if (single := self._single()) is None:
            return None
        each = self.owner.of(self.table)
        pieces = each.split(value) if isinstance(each, Product) else [value]
        found = [_cells(part, piece) for part, piece in zip(single, pieces, strict=True)]
        cells = [part if dim == -1 else part.transpose(-1, -2) for part, dim in found]
        kept = [part.clamp(min=_IMPOSSIBLE) for part in cells]  # not -inf less -inf
        joint = sum([part.sum(-1) for part in kept]) + self.log_weights
        total, joint = joint.logsumexp(-1, keepdim=True), joint.unsqueeze(-1)
        log = [total - (joint - part).logsumexp(-2) for part in kept]
        log = [
            torch.where(part.isneginf().all(-2), -torch.inf, one)
            for part, one in zip(cells, log, strict=True)
        ]
        whole = torch.cat(log, -1)
        whole = whole.index_select(-1, each.back) if isinstance(each, Product) else whole
        return whole.expand(torch.broadcast_shapes(whole.shape, (*self.batch_shape, 1)))

    def _single(self) -> list[Distribution] | None:
        """Of each part its single elements under every class, ``(*batch, classes, elements)``."""
        each = self.owner.of(self.table)
        single = [elementwise(e) for e in (each.parts if isinstance(each, Product) else [each])]
        found = [part for part in single if part is not None]
        return found if len(found) == len(single) and len(self.event_shape) == 1 else None

    def conditioned(self, value: Tensor, observed: Tensor) -> LatentClassesDistribution:
        """That of all elements given those observed: the classes' weights have changed."""
        weights = self._seen(value, observed)
        shape = torch.broadcast_shapes(self.batch_shape, weights.shape[:-1])
        return LatentClassesDistribution(self.owner, weights, self.table, shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        with torch.no_grad():
            lead = shape[: len(shape) - len(self.event_shape)]
            limits = self.log_weights.exp().cumsum(-1)[..., :-1]
            noise = torch.rand((*lead, 1), dtype=limits.dtype, device=limits.device)
            chosen = (noise > limits).sum(-1)
            if self.table.dim() == 2:
                return self.owner.of(self.table[chosen]).sample()
            # not one table for all rows, but one a row
            table = self.table.expand(*lead, *self.table.shape[-2:])
            raw = table.take_along_dim(chosen[..., None, None], -2).squeeze(-2)
            return self.owner.of(raw).sample()


def _of_classes(part: Distribution, value: Tensor, *, missing: bool) -> Tensor:
    """Log p(x | c) of each class, the last dimension of the part's batch shape."""
    dims = len(part.event_shape)
    if dims != 1 or len(part.batch_shape) != 1 or base_of(part).event_shape:
        return score("x", part, value.unsqueeze(-1 - dims), missing=missing)
    found, elements = _cells(base_of(part), value)
    return found.sum(elements)


def _cells(base: Any, value: Tensor) -> tuple[Tensor, int]:
    """Of each element in each class, 0 where it is missing, and which dimension is elements.

    Args:
        base: A distribution of batch shape ``(classes, elements)``, or of one a row in front.
        value: Shape ``(*batch, elements)``, NaN where missing.
    """
    # by look-up in one table, where there is one: by broadcasting every row has one of its own
    known = ~value.isnan()
    if isinstance(base, Categorical) and base.logits.dim() == 3:
        found = _looked_up(base.logits, value.nan_to_num().long())
        return torch.where(known.unsqueeze(-1), found, 0.0), -2
    inside = base.transform.knots[..., 0] if isinstance(base, Spiked) else None
    value = torch.where(known, value, inside_support(base, value) if inside is None else inside)
    shared = len(base.batch_shape) == 2
    if shared and not torch.compiler.is_compiling() and value.device.type == "cpu":
        levels, place = value.unique(return_inverse=True)
        if _FEWER * len(levels) * value.shape[-1] <= value.numel():
            table = base.log_prob(levels[:, None, None])  # (levels, classes, elements)
            found = _looked_up(table.permute(1, 2, 0), place)
            return torch.where(known.unsqueeze(-1), found, 0.0), -2
    spike = None
    if shared and isinstance(base, Spiked) and base.atoms.shape[-1]:
        hit = value.unsqueeze(-1) == base.atoms
        # a sum, as a compiled argmax of nothing may be beyond the end
        place = (hit * torch.arange(hit.shape[-1], device=hit.device)).sum(-1)
        spike = _looked_up(base.spikes, place).transpose(-1, -2)
    beside = value.unsqueeze(-2)
    found = base.log_prob(beside) if spike is None else base.log_prob(beside, spike)
    return torch.where(known.unsqueeze(-2), found, 0.0), -1


def _looked_up(logits: Tensor, place: Tensor) -> Tensor:
    """Of logits ``(classes, elements, levels)`` those at places, ``(*batch, elements, classes)``.

    Args:
        logits: Shape ``(classes, elements, levels)``.
        place: Whole numbers, shape ``(*batch, elements)``.
    """
    classes, elements, levels = logits.shape
    first = levels * torch.arange(elements, device=place.device)
    return embedding(place + first, logits.permute(1, 2, 0).reshape(-1, classes))
