"""Conditionals of a state given the one before, and posteriors that correct them."""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

from deeplvm.conditionals.heads import Head, Scale, positive
from deeplvm.conditionals.products import normal_of
from deeplvm.distributions.diagonal_normal import DiagonalNormal
from deeplvm.networks.broadcasting import join


class GatedTransition(nn.Module):
    r"""A Gaussian of the next state, of a mean between a linear and a nonlinear map.

    Without the nonlinear map it is ``Gaussian(latent, MLP(latent), scale="dimension")``.

    .. math:: g = \sigma(\mathrm{MLP}(z, u)), \quad h = \mathrm{MLP}(z, u), \quad
              \mu = (1 - g) \odot (W z + b) + g \odot h, \quad
              \sigma = \mathrm{softplus}(V\, \mathrm{relu}(h) + c)

    W starts as the identity, so that a state persists at first. Inputs u, such as the time since
    the step before, enter the gate and the nonlinear map.

    Args:
        latent: Dimensions of the state.
        hidden: Width of the hidden layers.
        inputs: Width of u; none by default.
        minimum_scale: Lower bound of the standard deviation.

    Shape:
        ``(*particles, batch, latent)`` and, if any, ``(*particles, batch, inputs)`` give batch
        shape ``(*particles, batch)``, event ``(latent,)``.

    Structured Inference Networks for Nonlinear State Space Models (Krishnan et al., 2017),
    https://arxiv.org/abs/1609.09869

    Examples:
        >>> GatedTransition(2, 8)(torch.zeros(5, 8, 2)).batch_shape
        torch.Size([5, 8])
    """

    def __init__(
        self, latent: int, hidden: int, *, inputs: int = 0, minimum_scale: float = 1e-3
    ) -> None:
        super().__init__()
        self.event_shape = Size((latent,))
        self.width, self.minimum_scale = latent + inputs, minimum_scale
        self.first = nn.Linear(self.width, 2 * hidden)  # of the gate and of the map
        self.gate, self.candidate = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.linear, self.scale = nn.Linear(latent, latent), nn.Linear(latent, latent)
        with torch.no_grad():
            nn.init.eye_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The distribution of the next state, given the one before and then the inputs."""
        if not parents:
            raise TypeError("GatedTransition needs parents, the state before and its inputs.")
        given = join(parents, self.width, self.linear.weight, "GatedTransition")
        gate, candidate = self.first(given).relu().chunk(2, -1)
        gate, candidate = self.gate(gate).sigmoid(), self.candidate(candidate)
        loc = torch.lerp(self.linear(given[..., : self.event_shape[0]]), candidate, gate)
        raw, kept = self.scale(candidate.relu()), self.linear.weight.dtype
        # under autocast networks compute in bfloat16; densities do not
        return DiagonalNormal(loc.to(kept), positive(raw.to(kept), self.minimum_scale), 1)


class LinearisedTransition(nn.Module):
    r"""A Gaussian of the next state that is linear around the one before.

    .. math:: N(A(z)\, z + B(z)\, u + o(z),\; \mathrm{diag}(\sigma^2)), \qquad
              A(z) = I + v(z)\, r(z)^\top

    The last parent says how many steps there were before: where it is 0 there is no state to move
    from, and the distribution is :math:`N(0, I)`.

    Args:
        latent: Dimensions of the state.
        inputs: Width of u, at least 1.
        network: From the state to features.
        minimum_scale: Lower bound of the standard deviation, which is learned, one a dimension.

    Shape:
        ``(*particles, batch, latent)``, ``(batch, inputs)`` and ``(batch,)`` give batch shape
        ``(*particles, batch)``, event ``(latent,)``.

    Embed to Control: A Locally Linear Latent Dynamics Model for Control from Raw Images (Watter et
    al., 2015), https://arxiv.org/abs/1506.07365

    Examples:
        >>> from deeplvm.networks import MLP
        >>> transition = LinearisedTransition(2, 1, MLP(2, 8))
        >>> z, u, steps = torch.ones(5, 2), torch.zeros(5, 1), torch.zeros(5)
        >>> transition(z, u, steps).mean.abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def __init__(
        self, latent: int, inputs: int, network: nn.Module, *, minimum_scale: float = 1e-3
    ) -> None:
        super().__init__()
        self.event_shape, self.inputs = Size((latent,)), inputs
        outputs = 3 + inputs  # v, r and o, and a column of B for each input
        self.head = Head(network, self.event_shape, outputs, "LinearisedTransition")
        self.scale = Scale(
            "dimension", self.event_shape, minimum_scale, "LinearisedTransition", at_zero=0.1
        )

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The distribution of the next state, given the one before, inputs and the step."""
        if len(parents) != 3:
            raise TypeError(
                f"LinearisedTransition reads three parents, the state before, inputs and how many "
                f"steps there were, found {len(parents)}."
            )
        before, inputs, steps = parents
        left, right, offset, *columns = self.head.each(before)
        loc = before + left * (right * before).sum(-1, keepdim=True) + offset
        for place, column in enumerate(columns):
            loc = loc + column * inputs[..., place : place + 1]
        begins = (steps == 0).unsqueeze(-1)
        loc = torch.where(begins, 0.0, loc)
        scale = torch.where(begins, 1.0, self.scale(()))
        return DiagonalNormal(loc, scale.expand_as(loc), 1)


class ResidualGaussian(nn.Module):
    r"""A posterior that corrects p's own conditional of the same name.

    .. math:: q = N(\mu_p + \delta,\; \mathrm{diag}(\sigma_p\, r)^2), \qquad
              (\delta, r) = f(\text{parents}), \quad r > 0

    A network that returns zero makes it the prior. The mean is that of Sequential Neural Models
    with Stochastic Layers (Fraccaro et al., 2016), https://arxiv.org/abs/1605.07571; the scale is
    relative too, as in NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat & Kautz, 2020),
    https://arxiv.org/abs/2007.03898

    Args:
        prior: p's conditional, which returns independent normals; the same module, so that its
            parameters are shared.
        network: From all parents to features.
        prior_parents: How many of the parents, the first ones, p reads.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape.

    Examples:
        >>> from deeplvm.networks import MLP
        >>> prior = GatedTransition(2, 8)
        >>> posterior = ResidualGaussian(prior, MLP(2 + 3, 8))
        >>> posterior(torch.zeros(5, 2), torch.zeros(5, 3)).mean.shape
        torch.Size([5, 2])
    """

    def __init__(self, prior: nn.Module, network: nn.Module, *, prior_parents: int = 1) -> None:
        super().__init__()
        shape: Size = prior.event_shape  # type: ignore[assignment]
        self.event_shape, self.prior, self.prior_parents = shape, prior, prior_parents
        self.head = Head(network, shape, 2, "ResidualGaussian")

    def forward(self, *parents: Tensor) -> DiagonalNormal:
        """The distribution, of which the first parents are those of the prior."""
        prior = self.prior(*parents[: self.prior_parents])
        prior = normal_of(prior, "ResidualGaussian", "p's conditional")
        shift, ratio = self.head.each(*parents)
        scale = prior.scale * positive(ratio, 1e-3, at_zero=1 - 1e-3)
        return DiagonalNormal(prior.loc + shift, scale, len(self.event_shape))
