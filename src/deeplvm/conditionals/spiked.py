"""Real numbers some values of which repeat: zeros, caps, rounded amounts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from deeplvm.conditionals.heads import Head, Network, Shape, at_least, event_shape_of, positive
from deeplvm.distributions.spiked import PiecewiseLinear
from deeplvm.distributions.spiked import Spiked as SpikedDistribution


class Spiked(nn.Module):
    r"""Independent reals: probabilities of atoms, elsewhere a mixture on the normal scores.

    .. math:: P(x = a_j) = w_j, \qquad
              p(x) = g'(x) \sum_k w_k\, l((g(x) - \mu_k) / s_k) / s_k

    l is the logistic density and g the line through the knots and their normal scores,
    :math:`g(k_i) = \Phi^{-1}((i + 1/2) / n)`: with quantiles of the data for knots the scores of
    the data are about standard normal, whatever their tails; ``scores`` says others. The density
    is in the data's own units. Weights, centres and scales come from a head.

    Args:
        shape: the event shape.
        network: maps the parents to features; ``None`` for free parameters.
        knots: rising values of each element, such as its quantiles, ``(*event, n)``, n of at least
            2; beyond them the outermost lines go on.
        scores: what the map makes of the knots, rising, ``(*event, n)``.
        atoms: values with a probability of their own, ``(*event, m)``; NaN where an element has
            fewer.
        shares: where the probabilities of the atoms start, ``(*event, m)``; the rest is the
            logistics'.
        components: how many logistics.
        bounds: the least and the largest value, broadcastable to ``shape``; what the mixture
            puts beyond is probability of the bound. They must not be inside the knots.
        truncated: whether the logistics end at the bounds instead; not with a step.
        step: what the values are multiples of: each then has a probability and nothing a density.
        minimum_scale: the lower bound of a logistic's scale, in normal scores.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``shape``.
        Other networks see of each element its normal score, at most 3, and, one-hot, which atom it
        is: ``(*particles, batch, *event, 1 + m)``, zeros where it is missing.

    Raises:
        ValueError: knots do not rise, or a bound is inside them.

    Examples:
        >>> from deeplvm.networks import MLP
        >>> knots = torch.tensor([[0.0, 1.0, 10.0, 1000.0]])
        >>> income = Spiked(1, MLP(2, 8), knots=knots, atoms=torch.zeros(1, 1))
        >>> income(torch.zeros(5, 2)).log_prob(torch.tensor([[7.5]])).shape
        torch.Size([5])
        >>> income.embed(torch.tensor([0.0]))  # its normal score, and that it is the atom
        tensor([[-1.1503,  1.0000]])
    """

    def __init__(
        self,
        shape: Shape,
        network: Network = None,
        *,
        knots: Tensor,
        scores: Tensor | None = None,
        atoms: Tensor | None = None,
        shares: Tensor | None = None,
        components: int = 4,
        bounds: tuple[Tensor | float, Tensor | float] | None = None,
        step: float | None = None,
        truncated: bool = False,
        minimum_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape_of(shape, "Spiked")
        self.components = at_least(components, 1, "Spiked", "components")
        self.step, self.minimum_scale = step, minimum_scale
        dtype = torch.get_default_dtype()
        count = at_least(knots.shape[-1], 2, "Spiked", "a number of knots")
        knots = knots.to(dtype).expand(*self.event_shape, count)
        if not bool((knots.diff(dim=-1) > 0).all()):
            raise ValueError(
                f"Spiked expects knots that rise, and some do not in {dtype}; leave out those "
                f"that repeat."
            )
        atoms = torch.empty(*self.event_shape, 0) if atoms is None else atoms
        if scores is None:
            scores = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
        scores = scores.to(dtype).expand_as(knots)
        if not bool((scores.diff(dim=-1) > 0).all()):
            raise ValueError("Spiked expects scores that rise with the knots.")
        # not saved: they follow from the arguments
        self.register_buffer("knots", knots.clone(), persistent=False)
        self.register_buffer("scores", scores.clone(), persistent=False)
        self.register_buffer("atoms", atoms.to(dtype).clone(), persistent=False)
        low, high = (torch.as_tensor(b, dtype=dtype) for b in bounds or (-torch.inf, torch.inf))
        self.bounded, self.truncated = bounds is not None, truncated
        if truncated and (bounds is None or step is not None):
            raise ValueError("Spiked truncates reals at bounds: it needs these, and no step.")
        if not bool(((low <= knots[..., 0]) & (high >= knots[..., -1])).all()):
            raise ValueError("Spiked expects bounds that are not inside the knots.")
        self.register_buffer("low", low.expand(self.event_shape).clone(), persistent=False)
        self.register_buffer("high", high.expand(self.event_shape).clone(), persistent=False)
        outputs = self.atoms.shape[-1] + 3 * components
        self.head = Head(network, self.event_shape, outputs, "Spiked")
        # side by side, and together about as wide as the standard normal
        places = torch.linspace(-1.2, 1.2, components) if components > 1 else torch.zeros(1)
        for index, place in enumerate(places, outputs - 2 * components):
            self.head.start_at(place, index)
        if shares is not None:
            rest = ((1 - shares.sum(-1, keepdim=True)) / components).clamp(min=1e-3)
            weights = torch.cat([shares.clamp(min=1e-4), *[rest] * components], -1)
            for index, raw in enumerate(weights.log().movedim(-1, 0)):
                self.head.start_at(raw, index)

    def forward(self, *parents: Tensor) -> Independent:
        """The distribution of the value given parents of shapes ``(*particles, batch, ...)``."""
        raw = self.head(*parents).movedim(-1 - len(self.event_shape), -1)
        logits = raw.shape[-1] - 2 * self.components
        logits, loc, scale = raw.split([logits, self.components, self.components], -1)
        width = 0.35 if self.components > 1 else 0.55
        elements = SpikedDistribution(
            logits,
            loc,
            positive(scale, self.minimum_scale, width),
            self.atoms,
            PiecewiseLinear(self.knots, self.scores),
            (self.low, self.high) if self.bounded else None,
            self.step,
            truncated=self.truncated,
        )
        return Independent(elements, len(self.event_shape), validate_args=False)

    def embed(self, value: Tensor) -> Tensor:
        """Normal scores and indicators of the atoms, ``(*particles, batch, *event, 1 + m)``."""
        value = value.to(self.knots.dtype)
        # an atom may lie far beyond the knots, and a network is not to see a score of a hundred
        score = PiecewiseLinear(self.knots, self.scores)(value)[0].clamp(-3, 3).nan_to_num(0.0)
        return torch.cat([score.unsqueeze(-1), value.unsqueeze(-1) == self.atoms], -1)
