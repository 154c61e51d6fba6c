"""Sylvester flow."""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from deeplvm.conditionals.flows.flow import Base, Flow
from deeplvm.conditionals.flows.householder import reflect
from deeplvm.conditionals.flows.planar import NO_STEP, inner_above_minus_one, invertible_direction
from deeplvm.conditionals.flows.vectors import VectorTransform, dot, solve_tanh_equation, times
from deeplvm.conditionals.heads import Network, Shape, at_least, event_shape_of
from deeplvm.distributions.multivariate_normal import product
from deeplvm.registry import Count

# A bounded diagonal entry of R and of R~ at most, so that r r~ > -0.999: a step is invertible, and
# its inverse no steeper than 1000.
_LARGEST = 0.999**0.5


class Sylvester(VectorTransform):
    r"""One step, :math:`z' = z + Q R \tanh(\tilde R Q^T z + b)`, with M hidden units.

    .. math:: \log|\det| = \sum_{i=1}^M \log(1 + r_{ii} \tilde r_{ii}
              (1 - \tanh^2(s_i))), \qquad s = \tilde R Q^T z + b

    R and :math:`\tilde R` are upper triangular, with diagonals such that
    :math:`r_{ii} \tilde r_{ii} > -1`: both by tanh, as in the paper, so that no unit bends more
    sharply than :math:`\tanh` itself or by more than 1 along its own direction; or
    :math:`\tilde r` as it is and r as the u of a planar step.

    Its raw numbers are those of Q, a square of M squared whose upper half and diagonal are R and
    whose lower half is :math:`\tilde R` transposed, the diagonal of :math:`\tilde R` and b.

    In the coordinates :math:`y = Q^T z` the step is triangular: its inverse finds one element
    after the other, from the last, each by one scalar equation
    :math:`s_i + r_{ii} \tilde r_{ii} \tanh(s_i) = t_i`. As in every triangular system
    rounding errors grow where R is large and has many columns: score values drawn elsewhere in
    float64 then. A draw's own density does not need the inverse.

    Args:
        shape: the event shape, of d elements in all.
        basis: how Q is said.
        bounded: whether the diagonals of R and R~ are between -1 and 1, by tanh as in the paper;
            without that bound a unit can bend as sharply as a planar step does.
    """

    def __init__(self, shape: Shape, basis: Basis, *, bounded: bool = True) -> None:
        super().__init__(shape)
        self.basis = basis
        self.bounded = bounded
        units = basis.columns
        self.sizes = [basis.parameters_per_row, units * units, units, units]
        self.parameters_per_row = sum(self.sizes)

    def prepare(self, context: Tensor) -> Tensor:
        own, rest = context.split([self.sizes[0], sum(self.sizes[1:])], -1)
        return torch.cat([self.basis.prepare(own), rest], -1)

    def _read(self, context: Tensor) -> tuple[Tensor, ...]:
        """What the basis reads; R above and on its diagonal, R~ likewise; b."""
        own, square, diagonal, bias = context.split(self.sizes, -1)
        square = square.reshape(*square.shape[:-1], self.basis.columns, self.basis.columns)
        r, r_tilde = square.diagonal(dim1=-2, dim2=-1), diagonal
        if self.bounded:
            r, r_tilde = _LARGEST * torch.tanh(r), _LARGEST * torch.tanh(r_tilde)
        else:
            r = invertible_direction(r.unsqueeze(-1), r_tilde.unsqueeze(-1), NO_STEP).squeeze(-1)
        return own, square.triu(1), r, square.mT.triu(1), r_tilde, bias

    def move(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        prepared, above, r, above_tilde, r_tilde, bias = self._read(context)
        y = self.basis.project(prepared, value)
        hidden = torch.tanh(r_tilde * y + times(above_tilde, y) + bias)
        step = self.basis.lift(prepared, r * hidden + times(above, hidden))
        return value + step, _log_det(_strength(r, r_tilde), hidden)

    def move_back(self, value: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        prepared, above, r, above_tilde, r_tilde, bias = self._read(context)
        y = self.basis.project(prepared, value)
        iterations = 12 if self.bounded else 20
        hidden = _hidden(y, above, r, above_tilde, r_tilde, bias, iterations)
        step = self.basis.lift(prepared, r * hidden + times(above, hidden))
        return value - step, _log_det(_strength(r, r_tilde), hidden)

    def start(self, raw: Tensor) -> None:
        """R = 0, no step, and the diagonal of R~ large: R then has a gradient."""
        own, _, diagonal, _ = raw.split(self.sizes)
        self.basis.start(own)
        diagonal.fill_(1.0)


def _hidden(
    after: Tensor,
    above: Tensor,
    r: Tensor,
    above_tilde: Tensor,
    r_tilde: Tensor,
    bias: Tensor,
    iterations: int,
) -> Tensor:
    r"""The hidden units of the y with :math:`y' = y + R \tanh(\tilde R y + b)`."""
    units = after.shape[-1]
    strength = _strength(r, r_tilde)
    # one column a unit; those of the units not found yet are left out of every product
    y, hidden = after[..., units:], after[..., units:]
    for i in reversed(range(units)):
        # y_i + r_ii tanh(r~_ii y_i + known) = rest
        rest = after[..., i : i + 1] - dot(above[..., i, i + 1 :], hidden)
        known = bias[..., i : i + 1] + dot(above_tilde[..., i, i + 1 :], y)
        target = r_tilde[..., i : i + 1] * rest + known
        found = torch.tanh(solve_tanh_equation(target, strength[..., i : i + 1], iterations))
        hidden = torch.cat([found, hidden.expand(*found.shape[:-1], -1)], -1)
        y = torch.cat([rest - r[..., i : i + 1] * found, y.expand(*found.shape[:-1], -1)], -1)
    return hidden


def _strength(r: Tensor, r_tilde: Tensor) -> Tensor:
    return inner_above_minus_one(r.unsqueeze(-1), r_tilde.unsqueeze(-1)).squeeze(-1)


def _log_det(strength: Tensor, hidden: Tensor) -> Tensor:
    return torch.log1p(strength * (1 - hidden.square())).sum(-1)


class SylvesterFlow(Flow):
    r"""A Gaussian draw moved by steps of M hidden units, along M orthonormal directions.

    .. math:: z_t = z_{t-1} + Q_t R_t \tanh(\tilde R_t Q_t^T z_{t-1} + b_t), \qquad Q_t^T Q_t = I

    :class:`Sylvester` has the determinant. Q, the triangular R and :math:`\tilde R`, and b come
    from the network, row by row. With M = 1 it is a planar flow. A value drawn elsewhere is scored
    by M scalar equations one after the other.

    Args:
        kind: How Q is made: ``"orthogonal"``, the nearest orthonormal matrix of d x M
            (:class:`NearestOrthonormal`), which costs 60 products of d x M by M x M a row and
            step; ``"householder"``, M = d, a product of reflections
            :math:`\prod_h (I - 2 v_h v_h^T / \|v_h\|^2)`, of which d reach every Q;
            ``"triangular"``, M = d, the elements in their order or in the reverse, in turn, where
            nothing has to be made orthogonal.
        columns: M, of the first; by default d, and 16 at most.
        reflections: Of the second; 8 by default.
        bounded: as of :class:`Sylvester`.

    Raises:
        ValueError: there is no such kind, it has no such option, or there are fewer elements than
            columns.

    Sylvester Normalizing Flows for Variational Inference (van den Berg et al., 2018),
    https://arxiv.org/abs/1803.05649

    Examples:
        >>> posterior = SylvesterFlow(6, nn.Linear(4, 16), columns=2)
        >>> z, log_q = posterior(torch.zeros(5, 4)).rsample_and_log_prob()
        >>> z.shape, log_q.shape
        (torch.Size([5, 6]), torch.Size([5]))
        >>> prior = SylvesterFlow(3, kind="triangular", transforms=2)
        >>> prior().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        transforms: Count = 4,
        kind: Literal["orthogonal", "householder", "triangular"] = "orthogonal",
        columns: int | None = None,
        reflections: int | None = None,
        bounded: bool = True,
        **base: Unpack[Base],
    ) -> None:
        elements = event_shape_of(shape, "SylvesterFlow").numel()
        bases = _bases(kind, elements, columns, reflections)
        steps = self._steps(
            transforms, lambda t: Sylvester(shape, bases[t % len(bases)], bounded=bounded)
        )
        super().__init__(shape, network, steps, **base)


def _bases(kind: str, elements: int, columns: int | None, reflections: int | None) -> list[Basis]:
    """How Q is made at each step, in turn."""
    owner = "SylvesterFlow"
    for name, value, own in (
        ("columns", columns, "orthogonal"),
        ("reflections", reflections, "householder"),
    ):
        if value is not None and kind != own:
            raise ValueError(f"{owner} has {name} of kind {own!r} alone, found kind={kind!r}.")
    if kind == "orthogonal":
        m = at_least(min(elements, 16) if columns is None else columns, 1, owner, "columns")
        if m > elements:
            raise ValueError(
                f"{owner} expects at most as many columns as elements, found {m} columns of "
                f"{elements} elements; leave columns out for the largest that is usual."
            )
        return [NearestOrthonormal(elements, m)]
    if kind == "householder":
        mirrors = 8 if reflections is None else reflections
        return [Reflections(elements, at_least(mirrors, 1, owner, "reflections"))]
    if kind == "triangular":
        return [Order(elements, reverse=reverse) for reverse in (False, True)]
    raise ValueError(f"A Sylvester flow is orthogonal, householder, triangular; found {kind!r}.")


class Basis:
    r"""M orthonormal columns Q of d elements: :math:`Q^T Q = I`.

    Attributes:
        features: d.
        columns: M.
        parameters_per_row: how many raw numbers say Q.
    """

    features: int
    columns: int
    parameters_per_row: int = 0

    def prepare(self, raw: Tensor) -> Tensor:
        """Numbers that ``project`` and ``lift`` read, as many as the raw: once for all draws."""
        return raw

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        """:math:`Q^T z`, of ``(*leading, d)`` to ``(*leading, M)``."""
        raise NotImplementedError

    def lift(self, prepared: Tensor, value: Tensor) -> Tensor:
        """:math:`Q y`, of ``(*leading, M)`` to ``(*leading, d)``."""
        raise NotImplementedError

    def start(self, raw: Tensor) -> None:
        """Set the starting values of the raw numbers, in place."""


class NearestOrthonormal(Basis):
    r"""The orthonormal columns nearest to a raw d x M matrix, by Björck's iteration.

    .. math:: Q_{k+1} = Q_k (I + \tfrac12 (I - Q_k^T Q_k))

    from the matrix divided by its Frobenius norm. It converges from every matrix of full rank,
    by a factor of 1.5 a step while a singular value is small and quadratically at the end; the
    number of steps is fixed and suffices for singular values of 3e-5 of the norm. A row whose
    matrix is closer to losing a rank than that, so that :math:`Q^T Q` is not the identity to
    1e-6, takes the first M unit vectors instead: the density is exact there too.

    An Iterative Algorithm for Computing the Best Estimate of an Orthogonal Matrix (Björck &
    Bowie, 1971), https://doi.org/10.1137/0708036
    """

    steps = 30
    tolerance = 1e-6

    def __init__(self, features: int, columns: int) -> None:
        self.features, self.columns = features, columns
        self.parameters_per_row = features * columns

    def prepare(self, raw: Tensor) -> Tensor:
        q = nn.functional.normalize(raw, dim=-1, eps=1e-20)
        q = self._matrix(q)
        identity = torch.eye(self.columns, dtype=raw.dtype, device=raw.device)
        for _ in range(self.steps):
            q = q + 0.5 * product(q, identity - product(q.mT, q))
        found = torch.linalg.matrix_norm(product(q.mT, q) - identity)
        enough = max(self.tolerance, 8 * self.columns * torch.finfo(raw.dtype).eps)
        units = torch.eye(self.features, self.columns, dtype=raw.dtype, device=raw.device)
        return torch.where((found <= enough)[..., None, None], q, units).flatten(-2)

    def _matrix(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(*numbers.shape[:-1], self.features, self.columns)

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        return times(self._matrix(prepared).mT, value)

    def lift(self, prepared: Tensor, value: Tensor) -> Tensor:
        return times(self._matrix(prepared), value)

    def start(self, raw: Tensor) -> None:
        """Orthonormal already, with entries of about 1."""
        matrix = nn.init.orthogonal_(torch.empty(self.features, self.columns, dtype=raw.dtype))
        raw.copy_(matrix.flatten() * self.features**0.5)


class Reflections(Basis):
    """A product of Householder reflections, M = d: an orthogonal matrix, never written out."""

    def __init__(self, features: int, number: int) -> None:
        self.features = self.columns = features
        self.parameters_per_row = number * features

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        for v in prepared.split(self.features, -1):
            value = reflect(value, v)
        return value

    def lift(self, prepared: Tensor, value: Tensor) -> Tensor:
        for v in prepared.split(self.features, -1)[::-1]:
            value = reflect(value, v)
        return value

    def start(self, raw: Tensor) -> None:
        """Mirrors in random directions."""
        raw.normal_()


class Order(Basis):
    """The elements in their order or in the reverse, M = d; no raw numbers."""

    def __init__(self, features: int, *, reverse: bool) -> None:
        self.features = self.columns = features
        self.reverse = reverse

    def project(self, prepared: Tensor, value: Tensor) -> Tensor:
        return value.flip(-1) if self.reverse else value

    lift = project
