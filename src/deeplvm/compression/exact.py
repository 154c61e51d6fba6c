r"""Networks whose results are the same to the last bit, whoever computes them.

A number here is a multiple of :math:`2^{-16}` of at most 2**10: an integer that a float64 carries.
Weights are multiples of :math:`2^{-14}`. A sum of their products is then an integer too, and below
:math:`2^{53}` no order of the additions, no number of threads and no library changes it: whether
that holds is checked when a network is prepared. What single operations of IEEE 754 do (a sum, a
product, a quotient, a root) is the same everywhere, and rounded to the grid; other functions are
read from :mod:`~deeplvm.compression.tables`.

Integer Networks for Data Compression with Latent-Variable Models (Ballé et al., 2019),
https://openreview.net/forum?id=S1zz2i0cY7
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deeplvm.compression import tables
from deeplvm.networks import WeightNormalisedConvolution

UNIT, BOUND, WEIGHT_UNIT = 2.0**16, 2.0**10, 2.0**14
_LINEAR = (nn.Linear, nn.modules.conv._ConvNd)


class CompressionError(ValueError):
    """Something cannot be compressed, or a file is none of ours; the message says what to do."""


def on_grid(value: Tensor) -> Tensor:
    """The nearest number of the grid."""
    return value.mul(UNIT).add_(0.5).floor_().div_(UNIT).clamp_(-BOUND, BOUND)


def prepared(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode and float64, its weights on their grid.

    Raises:
        CompressionError: Weights are so large that a sum could be rounded.
    """
    module = copy.deepcopy(module).cpu().double().eval().requires_grad_(requires_grad=False)
    layer: Any
    for name, layer in list(module.named_modules()):
        if isinstance(layer, WeightNormalisedConvolution):  # their length needs a sum of squares
            own = layer.weight / layer.weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            layer.weight = nn.Parameter(layer.gain * own)
            layer.register_parameter("bias", layer.shift)
            layer.forward = _plain_convolution(layer)  # type: ignore[method-assign]
        if isinstance(layer, _LINEAR):
            for each in layer.parameters(recurse=False):
                each.requires_grad_(False)  # noqa: FBT003 - torch's own form
                each.copy_(each.mul(WEIGHT_UNIT).add(0.5).floor().div(WEIGHT_UNIT))
            size = layer.weight.abs()
            rows = [size.transpose(0, axis).flatten(1).sum(1).max() for axis in (0, 1)]
            most = float(max(rows)) * BOUND + (
                0.0 if layer.bias is None else float(layer.bias.abs().max())
            )
            if not most * UNIT * WEIGHT_UNIT < 2.0**53:
                raise CompressionError(
                    f"The weights of {name} ({type(layer).__name__}) are so large that its sums "
                    f"would not be exact; train with weight decay, or gradients clipped."
                )
    return module


def _plain_convolution(layer: WeightNormalisedConvolution) -> Callable[[Tensor], Tensor]:
    return lambda features: layer._conv_forward(features, layer.weight, layer.bias)


def digest(module: nn.Module) -> bytes:
    """SHA-256 of the structure of a prepared module and all its numbers."""
    found = hashlib.sha256(repr(module).encode())
    kept = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, value in sorted(kept.items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().double().contiguous().numpy().astype("<f8").tobytes())
    return found.digest()


class Exact(TorchDispatchMode):
    """What runs inside is computed exactly, or refused.

    Args:
        owner: Whose networks these are, for the error message.
        rounds: Whether results are put on the grid; what a conditional makes of a value before a
            network reads it is not: it is in the units of the data.
    """

    def __init__(self, owner: str, *, rounds: bool = True) -> None:
        super().__init__()
        self.owner, self.rounds = owner, rounds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__.removesuffix("_"), kwargs or {}
        if name in _SHAPES:
            return func(*args, **kwargs)
        if name in _LINES and self.rounds:
            self._check(args)
            return on_grid(func(*args, **kwargs))
        rule = _RULES.get(name)
        if rule is None:
            raise CompressionError(
                f"{self.owner} computes {name}, which has no form in integers, so that another "
                f"machine might not decompress the file; compress with a model of plain or "
                f"convolutional networks, such as the recipe vae or convolutional_ladder_vae."
            )
        found = rule(*args, **kwargs)
        found = on_grid(found) if self.rounds and found.is_floating_point() else found
        return (found, found.new_empty(0), found.new_empty(0)) if name in _NORMS else found

    def _check(self, args: Any) -> None:
        """Refuse a product of two numbers that a network computed: its sums would be rounded."""
        whole = [isinstance(each, Tensor) and _stored(each) for each in args]
        if not any(whole):
            raise CompressionError(
                f"{self.owner} multiplies two matrices that it computes (attention), whose sums "
                f"have no exact form; compress with a model of plain or convolutional networks."
            )


def _stored(value: Tensor) -> bool:
    return isinstance(value._base if value._base is not None else value, nn.Parameter)


@cache
def _tensor(name: str) -> Tensor:
    return torch.from_numpy(tables.activation(name))


def _looked_up(name: str) -> Callable[[Tensor], Tensor]:
    above = tables.ACTIVATIONS[name][1]
    reach, step = float(tables.ACTIVATION_REACH), float(1 << tables.ACTIVATION_STEP)

    def found(x: Tensor) -> Tensor:
        place = x.clamp(-reach, reach).add_(reach).mul_(step).add_(0.5).floor_().long()
        limit = x if above is None else torch.full_like(x, above)
        return torch.where(x > reach, limit, _tensor(name)[place])

    return found


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    if (scale, input_scale) != (1, 1):
        raise CompressionError("A scaled exponential unit has no form in integers; use ELU.")
    low = _looked_up("elu")(x.clamp(max=0.0))
    return torch.where(x > 0, x, low if alpha == 1 else low * alpha)


def _softplus(x: Tensor, beta: float = 1, _: float = 20) -> Tensor:
    if beta != 1:
        raise CompressionError(f"A softplus of beta {beta} has no form in integers; use 1.")
    return _looked_up("softplus")(x)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * _looked_up("sigmoid")(gate)


def _log(x: Tensor) -> Tensor:
    return torch.from_numpy(tables.logarithm(x.numpy())).reshape(x.shape)


def _log_softmax(x: Tensor, dim: int, *_: Any) -> Tensor:
    """By exponentials that are multiples of 2**-30, whose sum is exact."""
    centred = x - x.amax(dim, keepdim=True)
    each = torch.from_numpy(tables.exponential(centred.numpy())).mul(2.0**30).floor()
    return centred - _log(each.sum(dim, keepdim=True) / 2.0**30)


def _sum(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:  # noqa: FBT001, FBT002
    return x.sum(dim, keepdim=keepdim) if dim is not None else x.sum()


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, **_: Any) -> Tensor:  # noqa: FBT001, FBT002
    total = _sum(x, dim, keepdim)
    return total / (x.numel() / max(total.numel(), 1))


def _normalised(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, *rest: Any
) -> Tensor:
    """Batch normalisation by what is kept."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    gain = 1.0 / (variance + rest[-1]).sqrt()
    gain = gain if weight is None else gain * weight
    found = (x - mean.reshape(shape)) * gain.reshape(shape)
    return found if bias is None else found + bias.reshape(shape)


def _added(a: Tensor, b: Any, *, alpha: float = 1) -> Tensor:
    return a + (b if alpha == 1 else b * alpha)  # two operations, each rounded as IEEE 754 says


def _subtracted(a: Tensor, b: Any, *, alpha: float = 1) -> Tensor:
    return a - (b if alpha == 1 else b * alpha)


def _power(x: Tensor, exponent: float) -> Tensor:
    roots = {2: lambda: x * x, 0.5: x.sqrt, -1: lambda: 1.0 / x, -0.5: lambda: 1.0 / x.sqrt()}
    if exponent not in roots:
        raise CompressionError(f"A power of {exponent} has no form in integers.")
    return roots[exponent]()


# What moves values about, compares or chooses them; no number changes.
# fmt: off
_SHAPES = frozenset([
    "alias", "all", "any", "arange", "as_strided", "bitwise_and", "bitwise_not", "bitwise_or",
    "broadcast_to", "cat", "clone", "constant_pad_nd", "contiguous", "copy", "detach", "empty",
    "empty_like", "eq", "expand", "fill", "flatten", "full", "full_like", "gather", "ge", "gt",
    "index", "index_select", "isnan", "le", "lift_fresh", "logical_and", "logical_not", "lt",
    "masked_fill", "nan_to_num", "ne", "new_empty", "new_full", "new_ones", "new_zeros", "ones",
    "ones_like", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape", "roll",
    "scalar_tensor", "searchsorted", "select", "slice", "split", "split_with_sizes", "squeeze",
    "stack", "t", "transpose", "unbind", "unsafe_split", "unsqueeze", "upsample_nearest2d",
    "view", "where", "zeros", "zeros_like", "_local_scalar_dense", "_reshape_alias", "_to_copy",
    "_unsafe_view",
])
# fmt: on
_LINES = frozenset(["addmm", "mm", "linear", "convolution", "matmul", "bmm", "baddbmm"])
_NORMS = frozenset(
    ["native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"]
)
_RULES: dict[str, Callable[..., Tensor]] = {
    **{name: _looked_up(name) for name in ("sigmoid", "tanh", "silu", "exp")},
    **dict.fromkeys(_NORMS, _normalised),
    "gelu": lambda x, **_: _looked_up("gelu")(x),
    "elu": _elu,
    "softplus": _softplus,
    "glu": _glu,
    "log": _log,
    "_log_softmax": _log_softmax,
    "log1p": lambda x: _log(1.0 + x),
    "add": _added,
    "sub": _subtracted,
    "cumsum": torch.cumsum,
    "rsqrt": lambda x: 1.0 / x.sqrt(),
    "rsub": lambda a, b, alpha=1: b - a * alpha,
    "sum": _sum,
    "mean": _mean,
    "pow": _power,
    "leaky_relu": lambda x, slope=0.01: torch.where(x > 0, x, x * slope),
    "square": lambda x: x * x,
    **{
        name: getattr(torch, name)
        for name in (
            "mul", "div", "neg", "abs", "sqrt", "reciprocal", "relu", "clamp", "clamp_min",
            "clamp_max", "maximum", "minimum", "floor", "round", "sign", "amax", "amin",
        )
    },
    "hardtanh": lambda x, low=-1.0, high=1.0: x.clamp(low, high),
}  # fmt: skip
