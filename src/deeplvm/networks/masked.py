"""A network whose outputs read the elements that come earlier in an order, for any order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu


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
