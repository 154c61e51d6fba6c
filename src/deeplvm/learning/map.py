r"""Maximum a posteriori: priors on named parameters, counted once for the whole data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from deeplvm.core.joint import Joint
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.values import NamedRows
from deeplvm.training.batches import Dataset
from deeplvm.training.callbacks import History
from deeplvm.training.loop import fit


@dataclass(frozen=True)
class LogPrior:
    r""":math:`\log p(\theta) = \sum_j \log p_j(\theta_j)` of named parameters, in nats.

    Attributes:
        priors: From names, as :func:`named_parameters` writes them, or patterns with ``*``, to a
            distribution that is broadcast over the parameter's elements. Parameters that no name
            matches have a constant prior.

    Examples:
        >>> from torch.distributions import Normal
        >>> from deeplvm.conditionals import Gaussian, StandardNormal
        >>> from deeplvm.networks import MLP
        >>> p = Joint({"z": StandardNormal(1), "x | z": Gaussian(2, MLP(1), scale=0.5)})
        >>> model = LatentVariableModel(p, Joint({"z | x": Gaussian(1, MLP(2))}))
        >>> list(named_parameters(model))[:2]
        ['p.x.head.layer.weight', 'p.x.head.layer.bias']
        >>> log_prior = LogPrior({"p.x.*weight": Normal(0.0, 1.0)})
        >>> weight = model.p["x"].head.layer.weight
        >>> bool(torch.isclose(log_prior(model), Normal(0.0, 1.0).log_prob(weight).sum()))
        True
    """

    priors: Mapping[str, Distribution]

    def __call__(self, model: LatentVariableModel) -> Tensor:
        """The log-density of the model's parameters, a number.

        Raises:
            ValueError: If a name matches no parameter, or two match one.
        """
        total = torch.zeros(())
        for parameter, prior in priors_of(model, self.priors).values():
            total = total + prior.log_prob(parameter).sum()
        return total


def maximum_a_posteriori(
    model: LatentVariableModel,
    data: Dataset | NamedRows,
    priors: Mapping[str, Distribution],
    **options: Any,
) -> History:
    r"""Learn the most probable parameters, with priors on those that are named.

    .. math:: L_{MAP}(\theta) = \log p(\theta) + \sum_n L(x_n; \theta), \qquad
              \tfrac1N L_{MAP} = \tfrac1N \log p(\theta) + \tfrac1N \sum_n L(x_n; \theta)

    The prior counts once for the data set, so 1/N for each row: the more rows, the less it does.
    A normal prior of standard deviation s is an L2 penalty, the gradient of a weight decay of
    :math:`1 / (N s^2)`. It is :func:`~deeplvm.training.fit` with ``log_prior``; what is measured
    and stored are bounds without the prior.

    An Introduction to Variational Autoencoders (Kingma & Welling, 2019), appendix A.2.1,
    https://arxiv.org/abs/1906.02691

    Args:
        model: Its parameters are changed in place.
        data: As for :func:`~deeplvm.training.fit`.
        priors: From names or patterns to distributions, see :class:`LogPrior`.
        options: As for :func:`~deeplvm.training.fit`.

    Raises:
        ValueError: If a name matches no parameter, two match one, or as :func:`fit` does.
    """
    priors_of(model, priors)  # before anything is learned
    return fit(model, data, log_prior=LogPrior(priors), **options)


def named_parameters(model: LatentVariableModel) -> dict[str, nn.Parameter]:
    """The parameters by readable names: joint, name of the variable, path inside its conditional.

    A parameter that p and q share has the name that it has in p.
    """
    return {readable(model, name): value for name, value in model.named_parameters()}


def readable(model: LatentVariableModel, name: str) -> str:
    """``"p.factors.x | z.head.free"`` as ``"p.x.head.free"``."""
    side, _, rest = name.partition(".")
    joint = getattr(model, side, None)
    for factor in joint.order if isinstance(joint, Joint) else []:
        prefix = f"factors.{factor.key}."
        if rest.startswith(prefix):
            return f"{side}.{factor.names[0]}.{rest.removeprefix(prefix)}"
    return name


def priors_of(
    model: LatentVariableModel, priors: Mapping[str, Distribution]
) -> dict[str, tuple[nn.Parameter, Distribution]]:
    """The parameters that have a prior, by readable name, and their priors.

    Raises:
        ValueError: If a name matches no parameter, or two match one.
    """
    known = named_parameters(model)
    found: dict[str, tuple[nn.Parameter, Distribution]] = {}
    for pattern, prior in priors.items():
        matching = [name for name in known if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(
                f"No parameter is called {pattern!r}; there are {', '.join(known)}. Patterns with "
                f"* are allowed."
            )
        for name in matching:
            if name in found:
                raise ValueError(f"{name!r} has two priors, the second by {pattern!r}; give one.")
            found[name] = (known[name], prior)
    return found
