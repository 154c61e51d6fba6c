"""Models of sets: rows of which each has several members of one kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from deeplvm.conditionals import Gaussian, StandardNormal
from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.data import likelihood_of
from deeplvm.data.records import Data, Description
from deeplvm.data.variable import Variable
from deeplvm.networks import MLP, AttentionPool, Features, MeanPool, Memory, StepCount
from deeplvm.recipes.catalogue import RecipeError
from deeplvm.recipes.plain import at_least_one, observed, seen
from deeplvm.recurrent import Plate, Recurrent


def neural_statistician(
    data: Data | Description,
    *,
    context: int = 10,
    latent: int = 20,
    hidden: tuple[int, ...] = (200, 200),
) -> LatentVariableModel:
    r"""Sets with a context that all members share: q(c | set) does not see their order.

    .. math:: p(c, z, x) = p(c) \prod_i p(z_i | c)\, p(x_i | z_i, c), \qquad
              q = q(c | \tfrac{1}{n} \textstyle\sum_i h(x_i)) \prod_i q(z_i | x_i, c)

    Towards a Neural Statistician (Edwards & Storkey, 2017), https://arxiv.org/abs/1606.02185

    Args:
        data: Sets, as ``--members 5`` makes them of rows with the same label.
        context: Dimensions of c.
        latent: Dimensions of each member's z.
        hidden: Widths of the hidden layers of every network.

    Raises:
        RecipeError: If the data are not sets.
    """
    at_least_one(context=context, latent=latent, hidden=hidden)
    member, count = member_of(data, "neural_statistician")
    last = hidden[-1]
    members = {
        "z | c": Gaussian(latent, MLP(context, *hidden)),
        "x | z, c": likelihood_of(member, MLP(latent + context, *hidden)),
    }
    p = Joint(
        {"c": StandardNormal(context), "z, x | c": Plate(members, outside=["c"], repeats=count)}
    )
    each = Plate({"z | h, c": Gaussian(latent, MLP(last + context, *hidden))}, outside=["c"])
    q = Joint(
        {
            "h | x": Features(MLP(seen(member), *hidden)),
            "s | h": MeanPool(last),
            "c | s": Gaussian(context, MLP(last, *hidden)),
            "z | h, c": each,
        }
    )
    return LatentVariableModel(p, q)


def one_shot_generalisation(
    data: Data | Description,
    *,
    context: Literal["pooled", "attended"] = "pooled",
    latent: int = 20,
    hidden: tuple[int, ...] = (200, 200),
) -> LatentVariableModel:
    r"""Members of a set one after another, each given those before: of a kind that is seen once.

    .. math:: p(x_{1:n}, z_{1:n}) = \prod_i p(z_i | r_i)\, p(x_i | z_i, r_i), \qquad
              r_i = r(x_1, \dots, x_{i-1})

    r is the mean of the features of the members before, in which z is drawn, or what z asks for
    among them. The first member is drawn from nothing, the second after one example.

    One-Shot Generalization in Deep Generative Models (Rezende et al., 2016),
    https://arxiv.org/abs/1603.05106, in which examples are given and one member follows.

    Args:
        data: Sets, as ``--members 5`` makes them of rows with the same label.
        context: What is seen of the members before: ``pooled``, their mean, or ``attended``, a
            mean whose weights z chooses.
        latent: Dimensions of each member's z.
        hidden: Widths of the hidden layers of every network.

    Raises:
        RecipeError: If the data are not sets.
    """
    at_least_one(latent=latent, hidden=hidden)
    member, count = member_of(data, "one_shot_generalisation")
    last = hidden[-1]
    remember = {
        "h | x": Features(MLP(seen(member), *hidden)),
        "m | h, m[-1]": Memory(last, count),
        "k | k[-1]": StepCount(),
        "v | m[-1], k[-1]": MeanPool(last),
    }
    start = {"m": (count, last), "k": torch.zeros(())}
    attended = context == "attended"
    seen_by_x = {"r | m[-1], z, k[-1]": AttentionPool(last, latent)} if attended else {}
    p = Recurrent(
        {
            "z | v": Gaussian(latent, MLP(last, *hidden)),
            **seen_by_x,
            f"x | z, {'r' if attended else 'v'}": likelihood_of(
                member, MLP(latent + last, *hidden)
            ),
            **remember,
        },
        start=start,
        repeats=count,
    )
    q = Recurrent(
        {**remember, "z | h, v": Gaussian(latent, MLP(2 * last, *hidden))},
        start=start,
        repeats=count,
    )
    own = "r, " if attended else ""
    return LatentVariableModel(
        Joint({f"z, x, {own}h, m, k, v": p}), Joint({"h, m, k, v, z | x": q})
    )


def member_of(data: Data | Description, recipe: str) -> tuple[Variable, int]:
    """One member of the variable ``"x"`` of sets, and how many there are.

    Raises:
        RecipeError: If the data are not sets.
    """
    x = observed(data)
    if not data.options.get("members"):
        raise RecipeError(
            f"{recipe} models sets, and a row of {data.name} is none; --members 5 makes sets of "
            f"rows with the same label."
        )
    count, *shape = x.shape
    spread = (x.std.square().mean(0) + x.mean.var(0, correction=0)).sqrt()
    return replace(x, shape=tuple(shape), mean=x.mean.mean(0), std=spread), count
