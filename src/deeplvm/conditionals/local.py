"""Local parameters: what the network says of a row, plus numbers that are this row's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.conditionals.heads import Head, at_least


class Local(nn.Module):
    r"""A conditional with parameters of each row, :math:`\lambda_i = f(x_i) + \delta_i`.

    :math:`\lambda` are the raw, unbounded parameters that the conditional's heads give, and
    :math:`\delta` is a table of one entry a row, zero at first. Any conditional built on
    :class:`~deeplvm.conditionals.heads.Head` will do: Gaussian, full covariance, flow, categories.
    Around a conditional without a network it is the classical local inference, one set of
    variational parameters a row and no encoder; around one with a network it starts from, and
    goes on with, what the encoder says. What the conditional does not take from a head
    (``scale="global"``) stays common to all rows.

    The last parent is the row's number, a name of the data like any other: give
    ``{"x": x, "row": torch.arange(len(x))}``. Optimisers with a memory (Adam) also move the rows
    that are not in a batch; give all rows in one batch, or use plain SGD.

    Args:
        conditional: The family; its parameters stay where they are and may be shared.
        rows: How many rows there are.

    Shape:
        Parents, and then row numbers of shape ``(batch,)``, give the conditional's shapes.

    Raises:
        ValueError: If no part of the conditional has a head.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), appendix A.2.2,
    https://arxiv.org/abs/1906.02691

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian
        >>> q = Joint({"z | row": Local(Gaussian(2), rows=1000)})
        >>> q({"row": torch.tensor([3, 14, 15])})["z"].value.shape
        torch.Size([3, 2])
    """

    def __init__(self, conditional: nn.Module, rows: int) -> None:
        super().__init__()
        at_least(rows, 1, "Local", "rows")
        self.heads = heads_of(conditional)
        if not self.heads:
            raise ValueError(
                f"{type(conditional).__name__} does not take its parameters from a Head, so Local "
                "finds no parameters to make local; build it on "
                "deeplvm.conditionals.heads.Head, as Gaussian does."
            )
        self.conditional = conditional
        self.corrections = nn.ParameterList([no_correction(head, rows) for head in self.heads])
        self.event_shape = getattr(conditional, "event_shape", None)
        self.accepts_missing = getattr(conditional, "accepts_missing", False)
        # Only where the family has it: a joint asks whether there is one.
        if hasattr(conditional, "embed"):
            self.embed = conditional.embed

    def forward(self, *parents: Tensor) -> Any:
        """The distribution given the parents of the conditional and then the rows' numbers."""
        if not parents or parents[-1].is_floating_point():
            raise TypeError(
                "The last parent of Local is the row's number, a whole number; write "
                "'z | x, row' and give {'row': torch.arange(rows)}."
            )
        row = parents[-1]
        with corrected(self.heads, [table[row] for table in self.corrections]):
            return self.conditional(*parents[:-1])


def heads_of(module: nn.Module) -> tuple[Head, ...]:
    """The heads inside a module, each once."""
    return tuple([part for part in module.modules() if isinstance(part, Head)])


def no_correction(head: Head, rows: int) -> Tensor:
    """Zeros of shape ``(rows, *raw_shape)``, where the head is and in its precision."""
    like = next(head.parameters())
    return torch.zeros(rows, *head.raw_shape, dtype=like.dtype, device=like.device)


@contextmanager
def corrected(heads: Sequence[Head], corrections: Sequence[Tensor]) -> Iterator[None]:
    """Inside, every head adds its correction, of shape ``(batch, *raw_shape)``."""
    before = [head.correction for head in heads]
    try:
        for head, own, correction in zip(heads, before, corrections, strict=True):
            head.correction = correction if own is None else own + correction
        yield
    finally:
        for head, own in zip(heads, before, strict=True):
            head.correction = own
