"""Markov chains over the steps of a row: linear Gaussian ones, and of finitely many values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Categorical, Distribution, Normal, constraints, register_kl

from deeplvm.distributions.multivariate_normal import LOG_TWO_PI, FullCovarianceNormal, product


class LinearNormal(FullCovarianceNormal):
    r"""The normal :math:`N(A z' + b, L L^T)` of one step given another, :math:`z'`.

    Args:
        before: z', shape ``(*batch, d)``.
        gain: A, shape ``(*batch, d, d)``, broadcastable.
        offset: b, shape ``(*batch, d)``.
        factor: L, lower triangular with a positive diagonal, shape ``(*batch, d, d)``.
    """

    def __init__(self, before: Tensor, gain: Tensor, offset: Tensor, factor: Tensor) -> None:
        super().__init__(applied(gain, before) + offset, factor)
        self.gain, self.offset = gain, offset


class GaussianChain(Distribution):
    r"""A linear Gaussian Markov chain :math:`\prod_t N(z_t; A_t z_{t-1} + b_t, L_t L_t^T)`.

    Of batch shape ``(*batch, T)`` and event ``(d,)``: its log-density is one number a step, that
    of the step given the one before it, and their sum that of the path. With ``backwards`` the
    step after takes the place of the step before, as in the posterior of such a chain. Entropies,
    divergences, means and variances are exact.

    Args:
        gain: A, shape ``(*batch, T, d, d)``; zero where a row begins.
        offset: b, shape ``(*batch, T, d)``.
        factor: L, lower triangular with a positive diagonal, shape ``(*batch, T, d, d)``.
        backwards: Whether the last step is the first that is drawn.
        batch_shape: Where it is larger than that of the parameters.

    Examples:
        >>> gain = torch.full((3, 1, 1), 0.5)
        >>> gain[0] = 0.0
        >>> walk = GaussianChain(gain, torch.ones(3, 1), torch.ones(3, 1, 1))
        >>> walk.mean.flatten(), walk.variance.flatten()
        (tensor([1.0000, 1.5000, 1.7500]), tensor([1.0000, 1.2500, 1.3125]))
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = True
    support = constraints.real_vector

    def __init__(
        self,
        gain: Tensor,
        offset: Tensor,
        factor: Tensor,
        *,
        backwards: bool = False,
        batch_shape: Sequence[int] | None = None,
    ) -> None:
        self.gain, self.offset, self.factor, self.backwards = gain, offset, factor, backwards
        own = torch.broadcast_shapes(gain.shape[:-2], offset.shape[:-1], factor.shape[:-2])
        batch = own if batch_shape is None else Size(batch_shape)
        super().__init__(batch, offset.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> GaussianChain:
        return GaussianChain(
            self.gain, self.offset, self.factor, backwards=self.backwards, batch_shape=batch_shape
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Of each step given its neighbour, shape ``(*sample, *batch, T)``, nats."""
        step = LinearNormal(self.neighbour(value), self.gain, self.offset, self.factor)
        log_prob = step.log_prob(value)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def neighbour(self, value: Tensor) -> Tensor:
        """The value of the step that each step reads, zero where there is none."""
        none = torch.zeros_like(value[..., :1, :])
        both = (value[..., 1:, :], none) if self.backwards else (none, value[..., :-1, :])
        return torch.cat(both, -2)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """A path ``(*sample, *batch, T, d)`` and the log-density of its steps, nats."""
        shape = self._extended_shape(Size(sample_shape))
        noise = torch.randn(shape, dtype=self.offset.dtype, device=self.offset.device)
        pushed = applied(self.factor, noise) + self.offset
        gains, path = self.gain.unbind(-3), list(pushed.unbind(-2))
        before = None
        for t in self.order:
            if before is not None:
                path[t] = path[t] + applied(gains[t], before)
            before = path[t]
        log_prob = -0.5 * (noise.square().sum(-1) + shape[-1] * LOG_TWO_PI) - self._half_log_det
        return torch.stack(path, -2), log_prob

    def entropy(self) -> Tensor:
        """Of each step given its neighbour, ``(*batch, T)``, nats; their sum is the path's."""
        entropy = self._half_log_det + 0.5 * self.event_shape[0] * (1 + LOG_TWO_PI)
        return entropy.expand(self.batch_shape)

    @property
    def order(self) -> range:
        """The steps in the order in which they are drawn."""
        steps = range(self.offset.shape[-2])
        return steps[::-1] if self.backwards else steps

    @property
    def mean(self) -> Tensor:
        return self.moments()[0].expand(self._extended_shape())

    mode = mean

    @property
    def variance(self) -> Tensor:
        return self.moments()[1].square().sum(-1).expand(self._extended_shape())

    def marginals(self) -> Normal:
        """The normal of each element by itself, of batch shape ``(*batch, T, d)``."""
        return Normal(self.mean, self.variance.sqrt(), validate_args=False)

    def moments(self) -> tuple[Tensor, Tensor]:
        r"""Means ``(*batch, T, d)``, and :math:`R_t` with :math:`R_t R_t^T` the covariances."""
        means, roots = list(self.offset.unbind(-2)), list(self.factor.unbind(-3))
        gains = self.gain.unbind(-3)
        before: int | None = None
        for t in self.order:
            if before is not None:
                means[t] = means[t] + applied(gains[t], means[before])
                roots[t] = lower(product(gains[t], roots[before]), roots[t])
            before = t
        return stacked(means, -2), stacked(roots, -3)

    @property
    def _half_log_det(self) -> Tensor:
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def reversed_in_time(self) -> GaussianChain:
        """The same chain with its steps counted from the other end."""
        return GaussianChain(
            self.gain.flip(-3), self.offset.flip(-2), self.factor.flip(-3),
            backwards=not self.backwards,
        )  # fmt: skip


@register_kl(GaussianChain, LinearNormal)
def _kl_to_steps(q: GaussianChain, p: LinearNormal) -> Tensor:
    """Of paths, ``(*batch, T)`` terms that sum to it; whatever value p was told of steps before.

    The step of p is one of forward chains: ``p.gain`` is zero where a row begins.
    """
    return _divergence(q, p.gain, p.offset, p.root())


@register_kl(GaussianChain, GaussianChain)
def _kl_of_chains(q: GaussianChain, p: GaussianChain) -> Tensor:
    if p.backwards:
        if not q.backwards:
            raise NotImplementedError("from a chain that runs forwards to one that runs backwards")
        q, p = q.reversed_in_time(), p.reversed_in_time()
        return _divergence(q, p.gain, p.offset, p.factor).flip(-1)
    return _divergence(q, p.gain, p.offset, p.factor)


def _divergence(q: GaussianChain, gain: Tensor, offset: Tensor, factor: Tensor) -> Tensor:
    r""":math:`E_q[\log q(z_t | \cdot) - \log N(z_t; A z_{t-1} + b, L L^T)]`, ``(*batch, T)``.

    Under q the residual :math:`z_t - A z_{t-1} - b` is normal, and its second moment a sum of
    squares: no differences of covariances are taken.
    """
    means, roots = q.moments()
    shape = torch.broadcast_shapes(roots.shape, gain.shape)
    own, roots, gain, noise = (
        each.expand(torch.broadcast_shapes(each.shape, shape))
        for each in (q.gain, roots, gain, q.factor)
    )
    forward = GaussianChain(q.gain, q.offset, q.factor)  # for what is one step before
    residual = means - applied(gain, forward.neighbour(means)) - offset
    if q.backwards:  # z_{t-1} = J_{t-1} z_t + o_{t-1} + L_{t-1} e
        unit = torch.eye(shape[-1], dtype=gain.dtype, device=gain.device)
        parts = [product(unit - product(gain, _before(own)), roots), product(gain, _before(noise))]
    else:
        parts = [product(own - gain, _before(roots)), noise]
    spread = torch.cat(torch.broadcast_tensors(*parts), -1)
    factor = factor.expand(torch.broadcast_shapes(factor.shape, spread.shape[:-2] + shape[-2:]))
    columns = torch.cat([spread, residual.unsqueeze(-1).expand(*spread.shape[:-1], 1)], -1)
    solved = torch.linalg.solve_triangular(factor, columns, upper=False)
    half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    cross = 0.5 * (solved.square().sum((-2, -1)) + shape[-1] * LOG_TWO_PI) + half_log_det
    divergence = cross - q.entropy()
    return divergence.expand(torch.broadcast_shapes(divergence.shape, q.batch_shape))


def conditioned_on(
    chain: GaussianChain, weight: Tensor, value: Tensor, last: Tensor | None = None
) -> tuple[GaussianChain, Tensor]:
    r"""The chain times a Gaussian potential a step: its posterior chain, and its integral.

    .. math:: q(z) = \frac1Z\, p(z) \prod_t \exp(-\tfrac12 |y_t - W_t z_t|^2)

    The Kalman filter carries a square root of the covariance, made by orthogonal triangulation,
    and not the covariance: its digits are those of standard deviations, in single precision too.
    What it needs to smooth comes with it: the posterior is a chain from the last step to the
    first, :math:`q(z_t | z_{t+1})`, from which one draws backwards, and whose moments are those
    of the Rauch-Tung-Striebel smoother.

    A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960),
    https://doi.org/10.1115/1.3662552; Maximum Likelihood Estimates of Linear Dynamic Systems
    (Rauch, Tung & Striebel, 1965), https://doi.org/10.2514/3.3166; square roots: Kaminski, Bryson
    & Schmidt (1971), https://doi.org/10.1109/TAC.1971.1099816

    Args:
        chain: p, of batch shape ``(*batch, T)``.
        weight: W, shape ``(*batch, T, m, d)``; zero rows say nothing.
        value: y, shape ``(*batch, T, m)``.
        last: Which step is the last of its row that counts, ``(*batch, T)``; what lies beyond
            does not change what is before. By default the last.

    Returns:
        q, and :math:`\log Z_t` of each step given the potentials of those before it, shape
        ``(*batch, T)``, nats; Z is that of all T, or of the steps that count.
    """
    if chain.backwards:
        flipped = None if last is None else last.flip(-1)
        found, log_z = conditioned_on(
            chain.reversed_in_time(), weight.flip(-3), value.flip(-2), flipped
        )
        return found.reversed_in_time(), log_z.flip(-1)
    with torch.autocast(value.device.type, enabled=False):
        return _filtered(chain, weight, value, last)


def _filtered(
    chain: GaussianChain, weight: Tensor, value: Tensor, last: Tensor | None
) -> tuple[GaussianChain, Tensor]:
    count, size = chain.offset.shape[-2:]
    gains, offsets, factors = (
        chain.gain.unbind(-3), chain.offset.unbind(-2), chain.factor.unbind(-3)
    )  # fmt: skip
    weights, values = weight.unbind(-3), value.unbind(-2)
    unit = torch.eye(size, dtype=value.dtype, device=value.device)
    means: list[Tensor] = []
    roots: list[Tensor] = []
    kernels: list[tuple[Tensor, Tensor, Tensor]] = []
    log_z = []
    for t in range(count):
        if t == 0:
            mean, root = offsets[0], factors[0]
        else:
            mean = applied(gains[t], means[-1]) + offsets[t]
            both = _blocks(product(gains[t], roots[-1]), factors[t], roots[-1])
            root, across, left = (
                both[..., :size, :size], both[..., size:, :size], both[..., size:, size:]
            )  # fmt: skip
            back = torch.linalg.solve_triangular(root, across, upper=False, left=False)
            kernels.append((back, means[-1] - applied(back, mean), left))
        seen = product(weights[t], root)  # (*batch, m, d)
        q, r = torch.linalg.qr(torch.cat([unit.expand(*seen.shape[:-2], -1, -1), seen], -2))
        surprise = values[t] - applied(weights[t], mean)
        pull = applied(q[..., size:, :].mT, surprise)
        move = _solved(r, pull)  # the most likely noise: |y - W (m + L e)|^2 + |e|^2 is least
        rest = surprise - applied(seen, move)
        energy = rest.square().sum(-1) + move.square().sum(-1)
        log_z.append(-0.5 * energy - r.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1))
        means.append(mean + applied(root, move))
        roots.append(torch.linalg.solve_triangular(r, root, upper=True, left=False))
    nothing = torch.zeros_like(unit)
    ends = lower(roots[-1] if last is None else stacked(roots, -3))
    kernels.append((nothing, means[-1], ends if last is None else ends[..., -1, :, :]))
    back, offset, left = [
        stacked(part, at)
        for part, at in zip(zip(*kernels, strict=True), (-3, -2, -3), strict=True)
    ]
    if last is not None:
        here = last.unsqueeze(-1)
        back = torch.where(here.unsqueeze(-1), nothing, back)
        offset = torch.where(here, stacked(means, -2), offset)
        left = torch.where(here.unsqueeze(-1), ends, left)
    return GaussianChain(back, offset, left, backwards=True), stacked(log_z, -1)


def applied(matrix: Tensor, vector: Tensor) -> Tensor:
    """The product of a matrix ``(*batch, m, d)`` with a vector ``(*batch, d)``."""
    return product(matrix, vector.unsqueeze(-1)).squeeze(-1)


def lower(*blocks: Tensor) -> Tensor:
    r"""Lower triangular L of positive diagonal with :math:`L L^T = \sum_i B_i B_i^T`.

    Args:
        blocks: B, shapes ``(*batch, d, columns)``, together of d columns or more.
    """
    lead = torch.broadcast_shapes(*[block.shape[:-2] for block in blocks])
    wide = torch.cat([block.expand(*lead, *block.shape[-2:]) for block in blocks], -1)
    factor = torch.linalg.qr(wide.mT).R.mT
    sign = factor.diagonal(dim1=-2, dim2=-1).sign()
    return factor * sign.unsqueeze(-2)


def stacked(parts: Sequence[Tensor], at: int) -> Tensor:
    """What is of one step each, side by side at dimension ``at``."""
    return torch.stack(torch.broadcast_tensors(*parts), at)


def _blocks(moved: Tensor, noise: Tensor, root: Tensor) -> Tensor:
    """Of the next step and this one, both together: a triangular root of their covariance."""
    parts = torch.broadcast_tensors(moved, noise, root)
    upper, below = torch.cat(parts[:2], -1), torch.cat([parts[2], torch.zeros_like(parts[2])], -1)
    return lower(torch.cat([upper, below], -2))


def _solved(upper: Tensor, vector: Tensor) -> Tensor:
    """The solution of an upper triangular system, shape ``(*batch, d)``."""
    shape = torch.broadcast_shapes(upper.shape[:-2], vector.shape[:-1])
    upper = upper.expand(*shape, *upper.shape[-2:])
    column = vector.expand(*shape, vector.shape[-1]).unsqueeze(-1)
    return torch.linalg.solve_triangular(upper, column, upper=True).squeeze(-1)


def _before(each: Tensor) -> Tensor:
    """Matrices of the step before each step, ``(*batch, T, d, d)``, zero where there is none."""
    return torch.cat([torch.zeros_like(each[..., :1, :, :]), each[..., :-1, :, :]], -3)


class DiscreteChain(Distribution):
    r"""A Markov chain of finitely many values, :math:`\prod_t p(k_t | k_{t+1})`, last step first.

    Of batch shape ``(*batch, T)``: its log-density is one number a step, given its neighbour.

    Args:
        logits: Of value s given the neighbour's value s', s before s', shape
            ``(*batch, T, S, S)``; the same for all s' where the neighbour is not read.
        values: What the values are, shape ``(S, *event)``.
        backwards: Whether the last step is drawn first, and the first otherwise.
        batch_shape: Where it is larger than that of the parameters.
    """

    arg_constraints = {}  # noqa: RUF012 - torch's own form
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        values: Tensor,
        *,
        backwards: bool = True,
        batch_shape: Sequence[int] | None = None,
    ) -> None:
        square = (*logits.shape[:-2], len(values), len(values))
        self.log_kernel, self.values = logits.log_softmax(-2).expand(square), values
        self.backwards = backwards
        batch = logits.shape[:-2] if batch_shape is None else Size(batch_shape)
        super().__init__(batch, values.shape[1:], validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> DiscreteChain:
        return DiscreteChain(
            self.log_kernel, self.values, backwards=self.backwards, batch_shape=batch_shape
        )

    @property
    def order(self) -> range:
        """The steps in the order in which they are drawn."""
        steps = range(self.log_kernel.shape[-3])
        return steps[::-1] if self.backwards else steps

    @property
    def log_probs(self) -> Tensor:
        """Of each value at each step by itself, shape ``(*batch, T, S)``, nats."""
        found: dict[int, Tensor] = {}
        before: Tensor | None = None
        for t in self.order:
            kernel = self.log_kernel[..., t, :, :]
            before = (
                kernel[..., 0] if before is None else (kernel + before.unsqueeze(-2)).logsumexp(-1)
            )
            found[t] = before
        return torch.stack([found[t] for t in sorted(found)], -2)

    def marginals(self) -> Categorical:
        """The numbers of the values at each step by itself, of batch shape ``(*batch, T)``."""
        return Categorical(logits=self.log_probs, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Of the values, shape ``(*batch, T, *event)``."""
        each = self.values.to(self.log_kernel.dtype)
        return torch.tensordot(self.log_probs.exp(), each, 1).expand(self._extended_shape())

    @property
    def mode(self) -> Tensor:
        """The most probable path (Viterbi, 1967), https://doi.org/10.1109/TIT.1967.1054010."""
        best: Tensor | None = None
        chosen, steps = [], list(self.order)
        for t in steps:
            kernel = self.log_kernel[..., t, :, :]
            if best is None:
                best = kernel[..., 0]
                continue
            best, at = (kernel + best.unsqueeze(-2)).max(-1)
            chosen.append(at)
        index = best.argmax(-1)  # type: ignore[union-attr]
        path = [index]
        for at in reversed(chosen):
            index = at.gather(-1, index.unsqueeze(-1)).squeeze(-1)
            path.append(index)
        whole = torch.stack(path if self.backwards else path[::-1], -1)
        return self.values[whole].expand(self._extended_shape())

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A path, shape ``(*sample, *batch, T, *event)``."""
        lead, count = Size((*sample_shape, *self.batch_shape[:-1])), self.batch_shape[-1]
        with torch.no_grad():
            noise = torch.rand(*lead, count, dtype=self.log_kernel.dtype).to(self.log_kernel)
            path: dict[int, Tensor] = {}
            index = torch.zeros(lead, dtype=torch.long, device=noise.device)
            for t in self.order:
                kernel = self.log_kernel[..., t, :, :].mT.exp().cumsum(-1)
                kernel = kernel.expand(*lead, *kernel.shape[-2:])
                limits = kernel.take_along_dim(index[..., None, None], -2).squeeze(-2)
                index = (noise[..., t, None] > limits[..., :-1]).sum(-1)
                path[t] = index
            return self.values[torch.stack([path[t] for t in range(count)], -1)]

    def log_prob(self, value: Tensor) -> Tensor:
        """Of each step given its neighbour, shape ``(*sample, *batch, T)``, nats."""
        dims = len(self.event_shape)
        same = value.unsqueeze(-1 - dims) == self.values
        index = (same.flatten(-dims).all(-1) if dims else same).long().argmax(-1)
        beside = index.roll(-1 if self.backwards else 1, -1)  # its kernel reads none at the border
        kernel = self.log_kernel.expand(*index.shape, *self.log_kernel.shape[-2:])
        row = kernel.take_along_dim(index[..., None, None], -2).squeeze(-2)
        return row.gather(-1, beside.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Of each step given its neighbour, ``(*batch, T)``, nats; their sum is the path's."""
        each = -(self.log_kernel.exp() * self.log_kernel).sum(-2)  # (*batch, T, S')
        marginal = self.log_probs.exp()
        beside = marginal.roll(-1 if self.backwards else 1, -2)
        return (each * beside).sum(-1).expand(self.batch_shape)
