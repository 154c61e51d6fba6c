"""Lossy reconstructions: what the first latents say of a row, and what p makes of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from deeplvm.core.draws import Draw, Drawn, PartlyGiven, Sampled
from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Trace
from deeplvm.distributions.centre import typical


@dataclass(frozen=True)
class AtCentre:
    """A draw that is none: the mean of the distribution, of a category the most probable value."""

    def __call__(
        self, name: str, distribution: Distribution, batch_shape: tuple[int, ...], batch_dims: int
    ) -> Drawn:
        value = typical(distribution)
        own = tuple(distribution.batch_shape)
        target = (*batch_shape, *own[batch_dims:], *distribution.event_shape)
        return Drawn(value.expand(target), value.new_zeros(batch_shape), batch_shape, 0.0)


@dataclass(frozen=True, eq=False)
class Lossy:
    r"""What is left of some rows where only their first latents are kept.

    Attributes:
        depth: How many layers of latents, or steps of a recurrence, come from q.
        trace: The trace of p; ``trace["x"].distribution.mean`` is the reconstruction.
        nats: What the latents that are kept cost, :math:`KL(q \| p)` of each row or one draw of
            it, shape ``(batch,)``.
    """

    depth: int
    trace: Trace = field(repr=False)
    nats: Tensor


def lossy_reconstructions(
    model: LatentVariableModel,
    given: Mapping[str, Any],
    depths: Sequence[int] | None = None,
    *,
    rest: Literal["mean", "draw"] = "mean",
    default: Draw | None = None,
    missing: Any = None,
) -> list[Lossy]:
    r"""Rows passed through their first latents alone: :math:`p(x | z_{\le t})` of q's draws.

    A latent of a hierarchy is one layer, the one that p draws first the first; each step of a
    Recurrent of p is one too, whatever it draws. What lies deeper is p's mean, or a draw from it,
    given what is kept: so much of the row is stored, and so much is made up.

    Towards Conceptual Compression (Gregor et al., 2016), https://arxiv.org/abs/1604.08772

    Args:
        given: Values by name, shape ``(batch, *event)``.
        depths: How many layers are kept, each from 0 (nothing of the row) to all of them; by
            default each number in turn.
        rest: What stands for the others.
        default: How latents are drawn from q, and from p.
        missing: As of :meth:`~deeplvm.core.model.LatentVariableModel.evidence`.

    Raises:
        ValueError: If the model draws no latents, or has fewer layers than asked for.

    Examples:
        >>> from deeplvm import Joint
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z2": StandardNormal(1), "z1 | z2": Gaussian(2, MLP(1)),
        ...            "x | z1": Gaussian(3, MLP(2))})
        >>> q = Joint({"z1 | x": Gaussian(2, MLP(3)), "z2 | z1": Gaussian(1, MLP(2))})
        >>> found = lossy_reconstructions(LatentVariableModel(p, q), {"x": torch.ones(5, 3)})
        >>> [each.depth for each in found], float(found[0].nats.sum())
        ([0, 1, 2], 0.0)
    """
    draw = Sampled() if default is None else default
    with torch.no_grad():
        evidence = model.evidence(given, default=draw, missing=missing)
        layers = _layers(model, evidence)
        if not layers:
            raise ValueError("The model draws no latents, so there is nothing to leave out.")
        chosen = range(len(layers) + 1) if depths is None else depths
        for depth in chosen:
            if not 0 <= depth <= len(layers):
                raise ValueError(
                    f"There are {len(layers)} layers or steps of latents; 0 to {len(layers)} of "
                    f"them can be kept, not {depth}."
                )
        costs = [sum([_cost(evidence, *part) for part in layer]) for layer in layers]
        whole = torch.zeros_like(torch.as_tensor(costs[0]))
        way = AtCentre() if rest == "mean" else draw
        found = []
        for depth in chosen:
            known, ways = _kept(model, evidence, given, layers[:depth], way)
            trace = model.p(known, evidence.batch_shape, draw=ways, default=way)
            found.append(Lossy(depth, trace, whole + sum(costs[:depth])))
    return found


# A latent, and which of its steps; ``None`` where it has none.
_Part = tuple[str, int | None]


def _layers(model: LatentVariableModel, evidence: Evidence) -> list[list[_Part]]:
    """The latents in the order in which p draws them, those of one step together."""
    layers: list[list[_Part]] = []
    at: dict[int, int] = {}  # the first layer of a recurrence
    for name in model.p.names:
        if name not in evidence.latents:
            continue
        repeated: Any = next(iter(getattr(model.p, "repetitions", lambda _: ())(name)), None)
        if not getattr(repeated, "remembered", ()):  # members of a plate have no order
            layers.append([(name, None)])
            continue
        site = evidence.q[name]
        count = site.value.shape[site.batch_dims]
        steps = range(count)[::-1] if repeated.backwards else range(count)
        if id(repeated) not in at:
            at[id(repeated)] = len(layers)
            layers += [[] for _ in steps]
        for place, step in enumerate(steps):
            layers[at[id(repeated)] + place].append((name, step))
    return layers


def _cost(evidence: Evidence, name: str, step: int | None) -> Tensor:
    """Log q - log p of a latent or one step of it, its mean where that is known; ``(batch,)``."""
    if step is None:
        return evidence.kl(name)
    if evidence.has_closed_kl(name):
        each = evidence.kl_by_step(name)
    else:
        q, p = evidence.q[name], evidence.p[name]
        both = [s.distribution.log_prob(q.value) for s in (q, p) if s.distribution is not None]
        each = both[0] - both[1]
    lead = len(evidence.batch_shape)
    one = each.select(lead, step)
    return one.flatten(lead).sum(-1) if one.dim() > lead else one


def _kept(
    model: LatentVariableModel,
    evidence: Evidence,
    given: Mapping[str, Any],
    layers: Sequence[Sequence[_Part]],
    way: Draw,
) -> tuple[dict[str, Any], dict[str, Draw]]:
    """What p is given, and how it draws latents of which some steps are kept."""
    steps: dict[str, list[int]] = {}
    known = {name: value for name, value in given.items() if name in model.p.inputs}
    for name, step in [part for layer in layers for part in layer]:
        if step is None:
            known[name] = evidence.q[name]
        else:
            steps.setdefault(name, []).append(step)
    ways: dict[str, Draw] = {}
    for name, some in steps.items():
        site = evidence.q[name]
        if len(some) == site.value.shape[site.batch_dims]:
            known[name] = site
            continue
        value = torch.full_like(site.value, torch.nan, dtype=torch.get_default_dtype())
        places = torch.tensor(some, device=value.device)
        value.index_copy_(
            site.batch_dims,
            places,
            site.value.index_select(site.batch_dims, places).to(value.dtype),
        )
        ways[name] = PartlyGiven(value, way)
    return known, ways
