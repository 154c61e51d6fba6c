"""Sums and integrals over the paths of a variable of every step, inside a repeated joint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.core.draws import Enumerated, Sampled
from deeplvm.core.evidence import density
from deeplvm.core.joint import view_of
from deeplvm.core.steps import Masked
from deeplvm.core.trace import Site, Trace, base_of
from deeplvm.distributions.chains import (
    DiscreteChain,
    GaussianChain,
    conditioned_on,
    lower,
)
from deeplvm.distributions.multivariate_normal import (
    LOG_TWO_PI,
    FullCovarianceNormal,
    MultivariateNormal,
)
from deeplvm.unrolled import Unrolled, where_true

_IMPOSSIBLE = -1e6  # nats: what a value without probability is given, so that none is no number


def sum_out(walk: Unrolled, names: Sequence[str], most: int) -> Trace:
    r"""The trace of what is given, with a variable of every step summed or integrated over.

    A variable that reads itself one step before makes a hidden Markov model, summed by

    .. math:: \alpha_t(k) = \sum_j \alpha_{t-1}(j)\, p(k | j)\, p(x_t | k, j)

    in logarithms, at a cost that grows with the square of the number of values and linearly with
    the steps; one without memory is summed in each step. A linear Gaussian state is integrated
    out by the Kalman filter, at a cost that grows with the cube of its dimensions. The site of the
    variable has no value, but its posterior as a distribution of paths, a
    :class:`~deeplvm.distributions.chains.DiscreteChain` or
    :class:`~deeplvm.distributions.chains.GaussianChain`: marginals, draws, the best path. The term
    of a name that is given is the logarithm of the density of its sequence given those of the
    names before it.

    A Maximization Technique Occurring in the Statistical Analysis of Probabilistic Functions of
    Markov Chains (Baum, Petrie, Soules & Weiss, 1970), https://doi.org/10.1214/aoms/1177697196

    Raises:
        ValueError: If another name that is remembered depends on the variable, there are several
            such variables, or not all others are given.
    """
    joint, name, shape = walk.joint, names[0], walk.shape
    own = [parent for parent in joint.remembered if parent.name == name]
    reached, found = set(), {name}
    while found - reached:
        reached |= found
        read = [f for f in joint.step.order if {p.name for p in f.parents} & reached]
        found = {each for factor in read for each in factor.names}
    unknown = {p.name for p in joint.remembered if p not in walk.shifted} - {name}
    hidden = sorted(unknown & reached) or [str(p) for p in own if abs(p.lag) > 1] or names[1:]
    if hidden:
        raise ValueError(
            f"The values of {name!r} cannot be summed over in {joint}, as {', '.join(hidden)} "
            f"would have to be followed with them; add '{name} | ...' to q and draw it there."
        )
    if any([isinstance(joint.start[parent.name], str) for parent in own]):
        raise ValueError(
            f"The values of {name!r} can be summed over where they start alike in all rows, and "
            f"start={{...}} says that {joint.start[name]!r} is their start; give a tensor there."
        )
    if unknown:  # states that follow from what is given, whatever the variable is
        trace = walk.step_by_step({name: Sampled()})
        walk.ready |= {n: trace[n] for n in unknown}
        walk.shifted = walk.shift_all()
    with torch.no_grad():
        one = walk.take(walk.order[0], draw={name: Sampled()})[name].distribution
    if one is None:
        raise ValueError(f"{name!r} is computed, not random: there is nothing to sum over.")
    if not base_of(one).has_enumerate_support:
        return integrated(walk, name, one)
    values = Enumerated(most).values(name, one)  # (S, *event)
    count, ones, dims = len(values), [1] * (len(shape) + 1), len(shape) + 3
    view = view_of(joint.step[name])
    seen = values if view is None else view(values)
    begins = walk.begins()
    previous = {}
    for parent in own:
        first = walk.first(name)
        start = first.features[(0,) * first.batch_dims]
        before = seen.reshape(1, count, *ones, *seen.shape[1:])
        before = where_true(~begins, before, start, dims)
        previous[parent] = Site(
            values.reshape(1, count, *ones, *values.shape[1:]), batch_dims=dims, seen=before
        )
    now = Site(values.reshape(count, 1, *ones, *values.shape[1:]), batch_dims=dims, view=view)
    trace = walk.all_steps((count, count, *shape), more={name: now}, previous=previous)
    if drawn := [n for n, site in trace.items() if site.drawn]:
        raise ValueError(
            f"The values of {name!r} can be summed over where all others are given; give "
            f"{', '.join(drawn)}."
        )
    total, below = density(trace[name]), torch.zeros(())
    sites, messages = {}, []
    for each, site in trace.items():
        if site.log_prob is not None and each != name:
            total = total + site.log_prob  # (S, S, *particles, batch, steps)
            whole, messages = walk.recursion(total, count, memory=bool(own))
            sites[each] = _given(walk, each, whole - below)
            below = whole
        elif each in reached:
            sites[each] = Site(None, batch_dims=len(shape))
        else:
            sites[each] = walk.outside(site)
    messages = messages or walk.recursion(total, count, memory=bool(own))[1]
    logits = torch.stack(messages, -1).unsqueeze(0)  # (1, S, *particles, batch, steps)
    if own:
        logits = logits + _of_next(walk, total)
    path = DiscreteChain(
        logits.clamp(min=_IMPOSSIBLE).movedim((1, 0), (-2, -1)), values,
        backwards=not joint.backwards,
    )  # fmt: skip
    sites[name] = Site(None, _counted(walk, path), batch_dims=len(shape))
    return walk.trace(sites)


def integrated(walk: Unrolled, name: str, one: Distribution) -> Trace:
    r"""The trace of what is given, with a linear Gaussian state integrated out: a Kalman filter.

    .. math:: z_t = A z_{t-1} + b + \epsilon_t, \qquad x_t = C z_t + e + \eta_t

    The conditionals of the state and of what reads it say by ``affine`` that their means are
    affine and their covariances constant in it; A, b, C and e are what they return at zero and at
    the unit vectors, so that they may depend on the step by what else is read. Missing elements
    (NaN) are left out, which is exact.

    Raises:
        ValueError: If one is not affine, or reads the state of another step.
    """
    joint, shape = walk.joint, walk.shape
    for factor in joint.step.order:
        read = [parent for parent in factor.parents if parent.name == name]
        whose, conditional = factor.names[0], joint.step[factor.names[0]]
        if not read and whose != name:
            continue
        if not getattr(conditional, "affine", False):
            raise ValueError(
                f"{name!r} is drawn from a {type(one).__name__}, so its values cannot be listed, "
                f"and {whose!r} is not linear Gaussian in it, so it cannot be integrated out in "
                f"{joint}: that is for LinearGaussian, and a Gaussian or FullCovarianceGaussian "
                f"of a linear map (MLP without hidden layers) whose scale no network computes; "
                f"else let q draw it, '{name} | ...'."
            )
        if whose != name and any([parent.lag for parent in read]):
            raise ValueError(
                f"{whose!r} reads {name!r} at another step, which integrating it out in {joint} "
                f"does not follow; let q draw it, '{name} | ...'."
            )
    size, dims = one.event_shape.numel(), len(shape) + 2
    view, like = view_of(joint.step[name]), _mean(one)
    probes = torch.cat([like.new_zeros(1, size), torch.eye(size).to(like)])
    probes = probes.reshape(-1, *[1] * (dims - 1), *one.event_shape)
    seen = probes if view is None else view(probes)
    previous = {}
    for parent in [parent for parent in joint.remembered if parent.name == name]:
        first = walk.first(name)
        start = first.features[(0,) * first.batch_dims]
        before = where_true(~walk.begins(), seen, start, dims)
        previous[parent] = Site(probes, batch_dims=dims, seen=before)
    trace = walk.all_steps(
        (size + 1, *shape), more={name: Site(probes, batch_dims=dims, view=view)},
        previous=previous,
    )  # fmt: skip
    if drawn := [n for n, site in trace.items() if site.drawn]:
        raise ValueError(
            f"{name!r} can be integrated out where all others are given; give {', '.join(drawn)}."
        )
    state = trace[name].distribution
    gain, offset = _affine(state, walk.count)
    chain = GaussianChain(gain, offset, _root(state, walk.count), backwards=joint.backwards)
    path: Distribution = chain
    sites: dict[str, Site] = {}
    parts: list[tuple[Tensor, Tensor]] = []
    below = total = torch.zeros(())
    for each, site in trace.items():
        if each == name or site.log_prob is None:
            continue
        if not any([parent.name == name for parent in joint.step.parents(each)]):
            sites[each] = walk.outside(site)
            continue
        weight, value, constant = _potential(walk, each, site.distribution)
        parts.append((weight, value))
        total = total + constant
        lead = torch.broadcast_shapes(*[value.shape[:-1] for _, value in parts])
        weight = torch.cat([w.expand(*lead, *w.shape[-2:]) for w, _ in parts], -2)
        value = torch.cat([v.expand(*lead, v.shape[-1]) for _, v in parts], -1)
        path, steps = conditioned_on(chain, weight, value, walk.ends())
        steps = steps + total
        if walk.mask is not None:
            steps = torch.where(walk.mask, steps, 0.0)
        sites[each] = _given(walk, each, steps.sum(-1) - below)
        below = steps.sum(-1)
    sites[name] = Site(None, _counted(walk, path), batch_dims=len(shape))
    return walk.trace(sites)


def _given(walk: Unrolled, name: str, log_prob: Tensor) -> Site:
    """What was given, with the density of its whole sequence."""
    site = replace(walk.sites[name], distribution=None, log_prob=None, drawn=False)
    return replace(walk.outside(walk.inside(site, name)), log_prob=log_prob)


def _counted(walk: Unrolled, path: Distribution) -> Distribution:
    """A distribution of paths, up to each row's length."""
    return path if walk.mask is None else Masked(path, walk.mask, str(walk.joint.length))


def _of_next(walk: Unrolled, log_prob: Tensor) -> Tensor:
    """Of ``(values, values before, ..., steps)`` the step that comes next on the way, or zero."""
    log_prob = log_prob.expand(*log_prob.shape[:-1], walk.count)
    none = torch.zeros_like(log_prob[..., :1])
    if walk.joint.backwards:
        return torch.cat([none, log_prob[..., :-1]], -1)
    moved = torch.cat([log_prob[..., 1:], none], -1)
    ends = walk.ends()
    return moved if ends is None else torch.where(ends, 0.0, moved)


def _mean(normal: Any) -> Tensor:
    """With the event flat, shape ``(*batch, d)``."""
    return normal.mean.reshape(*normal.batch_shape, -1)


def _affine(normal: Any, count: int) -> tuple[Tensor, Tensor]:
    """Of normals at zero and at the unit vectors their matrix and offset, for every step.

    Of shapes ``(*batch, T, m, d)`` and ``(*batch, T, m)``.
    """
    mean = _mean(normal)
    mean = mean.expand(*mean.shape[:-2], count, mean.shape[-1])
    return (mean[1:] - mean[0]).movedim(0, -1), mean[0]


def _scale(normal: Any, count: int) -> Tensor:
    """Standard deviations of independent elements, ``(*batch, T, m)``."""
    scale = normal.stddev.reshape(*normal.batch_shape, -1)[0]
    return scale.expand(*scale.shape[:-2], count, -1)


def _root(normal: Any, count: int) -> Tensor:
    """A triangular root of the covariance, ``(*batch, T, m, m)``."""
    if not isinstance(normal, MultivariateNormal):
        return torch.diag_embed(_scale(normal, count))
    root = normal.root()
    root = root.expand(*normal.batch_shape, *root.shape[-2:])[0]
    root = root if isinstance(normal, FullCovarianceNormal) else lower(root)
    return root.expand(*root.shape[:-3], count, -1, -1)


def _potential(walk: Unrolled, name: str, normal: Any) -> tuple[Tensor, Tensor, Tensor]:
    r"""Of the density of what is given W and y, and a constant :math:`c_t` of each step.

    .. math:: \log N(x_t; C z_t + e, R) = -\tfrac12 |y_t - W_t z_t|^2 + c_t
    """
    matrix, offset = _affine(normal, walk.count)
    given = walk.sites[name]
    x = given.value.reshape(*given.value.shape[: given.batch_dims + 1], -1)
    seen = ~x.isnan() if given.holes else torch.ones_like(x, dtype=torch.bool)
    residual = torch.where(seen, x - offset, 0.0)
    if isinstance(normal, MultivariateNormal):
        root = _root(normal, walk.count)
        if given.holes:  # what is missing becomes independent, of variance one
            mask = seen.to(root)
            covariance = root @ root.mT * mask.unsqueeze(-1) * mask.unsqueeze(-2)
            root = torch.linalg.cholesky(covariance + torch.diag_embed(1 - mask))
        matrix = torch.where(seen.unsqueeze(-1), matrix, 0.0)
        both = torch.cat([matrix, residual.unsqueeze(-1)], -1)
        lead = torch.broadcast_shapes(both.shape[:-2], root.shape[:-2])
        both = both.expand(*lead, *both.shape[-2:])
        solved = torch.linalg.solve_triangular(
            root.expand(*lead, *root.shape[-2:]), both, upper=False
        )
        weight, value = solved[..., :-1], solved[..., -1]
        volume = root.diagonal(dim1=-2, dim2=-1).log()
    else:
        scale = _scale(normal, walk.count)
        weight, value, volume = matrix / scale.unsqueeze(-1), residual / scale, scale.log()
        weight = torch.where(seen.unsqueeze(-1), weight, 0.0) if given.holes else weight
    counted = torch.where(seen, volume + 0.5 * LOG_TWO_PI, 0.0)
    return weight, value, -counted.sum(-1)
