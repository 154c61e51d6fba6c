"""One value that stands for a distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution


def has_centre(distribution: Distribution) -> bool:
    """Whether a mean or a mode is known; of a flow, or a mixture of such, there is none."""
    try:
        centre(distribution)
    except NotImplementedError:
        return False
    return True


def centre(distribution: Distribution) -> Tensor:
    """The mean of a distribution; the mode where there is none, as of categories.

    Raises:
        NotImplementedError: If neither is known; see :func:`typical`.
    """
    try:
        mean = distribution.mean
    except NotImplementedError:
        return distribution.mode
    lacks = mean.isnan()
    if torch.compiler.is_compiling():  # a graph cannot look
        try:
            return torch.where(lacks, distribution.mode.to(mean), mean)
        except NotImplementedError:
            return mean
    return torch.where(lacks, distribution.mode.to(mean), mean) if bool(lacks.any()) else mean


def typical(distribution: Distribution) -> Tensor:
    """The centre of a distribution, or where none is known a draw: of a flow, for example."""
    try:
        return centre(distribution)
    except NotImplementedError:
        return distribution.sample()
