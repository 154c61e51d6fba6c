"""Deterministic nodes, and the shape that a network returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Size, Tensor, nn


def out_shape_of(network: object) -> tuple[int, ...] | None:
    """The event shape a network says that it returns: its ``out_shape`` or ``(out_features,)``.

    Examples:
        >>> out_shape_of(nn.Linear(3, 8))
        (8,)
    """
    shape = getattr(network, "out_shape", None)
    if shape is not None:
        return tuple(shape)
    features = getattr(network, "out_features", None)
    return None if features is None else (features,)


class Features(nn.Module):
    r"""A deterministic node :math:`h = f(\text{parents})`: a name whose value is computed.

    Wraps any module, so that p and q can share one path (``"d | z2": p["d"]``), or a network of
    the reader's own can be given to a conditional with the shape that it returns.

    Args:
        module: maps parents to a tensor.
        out_shape: the event shape of the result, where ``module`` does not say it itself by
            ``out_features`` or ``out_shape``.

    Examples:
        >>> import torch
        >>> hidden = Features(nn.Sequential(nn.Linear(3, 8), nn.Tanh()), out_shape=8)
        >>> hidden(torch.zeros(5, 3)).shape, hidden.out_shape
        (torch.Size([5, 8]), (8,))
    """

    def __init__(
        self, module: Callable[..., Tensor], out_shape: int | Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.module = module
        if out_shape is None:
            self.out_shape = out_shape_of(module)
        else:
            self.out_shape = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)

    @property
    def event_shape(self) -> Size | None:
        """The shape of one value, where it is known."""
        return None if self.out_shape is None else Size(self.out_shape)

    def forward(self, *parents: Tensor) -> Tensor:
        """The features of the parents, shape ``(*particles, batch, *out_shape)``."""
        return self.module(*parents)
