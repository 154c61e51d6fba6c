"""What distributions of single numbers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution


class Elements(Distribution):
    """Single numbers, each with parameters of its own; a family is a subclass that names them.

    Args:
        parameters: Tensors that broadcast to the batch shape, in the order of ``names``.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    names: ClassVar[tuple[str, ...]]

    def __init__(self, *parameters: Tensor) -> None:
        together = torch.broadcast_tensors(*parameters)
        for name, parameter in zip(self.names, together, strict=True):
            setattr(self, name, parameter)
        super().__init__(together[0].shape, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Elements:
        new = self._get_checked_instance(type(self), _instance)
        new.__dict__.update(self.__dict__)
        new._batch_shape = Size(batch_shape)
        for name in self.names:
            setattr(new, name, getattr(self, name).expand(new._batch_shape))
        return new

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self.batch_shape)})"
