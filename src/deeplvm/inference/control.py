"""Plans: controls that bring a state to a goal, by linear quadratic regulators around a path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacrev, vmap

_Path = tuple[Tensor, Tensor, float]  # states, controls and their cost


@dataclass(frozen=True, eq=False)
class Plan:
    """Controls, and where they lead.

    Attributes:
        controls: Shape ``(T, inputs)``.
        states: The first and those that follow, shape ``(T + 1, latent)``.
        costs: Of the path at first and after every iteration that lowered it.
    """

    controls: Tensor
    states: Tensor
    costs: tuple[float, ...]


def iterative_linear_quadratic_regulator(
    dynamics: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    controls: Tensor,
    goal: Tensor,
    *,
    state_cost: float = 1.0,
    control_cost: float = 0.1,
    final_cost: float = 10.0,
    bound: float | None = None,
    iterations: int = 50,
) -> Plan:
    r"""Controls that lower the cost of a path, by its quadratic expansion, again and again.

    .. math:: J = \sum_{t=1}^{T-1} c_z |z_t - g|^2 + \sum_{t=0}^{T-1} c_u |u_t|^2
              + c_T |z_T - g|^2, \qquad z_{t+1} = f(z_t, u_t)

    Each iteration solves the linear quadratic problem around the path by a Riccati recursion and
    takes the longest of some steps that lowers the cost; where none does, the problem is damped.
    Of linear dynamics the first iteration is the answer.

    Iterative Linear Quadratic Regulator Design for Nonlinear Biological Movement Systems (Li &
    Todorov, 2004), https://doi.org/10.5220/0001143902220229

    Args:
        dynamics: f, of one state ``(latent,)`` and one control ``(inputs,)``, differentiable.
        start: The first state.
        controls: A first guess, ``(T, inputs)``; zeros may rest where a cost has no slope.
        goal: The state to come to.
        state_cost, control_cost, final_cost: :math:`c_z, c_u, c_T`, of which the second is
            positive.
        bound: The largest control; larger ones are cut.
        iterations: At most.

    Raises:
        ValueError: If a cost is out of its range.

    Examples:
        >>> push = lambda z, u: torch.stack([z[0] + z[1], z[1] + u[0]])
        >>> start, goal, rest = torch.tensor([1.0, 0.0]), torch.zeros(2), torch.zeros(12, 1)
        >>> plan = iterative_linear_quadratic_regulator(push, start, rest, goal)
        >>> plan.states[-1].abs().max() < 0.01
        tensor(True)
    """
    if control_cost <= 0 or min(state_cost, final_cost) < 0:
        raise ValueError(
            f"control_cost must be positive and the others not negative, found "
            f"{state_cost, control_cost, final_cost}."
        )

    @torch.no_grad()
    def rolled(states: Tensor, controls: Tensor, shifts: Tensor, gains: Tensor) -> _Path:
        """The path on which controls are shifted and corrected by how far states are off."""
        found, chosen = [start], []
        for t, control in enumerate(controls):
            control = control + shifts[t] + gains[t] @ (found[-1] - states[t])
            chosen.append(control if bound is None else control.clamp(-bound, bound))
            found.append(dynamics(found[-1], chosen[-1]))
        z, u = torch.stack(found), torch.stack(chosen)
        away = (z - goal).square().sum(-1)
        cost = state_cost * away[1:-1].sum() + final_cost * away[-1]
        return z, u, float(cost + control_cost * u.square().sum())

    steps, inputs = controls.shape
    none = controls.new_zeros(steps, inputs, len(start))
    states, controls, cost = rolled(start.expand(steps, -1), controls, 0 * controls, none)
    costs, damping = [cost], 0.0
    for _ in range(iterations):
        a, b = vmap(jacrev(dynamics, (0, 1)))(states[:-1], controls)
        weights = [0.0, *[state_cost] * (steps - 1), final_cost]  # of the states
        shifts, gains = _regulator(
            a.detach(), b.detach(), states - goal, weights, controls, control_cost, damping
        )
        for size in (1.0, 0.5, 0.25, 0.1, 0.02):
            found = rolled(states, controls, size * shifts, gains)
            if found[2] < cost:
                break
        better = cost - found[2]
        if better > 0:
            states, controls, cost = found
            costs.append(cost)
            damping = damping / 10 if damping > 1e-3 else 0.0
        else:
            damping = max(10 * damping, 1e-2)
        if 0 < better < 1e-9 * abs(cost) or damping > 1e6:
            break
    return Plan(controls, states, tuple(costs))


def _regulator(
    a: Tensor,
    b: Tensor,
    away: Tensor,
    weights: Sequence[float],
    controls: Tensor,
    control_cost: float,
    damping: float,
) -> tuple[Tensor, Tensor]:
    """Shifts of the controls, and their gains by the states, by a Riccati recursion backwards."""
    of_states, of_controls = (
        torch.eye(each, dtype=away.dtype, device=away.device) for each in b.shape[1:]
    )
    slope, curve = 2 * weights[-1] * away[-1], 2 * weights[-1] * of_states
    shifts, gains = torch.zeros_like(controls), b.new_zeros(*controls.shape, len(of_states))
    for t in reversed(range(len(controls))):
        quu = b[t].T @ curve @ b[t] + (2 * control_cost + damping) * of_controls
        qux = b[t].T @ curve @ a[t]
        qu = 2 * control_cost * controls[t] + b[t].T @ slope
        shifts[t], gains[t] = -torch.linalg.solve(quu, qu), -torch.linalg.solve(quu, qux)
        slope = a[t].T @ slope + qux.T @ shifts[t] + 2 * weights[t] * away[t]
        curve = a[t].T @ curve @ a[t] + qux.T @ gains[t] + 2 * weights[t] * of_states
        curve = (curve + curve.T) / 2
    return shifts, gains
