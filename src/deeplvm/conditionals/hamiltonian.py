"""A posterior that follows the gradient of the model: leapfrog steps from a first draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import at_least, positive, raw_of
from deeplvm.core.joint import Factor, Joint, NotationError, as_site, batch_shape_of
from deeplvm.core.trace import Site, Trace, same_shape
from deeplvm.networks.features import out_shape_of

Force = Callable[[Tensor], Tensor]


class Leapfrog(nn.Module):
    r"""T leapfrog steps of a particle at z with momentum v, moved by a force F.

    .. math:: v \leftarrow v + \tfrac{\epsilon}{2} F(z), \qquad z \leftarrow z + \epsilon\, v,
              \qquad v \leftarrow v + \tfrac{\epsilon}{2} F(z)

    Each line is a shear, so the map of (z, v) has volume 1; it is undone by turning the momentum
    round. With :math:`F = -\nabla U` the energy :math:`U(z) + \tfrac12 |v|^2` is kept up to
    :math:`O(\epsilon^2)`. The step size :math:`\epsilon` is learned for each dimension, which says
    the same as a learned diagonal mass.

    MCMC using Hamiltonian dynamics (Neal, 2011), https://arxiv.org/abs/1206.1901

    Args:
        event_shape: The shape of z.
        steps: T; a step costs one evaluation of the force, and the first one more.
        step_size: The first :math:`\epsilon`, in the units of z.

    Raises:
        ValueError: If there are fewer than one step, or the step size is not positive.

    Examples:
        >>> spring = Leapfrog(Size((1,)), steps=10, step_size=0.1)  # a tenth of a turn is 0.628
        >>> z, v = spring(lambda z: -z, torch.ones(1), torch.zeros(1))
        >>> bool((z - torch.tensor(1.0).cos()).abs() < 1e-3)
        True
    """

    def __init__(self, event_shape: Size, steps: int, step_size: float) -> None:
        super().__init__()
        self.steps = at_least(steps, 1, "Leapfrog", "steps")
        if not step_size > 0:
            raise ValueError(f"Leapfrog expects a step_size above 0, found {step_size}.")
        self.raw = nn.Parameter(raw_of(step_size, step_size).expand(event_shape).clone())
        self.first = step_size

    @property
    def step_size(self) -> Tensor:
        r""":math:`\epsilon`, of the shape of z."""
        return positive(self.raw, 0.0, self.first)

    def forward(self, force: Force, position: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """Position and momentum after all steps, both ``(*particles, batch, *event)``."""
        size = self.step_size
        momentum = momentum + 0.5 * size * force(position)
        for step in range(self.steps):
            position = position + size * momentum
            # two half steps of the momentum at one position are one whole step
            half = 0.5 if step == self.steps - 1 else 1.0
            momentum = momentum + half * size * force(position)
        return position, momentum

    def inverse(self, force: Force, position: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """Position and momentum from which the steps lead here."""
        position, turned = self(force, position, -momentum)
        return position, -turned

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class Hamiltonian(nn.Module):
    r"""A posterior :math:`q(z, v | x)`: a first draw, moved by leapfrog steps on :math:`p(x, z)`.

    .. math:: z_0 \sim q(z_0 | x), \quad v_0 \sim q(v_0 | z_0, x), \qquad
              (z, v) = \mathrm{Leapfrog}_T(z_0, v_0), \quad F(z) = \nabla_z \log p(x, z)

    .. math:: \log q(z, v | x) = \log q(z_0 | x) + \log q(v_0 | z_0, x)

    because the steps have volume 1. The momentum v is an auxiliary variable: p must give it a
    density, the reverse model :math:`r(v | x, z)`. The bound is lower than that of the marginal
    q(z | x) by :math:`E\, KL(q(v | z, x) \| r(v | x, z))`.

    A joint of two names, so it is used as ``"z, v | x"``. Gradients flow through the force into
    the parameters of p and of q.

    Markov Chain Monte Carlo and Variational Inference: Bridging the Gap (Salimans et al., 2015),
    https://arxiv.org/abs/1410.6460

    Args:
        factors: ``{"z | x": first draw, "v | z, x": first momentum}``: one name that p has, and
            the name of the momentum.
        p: The joint whose density the steps follow, without what it says of the momentum. Its
            modules are shared: it must be the p of the model. Its networks should be smooth, as
            the gradient of a network of rectifiers jumps.
        momentum: The name of the momentum.
        steps: T; the cost of the forward pass is about that of T + 1 gradients of log p.
        step_size: The first step size of every dimension.

    What is drawn has no distribution of its own in the trace: its divergence is the sampled one.
    Given both z and v, the steps are undone to score them.

    Raises:
        NotationError: If the factors are not one latent of p and its momentum, or p reads the
            momentum elsewhere.
        ValueError: If z and v differ in shape, or only one of them is given.

    Examples:
        >>> from deeplvm import LatentVariableModel
        >>> from deeplvm.conditionals import Bernoulli, Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint(
        ...     {
        ...         "z": StandardNormal(2),
        ...         "x | z": Bernoulli(6, MLP(2, 8, activation=nn.Softplus)),
        ...         "v | x, z": Gaussian(2, MLP(8, 8)),
        ...     }
        ... )
        >>> first = {"z | x": Gaussian(2, MLP(6, 8)), "v": StandardNormal(2)}
        >>> model = LatentVariableModel(p, Joint({"z, v | x": Hamiltonian(first, p, steps=3)}))
        >>> model.evidence({"x": torch.ones(5, 6)}, particles=4)
        Evidence(...)
    """

    def __init__(
        self,
        factors: Mapping[str, nn.Module],
        p: Joint,
        *,
        momentum: str = "v",
        steps: int = 4,
        step_size: float = 0.05,
    ) -> None:
        super().__init__()
        self.start = Joint(factors)
        self.names = self.start.names
        self.momentum = momentum
        self.position = _position(self.start, p, momentum)
        self.target = Joint(
            {str(each): p.conditional(each.names[0]) for each in _without(p, momentum)},
            shared=p.shared,
        )
        if self.momentum in self.target.inputs:
            raise NotationError(
                f"p reads the momentum {self.momentum!r} elsewhere; it may only be what p has a "
                f"density of, as in '{self.momentum} | x, {self.position}'."
            )
        others = [n for n in self.target.names if n != self.position]
        read = (*self.start.inputs, *others, *self.target.inputs)
        self.inputs = tuple(dict.fromkeys(read))
        self.event_shape = _event_shape(self.start, self.position, self.momentum)
        self.leapfrog = Leapfrog(self.event_shape, steps, step_size)
        self.symbol = "q"

    def forward(
        self,
        given: Mapping[str, Any],
        batch_shape: tuple[int, ...] | None = None,
        *,
        missing: frozenset[str] = frozenset(),
        **options: Any,
    ) -> Trace:
        """Score what is given, draw the rest; see :meth:`deeplvm.core.joint.Joint.forward`."""
        sites = {name: as_site(name, value, None, missing) for name, value in given.items()}
        shape = batch_shape if batch_shape is not None else batch_shape_of(sites)
        ends = {name: sites.pop(name) for name in self.names if name in sites}
        if len(ends) == 1:
            raise ValueError(
                f"{self.position!r} and {self.momentum!r} end the same steps; give both, or "
                f"neither."
            )
        force = self._force(sites, shape, missing)
        inputs = {name: site for name, site in sites.items() if name in self.start.inputs}
        if ends:
            inputs |= self._first(force, ends)
        first = self.start(inputs, shape, missing=missing, **options)
        if not same_shape(first.batch_shape, shape):
            raise ValueError(
                f"{self.position!r} and {self.momentum!r} are moved by gradients, so they cannot "
                f"be enumerated; draw them another way."
            )
        if not ends:
            z, v = self.leapfrog(force, first[self.position].value, first[self.momentum].value)
            ends = {self.position: self._site(z), self.momentum: self._site(v)}
        # the volume of the steps is 1: where they began has the density of where they end
        moved = {
            name: replace(ends[name], log_prob=first[name].log_prob, drawn=first[name].drawn)
            for name in self.names
        }
        return Trace(moved, shape, first.log_measure)

    def _force(
        self, sites: Mapping[str, Site], shape: tuple[int, ...], missing: frozenset[str]
    ) -> Force:
        r""":math:`\nabla_z \log p(x, z)` of the rows of ``sites``, differentiable itself."""
        known = {
            name: site
            for name, site in sites.items()
            if name in self.target or name in self.target.inputs
        }

        def log_joint(position: Tensor) -> Tensor:
            here = {**known, self.position: self._site(position)}
            trace = self.target(here, shape, missing=missing)
            terms = [site.log_prob.sum() for site in trace.values() if site.log_prob is not None]
            return torch.stack(terms).sum()

        # unlike torch.autograd.grad it also works without gradients outside, and can be compiled
        return torch.func.grad(log_joint)

    def _site(self, value: Tensor) -> Site:
        dims = value.dim() - len(self.event_shape)
        return as_site(self.position, value, self.target, batch_dims=dims)

    def _first(self, force: Force, ends: Mapping[str, Site]) -> dict[str, Site]:
        """Where the steps that end in given values began."""
        z, v = torch.broadcast_tensors(ends[self.position].value, ends[self.momentum].value)
        z, v = self.leapfrog.inverse(force, z, v)
        return {self.position: self._site(z), self.momentum: self._site(v)}

    def __str__(self) -> str:
        return f"{self.symbol}({', '.join(self.names)} | {', '.join(self.inputs)})"


def _position(start: Joint, p: Joint, momentum: str) -> str:
    """The latent of p that the momentum moves."""
    if not isinstance(p, Joint):
        raise NotationError(
            f"Hamiltonian follows the density of a Joint, not of a {type(p).__name__}."
        )
    others = [name for name in start.names if name != momentum and name in p]
    if momentum not in start or len(start.names) != 2 or len(others) != 1:
        raise NotationError(
            f"Hamiltonian needs one latent of p and its momentum, as in {{'z | x': ..., "
            f"'{momentum} | z, x': ...}}; found {', '.join(start.names)}. Another name of the "
            f"momentum is said by momentum='...'."
        )
    if momentum not in p:
        raise NotationError(
            f"q draws {momentum!r} but p gives it no density; add '{momentum} | x, {others[0]}' "
            f"to p."
        )
    return others[0]


def _without(p: Joint, momentum: str) -> list[Factor]:
    """The factors of p but that of the momentum, and the networks that only it reads."""
    kept: list[Factor] = []
    for factor in reversed(p.order):  # children first
        read = [parent.name for other in kept for parent in other.parents]
        computed = out_shape_of(p.conditional(factor.names[0])) is not None
        unread = computed and not any([name in read for name in factor.names])
        if momentum not in factor.names and not unread:
            kept.append(factor)
    return kept[::-1]


def _event_shape(start: Joint, position: str, momentum: str) -> Size:
    shapes = [getattr(start[name], "event_shape", None) for name in (position, momentum)]
    if shapes[0] is None or shapes[0] != shapes[1]:
        raise ValueError(
            f"{position!r} and its momentum {momentum!r} must have one event shape, found "
            f"{shapes[0] and tuple(shapes[0])} and {shapes[1] and tuple(shapes[1])}."
        )
    return Size(shapes[0])
