"""Plans: controls that bring a state to a goal, by linear quadratic regulators around a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from deeplvm.inference.compression import AtCentre
from deeplvm.randomness import evaluating

if TYPE_CHECKING:
    from deeplvm.core.model import LatentVariableModel

_Path = tuple[Tensor, Tensor, float]  # states, controls and their cost
_Move = Callable[[Tensor, Tensor], Tensor]


def expected_transition(model: LatentVariableModel) -> _Move:
    r"""The next state z that p expects of a state and controls: f, for a plan in learned states.

    What is random in a step is at its mean. States and controls are single ones, of shapes
    ``(latent,)`` and ``(inputs,)``, the latter in the units of the data.

    Args:
        model: Of the recipes ``e2c``, ``dvbf`` or ``deep_markov_model``, with controls.

    Raises:
        ValueError: If states of the model do not follow from the one before and controls.
    """
    p: Any = model.p
    steps = hasattr(p, "step") and "z" in p.names
    parents = p.step.parents("z") if steps else ()
    free = [e.name in p.names and not p.step.parents(e.name) for e in parents]
    own = [e.name in ("z", "w", "k") for e in parents]
    if not {"z", "w"} <= {e.name for e in parents} or not all(
        map(any, zip(free, own, strict=True))
    ):
        raise ValueError(
            f"A plan needs states z that follow from the one before and controls, as those of "
            f"e2c, dvbf and deep_markov_model on sequences with controls; the model is {p}."
        )

    def moved(state: Tensor, controls: Tensor) -> Tensor:
        known = {"z": state[None], "w": p["w"](controls[None]), "k": state.new_ones(1)}
        read = [known[e.name] if e.name in known else p[e.name]().mean[None] for e in parents]
        found = p["z"](*read)
        return (found if isinstance(found, Tensor) else found.mean)[0]

    return moved


def last_state(model: LatentVariableModel, given: Mapping[str, Tensor]) -> Tensor:
    """Where q sees the state after the last step of one sequence, shape ``(latent,)``.

    Args:
        model: As for :func:`expected_transition`.
        given: Its steps ``x``, the controls ``u`` that led to each, and their number ``n``, of a
            batch of one: shapes ``(1, T, *event)``, ``(1, T, inputs)`` and ``(1,)``.
    """
    with evaluating(model, 0):
        states = model.posterior(dict(given), default=AtCentre())["z"].value
    return states[..., -1, :].flatten().clone()  # which can be differentiated by


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
