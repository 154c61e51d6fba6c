"""Columns of several kinds: each group has its own likelihood, all share one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from deeplvm.conditionals.heads import shown
from deeplvm.distributions.product import Product
from deeplvm.networks.features import out_shape_of


class Columns(nn.Module):
    r"""A product over groups of columns, :math:`p(x | h) = \prod_g p_g(x_g | h)`.

    The network is evaluated once; each group's conditional adds its own head to the features. So
    a table of reals, counts and categories has one density, without giving a real number's
    likelihood to a category.

    Args:
        groups: For each group the places of its columns and its conditional's constructor, which
            is called with ``network=`` alone and must give an event of that many elements.
        network: Maps the parents to features; ``None`` for free parameters.

    Shape:
        Parents of leading shape ``(*particles, batch)`` give that batch shape, event ``(D,)``, D
        the number of columns in all groups.

    Other networks see each group as its conditional embeds it, side by side in the order of the
    groups: a category of L values takes L places (:attr:`features` in all).

    Raises:
        ValueError: The places are not 0 .. D-1, each once, or a group's event has another size.

    Handling Incomplete Heterogeneous Data using VAEs (Nazabal et al., 2020),
    https://arxiv.org/abs/1807.03653

    Examples:
        >>> from functools import partial
        >>> from deeplvm.conditionals import Categorical, Gaussian
        >>> from deeplvm.networks import MLP
        >>> real, category = partial(Gaussian, 2), partial(Categorical, 3, shape=1)
        >>> row = Columns([((0, 2), real), ((1,), category)], MLP(4, 16))
        >>> row(torch.zeros(5, 100, 4)).log_prob(torch.tensor([0.5, 2.0, -1.0])).shape
        torch.Size([5, 100])
        >>> row.embed(torch.tensor([0.5, 2.0, -1.0]))
        tensor([ 0.5000, -1.0000,  0.0000,  0.0000,  1.0000])
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], Callable[..., nn.Module]]],
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        places = [place for group, _ in groups for place in group]
        if not places or sorted(places) != list(range(len(places))):
            raise ValueError(
                f"Columns expects the places 0 .. {max(len(places) - 1, 0)}, each in one group, "
                f"found {sorted(places)}."
            )
        self.network = network
        trunk = None if network is None else _Trunk(network)
        self.groups = nn.ModuleList([build(network=trunk) for _, build in groups])
        self.event_shape = torch.Size((len(places),))
        self.sizes = [len(group) for group, _ in groups]
        for size, group in zip(self.sizes, self.groups, strict=True):
            found = tuple(group.event_shape)  # type: ignore[arg-type]
            if found != (size,):
                raise ValueError(
                    f"Columns expects of {type(group).__name__} an event of shape ({size},), one "
                    f"element for each of its places, found {found}."
                )
        order = torch.tensor(places)
        # not saved: they follow from the arguments
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    @property
    def features(self) -> int:
        """How many numbers :meth:`embed` gives for one row."""
        with torch.no_grad():
            return self.embed(torch.zeros(self.event_shape, device=self.order.device)).shape[-1]  # type: ignore[arg-type]

    def forward(self, *parents: Tensor) -> Product:
        """The distribution of a row given parents of shapes ``(*particles, batch, ...)``."""
        if self.network is not None and parents:
            parents = (self.network(*parents),)
        parts = [group(*parents) for group in self.groups]
        return Product(parts, self.order, self.back)  # type: ignore[arg-type]

    def embed(self, value: Tensor) -> Tensor:
        """The row as other networks see it, shape ``(*particles, batch, features)``."""
        pieces = value.index_select(-1, self.order).split(self.sizes, -1)  # type: ignore[arg-type]
        seen = []
        for group, piece in zip(self.groups, pieces, strict=True):
            seen.append(shown(group, piece).flatten(value.dim() - 1))
        dtypes = [features.dtype for features in seen if features.is_floating_point()]
        wide = dtypes[0] if dtypes else torch.get_default_dtype()
        return torch.cat([features.to(wide) for features in seen], -1)


class _Trunk(nn.Identity):
    """Stands for the shared network in a group's conditional: it has run already."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.out_shape = out_shape_of(network)
        if self.out_shape is None:
            raise ValueError(
                f"Columns cannot see what {type(network).__name__} returns: it has neither "
                "'out_features' nor 'out_shape'. Wrap it: Features(network, out_shape=...)."
            )
        self.initialization = getattr(network, "initialization", None)
