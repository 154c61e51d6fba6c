"""Controlled generation: texts of the model, judged by its own classifier and encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from deeplvm.core.draws import Sampled
from deeplvm.core.evidence import density
from deeplvm.core.joint import Parent
from deeplvm.core.model import LatentVariableModel
from deeplvm.core.trace import Site, Trace
from deeplvm.networks import WordCount
from deeplvm.registry import NonNegative, Positive
from deeplvm.training.phases import Phase


def controlled(
    weight: NonNegative = 0.1,
    latent_weight: NonNegative = 0.1,
    dream_weight: NonNegative = 0.1,
    temperature: Positive = 0.5,
    label: str = "y",
    latent: str = "z",
) -> list[Phase]:
    r"""The bound; what texts of p say of their label and code; and q's label of such texts.

    The first phase moves the whole model by the objective of the training. The second moves the
    decoder alone by

    .. math:: \lambda_c \log q(y | \tilde x) + \lambda_z \log q(z | \tilde x), \qquad
              y \sim p(y), \quad z \sim p(z),

    where :math:`\tilde x` are soft words, each :math:`\mathrm{softmax}(\eta_t / \tau)` given the
    soft words before it, through which the gradient goes. The third moves what :math:`q(y | x)` is
    computed by, by :math:`\lambda_u \log q(y | x)` of words that p drew with their label.

    Toward Controlled Generation of Text (Hu et al., 2017), https://arxiv.org/abs/1703.00955,
    without the entropy of the third

    Args:
        weight, latent_weight, dream_weight: :math:`\lambda_c`, :math:`\lambda_z` and
            :math:`\lambda_u`.
        temperature: :math:`\tau`.
        label, latent: What a text is drawn from.

    >>> [phase.evidence is None for phase in controlled()]
    [True, False, False]
    """
    soft = _Soft({label: weight, latent: latent_weight}, temperature)
    drawn = _Drawn({label: dream_weight})
    return [
        Phase(),
        Phase(objective=soft.earned, evidence=soft, parameters=soft.parameters),
        Phase(objective=drawn.earned, evidence=drawn, parameters=drawn.parameters),
    ]


@dataclass(frozen=True)
class _Judged:
    """What q says of texts that p made.

    Attributes:
        weights: Of the log-density of each name in q.
    """

    weights: dict[str, float]
    traceable = False  # a graph is of one number of steps

    def earned(self, judged: Trace) -> Tensor:
        """The log-densities in q, weighted, ``(batch,)``."""
        found = [w * density(judged[n]) for n, w in self.weights.items()]
        return torch.stack(found).sum(0)


@dataclass(frozen=True)
class _Soft(_Judged):
    """Soft words, one given those before it.

    Attributes:
        temperature: Of the words' probabilities.
    """

    temperature: float = 1.0

    def __call__(
        self, model: LatentVariableModel, batch: dict[str, Any], kl_weight: float | Tensor = 1.0
    ) -> Trace:
        """As many texts as the batch has, as long as its longest, as q sees them."""
        del kl_weight  # there is no divergence
        shape, steps = tuple(batch["x"].shape[:1]), batch["x"].shape[1]
        given = {
            name: model.site(name, model.p.conditional(name)().expand(shape).sample())
            for name in self.weights
        }
        decoder: Any = model.p.conditional("x")
        read: dict[Parent, Site] = {
            each: decoder.first(each.name, shape) for each in decoder.remembered
        }
        words, seen = [], []
        for _ in range(steps):
            now = decoder.step(given, shape, default=Sampled(), previous=read)
            soft = (now["x"].distribution.logits / self.temperature).softmax(-1)
            words.append(soft.argmax(-1))
            seen.append(soft @ decoder.step["x"].table.weight)
            x = replace(now["x"], seen=seen[-1])
            read = {each: x if each.name == "x" else now[each.name] for each in read}
        hard = torch.stack(words, 1)
        text = Site(hard, batch_dims=1, seen=torch.stack(seen, 1))
        return model.q({"x": text, "n": WordCount()(hard), **given}, shape)

    def parameters(self, model: LatentVariableModel) -> Iterator[nn.Parameter]:
        """Of the decoder."""
        return model.p.conditional("x").parameters()


@dataclass(frozen=True)
class _Drawn(_Judged):
    """Texts drawn from p, with what they were drawn from."""

    def __call__(
        self, model: LatentVariableModel, batch: dict[str, Any], kl_weight: float | Tensor = 1.0
    ) -> Trace:
        """As many as the batch has."""
        del kl_weight  # there is no divergence
        drawn = model.sample(len(batch["x"]))
        known = {n: site for n, site in drawn.items() if n in (*model.q.names, *model.q.inputs)}
        return model.q({n: model.site(n, site.value) for n, site in known.items()})

    def parameters(self, model: LatentVariableModel) -> list[nn.Parameter]:
        """Of all that the label is computed by in q."""
        found, waiting = nn.ModuleList(), list(self.weights)
        while waiting:
            name = waiting.pop()
            if name in model.q.names:
                found.append(model.q.conditional(name))
                waiting += [parent.name for parent in model.q.parents(name)]
        return list(found.parameters())
