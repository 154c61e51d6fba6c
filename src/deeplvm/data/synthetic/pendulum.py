"""A pendulum that a torque moves, drawn as pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIDE = 16  # of a picture, in pixels
TORQUE = 6.0  # the largest; gravity pulls with 5 where the rod is level
_STEP, _PARTS = 0.1, 5  # seconds a step, and in how many parts they are integrated


def moved(state: Array, torque: Array) -> Array:
    r"""The state a tenth of a second later, of a rod of one metre and one kilogram.

    .. math:: \ddot\theta = 15 \sin\theta + 3 u - \dot\theta / 2

    The angle is counted from where it stands upright.

    Args:
        state: Angle and its velocity, shape ``(*rows, 2)``.
        torque: Held for the whole step, shape ``(*rows,)``, cut at ``TORQUE``.

    Returns:
        The next state, shape ``(*rows, 2)``; angles are not wrapped.

    Examples:
        >>> moved(np.array([0.0, 0.0]), np.array(0.0))  # upright, it stays
        array([0., 0.])
    """
    angle, velocity = state[..., 0], state[..., 1]
    torque, part = np.clip(torque, -TORQUE, TORQUE), _STEP / _PARTS
    for _ in range(_PARTS):
        velocity = velocity + part * (15 * np.sin(angle) + 3 * torque - velocity / 2)
        angle = angle + part * velocity
    return np.stack([angle, velocity], -1)


def pictures(angles: Array, side: int = SIDE) -> Array:
    """Pictures of rods at some angles, grey from 0 to 1, shape ``(*angles, 1, side, side)``.

    Examples:
        >>> (pictures(np.array(0.0), 8)[0] > 0.5).astype(int)[:5]  # upright
        array([[0, 0, 0, 1, 1, 0, 0, 0],
               [0, 0, 0, 1, 1, 0, 0, 0],
               [0, 0, 0, 1, 1, 0, 0, 0],
               [0, 0, 0, 1, 1, 0, 0, 0],
               [0, 0, 0, 0, 0, 0, 0, 0]])
    """
    places = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = places, -places[:, None]  # up is up
    sine, cosine = np.sin(angles)[..., None, None], np.cos(angles)[..., None, None]
    along = np.clip(x * sine + y * cosine, 0, 0.9)
    away = np.sqrt((x - along * sine) ** 2 + (y - along * cosine) ** 2)
    return np.exp(-((away / 0.18) ** 2)).astype(np.float32)[..., None, :, :]


def swings(rows: int, steps: int, generator: np.random.Generator) -> tuple[Array, Array, Array]:
    """Pendulums from anywhere under random torques.

    Args:
        rows: How many.
        steps: Of each.
        generator: What is drawn with.

    Returns:
        The pictures ``(rows, steps, 1, side, side)``; the torques that led to each of them
        ``(rows, steps, 1)``, of which the first is 0; and the states ``(rows, steps, 2)``.
    """
    state = np.stack([generator.uniform(-np.pi, np.pi, rows), generator.normal(0, 3, rows)], -1)
    torques = generator.uniform(-TORQUE, TORQUE, (rows, steps))
    torques[:, 0] = 0
    states = [state]
    for each in torques.T[1:]:
        state = moved(state, each)
        states.append(state)
    found = np.stack(states, 1)
    return pictures(found[..., 0]), torques[..., None].astype(np.float32), found
