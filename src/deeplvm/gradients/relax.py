"""RELAX: REBAR with a control variate that learns its form."""

from __future__ import annotations

from collections.abc import Sequence

from deeplvm.gradients.rebar import Rebar
from deeplvm.gradients.score_function import Baseline


def relax(
    baseline: Baseline | None = None,
    *,
    hidden: Sequence[int] = (100,),
    weight: float = 1.0,
    temperature: float = 0.5,
) -> Rebar:
    r"""REBAR with a network in it: :math:`c(z) = \eta f(\sigma(z / \tau)) + r(z, x)`.

    r reads the perturbed logits and what the latent's conditional reads, and is learned, with
    :math:`\eta` and :math:`\tau`, on the square of the gradient of the logits.
    Unbiased whatever r is. With ``weight=0`` r begins alone.

    Backpropagation through the Void: Optimizing control variates for black-box gradient
    estimation (Grathwohl, Choi, Wu, Roeder & Duvenaud, 2018), https://arxiv.org/abs/1711.00123

    Args:
        baseline: As for :class:`~deeplvm.gradients.rebar.Rebar`.
        hidden: Widths of the layers of r.
        weight: :math:`\eta`, where it starts.
        temperature: :math:`\tau`, where it starts.

    Examples:
        >>> relax(hidden=(50,)).control.hidden
        (50,)
    """
    return Rebar(baseline, weight=weight, temperature=temperature, hidden=hidden)
