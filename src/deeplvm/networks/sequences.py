"""Networks over whole sequences: one pass forwards, backwards or both, and what joins them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from deeplvm.networks.broadcasting import join
from deeplvm.networks.recurrent import GRU
from deeplvm.unrolled import FirstState

Direction = Literal["forward", "backward", "both"]


class SequenceEncoder(nn.Module):
    r"""A gated recurrent unit over all steps of a sequence in one pass, a code for each step.

    .. math:: \overrightarrow{h}_t = \mathrm{GRU}(x_t, \overrightarrow{h}_{t-1}), \qquad
              \overleftarrow{h}_t = \mathrm{GRU}(x_t, \overleftarrow{h}_{t+1})

    A node such as ``"a | x, n"`` outside of any repetition. With the lengths as last parent the
    backward pass begins at the end of each row, so that what lies beyond changes no code, and the
    codes beyond are zero.

    Args:
        in_features: Width of the joined sequences.
        hidden: Width of the code of each direction.
        direction: ``"forward"`` (a code knows the steps so far), ``"backward"`` (this step and
            those to come) or ``"both"``, the two side by side.
        lengths: Whether the last parent is the number of steps of each row.

    Shape:
        Sequences ``(*particles, batch, T, features_i)`` and lengths ``(batch,)`` give
        ``(*particles, batch, T, out_features)``, out_features twice ``hidden`` of both directions.

    Bidirectional Recurrent Neural Networks (Schuster & Paliwal, 1997),
    https://doi.org/10.1109/78.650093

    Examples:
        >>> encoder = SequenceEncoder(3, 4)
        >>> encoder(torch.zeros(5, 7, 3), torch.tensor([7, 2, 1, 3, 7])).shape
        torch.Size([5, 7, 8])
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        *,
        direction: Direction = "both",
        lengths: bool = True,
    ) -> None:
        super().__init__()
        if direction not in ("forward", "backward", "both"):
            raise ValueError(f"direction is 'forward', 'backward' or 'both', not {direction!r}.")
        self.in_features, self.hidden, self.lengths = in_features, hidden, lengths
        self.direction = direction
        ways = ("forward", "backward") if direction == "both" else (direction,)
        self.passes = nn.ModuleDict({f"{way}s": GRU(in_features, hidden) for way in ways})
        self.out_features = hidden * len(ways)

    def forward(self, *parents: Tensor) -> Tensor:
        """The codes of all steps."""
        count = parents[-1] if self.lengths else None
        sequences = parents[:-1] if self.lengths else parents
        like = next(self.parameters())
        joined = join(sequences, self.in_features, like, "SequenceEncoder").to(like.dtype)
        start = joined.new_zeros(*joined.shape[:-2], self.hidden)
        mask = None
        if count is not None:
            mask = torch.arange(joined.shape[-2], device=joined.device) < count.unsqueeze(-1)
        codes = [
            FirstState(start, mask, way == "backwards").unfold(cell.scan, joined)  # type: ignore[operator]
            for way, cell in self.passes.items()
        ]
        code = torch.cat(codes, -1)
        return code if mask is None else torch.where(mask.unsqueeze(-1), code, 0.0)


class Combiner(nn.Module):
    r"""A state and codes of the data, :math:`h_t = (\tanh(W z_{t-1} + b) + \sum_i a_i)/n`.

    Features of :math:`q(z_t | z_{t-1}, x)`, for a :class:`SequenceEncoder` of one direction or of
    both; n counts the codes and the state.

    Args:
        latent: Width of :math:`z_{t-1}`.
        hidden: Width of each code, and of the result.
        codes: How many codes come side by side, 2 of both directions.

    Shape:
        ``(*particles, batch, latent)`` and ``(*particles, batch, codes * hidden)`` give
        ``(*particles, batch, hidden)``.

    Structured Inference Networks for Nonlinear State Space Models (Krishnan et al., 2017),
    https://arxiv.org/abs/1609.09869

    Examples:
        >>> Combiner(2, 4, codes=2)(torch.zeros(5, 8, 2), torch.zeros(8, 8)).shape
        torch.Size([5, 8, 4])
    """

    def __init__(self, latent: int, hidden: int, *, codes: int = 1) -> None:
        super().__init__()
        self.state = nn.Linear(latent, hidden)
        self.codes, self.out_features = codes, hidden

    def forward(self, before: Tensor, codes: Tensor) -> Tensor:
        """The features of a step."""
        each = codes.unflatten(-1, (self.codes, self.out_features)).sum(-2)
        return (self.state(before).tanh() + each) / (self.codes + 1)


class StepCount(nn.Module):
    """How many steps were taken: a node ``"k | k[-1]"`` that starts at 0."""

    out_shape = ()

    def forward(self, before: Tensor) -> Tensor:
        """One more."""
        return before + 1


class LocallyLinear(nn.Module):
    r"""A state moved by a mixture of linear maps, :math:`z' = \sum_i w_i (A_i z + B_i u + C_i b)`.

    The weights are a softmax over features of z and u; the :math:`A_i` start as the identity. A
    deterministic node ``"z | z[-1], u, b"``: what is random of a step is b.

    Args:
        latent: Dimensions of z.
        inputs: Width of u and b together, all parents but the first.
        hidden: Width of the layer that weighs the maps.
        maps: How many.

    Shape:
        Parents ``(*particles, batch, features_i)`` give ``(*particles, batch, latent)``.

    Deep Variational Bayes Filters: Unsupervised Learning of State Space Models from Raw Data (Karl
    et al., 2017), https://arxiv.org/abs/1605.06432

    Examples:
        >>> moved = LocallyLinear(2, 3, 8)
        >>> moved(torch.zeros(5, 8, 2), torch.zeros(8, 1), torch.zeros(5, 8, 2)).shape
        torch.Size([5, 8, 2])
    """

    def __init__(self, latent: int, inputs: int, hidden: int, *, maps: int = 16) -> None:
        super().__init__()
        self.width, self.out_features = latent + inputs, latent
        self.weigh = nn.Sequential(
            nn.Linear(self.width, hidden), nn.Tanh(), nn.Linear(hidden, maps)
        )
        start = torch.eye(latent, self.width) + 0.1 * torch.randn(maps, latent, self.width)
        self.maps = nn.Parameter(start)

    def forward(self, *parents: Tensor) -> Tensor:
        """The next state."""
        given = join(parents, self.width, self.maps, "LocallyLinear")
        weights = self.weigh(given).softmax(-1)
        return torch.einsum("...m,mij,...j->...i", weights, self.maps, given)
