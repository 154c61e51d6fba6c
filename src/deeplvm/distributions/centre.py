"""One value that stands for a distribution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution


def centre(distribution: Distribution) -> Tensor:
    """The mean of a distribution; the mode where there is none, as of categories."""
    try:
        mean = distribution.mean
    except NotImplementedError:
        return distribution.mode
    lacks = mean.isnan()
    return torch.where(lacks, distribution.mode.to(mean), mean) if bool(lacks.any()) else mean
