"""A model larger than a device: each process keeps part of every layer (FSDP), in a loop by hand.

:func:`~deeplvm.training.fit` does not shard: it keeps whole weights on every process.
"""

from __future__ import annotations

from torch import Tensor, nn

from deeplvm.parallel.processes import processes

# Modules that take and return tensors. A conditional returns a distribution, in which FSDP does
# not find the tensors that it would have to wait for in the backward pass.
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)


def shard(model: nn.Module) -> list[nn.Parameter]:
    """Shard linear layers, convolutions and embeddings over the processes; the rest stays whole.

    A layer is whole while it computes. After ``backward`` its gradient is the sum over processes,
    and like its weights and what an optimiser remembers of them it is this process's part. For
    equal numbers give each process its share of the batch's mean.

    PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (Zhao et al., 2023),
    https://arxiv.org/abs/2304.11277, in its second form, ``fully_shard``.

    Args:
        model: Changed in place, and for good. A layer whose weights are also read without calling
            it cannot be sharded: PyTorch refuses to mix the two kinds of tensor.

    Returns:
        The parameters that stay whole: their gradients are to be summed, and an optimiser of
        their own must move them.

    Raises:
        ValueError: If there is one process only.
    """
    if processes().alone:
        raise ValueError("There is one process, and nothing to shard over: start with torchrun.")
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    for module in list(model.modules()):
        if isinstance(module, _LAYERS):
            layer = fully_shard(module, reshard_after_forward=True)
            # sums, as everywhere; and gloo knows nothing but sums
            layer.set_gradient_divide_factor(1.0)
            layer.set_force_sum_reduction_for_comms(True)
    return [each for each in model.parameters() if not isinstance(each, DTensor)]


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights by their state-dict names, on every process; all must call it."""
    from torch.distributed.tensor import DTensor

    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value
        for name, value in model.state_dict().items()
    }
