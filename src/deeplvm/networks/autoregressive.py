"""Causal networks of fixed orders with dense layers: masked autoencoders and running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Size, Tensor, nn
from torch.nn.functional import linear, pad

from deeplvm.networks.causal import Step, listed
from deeplvm.networks.masked import MaskedLinear, flat


class MADE(nn.Module):
    r"""A multilayer perceptron whose masks leave an output only the elements before its own.

    .. math:: h_1 = a((M_1 \odot W_1) x + V_1 c + b_1), \quad
              h_{l+1} = a((M_{l+1} \odot W_{l+1}) h_l + b_{l+1}), \quad
              y = (M \odot W) h_L + (A \odot D) x + V c + b

    A unit belongs to an element and reads what is not after it; an output reads the units of
    elements before its own. With several orders the same units read others in each, so both the
    order and the connections change (order- and connectivity-agnostic training). Masks of one
    order are made once, of several at each pass, never by the row; of one order half of the
    masked products are not computed in a large layer (:class:`MaskedLinear`).

    Without hidden layers it is a fully visible sigmoid belief network: a logistic regression on
    the elements before, the layer of a deep autoregressive network.

    Args:
        inputs, outputs, context: the layout; see :class:`~deeplvm.networks.causal.CausalNetwork`.
        hidden: widths of the hidden layers; none needs ``direct``.
        direct: whether outputs read inputs directly too (D).
        orders: how many orders; the first is that of the elements, others are shuffled.
        activation: a, a module class or function without arguments.

    Raises:
        ValueError: there are neither hidden layers nor direct connections, or no order.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509; without hidden layers Connectionist Learning of Belief
    Networks (Neal, 1992), https://doi.org/10.1016/0004-3702(92)90065-6

    Examples:
        >>> three = torch.arange(3)
        >>> network = MADE(three, three, hidden=(12,))
        >>> of = lambda x: network(x, three)
        >>> (torch.autograd.functional.jacobian(of, torch.ones(3)) != 0).int()
        tensor([[0, 0, 0],
                [1, 0, 0],
                [1, 1, 0]], dtype=torch.int32)
    """

    orders: Tensor
    inputs: Tensor
    outputs: Tensor
    back: Tensor | None
    read: Tensor
    write: Tensor

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        context: Sequence[int] = (),
        hidden: Sequence[int] = (500,),
        direct: bool = True,
        orders: int = 1,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        hidden = tuple(hidden)
        if not hidden and not direct:
            raise ValueError(
                "MADE without hidden layers reads nothing; give it direct connections, "
                "direct=True."
            )
        if min(hidden, default=1) < 1:
            raise ValueError(f"MADE expects hidden layers of at least 1 unit, found {hidden}.")
        self.register_buffer("orders", listed(outputs, orders, "MADE"), persistent=False)
        # rows of a mask in the order of the elements, so that bands of them are small
        order = outputs.argsort(stable=True)
        back = None if torch.equal(order, torch.arange(len(order))) else order.argsort()
        self.register_buffer("back", back, persistent=False)
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("outputs", outputs[order], persistent=False)
        elements = self.orders.shape[1]
        self.register_buffer("read", numbers_of(inputs, elements), persistent=False)
        self.register_buffer("write", numbers_of(self.outputs, elements), persistent=False)
        for layer, width in enumerate(hidden):
            # in the only order nobody reads what sees the last element
            seen = elements if orders > 1 else max(elements - 1, 1)
            units = torch.arange(width) * seen // width
            self.register_buffer(f"units_{layer}", units, persistent=False)
        self.hidden = len(hidden)
        self.activation = activation()
        masks = self.masks(self.orders[0])
        masks = masks if orders == 1 else [torch.ones_like(mask) for mask in masks]
        bands = 4 if orders == 1 else 1
        self.direct = MaskedLinear(masks[-1], bias=not hidden, bands=bands) if direct else None
        self.layers = nn.ModuleList([MaskedLinear(mask, bands=bands) for mask in masks[:-1]])
        self.context_dims, features = len(context), Size(context).numel() if context else 0
        self.context = nn.Linear(features, hidden[0], bias=False) if features and hidden else None
        self.direct_context = nn.Linear(features, len(outputs), bias=False) if features else None
        # small, so that it starts near what there is without it
        for last in (self.direct, *self.layers[-1:]):
            if last is not None:
                last.shrink(0.1)  # type: ignore[operator]

    def masks(self, positions: Tensor) -> list[Tensor]:
        """Which weights are there in an order: of each layer, and of direct connections last."""
        units = [getattr(self, f"units_{layer}") for layer in range(self.hidden)]
        places = [positions[element] for element in (self.inputs, *units)]
        outputs = positions[self.outputs].unsqueeze(-1)
        masks = [below <= above.unsqueeze(-1) for below, above in pairwise(places)]
        if units:
            masks.append(places[-1] < outputs)
        return [*masks, places[0] < outputs]

    def forward(self, seen: Tensor, positions: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs, in one pass."""
        *weights, direct = self._weights(positions)
        start, total = self._context(context)
        if self.direct is not None:
            total = self.direct(seen, total, direct)
        hidden = seen
        for layer, own in zip(self.layers, weights, strict=True):
            if layer is self.layers[-1]:
                total = layer(hidden, total, own)
            else:
                hidden = self.activation(layer(hidden, start, own))
                start = None
        assert total is not None
        return total if self.back is None else total[..., self.back]

    def _weights(self, positions: Tensor) -> list[Sequence[Tensor] | None]:
        """The weights of each layer under their masks; ``None``, where those are made already."""
        layers = [*self.layers, self.direct]
        if len(self.orders) == 1:
            return [None] * len(layers)
        found: list[Sequence[Tensor] | None] = []
        for layer, mask in zip(layers, self.masks(positions), strict=True):
            if layer is None:
                found.append(None)
                continue
            pairs = zip(layer.weights, mask.split(layer.sizes), strict=True)  # type: ignore[arg-type]
            found.append([weight * part for weight, part in pairs])
        return found

    def _context(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What the context adds to the first hidden layer and to the outputs."""
        if self.direct_context is None:
            return None, None
        features = flat(context, self.context_dims)
        first = None if self.context is None else self.context(features)
        return first, self.direct_context(features)

    def steps(self, lead: Size, positions: Tensor, context: Tensor | None = None) -> Step:
        """Draws with the sums of the first layer kept: a new element adds its column."""
        *weights, own = self._weights(positions)
        direct = None if self.direct is None else self.direct.dense(own)
        layers = zip(self.layers, weights, strict=True)
        dense = [layer.dense(own) for layer, own in layers]  # type: ignore[operator]
        biases: list[Tensor] = [layer.bias for layer in self.layers or [self.direct]]  # type: ignore[union-attr,misc]
        start, outputs = self._context(context)
        order, count = positions.argsort(), len(self.outputs)
        # one row more, of zeros, for the numbers that an element does not have
        first = pad(dense[0].t(), (0, 0, 0, 1)) if dense else None
        direct = None if direct is None else pad(direct, (0, 0, 0, 1))
        last = pad(dense[-1], (0, 0, 0, 1)) if dense else None
        ends = pad(biases[-1] if outputs is None else biases[-1] + outputs, (0, 1))
        total = biases[0].expand(*lead, -1)
        total = total if start is None else total + start

        def step(seen: Tensor, place: int) -> Tensor:
            nonlocal total
            here = at(self.write, order, place)
            found = ends[..., here]
            if direct is not None:
                found = found + linear(seen, direct[here])
            if first is not None and last is not None:
                if place:
                    new = at(self.read, order, place - 1)
                    total = total + seen[..., new.clamp(max=len(first) - 2)] @ first[new]
                hidden = self.activation(total)
                for weight, bias in zip(dense[1:-1], biases[1:-1], strict=True):
                    hidden = self.activation(linear(hidden, weight, bias))
                found = found + linear(hidden, last[here])
            found = spread_out(found, here, count)
            return found if self.back is None else found[..., self.back]

        return step


class NADE(nn.Module):
    r"""Weights shared by all elements and a running sum of what was seen.

    .. math:: s_d = c + \sum_{k<d} W_k x_k, \qquad y_d = V_d\, a(s_d) + b_d

    In a draw a new element adds its column to the sum, so all D outputs cost O(DH). A density has
    all D sums at once: one pass of O(DH) numbers a row, also in memory.

    Args:
        inputs, outputs, context: the layout; see :class:`~deeplvm.networks.causal.CausalNetwork`.
        hidden: H, the number of units.
        orders: how many orders; the first is that of the elements, others are shuffled.
        activation: a, a module class or function without arguments.

    Raises:
        ValueError: there is no unit or no order.

    The Neural Autoregressive Distribution Estimator (Larochelle & Murray, 2011),
    https://proceedings.mlr.press/v15/larochelle11a.html; several orders: A Deep and Tractable
    Density Estimator (Uria et al., 2014), https://arxiv.org/abs/1310.1757

    Examples:
        >>> three = torch.arange(3)
        >>> network = NADE(three, three, hidden=4)
        >>> of = lambda x: network(x, three)
        >>> (torch.autograd.functional.jacobian(of, torch.ones(3)) != 0).int()
        tensor([[0, 0, 0],
                [1, 0, 0],
                [1, 1, 0]], dtype=torch.int32)
    """

    orders: Tensor
    read: Tensor
    write: Tensor
    back: Tensor

    def __init__(
        self,
        inputs: Tensor,
        outputs: Tensor,
        *,
        context: Sequence[int] = (),
        hidden: int = 500,
        orders: int = 1,
        activation: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"NADE expects hidden units, at least 1, found {hidden}.")
        self.register_buffer("orders", listed(outputs, orders, "NADE"), persistent=False)
        elements = self.orders.shape[1]
        self.register_buffer("read", numbers_of(inputs, elements), persistent=False)
        self.register_buffer("write", numbers_of(outputs, elements), persistent=False)
        read, write = self.read.shape[1], self.write.shape[1]
        # where each output is among those of all elements, all as long as the longest
        self.register_buffer(
            "back", self.write.flatten().argsort()[: len(outputs)], persistent=False
        )
        self.first = nn.Parameter(torch.randn(elements, read, hidden) * len(inputs) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.last = nn.Parameter(torch.randn(elements, write, hidden) * 0.1 * hidden**-0.5)
        self.start = nn.Parameter(torch.zeros(elements, write))
        self.context_dims, features = len(context), Size(context).numel() if context else 0
        self.context = nn.Linear(features, hidden, bias=False) if features else None
        self.activation = activation()

    def forward(self, seen: Tensor, positions: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs, in one pass."""
        order = positions.argsort()
        # each place has the sum of those before it: all are moved on by one
        x = pad(self._read(seen)[..., order[:-1], :], (0, 0, 1, 0))
        weights = pad(self.first[order[:-1]], (0, 0, 0, 0, 1, 0))
        if x.shape[-1] == 1:
            new = x * weights.squeeze(-2)
        else:
            new = torch.einsum("...dn,dnh->...dh", x, weights)
        hidden = self.activation(self._first(context).unsqueeze(-2) + new.cumsum(-2))
        found = torch.einsum("...dh,dph->...dp", hidden, self.last[order]) + self.start[order]
        return found[..., positions, :].flatten(-2)[..., self.back]

    def _read(self, seen: Tensor) -> Tensor:
        """The numbers that are seen of each element, shape ``(*lead, elements, numbers)``."""
        return pad(seen, (0, 1))[..., self.read]

    def _first(self, context: Tensor | None) -> Tensor:
        """The sum before any element, shape ``(*particles, batch, hidden)`` or ``(hidden,)``."""
        if self.context is None:
            return self.bias
        return self.bias + self.context(flat(context, self.context_dims))

    def steps(self, lead: Size, positions: Tensor, context: Tensor | None = None) -> Step:
        """Draws by the running sum."""
        order, total = positions.argsort(), self._first(context).expand(*lead, -1)
        count = len(self.back)

        def step(seen: Tensor, place: int) -> Tensor:
            nonlocal total
            if place:
                numbers = pad(seen, (0, 1))[..., at(self.read, order, place - 1)]
                total = total + numbers @ at(self.first, order, place - 1)
            last, start = at(self.last, order, place), at(self.start, order, place)
            found = linear(self.activation(total), last, start)
            return spread_out(found, at(self.write, order, place), count)

        return step


def numbers_of(owner: Tensor, elements: int) -> Tensor:
    """Where the numbers of each element are; all as many as the most, the last beyond the end."""
    places = owner.argsort(stable=True).split(owner.bincount(minlength=elements).tolist())
    most = max([len(each) for each in places])
    rows = [pad(each, (0, most - len(each)), value=len(owner)) for each in places]
    return torch.stack(rows)


def at(table: Tensor, order: Tensor, place: int) -> Tensor:
    """The row of the element at a place; a graph cannot index by a single number of a tensor."""
    return table[order[place : place + 1]].squeeze(0)


def spread_out(found: Tensor, where: Tensor, count: int) -> Tensor:
    """A vector of zeros but for what was found; what is found beyond its end is nothing."""
    whole = found.new_zeros(*found.shape[:-1], count + 1)
    return whole.index_copy(-1, where, found)[..., :count]
