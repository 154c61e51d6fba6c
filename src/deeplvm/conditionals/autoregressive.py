"""Elements one after another: each given those before it, in any order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

from deeplvm.conditionals.columns import Columns
from deeplvm.conditionals.heads import Head, Network, at_least, shown
from deeplvm.conditionals.local import corrected, heads_of
from deeplvm.core.trace import score
from deeplvm.networks.features import out_shape_of
from deeplvm.networks.masked import MaskedNetwork


class Autoregressive(nn.Module):
    r"""A conditional of independent elements, made to depend on each other.

    .. math:: p(x | h) = \frac1M \sum_{\pi} \prod_{d=1}^D p(x_{\pi(d)} | x_{\pi(1)}, \dots,
              x_{\pi(d-1)}, h)

    The conditional has free parameters :math:`\lambda`, the same for all rows; a masked network
    adds to those of an element what the elements before it say. So any kind of elements will do:
    binary pixels (MADE), categories, counts, reals, the columns of a table.

    In training each call has its own random order :math:`\pi`; measured, a row has M fixed ones.
    Missing elements (NaN) come last in the order of their row: the density of the others is
    normalised and costs nothing, and any elements are drawn given any others (:meth:`complete` of
    the distribution). Densities of different patterns of holes agree as far as training made the
    orders agree. A density takes M passes, a draw one pass an element.

    Args:
        conditional: a conditional of independent elements without a network, such as
            ``Bernoulli(784)`` or :class:`~deeplvm.conditionals.Columns`.
        network: maps the parents to features that all elements see; ``None`` without parents.
        width: how many units a layer of the masked network has.
        blocks: its residual blocks, of two layers each.
        orders: M; the first is that of the elements.
        any_order: whether the order is random in training; otherwise it is that of the elements,
            but for what is missing, and M is 1.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape and the
        conditional's event.

    Raises:
        ValueError: the conditional has a network, or its elements are not independent.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509; orders at random: A Deep and Tractable Density Estimator
    (Uria et al., 2014), https://arxiv.org/abs/1310.1757

    Examples:
        >>> from deeplvm.conditionals import Bernoulli
        >>> pixels = Autoregressive(Bernoulli(4), width=16).eval()
        >>> every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
        >>> print(f"{pixels().log_prob(every).exp().sum():.5f}")
        1.00000
        >>> pixels().complete(torch.tensor([1.0, torch.nan, 0.0, torch.nan])).shape
        torch.Size([4])
    """

    keys: Tensor

    def __init__(
        self,
        conditional: nn.Module,
        network: Network = None,
        *,
        width: int = 256,
        blocks: int = 2,
        orders: int = 1,
        any_order: bool = True,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        self.event_shape = Size(getattr(conditional, "event_shape", ()))
        self.any_order = any_order
        self.heads, inputs, outputs = _layout(conditional, self.event_shape.numel())
        at_least(orders, 1, "Autoregressive", "orders")
        if orders > 1 and not any_order:
            raise ValueError(
                f"Autoregressive in one order has orders=1, found {orders}; more are for "
                f"any_order=True."
            )
        self.network = network
        shape = () if network is None else out_shape_of(network)
        if shape is None:
            raise ValueError(
                f"Autoregressive cannot see what {type(network).__name__} returns: it has neither "
                "'out_features' nor 'out_shape'. Wrap it: Features(network, out_shape=...)."
            )
        self.context_dims = len(shape)
        context = Size(shape).numel() if network is not None else 0
        self.masked = MaskedNetwork(inputs, outputs, width=width, blocks=blocks, context=context)
        elements = self.event_shape.numel()
        keys = torch.arange(float(elements)).repeat(orders, 1)
        for index in range(1, orders):  # the same in every model
            shuffled = torch.randperm(elements, generator=torch.Generator().manual_seed(index))
            keys[index] = shuffled.to(keys.dtype)
        self.register_buffer("keys", keys, persistent=False)

    def forward(self, *parents: Tensor) -> AutoregressiveDistribution:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        if self.network is None:
            if parents:
                raise TypeError(
                    f"Autoregressive has no network, so it takes no parents, found {len(parents)};"
                    f" give it one: Autoregressive(conditional, MLP(...))."
                )
            return AutoregressiveDistribution(self, None, Size())
        if not parents:
            raise TypeError(
                "Autoregressive has a network, so it needs parents, found none; write them after "
                "'|', or leave the network out."
            )
        context = self.network(*parents)
        if self.context_dims != 1:
            context = context.flatten(context.dim() - self.context_dims)
        return AutoregressiveDistribution(self, context, context.shape[:-1])

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, as the conditional shows it."""
        return shown(self.conditional, value)

    def orders(self) -> Tensor:
        """By what elements are sorted, a row an order, shape ``(orders, elements)``."""
        if self.training and self.any_order:
            return torch.rand_like(self.keys[:1])
        return self.keys

    def given_earlier(
        self, value: Tensor, positions: Tensor, context: Tensor | None
    ) -> Distribution:
        """The distribution of every element given those before it, ``(*particles, batch)``.

        Args:
            value: Shape ``(*lead, *event)``, NaN where missing.
            positions: The place of each element in the order, ``(elements,)`` or ``(*lead,
                elements)``.
            context: Features of the parents.
        """
        dims = len(self.event_shape)
        lead = value.shape[: value.dim() - dims]
        like = self.masked.bias
        seen = self.embed(value).reshape(*lead, -1).to(like.dtype).nan_to_num(0.0)
        known = (value == value).reshape(*lead, -1).to(like.dtype)
        raw = self.masked(torch.cat([seen, known], -1), positions, context).to(like.dtype)
        sizes = [head.raw_shape[0] for head in self.heads]
        with corrected(self.heads, raw.split(sizes, -1)):
            return self.conditional()


class AutoregressiveDistribution(Distribution):
    """What :class:`Autoregressive` returns: a density in one pass an order, draws one by one.

    Args:
        owner: The conditional.
        context: Features of the parents, ``(*batch_shape, features)``; ``None`` without.
        batch_shape: ``(*particles, batch)``.
        known: Elements that are given, NaN elsewhere, ``(*batch, *event)``: then it is the
            distribution of the others.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(
        self,
        owner: Autoregressive,
        context: Tensor | None,
        batch_shape: Size,
        known: Tensor | None = None,
    ) -> None:
        self.owner, self.context, self.known = owner, context, known
        super().__init__(batch_shape, owner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The elements' own support may be narrower."""
        return constraints.real_vector

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> AutoregressiveDistribution:
        shape = Size(batch_shape)
        context = self.context
        if context is not None:
            context = context.expand(*shape, context.shape[-1])
        return AutoregressiveDistribution(self.owner, context, shape, self.known)

    def conditioned(self, value: Tensor, observed: Tensor) -> AutoregressiveDistribution:
        """That of the elements that are not observed, given those that are."""
        known = torch.where(observed, value, torch.nan)
        shape = torch.broadcast_shapes(self.batch_shape, self._lead(known))
        return AutoregressiveDistribution(self.owner, self.context, shape, known)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        if self.known is None:
            return self._mixed(self._each(value, None))
        # what is known first, and of the rest what is not known
        holes = torch.where(self.known.isnan(), value, self.known)
        rest = self._each(holes, self.known.isnan(), only=self.known.isnan())
        return self._mixed(rest, self._each(self.known, self.known.isnan()))

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Of the elements that are not missing, which come first in the order of their row."""
        return self._mixed(self._each(torch.where(observed, value, torch.nan), ~observed))

    def _each(self, value: Tensor, later: Tensor | None, only: Tensor | None = None) -> Tensor:
        """The log-density under each order, ``(orders, *sample, *batch)``; of some elements."""
        scored = value if only is None else torch.where(only, value, torch.nan)
        found = []
        for keys in self.owner.orders():
            given = self.owner.given_earlier(value, self._positions(keys, later), self.context)
            found.append(score("x", given, scored, missing=later is not None))
        return torch.stack(found)

    def _mixed(self, each: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mixture of the orders, alike at first, by what each says of what is known."""
        weights = each.new_zeros(len(each)) if weights is None else weights
        weights = weights.reshape(
            len(each), *[1] * (each.dim() - weights.dim()), *weights.shape[1:]
        )
        total = (each + weights.log_softmax(0)).logsumexp(0)
        return total.expand(torch.broadcast_shapes(total.shape, self.batch_shape))

    def _lead(self, value: Tensor) -> Size:
        return value.shape[: value.dim() - len(self.event_shape)]

    def _positions(self, keys: Tensor, later: Tensor | None) -> Tensor:
        """Places in the order of the keys, after which come those that are to come later."""
        if later is not None:
            keys = keys + later.reshape(*self._lead(later), -1) * (1.0 + keys.shape[-1])
        return keys.argsort(-1).argsort(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        if self.known is not None:
            return self.complete(self.known.expand(shape))
        return self.complete(torch.full(shape, torch.nan, device=self.owner.keys.device))

    def complete(self, value: Tensor) -> Tensor:
        """The value with a draw in place of what is missing (NaN), given what is not.

        Args:
            value: Shape ``(*sample, *batch, *event)``.
        """
        owner, elements = self.owner, self.event_shape.numel()
        value = value.to(owner.masked.bias.dtype)
        lead = torch.broadcast_shapes(self._lead(value), self.batch_shape)
        value = value.expand(lead + self.event_shape)
        later = value.isnan()
        # one order does for all rows of which nothing is given; a graph cannot look at it
        tracing = torch.compiler.is_compiling()
        holes = elements if tracing else int(later.reshape(*lead, -1).sum(-1).max())
        alike = not tracing and bool(later.all())
        with torch.no_grad():
            orders = owner.orders()
            keys = orders[0]
            if len(orders) > 1:  # each row has an order of the mixture
                weights = self._each(value, later).softmax(0).movedim(0, -1)
                limits = weights.cumsum(-1)[..., :-1]
                keys = orders[(torch.rand_like(limits[..., :1]) > limits).sum(-1)]
            positions = self._positions(keys, None if alike else later)
            for place in range(elements - holes, elements):
                drawn = owner.given_earlier(value, positions, self.context).sample()
                here = (positions == place).expand(*lead, -1).reshape(value.shape)
                value = torch.where(here & later, drawn.to(value.dtype), value)
        return value


def _layout(conditional: nn.Module, elements: int) -> tuple[list[Head], Tensor, Tensor]:
    """The heads, and the element of each number that is seen and of each that is put out.

    What is seen is first what the conditional shows and then whether each element is there.
    """
    parts = [(conditional, torch.arange(elements))]
    if isinstance(conditional, Columns):
        parts = list(
            zip(conditional.groups, conditional.order.split(conditional.sizes), strict=True)
        )
    heads, inputs, outputs = [], [], []
    for part, places in parts:
        own = heads_of(part)
        if (
            len(own) != 1
            or own[0].network is not None
            or own[0].event_shape.numel() != len(places)
        ):
            raise ValueError(
                f"Autoregressive makes independent elements depend on each other: it expects a "
                f"conditional of them without a network, each with its own parameters, such as "
                f"Bernoulli(784) or Columns([...]), found {type(part).__name__}."
            )
        heads.append(own[0])
        outputs.append(places.repeat(own[0].outputs))
        seen = shown(part, torch.zeros(part.event_shape))  # type: ignore[arg-type]
        inputs.append(places.repeat_interleave(seen.numel() // len(places)))
    return heads, torch.cat([*inputs, torch.arange(elements)]), torch.cat(outputs)
