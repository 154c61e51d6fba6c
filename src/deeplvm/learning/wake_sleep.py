"""Wake-sleep and its reweighted form, as phases of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from deeplvm.core.evidence import Evidence
from deeplvm.core.model import LatentVariableModel
from deeplvm.gradients import Draw, Sampled
from deeplvm.objectives import elbo, iwae, sleep, wake_phi
from deeplvm.training.phases import Phase


def dream(model: LatentVariableModel, batch: Mapping[str, Any]) -> Evidence:
    r"""As many rows as the batch has, drawn from p with their latents, and q's score of these.

    Every name of p is drawn anew, :math:`x, z \sim p(x, z)`, given the inputs of the batch (a
    class that p is conditioned on). No gradient flows through the dream. As the latents are given,
    the ledger has none; what :func:`~deeplvm.objectives.sleep` reads is its trace of q.
    """
    inputs = {name: value for name, value in batch.items() if name not in model.p.names}
    read = {name: value for name, value in inputs.items() if name in model.p.inputs}
    rows = len(next(iter(batch.values())))
    dreamed = {name: site.value for name, site in model.sample(rows, read).items() if site.drawn}
    return model.evidence({**inputs, **dreamed}, missing=())


def wake_sleep(model: LatentVariableModel, *, particles: int | None = None) -> list[Phase]:
    r"""Wake: p learns :math:`E_q[\log p(x, z)]`. Sleep: q learns its own model's dreams.

    The sleep phase descends :math:`E_{p(x)} KL(p(z|x) \| q(z|x))`, the other divergence than the
    ELBO's, over rows of the model instead of the data: no single number is ascended. It needs no
    reparameterised draw, so any latent will do.

    The wake-sleep algorithm for unsupervised neural networks (Hinton et al., 1995),
    https://doi.org/10.1126/science.7761831; The Helmholtz machine (Dayan et al., 1995),
    https://doi.org/10.1162/neco.1995.7.5.889

    Args:
        model: Whose names are read. Parameters that p and q have in common count as p's.
        particles: Draws per row when awake.

    >>> from deeplvm import Joint
    >>> from deeplvm.conditionals import Bernoulli
    >>> from deeplvm.networks import MLP
    >>> p = Joint({"z": Bernoulli(3), "x | z": Bernoulli(6, MLP(3, 8))})
    >>> model = LatentVariableModel(p, Joint({"z | x": Bernoulli(3, MLP(6, 8))}))
    >>> [phase.objective.__name__ for phase in wake_sleep(model)]
    ['elbo', 'sleep']
    """
    return [
        Phase(elbo, of_p, particles=particles, draw=held(model)),
        Phase(sleep, of_q, evidence=dream),
    ]


def reweighted_wake_sleep(
    model: LatentVariableModel,
    *,
    particles: int = 5,
    draw: Mapping[str, Draw] | None = None,
    dreams: bool = True,
) -> list[Phase]:
    r"""Wake-sleep whose wake phases weigh the draws by their importance.

    p ascends the importance-weighted bound; q learns the same draws by their normalised weights,
    and then the dreams. One particle is :func:`wake_sleep` whose wake phase teaches q nothing.

    Reweighted Wake-Sleep (Bornschein & Bengio, 2015), https://arxiv.org/abs/1406.2751

    Args:
        model: Whose names are read. Parameters that p and q have in common count as p's.
        particles: Draws per row when awake.
        draw: How a latent is drawn, where it is not merely sampled: ``Enumerated()`` makes the
            weights exact.
        dreams: Whether there is a sleep phase.
    """
    drawn = {**held(model), **(draw or {})}
    phases = [
        Phase(iwae, of_p, particles=particles, draw=drawn),
        Phase(wake_phi, of_q, particles=particles, draw=drawn),
    ]
    return [*phases, Phase(sleep, of_q, evidence=dream)] if dreams else phases


def held(model: LatentVariableModel) -> dict[str, Draw]:
    """Every latent drawn without a gradient through its value."""
    return {name: Sampled() for name in model.q.names if name in model.p.names}


def of_p(model: LatentVariableModel) -> list[nn.Parameter]:
    """The parameters of the generative model."""
    return list(model.p.parameters())


def of_q(model: LatentVariableModel) -> list[nn.Parameter]:
    """The parameters of the inference model that are not p's as well.

    Raises:
        ValueError: If there are some, and all of them are p's too.
    """
    generative, inference = set(model.p.parameters()), list(model.q.parameters())
    own = [parameter for parameter in inference if parameter not in generative]
    if inference and not own:
        raise ValueError(
            f"All parameters of {model.q} are p's as well, as under a prior that is made of the "
            f"posterior (vamp), so no phase moves q alone; train p and q together, or take "
            f"another prior."
        )
    return own
