r"""The no-U-turn sampler: Hamiltonian transitions that choose their own length, many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from deeplvm.inference.hmc import Evaluate, Point
from deeplvm.randomness import AMBIENT, Noise

_DIVERGENT = 1_000.0  # nats of energy that no accurate trajectory gains


class Visited(NamedTuple):
    """Where chains are after a transition, and how they came there; all ``(chains, rows)``.

    Attributes:
        point: The new one.
        acceptance: Mean of the Metropolis probability over the trajectory.
        diverged: Whether the energy was lost, so that the trajectory could not be followed.
        depth: Doublings.
        evaluations: Gradients that this chain needed.
    """

    point: Point
    acceptance: Tensor
    diverged: Tensor
    depth: Tensor
    evaluations: Tensor


@dataclass
class _End:
    """One end of a trajectory: a point and the momentum there."""

    point: Point
    momentum: Tensor

    def where(self, chosen: Tensor, other: _End) -> _End:
        return _End(
            self.point.where(chosen, other.point),
            torch.where(chosen.unsqueeze(-1), self.momentum, other.momentum),
        )


@dataclass
class _Tree:
    """What is kept of a trajectory.

    Attributes:
        proposal: A place of it, drawn by its weight.
        log_weight: Of all its places, relative to the start, shape ``(chains, rows)``.
        momentum: Sum over its places.
        turning: Whether it, or a half of it, turns back.
        diverged: Whether it lost its energy.
        probability: Sum of Metropolis probabilities.
        leaves: How many places beside the start.
    """

    proposal: Point
    log_weight: Tensor
    momentum: Tensor
    turning: Tensor
    diverged: Tensor
    probability: Tensor
    leaves: Tensor


def no_u_turn(
    evaluate: Evaluate,
    point: Point,
    step_size: Tensor,
    max_depth: int = 10,
    noise: Noise = AMBIENT,
) -> Visited:
    r"""One transition of the no-U-turn sampler, which leaves the density as it is.

    From a momentum :math:`v \sim N(0, I)` the trajectory is doubled, forwards or backwards by
    chance, until it, or a half of it at any level, turns back:
    :math:`v_\text{left} \cdot \rho \le 0` or :math:`v_\text{right} \cdot \rho \le 0`, with
    :math:`\rho` the sum of momenta. The next place is drawn from it with probability
    :math:`\propto e^{-H}`; at each doubling the newer half is favoured. All chains go in lockstep;
    those that are done wait for the longest. The tree is built leaf by leaf and keeps
    :math:`O(\log)` momenta (Phan et al.).

    The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo (Hoffman &
    Gelman, 2014), https://arxiv.org/abs/1111.4246; A Conceptual Introduction to Hamiltonian Monte
    Carlo (Betancourt, 2017), https://arxiv.org/abs/1701.02434; Composable Effects for Flexible and
    Accelerated Probabilistic Programming in NumPyro (Phan et al., 2019),
    https://arxiv.org/abs/1912.11554

    Args:
        evaluate: The point at free numbers.
        point: Where the chains stand; both of its densities are the one sampled.
        step_size: Shape ``(rows,)`` or broadcastable to ``(chains, rows)``.
        max_depth: Doublings at most: :math:`2^{max\_depth} - 1` steps.
        noise: Where random numbers come from.
    """
    momentum = noise.normal_like(point.free)
    energy = 0.5 * momentum.square().sum(-1) - point.end
    zeros = torch.zeros_like(energy)
    none = torch.zeros_like(energy, dtype=torch.bool)
    left, right = _End(point, momentum), _End(point, momentum)
    whole = _Tree(point, zeros, momentum, none, none, zeros, zeros)
    depth, active = zeros, ~none
    for level in range(max_depth):
        if not bool(active.any()):
            break
        forward = noise.uniform_like(energy) < 0.5
        size = torch.where(forward, step_size, -step_size)
        part, far = _subtree(
            evaluate, right.where(forward, left), size, energy, level, active, noise.apart(level)
        )
        right = far.where(active & forward, right)
        left = far.where(active & ~forward, left)
        depth = depth + active
        sound = active & ~part.turning & ~part.diverged
        # the newer half is favoured, which leaves the density as it is all the same
        taken = noise.uniform_like(energy).log() < part.log_weight - whole.log_weight
        total = whole.momentum + part.momentum
        turning = _turning(left.momentum, right.momentum, total)
        whole = _Tree(
            part.proposal.where(sound & taken, whole.proposal),
            torch.where(
                sound, torch.logaddexp(whole.log_weight, part.log_weight), whole.log_weight
            ),
            torch.where(sound.unsqueeze(-1), total, whole.momentum),
            whole.turning | (active & (part.turning | turning)),
            whole.diverged | (active & part.diverged),
            whole.probability + part.probability,
            whole.leaves + part.leaves,
        )
        active = active & ~whole.turning & ~whole.diverged
    acceptance = whole.probability / whole.leaves.clamp(min=1.0)
    return Visited(whole.proposal, acceptance, whole.diverged, depth, whole.leaves)


def _subtree(
    evaluate: Evaluate,
    end: _End,
    size: Tensor,
    energy: Tensor,
    level: int,
    active: Tensor,
    noise: Noise,
) -> tuple[_Tree, _End]:
    r""":math:`2^{level}` leapfrog steps on from an end; what they make, and the new end.

    Args:
        evaluate: The point at free numbers.
        end: Where to go on from.
        size: Step size with its sign, shape ``(chains, rows)``.
        energy: Of the start of the trajectory.
        level: How often the trajectory was doubled.
        active: The chains that go on.
        noise: Where random numbers come from.
    """
    zeros = torch.zeros_like(energy)
    none = torch.zeros_like(active)
    tree = _Tree(
        end.point, torch.full_like(energy, -torch.inf), torch.zeros_like(end.momentum), none, none,
        zeros, zeros,
    )  # fmt: skip
    momenta: dict[int, Tensor] = {}
    sums: dict[int, Tensor] = {}
    for leaf in range(2**level):
        if not bool(active.any()):
            break
        end = _leapfrog(evaluate, end, size).where(active, end)
        _add(tree, end, energy, active, noise)
        last, first = _checkpoints(leaf)
        if leaf % 2 == 0:
            momenta[last], sums[last] = end.momentum, tree.momentum
        else:
            for index in range(last, first - 1, -1):
                between = tree.momentum - sums[index] + momenta[index]
                turns = _turning(momenta[index], end.momentum, between)
                tree.turning = tree.turning | (active & turns)
        active = active & ~tree.turning & ~tree.diverged
    return tree, end


def _add(tree: _Tree, end: _End, energy: Tensor, active: Tensor, noise: Noise) -> None:
    """A leaf more: its weight, and perhaps its place as the proposal."""
    change = energy - (0.5 * end.momentum.square().sum(-1) - end.point.end)
    change = torch.nan_to_num(change, nan=-torch.inf, posinf=-torch.inf)
    weight = torch.where(active, change, -torch.inf)
    total = torch.logaddexp(tree.log_weight, weight)
    taken = active & (noise.uniform_like(total).log() < weight - total)
    tree.proposal = end.point.where(taken, tree.proposal)
    tree.log_weight = total
    tree.momentum = tree.momentum + torch.where(active.unsqueeze(-1), end.momentum, 0.0)
    tree.diverged = tree.diverged | (active & (change < -_DIVERGENT))
    tree.probability = tree.probability + torch.where(active, change.clamp(max=0.0).exp(), 0.0)
    tree.leaves = tree.leaves + active


def _leapfrog(evaluate: Evaluate, end: _End, size: Tensor) -> _End:
    wide = size.unsqueeze(-1)
    half = end.momentum + 0.5 * wide * end.point.end_slope
    point = evaluate(end.point.free + wide * half)
    return _End(point, half + 0.5 * wide * point.end_slope)


def _turning(first: Tensor, last: Tensor, total: Tensor) -> Tensor:
    """Whether a piece turns back, by the momenta of its ends and their sum over it."""
    # the ends count half: the sum then is the integral of the momentum, by the trapezium rule
    total = total - 0.5 * (first + last)
    return ((first * total).sum(-1) <= 0) | ((last * total).sum(-1) <= 0)


def _checkpoints(leaf: int) -> tuple[int, int]:
    """Where a leaf's momentum is kept if it is even; from which to which one looks if it is odd.

    The pieces that end with an odd leaf begin at the leaves in these checkpoints.
    """
    last = (leaf >> 1).bit_count()
    ones = (~leaf & (leaf + 1)).bit_length() - 1  # trailing ones
    return last, last - ones + 1
