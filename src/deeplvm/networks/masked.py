"""Masked layers, and a network whose outputs read what comes earlier in an order, for any order.

A masked weight is multiplied by its mask at every pass, not set to zero once: whatever moves the
parameters (weight decay, averaging, noise, a loaded file), an element never sees a later one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, silu


class MaskedNetwork(nn.Module):
    r"""Outputs of an element that are functions of the elements before it, in one pass.

    The units are in groups, of which the g-th sees the elements at positions below
    :math:`\lfloor g D / G \rfloor`; a unit reads units of no later group, and the outputs of the
    element at a position read the groups that see nothing at it or after it. So the order can be
    another at each call, and another in each row, at the price of one masked product.

    Residual blocks: :math:`h \leftarrow h + W_2 a(W_1 a(h))`, a the SiLU, with masked weights.

    Args:
        inputs: the element that each input belongs to.
        outputs: the element that each output belongs to.
        width: how many units, rounded up to a multiple of the groups.
        blocks: how many residual blocks.
        groups: G at most; fewer than the elements D save memory where orders differ by row.
        context: the shape of further inputs that all units see; 0 or ``()`` for none.

    Shape:
        Inputs ``(*lead, inputs)``, positions ``(D,)`` or ``(*lead, D)``, context ``(*particles,
        *lead, *context)`` and flags ``(*lead, D)`` of what is known, 1 where all is, give
        ``(*particles, *lead, outputs)``. It is a
        :class:`~deeplvm.networks.causal.CausalNetwork` of any order.

    MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015),
    https://arxiv.org/abs/1502.03509, with the residual blocks of Autoregressive Energy Machines
    (Nash & Durkan, 2019), https://arxiv.org/abs/1904.05626

    Examples:
        >>> network = MaskedNetwork([0, 1, 2], [0, 1, 2], width=12)
        >>> last_first = torch.tensor([2, 1, 0])  # the positions of the elements 0, 1, 2
        >>> of = lambda x: network(x, last_first)
        >>> (torch.autograd.functional.jacobian(of, torch.ones(3)) != 0).int()
        tensor([[0, 1, 1],
                [0, 0, 1],
                [0, 0, 0]], dtype=torch.int32)
    """

    inputs: Tensor
    outputs: Tensor
    cuts: Tensor
    reads: Tensor
    mask: Tensor
    orders = None

    def __init__(
        self,
        inputs: Sequence[int] | Tensor,
        outputs: Sequence[int] | Tensor,
        *,
        width: int = 256,
        blocks: int = 2,
        groups: int = 32,
        context: int | Sequence[int] = 0,
    ) -> None:
        super().__init__()
        outputs, inputs = torch.as_tensor(outputs), torch.as_tensor(inputs)
        elements = int(outputs.max()) + 1
        inputs = torch.cat([inputs, torch.arange(elements)])  # what is seen, and what is known
        groups = min(groups, elements)
        units = -(-width // groups)
        width = groups * units
        cuts = torch.arange(groups) * elements // groups
        group = torch.arange(groups).repeat_interleave(units)
        # not saved: they follow from the arguments
        for name, buffer in {
            "inputs": inputs,
            "outputs": outputs,
            "cuts": cuts,
            # the last group that the element at each position reads
            "reads": (cuts <= torch.arange(elements).unsqueeze(-1)).sum(-1) - 1,
            "mask": group.unsqueeze(-1) >= group,
        }.items():
            self.register_buffer(name, buffer, persistent=False)
        self.first = nn.Parameter(torch.randn(groups, len(inputs), units) * len(inputs) ** -0.5)
        shape = (context,) if isinstance(context, int) else tuple(context)
        self.context_dims, features = len(shape), math.prod(shape) if shape else 0
        self.context = nn.Linear(features, width, bias=False) if features else None
        self.bias = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList([nn.Linear(width, width) for _ in range(2 * blocks)])
        # small, so that it starts near what there is without it
        self.last = nn.Parameter(torch.randn(groups, units, len(outputs)) * 0.1 * width**-0.5)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        context: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """The outputs; an element's position is its place in the order, 0 for the first."""
        if known is None:
            known = x.new_ones(*x.shape[:-1], positions.shape[-1])
        x = torch.cat([x, known], -1)
        seen = positions[..., self.inputs].unsqueeze(-2) < self.cuts.unsqueeze(-1)
        shared = positions.dim() == 1
        if shared:
            hidden = x @ (self.first * seen.unsqueeze(-1)).movedim(0, 1).flatten(1)
        else:
            masked = x.unsqueeze(-2) * seen
            hidden = torch.einsum("...gf,gfu->...gu", masked, self.first).flatten(-2)
        hidden = hidden + self.bias
        if self.context is not None:
            hidden = hidden + self.context(flat(context, self.context_dims))
        for inner, outer in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            hidden = hidden + self._masked(outer, silu(self._masked(inner, silu(hidden))))
        hidden = silu(hidden)
        reads = self.reads[positions[..., self.outputs]]
        groups, units, _ = self.last.shape
        group = torch.arange(groups, device=reads.device)
        if shared:
            read = group.unsqueeze(-1) <= reads
            return hidden @ (self.last * read.unsqueeze(1)).flatten(0, 1)
        parts = torch.einsum("...gu,guo->g...o", hidden.unflatten(-1, (groups, units)), self.last)
        group = group.reshape(-1, *[1] * reads.dim())
        read = (group <= reads).reshape(
            groups, *[1] * (parts.dim() - 1 - reads.dim()), *reads.shape
        )
        return torch.where(read, parts, 0.0).sum(0)

    def _masked(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        return linear(hidden, layer.weight * self.mask, layer.bias)  # type: ignore[arg-type,operator]


def flat(context: Tensor | None, dims: int) -> Tensor:
    """Features of the parents as one vector a row, shape ``(*particles, batch, features)``."""
    if context is None:
        raise ValueError("This masked network was made for a context, found none.")
    return context if dims == 1 else context.flatten(context.dim() - dims)


class MaskedLinear(nn.Module):
    r"""A linear layer some of whose weights are not there, :math:`y = (M \odot W) x + b`.

    The rows of a large layer are cut into bands, each with the columns that its part of the mask
    has something in and no others: of a triangular mask a quarter of the products (two bands) is
    never computed.

    Args:
        mask: M, shape ``(out, in)``, true where a weight is.
        beside: how many further inputs a unit has, elsewhere; for the size of first weights.
        bias: whether there is a b.
        bands: into how many the rows of a large layer are cut; more save products, 3 in 8 of 4
            bands, and cost calls.

    Shape:
        ``(*leading, in)`` gives ``(*leading, out)``.
    """

    # smaller products (below 256 x 256) cost as much in calls as they save
    large = 2**16

    def __init__(
        self, mask: Tensor, *, beside: int = 0, bias: bool = True, bands: int = 2
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(len(mask))) if bias else None
        self.weights = nn.ParameterList()
        self.in_features = mask.shape[1]
        self.columns: list[tuple[int, int]] = []
        rows = mask.chunk(bands if mask.numel() >= self.large else 1)
        self.sizes = [len(band) for band in rows]
        for band, part in enumerate(rows):
            found = part.any(0).nonzero().flatten().tolist() or [0]
            first, last = found[0], found[-1] + 1
            own = part[:, first:last]
            weight = nn.Parameter(torch.empty(own.shape))
            start_uniform(weight, own, beside)
            self.columns.append((first, last))
            self.weights.append(weight)
            kept = None if bool(own.all()) else own.to(weight.dtype)
            self.register_buffer(f"mask_{band}", kept, persistent=False)

    def forward(
        self, x: Tensor, plus: Tensor | None = None, weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """The layer's units; ``plus`` is added to them, ``weights`` are of :meth:`masked`."""
        weights = self.masked() if weights is None else weights
        biases = (
            [None] * len(self.sizes) if self.bias is None else list(self.bias.split(self.sizes))
        )
        if len(biases) == 1 and plus is not None and x.dim() == 2 == plus.dim():
            first, last = self.columns[0]
            total = torch.addmm(plus, x[:, first:last], weights[0].t())
            return total if biases[0] is None else total + biases[0]
        parts = [
            linear(x[..., first:last], weights[band], biases[band])
            for band, (first, last) in enumerate(self.columns)
        ]
        units = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return units if plus is None else units + plus

    def masked(self) -> list[Tensor]:
        r""":math:`M \odot W`, band by band."""
        masks = [getattr(self, f"mask_{band}") for band in range(len(self.sizes))]
        pairs = zip(self.weights, masks, strict=True)
        return [weight if mask is None else weight * mask for weight, mask in pairs]

    def dense(self, weights: Sequence[Tensor] | None = None) -> Tensor:
        """All of the matrix, with zeros where the mask has none, shape ``(out, in)``."""
        bands = self.masked() if weights is None else weights
        pairs = zip(bands, self.columns, strict=True)
        return torch.cat([pad(w, (first, self.in_features - last)) for w, (first, last) in pairs])

    @torch.no_grad()
    def shrink(self, factor: float) -> None:
        """Multiply all weights."""
        for weight in self.weights:
            weight.mul_(factor)


@torch.no_grad()
def start_uniform(weight: Tensor, mask: Tensor, beside: int) -> None:
    """Uniform weights, bounded by one over the root of how many of them a unit has."""
    many = mask.flatten(1).sum(1) + beside
    bound = many.clamp(min=1).to(weight.dtype).rsqrt()
    nn.init.uniform_(weight, -1.0, 1.0)
    weight.mul_(bound.reshape(-1, *[1] * (weight.dim() - 1)))
