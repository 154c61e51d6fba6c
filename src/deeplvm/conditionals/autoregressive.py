"""Elements one after another: each given those before it, in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution, constraints

from deeplvm.conditionals.columns import Columns
from deeplvm.conditionals.heads import Head, Network, shown
from deeplvm.conditionals.local import corrected, heads_of
from deeplvm.core.trace import base_of, score
from deeplvm.distributions.temperature import tempered
from deeplvm.networks.causal import AnyOrder, Causal, listed
from deeplvm.networks.features import out_shape_of
from deeplvm.networks.masked import MaskedNetwork

#: From a value and a place to a distribution that is right for the element at that place.
Given = Callable[[Tensor, int], Distribution]


class Autoregressive(nn.Module):
    r"""A conditional of independent elements, made to depend on each other.

    .. math:: p(x | h) = \frac1M \sum_{\pi} \prod_{d=1}^D p(x_{\pi(d)} | x_{\pi(1)}, \dots,
              x_{\pi(d-1)}, h)

    The conditional has free parameters :math:`\lambda`, the same for all rows; a masked network
    adds to those of an element what the elements before it say. So any kind of elements will do:
    binary pixels (MADE), categories, counts, reals, the columns of a table.

    Where the network serves any order, each call in training has its own random order
    :math:`\pi`; measured, a row has M fixed ones. Missing elements (NaN) come last in the order of
    their row: the density of the others is normalised and costs nothing, and any elements are
    drawn given any others (:meth:`complete` of the distribution). Densities of different patterns
    of holes agree as far as training made the orders agree.

    Where the network serves fixed orders (that of pixels in a picture), each call in training has
    one of these at random, and measured a row has them all; then nothing may be missing.

    A density takes M passes; a draw one pass an element, or one step of a network that remembers
    (:class:`~deeplvm.networks.causal.Stepwise`).

    Args:
        conditional: a conditional of independent elements without a network, such as
            ``Bernoulli(784)`` or :class:`~deeplvm.conditionals.Columns`. An element may be several
            numbers that depend on each other, a category as a vector or a pixel of three
            channels: then it has a tensor ``element`` of the event's shape, the element that each
            number belongs to, and a head whose event has a place for each element.
        network: maps the parents to features that all elements see; ``None`` without parents.
        causal: makes the :class:`~deeplvm.networks.causal.CausalNetwork` from the layout of the
            elements, a class of :mod:`deeplvm.networks` or a function.
        orders: M, of a network that serves any; the first is that of the elements.
        any_order: whether the order is random in training, by default if the network serves any;
            otherwise it is that of the elements, but for what is missing, and M is 1.
        options: of ``causal``; ``width`` and ``blocks`` of the default.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape and the
        conditional's event.

    Raises:
        ValueError: the conditional has a network, its elements are not independent, or the
            network does not serve the orders.

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
    element: Tensor

    def __init__(
        self,
        conditional: nn.Module,
        network: Network = None,
        *,
        causal: Causal = MaskedNetwork,
        orders: int = 1,
        any_order: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.conditional = conditional
        self.event_shape = Size(getattr(conditional, "event_shape", ()))
        self.heads, element, inputs, outputs = _layout(conditional, self.event_shape.numel())
        if orders > 1 and any_order is False:
            raise ValueError(
                f"Autoregressive in one order has orders=1, found {orders}; more are for "
                f"any_order=True."
            )
        self.network = network
        self._again = partial(
            type(self), causal=causal, orders=orders, any_order=any_order, **options
        )
        shape = () if network is None else out_shape_of(network)
        if shape is None:
            raise ValueError(
                f"Autoregressive cannot see what {type(network).__name__} returns: it has neither "
                "'out_features' nor 'out_shape'. Wrap it: Features(network, out_shape=...)."
            )
        self.context_shape = Size(shape)
        self.masked = causal(inputs, outputs, context=self.context_shape, **options)
        served = self.masked.orders
        self.any_order = any_order is not False and served is None
        if served is not None and (any_order or orders > 1):
            raise ValueError(
                f"{type(self.masked).__name__} serves {len(served)} fixed "
                f"{'order' if len(served) == 1 else 'orders'}, so Autoregressive expects "
                f"any_order=False and orders=1, found any_order={any_order} and orders={orders}; "
                f"a MaskedNetwork serves any, and others may take more orders themselves: "
                f"causal=partial(MADE, orders=4)."
            )
        if served is None:
            served = listed(element, orders, "Autoregressive")
        elif served.shape[1:] != (int(element.max()) + 1,):
            raise ValueError(
                f"{type(self.masked).__name__} has orders of {tuple(served.shape[1:])} places, "
                f"expected one for each of the {int(element.max()) + 1} elements."
            )
        keys = served.to(torch.get_default_dtype())
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("element", element, persistent=False)

    def forward(self, *parents: Tensor) -> AutoregressiveDistribution:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        if self.network is None:
            if parents:
                raise TypeError(
                    f"Autoregressive has no network, so it takes no parents, found {len(parents)};"
                    f" give it one: Autoregressive(conditional, MLP(...))."
                )
            return self._distribution(None, Size())
        if not parents:
            raise TypeError(
                "Autoregressive has a network, so it needs parents, found none; write them after "
                "'|', or leave the network out."
            )
        context = self.network(*parents)
        batch = context.shape[: context.dim() - len(self.context_shape)]
        return self._distribution(context, batch)

    def _distribution(self, context: Tensor | None, batch: Size) -> AutoregressiveDistribution:
        if self.masked.orders is None:
            return AnyOrderDistribution(self, context, batch, self.orders())
        return AutoregressiveDistribution(self, context, batch, self.orders())

    def given(self, network: nn.Module) -> Autoregressive:
        """The same of parents that a network reads, with weights of its own."""
        return self._again(self.conditional, network)

    @property
    def draw_steps(self) -> int:
        """How many steps a draw takes, one after another."""
        return self.keys.shape[-1]

    def embed(self, value: Tensor) -> Tensor:
        """The value as other networks see it, as the conditional shows it."""
        return shown(self.conditional, value).to(self.heads[0].dtype)

    def orders(self) -> Tensor:
        """By what elements are sorted, a row an order, shape ``(orders, elements)``."""
        if not self.training:
            return self.keys
        if self.any_order:
            return torch.rand_like(self.keys[:1])
        if len(self.keys) == 1:
            return self.keys
        return self.keys[torch.randint(len(self.keys), (1,), device=self.keys.device)]

    def given_earlier(
        self, value: Tensor, positions: Tensor, context: Tensor | None
    ) -> Distribution:
        """The distribution of every element given those before it, ``(*particles, batch)``.

        Args:
            value: Shape ``(*lead, *event)``, NaN where missing.
            positions: The place of each element in the order, ``(elements,)`` or ``(*lead,
                elements)``.
            context: Features of the parents, ``(*particles, batch, *context)``.
        """
        seen = self._seen(value)
        if self.masked.orders is not None:
            return self._given(self.masked(seen, positions, context))
        known = 1 - self.of_elements(value.isnan()).to(seen.dtype)
        return self._given(cast(AnyOrder, self.masked)(seen, positions, context, known))

    def _seen(self, value: Tensor) -> Tensor:
        """The value as networks see it, zeros where it is missing, ``(*lead, inputs)``."""
        lead = value.shape[: value.dim() - len(self.event_shape)]
        seen = self.embed(value)
        return seen.reshape(*lead, seen.shape[len(lead) :].numel()).nan_to_num(0.0)

    def _given(self, raw: Tensor) -> Distribution:
        """The conditional with the network's outputs added to its parameters."""
        parts = raw.to(self.heads[0].dtype).split([h.raw_shape[0] for h in self.heads], -1)
        with corrected(self.heads, parts):
            return self.conditional()

    def of_elements(self, flags: Tensor) -> Tensor:
        """Whether any number of an element has its flag, ``(*lead, elements)``."""
        lead = flags.shape[: flags.dim() - len(self.event_shape)]
        flat, elements = flags.reshape(*lead, self.event_shape.numel()), self.keys.shape[-1]
        if flat.shape[-1] == elements:
            return flat
        found = flat.new_zeros((*lead, elements), dtype=torch.uint8)
        index = self.element.expand(flat.shape)
        return found.scatter_reduce(-1, index, flat.to(torch.uint8), "amax").bool()

    def of_values(self, elements: Tensor) -> Tensor:
        """What is said of each element, of each of its numbers, ``(*lead, *event)``."""
        flat = elements
        if elements.shape[-1] != self.event_shape.numel():
            flat = elements[..., self.element]
        return flat.reshape(elements.shape[:-1] + self.event_shape)

    def steps(self, lead: Size, positions: Tensor, context: Tensor | None) -> Given:
        """From a value and a place to the distribution of the element there, among others.

        It is called for each place from 0 on, in order. A network that remembers takes a step,
        another one a pass.
        """
        if self.masked.orders is None or not hasattr(self.masked, "steps"):
            return lambda value, _: self.given_earlier(value, positions, context)
        step = self.masked.steps(lead, positions, context)
        return lambda value, place: self._given(step(self._seen(value), place))


class AutoregressiveDistribution(Distribution):
    """What :class:`Autoregressive` returns: a density in one pass an order, draws one by one.

    Args:
        owner: The conditional.
        context: Features of the parents, ``(*batch_shape, *context)``; ``None`` without.
        batch_shape: ``(*particles, batch)``.
        orders: By what elements are sorted, a row an order; the same for the draws and the
            density.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False
    temperature = 1.0  # of each element's draw

    def __init__(
        self, owner: Autoregressive, context: Tensor | None, batch_shape: Size, orders: Tensor
    ) -> None:
        self.owner, self.context, self.orders = owner, context, orders
        super().__init__(batch_shape, owner.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """That of the elements."""
        return self.owner.conditional().support

    def expand(
        self, batch_shape: Sequence[int], _instance: object = None
    ) -> AutoregressiveDistribution:
        shape = Size(batch_shape)
        made = type(self)(self.owner, self._expanded(shape), shape, self.orders)
        made.temperature = self.temperature
        return made

    def _expanded(self, batch_shape: Size) -> Tensor | None:
        context = self.context
        return None if context is None else context.expand(batch_shape + self.owner.context_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        return self._mixed(self._each(value, None))

    def _each(self, value: Tensor, later: Tensor | None, only: Tensor | None = None) -> Tensor:
        """The log-density under each order, ``(orders, *sample, *batch)``; of some elements."""
        scored = value if only is None else torch.where(only, value, torch.nan)
        found = []
        for keys in self.orders:
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
            keys = keys + self.owner.of_elements(later) * (1.0 + keys.shape[-1])
        return keys.argsort(-1).argsort(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        lead = shape[: len(shape) - len(self.event_shape)]
        value = torch.zeros(shape, dtype=self.owner.heads[0].dtype, device=self.orders.device)
        if len(self.orders) == 1:
            return self._drawn(value, self._positions(self.orders[0], None), self.context)
        which = torch.randint(len(self.orders), lead, device=value.device)  # of each row
        context = self._expanded(lead)
        for index, keys in enumerate(self.orders):
            rows = which == index
            own = None if context is None else context[rows]
            value[rows] = self._drawn(value[rows], self._positions(keys, None), own)
        return value

    def _drawn(
        self,
        value: Tensor,
        positions: Tensor,
        context: Tensor | None,
        later: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """The value with draws of the elements from a place on, or of those that are later."""
        owner = self.owner
        with torch.no_grad():
            given = owner.steps(self._lead(value), positions, context)
            for place in range(first, owner.keys.shape[-1]):
                drawn = tempered(given(value, place), self.temperature).sample()
                here = owner.of_values(positions == place)
                here = here if later is None else here & later
                value = torch.where(here, drawn.to(value.dtype), value)
        return value


class AnyOrderDistribution(AutoregressiveDistribution):
    """That of a network which serves any order: what is missing comes last in its row.

    Args:
        owner, context, batch_shape, orders: As above.
        known: Elements that are given, NaN elsewhere, ``(*batch, *event)``: then it is the
            distribution of the others.
    """

    def __init__(
        self,
        owner: Autoregressive,
        context: Tensor | None,
        batch_shape: Size,
        orders: Tensor,
        known: Tensor | None = None,
    ) -> None:
        super().__init__(owner, context, batch_shape, orders)
        self.known = known

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> AnyOrderDistribution:
        made = super().expand(batch_shape)
        assert isinstance(made, AnyOrderDistribution)
        made.known = self.known
        return made

    def conditioned(self, value: Tensor, observed: Tensor) -> AnyOrderDistribution:
        """That of the elements that are not observed, given those that are."""
        known = torch.where(observed, value, torch.nan)
        shape = torch.broadcast_shapes(self.batch_shape, self._lead(known))
        made = AnyOrderDistribution(self.owner, self.context, shape, self.orders, known)
        made.temperature = self.temperature
        return made

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of a value, shape ``(*sample, *batch)``, nats."""
        if self.known is None:
            return super().log_prob(value)
        # what is known first, and of the rest what is not known
        holes = torch.where(self.known.isnan(), value, self.known)
        rest = self._each(holes, self.known.isnan(), only=self.known.isnan())
        return self._mixed(rest, self._each(self.known, self.known.isnan()))

    def observed_log_prob(self, value: Tensor, observed: Tensor) -> Tensor:
        """Of the elements that are not missing, which come first in the order of their row."""
        return self._mixed(self._each(torch.where(observed, value, torch.nan), ~observed))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(Size(sample_shape))
        if self.known is not None:
            return self.complete(self.known.expand(shape))
        return self.complete(torch.full(shape, torch.nan, device=self.orders.device))

    def complete(self, value: Tensor) -> Tensor:
        """The value with a draw in place of what is missing (NaN), given what is not.

        Args:
            value: Shape ``(*sample, *batch, *event)``.
        """
        owner = self.owner
        elements = owner.keys.shape[-1]
        value = value.to(owner.heads[0].dtype)
        lead = torch.broadcast_shapes(self._lead(value), self.batch_shape)
        value = value.expand(lead + self.event_shape)
        later = value.isnan()
        # one order does for all rows of which nothing is given; a graph cannot look at it
        tracing = torch.compiler.is_compiling()
        holes = elements if tracing else int(owner.of_elements(later).sum(-1).max())
        alike = not tracing and bool(later.all())
        keys = self.orders[0]
        if len(self.orders) > 1:  # each row has an order of the mixture
            with torch.no_grad():
                weights = self._each(value, later).softmax(0).movedim(0, -1)
            limits = weights.cumsum(-1)[..., :-1]
            keys = self.orders[(torch.rand_like(limits[..., :1]) > limits).sum(-1)]
        positions = self._positions(keys, None if alike else later)
        return self._drawn(value, positions, self.context, later, elements - holes)


def _layout(conditional: nn.Module, numbers: int) -> tuple[list[Head], Tensor, Tensor, Tensor]:
    """The heads, and the element of each number, of each input and of each output."""
    element = getattr(conditional, "element", torch.arange(numbers)).flatten()
    parts = [(conditional, element)]
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
            or own[0].event_shape.numel() != len(places.unique())
            # numbers that share a constant, as those of a simplex, unless they are one element
            or (base_of(part()).event_shape and not hasattr(part, "element"))
        ):
            raise ValueError(
                f"Autoregressive makes independent elements depend on each other: it expects a "
                f"conditional of them without a network, each with its own parameters, such as "
                f"Bernoulli(784) or Columns([...]), found {type(part).__name__}."
            )
        heads.append(own[0])
        seen = shown(part, torch.zeros(part.event_shape))  # type: ignore[arg-type]
        inputs.append(places.repeat_interleave(seen.numel() // len(places)))
        each = places if len(places) == own[0].event_shape.numel() else places.unique()
        outputs.append(each.repeat(own[0].outputs))
    return heads, element, torch.cat(inputs), torch.cat(outputs)
