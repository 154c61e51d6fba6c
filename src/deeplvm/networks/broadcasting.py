"""Leading dimensions: parents of unequal leading shapes joined, particles folded into rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def join(
    parents: tuple[Tensor, ...], features: int, like: Tensor, owner: str, event_dims: int = 1
) -> Tensor:
    r"""Parents side by side: :math:`(h_1, \dots, h_n)` concatenated on the first axis of an event.

    Leading dimensions are broadcast against each other, so a parent of one value per
    observation, ``(batch, F)``, goes with one of several particles, ``(*particles, batch, G)``.

    Args:
        parents: tensors of shape ``(*particles, batch, features_i)``; with three event
            dimensions maps, ``(*particles, batch, channels_i, height, width)``.
        features: the width expected of the result.
        like: whose dtype integer parents are converted to.
        owner: the name of the network, for the error message.
        event_dims: the number of dimensions of an event, 1 of vectors and 3 of maps.

    Returns:
        A tensor of shape ``(*particles, batch, features)``, or ``(*particles, batch, features,
        height, width)``.

    Raises:
        ValueError: the widths do not sum to ``features``, or the leading shapes do not broadcast.

    Examples:
        >>> join((torch.zeros(8, 3), torch.zeros(5, 8, 2)), 5, torch.zeros(()), "MLP").shape
        torch.Size([5, 8, 5])
    """
    axis = -event_dims
    whole = all([parent.ndim >= event_dims for parent in parents])
    if len(parents) == 1 and whole and parents[0].shape[axis] == features:
        (joined,) = parents
        return joined if joined.is_floating_point() else joined.to(like.dtype)
    if not parents:
        raise ValueError(f"{owner} expects parents of {features} features in all, found none.")
    found = [tuple(parent.shape) for parent in parents]
    widths = [parent.shape[axis] for parent in parents] if whole else [0]
    sizes = {tuple(parent.shape[axis + 1 :]) for parent in parents} if event_dims > 1 else {()}
    if event_dims > 1 and (sum(widths) != features or len(sizes) > 1):
        raise ValueError(
            f"{owner} expects maps (*particles, batch, channels, height, width) of one size whose "
            f"channels sum to {features}, found shapes {found}."
        )
    if 0 in widths or sum(widths) != features:
        raise ValueError(
            f"{owner} expects parents whose last axes sum to {features} features, found shapes "
            f"{found}. Vectors are (*particles, batch, features); an integer must come as one-hot "
            "(Categorical and Ordinal embed it so; torch.nn.functional.one_hot does it by hand)."
        )
    try:
        leading = torch.broadcast_shapes(*[parent.shape[:axis] for parent in parents])
    except RuntimeError as error:
        raise ValueError(
            f"{owner} cannot broadcast the leading dimensions of its parents, shapes {found}; "
            "each should be (*particles, batch) or (batch,)."
        ) from error
    columns = [
        (parent if parent.is_floating_point() else parent.to(like.dtype)).expand(
            *leading, *parent.shape[axis:]
        )
        for parent in parents
    ]
    return torch.cat(columns, axis)


def fold_particles(
    function: Callable[[Tensor], Tensor], event_dims: int
) -> Callable[[Tensor], Tensor]:
    """Let a function of one batch dimension take any number of them.

    ``Conv2d``, batch normalisation and most pretrained networks want exactly one batch
    dimension; a latent has ``(*particles, batch)``. The folded function flattens all leading
    dimensions into one, applies ``function``, and restores them.

    Args:
        function: a map from ``(rows, *event)`` to ``(rows, *anything)``.
        event_dims: the number of dimensions of ``event``.

    Returns:
        A map from ``(*particles, batch, *event)`` to ``(*particles, batch, *anything)``.

    Examples:
        >>> blur = fold_particles(torch.nn.Conv2d(1, 4, 3, padding=1), event_dims=3)
        >>> blur(torch.zeros(5, 2, 1, 28, 28)).shape
        torch.Size([5, 2, 4, 28, 28])
    """

    def folded(value: Tensor) -> Tensor:
        leading = value.shape[: value.ndim - event_dims]
        if len(leading) == 1:
            return function(value)
        event = value.shape[value.ndim - event_dims :]
        # a product of sizes, as numel() of a shape fixes the number of rows of an exported graph
        result = function(value.reshape(math.prod(leading), *event))
        return result.reshape(*leading, *result.shape[1:])

    return folded
