"""Exact posteriors of classes of Gaussians, and what potentials a network gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent

from deeplvm.conditionals.heads import shown
from deeplvm.conditionals.products import View, normal_of
from deeplvm.distributions.chains import GaussianChain, conditioned_on
from deeplvm.distributions.multivariate_normal import FullCovarianceNormal, MultivariateNormal


class ClassPosterior(nn.Module):
    r"""The exact posterior of the class of a Gaussian, given a Gaussian potential.

    .. math:: q(k | x) \propto p(k) \int p(z | k)\, \psi(z; x)\, dz, \qquad
              \psi(z; x) = N(\mu(x); z, \Sigma(x))

    A network says where z is and how sure it is; the classes of p are not guessed but read. With
    :class:`MemberPosterior` for z it is the posterior itself where the potential is proportional
    to :math:`p(x | z)`.

    Args:
        classes: the conditional of the class in p, without parents, a ``Categorical``.
        members: the conditional of z given the class in p, a Gaussian.
        potential: a conditional of the parents that returns normals of z.

    Composing Graphical Models with Neural Networks for Structured Representations and Fast
    Inference (Johnson et al., 2016), https://arxiv.org/abs/1603.06277

    Examples:
        >>> from deeplvm.conditionals import Categorical, FullCovarianceGaussian, Gaussian
        >>> from deeplvm.networks import MLP
        >>> classes, members = Categorical(3), FullCovarianceGaussian(2, MLP(3))
        >>> potential = Gaussian(2, MLP(5))
        >>> ClassPosterior(classes, members, potential)(torch.zeros(7, 5)).base_dist.probs.shape
        torch.Size([7, 3])
        >>> member = MemberPosterior(members, potential)
        >>> member(torch.zeros(7, 5), torch.eye(3)[:, None]).rsample().shape
        torch.Size([3, 7, 2])
    """

    def __init__(self, classes: nn.Module, members: nn.Module, potential: nn.Module) -> None:
        super().__init__()
        self.event_shape = getattr(classes, "event_shape", torch.Size())
        self.classes, self.members, self.potential = classes, members, potential

    def forward(self, *parents: Tensor) -> Independent:
        """The classes' probabilities, given parents of shapes ``(*particles, batch, ...)``."""
        prior: Any = self.classes()
        values = prior.enumerate_support()  # (K,)
        said = self.potential(*parents)
        said = said.expand((1, *said.batch_shape))
        own = self.members(shown(self.classes, values))
        own = _along(own, len(said.batch_shape))
        log_z = times(own, said)[1].movedim(0, -1)
        found = Categorical(logits=log_z + prior.log_prob(values), validate_args=False)
        return Independent(found, 0, validate_args=False)  # as p's own

    def embed(self, value: Tensor) -> Tensor:
        """The class as other networks see it."""
        return shown(self.classes, value)


class MemberPosterior(nn.Module):
    r"""The exact posterior of a Gaussian of a known class, given a Gaussian potential.

    .. math:: q(z | x, k) \propto p(z | k)\, \psi(z; x)

    Args:
        members: the conditional of z given the class in p, a Gaussian.
        potential: a conditional that returns normals of z.

    Shape:
        The parents of the potential, then the class.
    """

    def __init__(self, members: nn.Module, potential: nn.Module) -> None:
        super().__init__()
        self.event_shape = getattr(members, "event_shape", torch.Size())
        self.members, self.potential = members, potential

    def forward(self, *parents: Tensor) -> FullCovarianceNormal:
        """The normal of z, given parents of shapes ``(*particles, batch, ...)``."""
        return times(self.members(parents[-1]), self.potential(*parents[:-1]))[0]


def times(normal: Any, potential: Any) -> tuple[FullCovarianceNormal, Tensor]:
    r"""The normalised product of two normals, and :math:`\log \int N(z)\, \psi(z)\, dz`.

    Up to a constant that depends on the potential alone. It is a chain of one step.
    """
    loc, root = _parts(normal)
    weight, value = whitened(potential)
    chain = GaussianChain(
        torch.zeros_like(root).unsqueeze(-3), loc.unsqueeze(-2), root.unsqueeze(-3)
    )
    found, log_z = conditioned_on(chain, weight.unsqueeze(-3), value.unsqueeze(-2))
    both = FullCovarianceNormal(found.offset.squeeze(-2), found.factor.squeeze(-3))
    return both, log_z.squeeze(-1)


def _along(normal: Any, dims: int) -> Any:
    """Normals of batch shape ``(K,)`` with so many batch dimensions, the first of which has K."""
    loc, root = _parts(normal)
    ones = [1] * (dims - 1)
    loc, root = (each.reshape(len(loc), *ones, *each.shape[1:]) for each in (loc, root))
    return FullCovarianceNormal(loc, root)


def _parts(normal: Any) -> tuple[Tensor, Tensor]:
    """Mean and triangular root, both of the whole batch shape."""
    if not isinstance(normal, FullCovarianceNormal):
        normal = normal_of(normal, "A mixture", "its members' conditional")
        return normal.loc, torch.diag_embed(normal.scale)
    root = normal.root()
    return normal.loc, root.expand(*normal.batch_shape, *root.shape[-2:])


def potentials_of(
    potential: nn.Module, parents: Sequence[Tensor], views: Sequence[View | None] | None
) -> tuple[Any, Tensor]:
    """Normals by a network of parents, and where something is known of each of these.

    Of shape ``(*particles, batch)``, with steps where there are some; elements that are missing
    are zero to the network.
    """
    shown_as = []
    for parent, view in zip(parents, views or [None] * len(parents), strict=True):
        each = parent if view is None else view(parent)
        shown_as.append(torch.nan_to_num(each, nan=0.0) if each.is_floating_point() else each)
    normal = potential(*shown_as)
    lead, seen = len(normal.batch_shape), torch.ones((), dtype=torch.bool)
    for parent in parents:
        gone = parent.isnan()
        gone = gone.flatten(lead).all(-1) if gone.dim() > lead else gone
        seen = seen.to(gone.device) & ~gone
    return normal, seen.expand(normal.batch_shape)


def whitened(normal: Any) -> tuple[Tensor, Tensor]:
    r"""W and y with :math:`N(z; \mu, \Sigma) \propto \exp(-\tfrac12 |y - W z|^2)`.

    Raises:
        TypeError: If the distribution is no normal.
    """
    if isinstance(normal, MultivariateNormal):
        root = normal.root()
        unit = torch.eye(root.shape[-2], dtype=root.dtype, device=root.device)
        both = torch.cat([unit.expand(*normal.batch_shape, -1, -1), normal.loc.unsqueeze(-1)], -1)
        root = root.expand(*normal.batch_shape, *root.shape[-2:])
        solved = torch.linalg.solve_triangular(root, both, upper=False)
        return solved[..., :-1], solved[..., -1]
    diagonal = normal_of(normal, "KalmanSmoother", "its potential")
    return torch.diag_embed(1 / diagonal.scale), diagonal.loc / diagonal.scale
