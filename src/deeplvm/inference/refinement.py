r"""Refinement: from what the encoder says of a row to the best q of the family for that row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam

from deeplvm.conditionals.local import Local, heads_of
from deeplvm.core.evidence import Evidence
from deeplvm.core.joint import Joint, is_joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.gradients import Draw
from deeplvm.inference.rows import Names, Rows, Tensors, at_least, for_rows, redrawn, rows_of
from deeplvm.objectives import elbo
from deeplvm.randomness import RowNoise

# Draws for the bounds before and after: as many again as for so many steps.
_MEASURES = 16


@dataclass(frozen=True, eq=False)
class Refined:
    """A model whose q is as good as its family allows, for some rows.

    ``importance_sampling(refined.model, refined.data)``, and all other functions of a model and
    its data, go with it.

    Attributes:
        model: The same p, and q with a :class:`~deeplvm.conditionals.local.Local` around each
            conditional that has a head; their networks are shared with the model refined.
        data: The rows refined, named tensors, with their numbers under ``row``.
        before: The objective of each row with the amortised q, shape ``(rows,)``, nats.
        after: The same, from the same noise, with the refined q.
    """

    model: LatentVariableModel
    data: dict[str, Tensor]
    before: Tensor
    after: Tensor

    @property
    def gain(self) -> Tensor:
        """What refinement was worth, nats, shape ``(rows,)``."""
        return self.after - self.before

    def __repr__(self) -> str:
        return (
            f"Refined({len(self.gain)} rows: {float(self.before.mean()):.4f} -> "
            f"{float(self.after.mean()):.4f} nats a row)"
        )


def refine(
    model: LatentVariableModel,
    data: NamedRows | Rows,
    *,
    steps: int = 300,
    learning_rate: float = 0.05,
    objective: Callable[[Any], Tensor] = elbo,
    particles: int = 16,
    draw: Mapping[str, Draw] | None = None,
    batch_size: int = 100,
    row: str = "row",
    seed: int = 0,
) -> Refined:
    r"""Improve the distribution q of each row by gradient ascent, from the encoder's answer on.

    The raw parameters of every head of q become :math:`f(x_i) + \delta_i`, and
    :math:`\delta_i \leftarrow \arg\max_\delta L(x_i; \delta)` by Adam from
    :math:`\delta_i = 0`, with a rate that falls linearly to zero. Nothing else moves. Adam keeps
    a step length for each number, so the rows of a batch do not feel each other. In a chain
    q(z2 | z1) the correction is added to what the network makes of z1.

    Several processes (:mod:`deeplvm.parallel.processes`) share the batches.

    On the Challenges and Opportunities of Generative Inference: Inference Suboptimality in
    Variational Autoencoders (Cremer, Li & Duvenaud, 2018), https://arxiv.org/abs/1801.03558

    Args:
        model: Evaluated in ``eval()`` mode, left as it was.
        data: Rows: ``data.test[:100]``, or named tensors of shape ``(rows, *event)``;
            names the model lacks are left out.
        steps: Gradient steps for each row.
        learning_rate: Adam's at the start.
        objective: Evidence to one number per row; higher is better.
        particles: Draws per row and step.
        draw: How a latent is drawn and credited; a name given here is drawn even if the data have
            it. A discrete one is best enumerated: ``{"y": Enumerated()}``.
        batch_size: Rows at a time.
        row: What the row's number is called in the refined model.
        seed: Same seed, same result.

    Raises:
        ValueError: If q is not a Joint of conditionals with heads, has a latent that repeats
            inside a row or whose parameters come from no head, or a number is below one.

    Examples:
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> refined = refine(model, {"x": torch.ones(3, 2)}, steps=50)
        >>> print(refined.model.q)
        q(z | x, row)
        >>> bool((refined.gain > 0).all())
        True
    """
    at_least(1, steps=steps, particles=particles)
    rows = rows_of(model, data, omit=redrawn(draw))
    refined = localised(model, rows.rows, row)

    @torch.enable_grad()
    def measure(given: Tensors, _: Names, noise: RowNoise) -> Tensors:
        count = len(next(iter(given.values())))
        own = localised(model, count, row).eval()
        numbered = given | {row: torch.arange(count, device=rows.device)}
        tables = _tables(own)
        options: Any = {"missing": rows.missing, "rows": rows.data_rows}
        with torch.no_grad():
            check_latents(own.q, model.evidence(given, draw=draw, **options))

        def value(noise: RowNoise) -> Tensor:
            """The objective of each row, from fresh draws, shape ``(batch,)``."""
            ways = noise.draws(own.q.names, draw)
            return own.estimate(objective, numbered, particles=particles, draw=ways, **options)[0]

        @torch.no_grad()
        def measured() -> Tensor:
            """Its mean over draws that are the same each time."""
            again = noise.apart("measured")
            return torch.stack([value(again) for _ in range(_MEASURES)]).mean(0)

        before = measured()
        optimizer = Adam(tables, lr=learning_rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
            gradients = torch.autograd.grad(value(noise).sum(), tables, materialize_grads=True)
            for table, gradient in zip(tables, gradients, strict=True):
                table.grad = -gradient
            optimizer.step()
        return {
            "before": before,
            "after": measured(),
            **{f"table/{index}": table.detach() for index, table in enumerate(tables)},
            **{f"data/{name}": each for name, each in given.items()},
        }

    joined = for_rows(
        model, rows, measure, batch_size=batch_size, seed=seed, finite=("before", "after")
    )
    with torch.no_grad():
        for index, table in enumerate(_tables(refined)):
            table.copy_(joined[f"table/{index}"])
    tensors = {key[5:]: value for key, value in joined.items() if key.startswith("data/")}
    tensors[row] = torch.arange(rows.rows, device=rows.device)
    return Refined(refined, tensors, joined["before"], joined["after"])


def localised(model: LatentVariableModel, rows: int, row: str = "row") -> LatentVariableModel:
    """The same model with local parameters, zero at first, around each conditional of q.

    Args:
        model: Its modules are shared, not copied.
        rows: How many rows there are.
        row: The name of the row's number, which the conditionals get as another parent.

    Raises:
        ValueError: If q is not a Joint whose conditionals have heads, or ``row`` is taken.
    """
    if not model.q.names:
        raise ValueError("The model draws no latents, so q has no parameters to be made local.")
    if not isinstance(model.q, Joint):
        raise ValueError(
            "Only a q that is a Joint of conditionals has parameters that can be made local; "
            f"this q is a {type(model.q).__name__}."
        )
    if row in model.names:
        raise ValueError(f"The model has a name {row!r} already; name the row's number otherwise.")
    factors: dict[str, nn.Module] = {}
    for factor in model.q.order:
        module = model.q.conditional(factor.names[0])
        if is_joint(module) or not heads_of(module):
            factors[factor.key] = module
            continue
        parents = [str(parent) for parent in factor.parents]
        factors[f"{factor.names[0]} | {', '.join([*parents, row])}"] = Local(module, rows)
    if not any([isinstance(module, Local) for module in factors.values()]):
        raise ValueError(
            f"None of the conditionals of {model.q} takes its parameters from a Head, so there "
            "are none to make local."
        )
    # a factor's key has its bar, also where there is nothing to the right of it
    written = {key.removesuffix("|").rstrip(): module for key, module in factors.items()}
    q = Joint(written, shared=model.q.shared)
    return LatentVariableModel(model.p, q)


def check_latents(q: Any, evidence: Evidence) -> None:
    """Refuse latents that local parameters do not reach, or would reach wrongly.

    Raises:
        ValueError: With the name.
    """
    for name in evidence.latents:
        module = q.conditional(name)
        if name in evidence.shared:
            raise ValueError(f"All rows share {name!r}: it has no parameters of a single row.")
        if is_joint(module) or not heads_of(module):
            raise ValueError(
                f"The parameters of {name!r} come from a {type(module).__name__}, which has no "
                "Head of its own, so they cannot be refined row by row."
            )
        site = evidence.q[name]
        own = getattr(site.distribution, "batch_shape", torch.Size())
        if len(own) > site.batch_dims:
            raise ValueError(
                f"{name!r} repeats inside a row {tuple(own[site.batch_dims :])}, and local "
                "parameters are one set a row."
            )


def _tables(model: LatentVariableModel) -> list[nn.Parameter]:
    locals_ = [part for part in model.q.factors.values() if isinstance(part, Local)]
    return [cast("nn.Parameter", table) for part in locals_ for table in part.corrections]
