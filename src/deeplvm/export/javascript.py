r"""A graph of tensor operations as plain JavaScript, which needs no library to run.

``torch.export`` and its decompositions leave a few dozen operations of fixed shapes, each a loop
over typed arrays here: views (``permute``, ``expand``, ``slice``) are the strides with which the
next loop reads, pointwise operations of one another are one loop, and what depends on no
argument is computed by PyTorch when the script is written. ``runtime.js`` has products of
matrices, convolutions and reductions.
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from deeplvm.export.functions import quietly

# Expressions of element i; those of one letter are arguments, an array's or a number's.
POINTWISE = {
    "abs": "Math.abs(a)", "neg": "-(a)", "exp": "Math.exp(a)", "expm1": "Math.expm1(a)",
    "log": "Math.log(a)", "log1p": "Math.log1p(a)", "log2": "Math.log2(a)", "sin": "Math.sin(a)",
    "cos": "Math.cos(a)", "tan": "Math.tan(a)", "atan": "Math.atan(a)", "tanh": "Math.tanh(a)",
    "sinh": "Math.sinh(a)", "cosh": "Math.cosh(a)", "asinh": "Math.asinh(a)",
    "atan2": "Math.atan2(a,b)", "sqrt": "Math.sqrt(a)", "rsqrt": "1/Math.sqrt(a)",
    "square": "square(a)", "reciprocal": "1/(a)", "sign": "Math.sign(a)",
    "sigmoid": "1/(1+Math.exp(-(a)))", "relu": "Math.max(a,0)", "erf": "erf(a)",
    "floor": "Math.floor(a)", "ceil": "Math.ceil(a)", "trunc": "Math.trunc(a)",
    "round": "round(a)", "isnan": "+Number.isNaN(a)", "isinf": "+(Math.abs(a)===Infinity)",
    "logical_not": "+!(a)", "bitwise_not": "+!(a)", "add": "(a)+(b)", "sub": "(a)-(b)",
    "mul": "(a)*(b)", "div": "(a)/(b)", "remainder": "remainder(a,b)", "fmod": "(a)%(b)",
    "pow": "Math.pow(a,b)", "maximum": "Math.max(a,b)", "minimum": "Math.min(a,b)",
    "eq": "+((a)===(b))", "ne": "+((a)!==(b))", "lt": "+((a)<(b))", "le": "+((a)<=(b))",
    "gt": "+((a)>(b))", "ge": "+((a)>=(b))", "logical_and": "+(!!(a)&&!!(b))",
    "logical_or": "+(!!(a)||!!(b))", "logical_xor": "(+!!(a))^(+!!(b))", "bitwise_and": "(a)&(b)",
    "bitwise_or": "(a)|(b)", "where": "(a)?(b):(c)", "clamp": "clamp(a,b,c)",
    "leaky_relu": "(a)>0?(a):(a)*(b)", "clone": "a", "_to_copy": "a", "copy": "b",
    "convert_element_type": "a",
}  # fmt: skip
# How a reduction begins and goes on, from s and a value v.
REDUCTIONS = {
    "sum": ("0", "s+v"), "mean": ("0", "s+v"), "prod": ("1", "s*v"),
    "amax": ("-Infinity", "Math.max(s,v)"), "amin": ("Infinity", "Math.min(s,v)"),
    "any": ("0", "+(s||!!v)"), "all": ("1", "+(s&&!!v)"),
}  # fmt: skip
VIEWS = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select",
    "unsqueeze", "squeeze", "alias", "detach", "as_strided", "diagonal", "split_with_sizes",
    "split", "unbind", "lift_fresh_copy", "broadcast_in_dim", "squeeze_copy", "view_of",
}  # fmt: skip
# Arrays whose elements depend on shapes alone.
_FILLED = {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones",
           "new_full", "new_empty", "arange"}  # fmt: skip
_UNSAID = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async"}
# Left whole by torch's own table, though other operations make them up.
_DECOMPOSED = (
    "native_layer_norm native_group_norm elu gelu silu "
    "softplus hardtanh _softmax _log_softmax logsumexp upsample_nearest2d upsample_bilinear2d "
    "upsample_nearest1d addmm baddbmm index_select leaky_relu log_sigmoid_forward logit mish "
    "hardsigmoid hardswish celu pixel_shuffle embedding"
)
_ARRAYS = {torch.float32: "Float32Array", torch.float64: "Float64Array",
           torch.float16: "Float32Array", torch.bfloat16: "Float32Array"}  # fmt: skip
_SMALL = 256  # elements: so few are not worth a loss of digits
_PATIENCE = 60.0  # seconds for a script to run elsewhere


class ScriptError(ValueError):
    """A graph cannot be written as JavaScript; the message says because of which operation."""


@dataclass(frozen=True)
class Script:
    """A function in JavaScript.

    Attributes:
        code: An expression, a function of the runtime and of :attr:`weights` in base64 that
            returns the function: typed arrays in, an array of typed arrays out, which the next
            call overwrites.
        weights: Constants, half precision where there are many of them.
        inputs: Elements of each argument.
        outputs: Elements of each result.
    """

    code: str = field(repr=False)
    weights: bytes = field(repr=False)
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def text(self) -> str:
        """The expression applied to the weights; ``runtime.js`` comes before it."""
        return f'({self.code})("{base64.b64encode(self.weights).decode()}")'


@dataclass(frozen=True, eq=False)
class _Value:
    """A strided view of an array of the script, of a constant, or an expression of element i."""

    array: str
    like: Tensor  # on no device: shape, strides and offset of the view
    expression: str | None = None


def runtime() -> str:
    """The functions that every script calls."""
    return files("deeplvm.export").joinpath("runtime.js").read_text(encoding="utf-8")


def javascript(module: nn.Module, arguments: Sequence[Tensor], *, half: bool = True) -> Script:
    """A module as JavaScript, for arguments of these shapes.

    Args:
        module: Without random draws or branches on what is in a tensor, in eval mode.
        arguments: Of the shapes that all later ones have.
        half: Whether large constants are written in half precision.

    Raises:
        ScriptError: If torch makes no graph of it, or the graph has an operation without a form
            here.

    >>> script = javascript(nn.Sequential(nn.Linear(2, 3), nn.Sigmoid()), [torch.zeros(1, 2)])
    >>> script.inputs, script.outputs, len(script.weights)
    ((2,), (3,), 36)
    """
    from torch._decomp import get_decompositions

    table = torch.export.default_decompositions()
    named = [getattr(torch.ops.aten, name) for name in _DECOMPOSED.split()]
    try:
        with torch.no_grad(), quietly():
            exported = torch.export.export(module.eval(), tuple(arguments), strict=False)
            table.update(get_decompositions(named))
            table[torch.ops.aten.linalg_vector_norm.default] = _norm
            program = exported.run_decompositions(table)
    except Exception as error:  # torch raises errors of many kinds
        said = " ".join(str(error).split())[:200]
        raise ScriptError(
            f"torch.export makes no graph of {type(module).__name__} ({type(error).__name__}: "
            f"{said})."
        ) from error
    return _Writer(program, half=half).script()


class _Writer:
    """Goes through a graph once; a node is a constant tensor, a value of the script, or both."""

    def __init__(self, program: torch.export.ExportedProgram, *, half: bool) -> None:
        self.program, self.half = program, half
        self.before: list[str] = []  # lines that run once
        self.lines: list[str] = []  # lines of each call
        self.weights = bytearray()
        self.stored: dict[Any, str] = {}
        self.kept: list[Tensor] = []  # whose addresses are keys
        self.values: dict[fx.Node, Any] = {}
        self.inputs: list[int] = []
        self.outputs: list[_Value] = []
        self.names = 0

    def script(self) -> Script:
        signature = self.program.graph_signature
        state = {**self.program.state_dict, **self.program.constants}
        held = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        graph = self.program.graph_module.graph
        graph.eliminate_dead_code()
        for node in graph.nodes:
            if node.op == "placeholder" and node.name in held:
                self.values[node] = state[held[node.name]].detach()
            elif node.op == "placeholder":
                like = node.meta["val"]
                shape = like.shape if isinstance(like, Tensor) else ()
                dtype = like.dtype if isinstance(like, Tensor) else torch.float32
                self.values[node] = _Value(f"a{len(self.inputs)}", _like(shape, dtype))
                self.inputs.append(math.prod(shape))
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                wanted = len(signature.user_outputs)
                found = map_arg(node.args[0], self.values.__getitem__)[-wanted:]
                self.outputs = [self._contiguous(each) for each in found]
        arguments = ", ".join([f"a{i}" for i in range(len(self.inputs))])
        results = ", ".join([each.array for each in self.outputs])
        code = "\n".join([
            "(text) => {", "const data = bytes(text);", *self.before,
            f"return ({arguments}) => {{", *self.lines, f"return [{results}];", "};", "}",
        ])  # fmt: skip
        sizes = tuple([each.like.numel() for each in self.outputs])
        return Script(code, bytes(self.weights), tuple(self.inputs), sizes)

    def _call(self, node: fx.Node) -> Any:
        args: Any = map_arg(node.args, self.values.__getitem__)
        options: Any = map_arg(node.kwargs, self.values.__getitem__)
        if node.target is not None and getattr(node.target, "__name__", "") == "getitem":
            return args[0][args[1]]
        name = getattr(node.target, "_opname", str(node.target))
        if name in _UNSAID:
            return None
        if not any([isinstance(each, _Value) for each in _flat((args, options))]):
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise ScriptError(f"{name} draws at random, and a script here draws nothing.")
            with torch.no_grad():
                return node.target(*args, **options)  # type: ignore[operator]
        if name in _FILLED:
            like = [torch.empty(each.like.shape, dtype=each.like.dtype)
                    if isinstance(each, _Value) else each for each in args]  # fmt: skip
            return node.target(*like, **options)  # type: ignore[operator]
        if name in VIEWS:
            return self._view(node, args, options)
        return self._operation(name, node, args, options)

    def _view(self, node: fx.Node, args: Any, options: Any) -> Any:
        value = self._materialised(args[0])
        try:
            seen = node.target(value.like, *args[1:], **options)  # type: ignore[operator]
        except RuntimeError:  # no strides say it
            value = self._contiguous(value)
            seen = node.target(value.like, *args[1:], **options)  # type: ignore[operator]
        if isinstance(seen, Tensor):
            return _Value(value.array, seen)
        return [_Value(value.array, each) for each in seen]

    def _operation(self, name: str, node: fx.Node, args: Any, options: Any) -> Any:
        like = node.meta["val"]
        if isinstance(like, tuple | list):
            like = like[0]
        if not isinstance(like, Tensor):
            raise ScriptError(
                f"{name} looks at what is in a tensor, which a script of fixed shapes cannot."
            )
        like = _like(like.shape, like.dtype)
        if name == "var_mean":
            return [self._reduction(each, like, args, options) for each in ("var", "mean")]
        if name in POINTWISE:
            return self._pointwise(name, node, like, args, options)
        if name in REDUCTIONS or name in ("argmax", "var"):
            return self._reduction(name, like, args, options)
        if name in ("mm", "bmm"):
            return self._product(like, *args)
        if name == "convolution":
            return self._convolution(like, *args)
        if name == "_native_batch_norm_legit_no_training":
            return self._normalisation(like, *args)
        if name == "cat":
            return self._cat(like, *args)
        if name in ("index", "_unsafe_index"):
            return self._index(like, *args)
        if name in ("flip", "roll", "repeat"):
            return self._picked(like, args[0], lambda places: node.target(places, *args[1:]))  # type: ignore[operator]
        if name == "constant_pad_nd":
            return self._padded(like, *args)
        if name == "gather":
            return self._gather(like, *args)
        if name in ("index_put", "slice_scatter", "select_scatter"):
            return self._put(name, like, *args)
        if name == "searchsorted":
            return self._searched(like, *args[:2], **options)
        if name == "cumsum":
            source = self._contiguous(args[0]).array
            axis = args[1] % like.dim()
            inner = math.prod(like.shape[axis + 1 :])
            out = self._new(like)
            self.lines.append(f"cumsum({out}, {source}, {like.shape[axis]}, {inner});")
            return _Value(out, like)
        raise ScriptError(
            f"the operation {name} has no form in JavaScript here (deeplvm.export.javascript)."
        )

    def _pointwise(
        self, name: str, node: fx.Node, like: Tensor, args: Any, options: Any
    ) -> _Value:
        values = list(args)
        if name in ("clone", "_to_copy", "convert_element_type"):
            values = values[:1]
        if name == "clamp":
            values = [*values, *[None] * (3 - len(values))]
            values[1] = -math.inf if values[1] is None else values[1]
            values[2] = math.inf if values[2] is None else values[2]
        if name == "leaky_relu" and len(values) == 1:
            values.append(0.01)
        form = POINTWISE[name]
        if (alpha := options.get("alpha", 1)) != 1:
            form = form.replace("(b)", f"({_number(alpha)})*(b)")
        if (mode := options.get("rounding_mode")) is not None:
            form = f"Math.{mode}({form})"
        if name in ("_to_copy", "convert_element_type") and not like.is_floating_point():
            form = "+!!(a)" if like.dtype == torch.bool else "Math.trunc(a)"
        read = {
            letter: self._read(each, like) for letter, each in zip("abc", values, strict=False)
        }
        text = re.sub(r"(?<![\w.])([abc])(?!\w)", lambda found: read[found[1]], form)
        users = list(node.users)
        if len(users) == 1 and len(text) < 400 and self._inlines(users[0], like):
            return _Value("", like, text)
        out = self._new(like)
        self.lines.append(f"for (let i = 0; i < {like.numel()}; i++) {out}[i] = {text};")
        return _Value(out, like)

    def _inlines(self, user: fx.Node, like: Tensor) -> bool:
        """Whether the only user reads each element once, and so may compute it itself."""
        name = getattr(user.target, "_opname", "")
        own = user.meta.get("val")
        if name not in POINTWISE or not isinstance(own, Tensor) or own.shape != like.shape:
            return False
        form = POINTWISE[name]
        return all([len(re.findall(rf"(?<![\w.]){each}(?!\w)", form)) < 2 for each in "abc"])

    def _read(self, value: Any, like: Tensor) -> str:
        """Element i of an operand that is broadcast to a shape, as an expression."""
        if isinstance(value, _Value) and value.expression is not None:
            return f"({value.expression})"
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool | int | float):
            return f"({_number(value)})"
        value = self._materialised(value)
        seen = value.like.expand(like.shape)
        if seen.numel() == 1 or not any(seen.stride()):
            return f"{value.array}[{seen.storage_offset()}]"
        return f"{value.array}[{self._at(seen)}]"

    def _at(self, like: Tensor) -> str:
        """The place of element i of a strided view, as an expression."""
        if like.is_contiguous():
            return f"i+{like.storage_offset()}" if like.storage_offset() else "i"
        axes = [(n, s) for n, s in zip(like.shape, like.stride(), strict=True) if n > 1]
        if len(axes) == 1:
            return f"i*{axes[0][1]}+{like.storage_offset()}"
        shape, strides = [n for n, _ in axes], [s for _, s in axes]
        key = ("at", tuple(shape), tuple(strides), like.storage_offset())
        if key not in self.stored:
            self.stored[key] = self._name("m")
            said = f"{json.dumps(shape)}, {json.dumps(strides)}, {like.storage_offset()}"
            self.before.append(f"const {self.stored[key]} = places({said});")
        return f"{self.stored[key]}[i]"

    def _materialised(self, value: Any) -> _Value:
        """A view of an array: constants are stored, expressions computed."""
        if isinstance(value, _Value):
            if value.expression is None:
                return value
            out = self._new(value.like)
            count = value.like.numel()
            self.lines.append(f"for (let i = 0; i < {count}; i++) {out}[i] = {value.expression};")
            return _Value(out, value.like)
        if not isinstance(value, Tensor):
            value = torch.tensor(value)
        return self._constant(value)

    def _contiguous(self, value: Any) -> _Value:
        """An array whose elements are in order, and are all that is in it."""
        constant = isinstance(value, Tensor)
        value = self._materialised(value)
        like, plain = value.like, _like(value.like.shape, value.like.dtype)
        if like.is_contiguous() and not like.storage_offset() and value.array[0] != "w":
            return _Value(value.array, like)
        if like.is_contiguous() and not like.storage_offset() and constant:
            return value
        key = ("copy", value.array, tuple(like.shape), like.stride(), like.storage_offset())
        if constant and key in self.stored:
            return _Value(self.stored[key], plain)
        out, at = self._new(plain), self._at(like)
        (self.before if constant else self.lines).append(
            f"for (let i = 0; i < {plain.numel()}; i++) {out}[i] = {value.array}[{at}];"
        )
        if constant:
            self.stored[key] = out
        return _Value(out, plain)

    def _constant(self, value: Tensor) -> _Value:
        """A view of what is stored: of tensors that are views of one another, once."""
        value = value.detach().cpu()
        extent = 1 + sum([(n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)])
        if extent > 2 * value.numel():
            value, extent = value.contiguous(), value.numel()
        base = value.as_strided((extent,), (1,))
        key = (value.data_ptr(), extent, value.dtype)
        if key not in self.stored:
            self.kept.append(value)
            self.stored[key] = self._store(base)
        like = _like((extent,), value.dtype).as_strided(value.shape, value.stride(), 0)
        return _Value(self.stored[key], like)

    def _store(self, base: Tensor) -> str:
        real = base.is_floating_point()
        small = base.numel() < _SMALL or not self.half or bool(base.abs().max() > 6e4)
        dtype = torch.float32 if real and small else torch.float16 if real else torch.int32
        data = (
            base.to(dtype).contiguous().numpy().astype(f"<{'f' if real else 'i'}{dtype.itemsize}")
        )
        kind = {torch.float32: "floats", torch.float16: "halves", torch.int32: "whole"}[dtype]
        name, start = self._name("w"), len(self.weights)
        self.weights += data.tobytes() + bytes(-data.nbytes % 4)
        self.before.append(f"const {name} = {kind}(data, {start}, {base.numel()});")
        return name

    def _name(self, letter: str) -> str:
        self.names += 1
        return f"{letter}{self.names}"

    def _new(self, like: Tensor) -> str:
        name, kind = self._name("t"), _ARRAYS.get(like.dtype, "Int32Array")
        self.before.append(f"const {name} = new {kind}({like.numel()});")
        return name

    def _reduction(self, name: str, like: Tensor, args: Any, options: Any) -> _Value:
        value = self._materialised(args[0])
        dim = options.get("dim", args[1] if len(args) > 1 else None)
        every = range(value.like.dim())
        if dim is None or dim == []:
            axes = list(every)
        else:
            axes = [each % value.like.dim() for each in ([dim] if isinstance(dim, int) else dim)]
        seen = value.like.permute([*[i for i in every if i not in axes], *axes])
        inner = math.prod([value.like.shape[axis] for axis in axes])
        source = self._contiguous(_Value(value.array, seen)).array
        out, count = self._new(like), like.numel()
        if name == "argmax":
            self.lines.append(f"argmax({out}, {source}, {inner});")
            return _Value(out, like)
        if name == "var":
            correction = options.get("correction", args[2] if len(args) > 2 else 1)
            correction = 1 if correction is None else correction
            self.lines.append(f"variance({out}, {source}, {inner}, {correction});")
            return _Value(out, like)
        start, step = REDUCTIONS[name]
        step = step.replace("v", f"{source}[j]")
        result = f"s/{inner}" if name == "mean" else "s"
        self.lines.append(
            f"for (let i = 0, j = 0; i < {count}; i++) {{ let s = {start}; "
            f"for (const e = j + {inner}; j < e; j++) s = {step}; {out}[i] = {result}; }}"
        )
        return _Value(out, like)

    def _product(self, like: Tensor, left: Any, right: Any) -> _Value:
        a, b = self._contiguous(left), self._contiguous(right)
        out, (rows, inner) = self._new(like), a.like.shape[-2:]
        batch = like.shape[0] if like.dim() == 3 else 1
        sizes = f"{batch}, {rows}, {inner}, {like.shape[-1]}"
        self.lines.append(f"product({out}, {a.array}, {b.array}, {sizes});")
        return _Value(out, like)

    def _convolution(
        self, like: Tensor, x: Any, weight: Any, bias: Any, stride: Any, padding: Any,
        dilation: Any, transposed: Any, _: Any, groups: int,
    ) -> _Value:  # fmt: skip
        """One loop for both: a kernel moves over the input, or spreads it over the output."""
        if like.dim() > 4 or not isinstance(weight, Tensor) or like.shape[0] != 1:
            raise ScriptError("a convolution over volumes, or by what is computed, has no form.")
        source = self._materialised(x)
        seen, shape = source.like, list(like.shape)
        if like.dim() == 3:  # of one line
            seen, weight, shape = seen.unsqueeze(2), weight.unsqueeze(2), [*shape[:2], 1, shape[2]]
            stride, dilation, padding = [1, *stride], [1, *dilation], [0, *padding]
        (_, channels, high, wide), (tall, broad) = seen.shape, weight.shape[-2:]
        if transposed:
            weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
            inner = self._contiguous(_Value(source.array, seen)).array
            size = [
                max((n - 1) * s + d * (k - 1) + 1, p + m)
                for n, s, d, k, p, m in zip(
                    (high, wide), stride, dilation, (tall, broad), padding, shape[2:], strict=True
                )
            ]
            moved, still = [high, wide, *stride], [1, 1]
            steps = [still, stride]
        else:
            size = [high + 2 * padding[0], wide + 2 * padding[1]]
            padded = _like((1, channels, *size), like.dtype)
            inner = self._contiguous(_Value(source.array, seen)).array
            if any(padding):
                inner, source_ = self._new(padded), inner
                place = padded[
                    :, :, padding[0] : padding[0] + high, padding[1] : padding[1] + wide
                ]
                self.lines.append(
                    f"for (let i = 0; i < {seen.numel()}; i++) "
                    f"{inner}[{self._at(place)}] = {source_}[i];"
                )
            moved, steps = [shape[2], shape[3]], [stride, [1, 1]]
        # in lines as wide as those of the input a kernel without stride is one long loop
        flat = not transposed and max(stride) == 1
        area = size if transposed else [shape[2], size[1]] if flat else shape[2:]
        full = _like((1, shape[1], *area), like.dtype)
        out = self._new(full)
        said = {
            "groups": groups, "inputs": channels // groups, "outputs": shape[1] // groups,
            "tall": tall, "broad": broad, "high": moved[0], "wide": moved[1],
            "plane": (high * wide) if transposed else size[0] * size[1],
            "line": wide if transposed else size[1],
            "full": full.shape[2] * full.shape[3], "row": full.shape[3],
            "from": steps[0], "to": steps[1], "apart": list(dilation),
            "spread": int(transposed), "flat": int(flat),
        }  # fmt: skip
        kernel = self._contiguous(weight.contiguous()).array
        offsets = "null" if bias is None else self._contiguous(bias).array
        self.lines.append(f"convolve({out}, {inner}, {kernel}, {offsets}, {json.dumps(said)});")
        result = full[..., : shape[3]]
        if transposed:
            result = full[:, :, padding[0] : padding[0] + shape[2], padding[1] :][..., : shape[3]]
        return _Value(out, result if like.dim() == 4 else result[:, :, 0])

    def _normalisation(
        self, like: Tensor, x: Any, weight: Any, bias: Any, mean: Any, var: Any, _: Any, eps: float
    ) -> list[_Value]:
        scale = (var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        shape = (-1, *[1] * (like.dim() - 2))
        read = [self._read(each, like) for each in (x, scale.view(shape), shift.view(shape))]
        out = self._new(like)
        self.lines.append(
            f"for (let i = 0; i < {like.numel()}; i++) {out}[i] = {read[0]}*{read[1]}+{read[2]};"
        )
        return [_Value(out, like)]

    def _cat(self, like: Tensor, parts: Any, dim: int = 0) -> _Value:
        out, start = self._new(like), 0
        for each in parts:
            shape = each.like.shape if isinstance(each, _Value) else each.shape
            if len(shape) == 1 and not shape[0]:
                continue
            place = like.narrow(dim, start, shape[dim])
            text = self._read(each, _like(shape, like.dtype))
            self.lines.append(
                f"for (let i = 0; i < {math.prod(shape)}; i++) {out}[{self._at(place)}] = {text};"
            )
            start += shape[dim]
        return _Value(out, like)

    def _index(self, like: Tensor, x: Any, indices: Any) -> _Value:
        """Elements at given places; of places that are computed, those of one axis."""
        if all([each is None or isinstance(each, Tensor) for each in indices]):
            return self._picked(like, x, lambda places: torch.ops.aten.index(places, indices))
        axes = [i for i, each in enumerate(indices) if each is not None]
        if len(axes) != 1:
            raise ScriptError("an index by several arguments has no form in JavaScript here.")
        return self._lookup(like, x, indices[axes[0]], axes[0])

    def _picked(self, like: Tensor, x: Any, choice: Callable[[Tensor], Tensor]) -> _Value:
        """Elements at places that are known beforehand."""
        value = self._materialised(x)
        seen = value.like
        reach = 1 + sum([(n - 1) * s for n, s in zip(seen.shape, seen.stride(), strict=True)])
        places = torch.arange(int(seen.storage_offset()) + reach, dtype=torch.int32)
        chosen = choice(places.as_strided(seen.shape, seen.stride(), seen.storage_offset()))
        at, out = self._contiguous(chosen.contiguous()).array, self._new(like)
        self.lines.append(
            f"for (let i = 0; i < {like.numel()}; i++) {out}[i] = {value.array}[{at}[i]];"
        )
        return _Value(out, like)

    def _put(self, name: str, like: Tensor, x: Any, *args: Any) -> _Value:
        """A tensor of which some elements, known beforehand or by a mask, are others."""
        places, aten = (
            torch.arange(like.numel(), dtype=torch.int32).view(like.shape),
            torch.ops.aten,
        )
        if name == "index_put":
            indices, values = args[0], args[1]
            if any([isinstance(each, _Value) for each in indices]):
                return self._masked(like, x, indices, values)
            places = aten.index(places, indices)
        else:
            values = args[0]
            take = aten.slice if name == "slice_scatter" else aten.select
            places = take(places, *args[1:])
        out, at = self._new(like), self._contiguous(places.contiguous()).array
        self.lines.append(
            f"for (let i = 0; i < {like.numel()}; i++) {out}[i] = {self._read(x, like)};"
        )
        text = self._read(values, _like(places.shape, like.dtype))
        self.lines.append(f"for (let i = 0; i < {places.numel()}; i++) {out}[{at}[i]] = {text};")
        return _Value(out, like)

    def _masked(self, like: Tensor, x: Any, indices: Any, value: Any) -> _Value:
        mask = indices[0]
        count = value.like.numel() if isinstance(value, _Value) else value.numel()
        if len(indices) > 1 or mask.like.dtype != torch.bool or count != 1:
            raise ScriptError("index_put at places that are computed has no form in JavaScript.")
        seen = self._materialised(mask)
        wide = seen.like.reshape(*seen.like.shape, *[1] * (like.dim() - seen.like.dim()))
        parts = [self._read(each, like) for each in (_Value(seen.array, wide), value, x)]
        out = self._new(like)
        self.lines.append(
            f"for (let i = 0; i < {like.numel()}; i++) "
            f"{out}[i] = {parts[0]}?{parts[1]}:{parts[2]};"
        )
        return _Value(out, like)

    def _padded(self, like: Tensor, x: Any, pad: list[int], fill: Any = 0) -> _Value:
        out, place = self._new(like), like
        shape = x.like.shape
        for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
            if min(before, after) < 0:
                raise ScriptError("constant_pad_nd that cuts has no form in JavaScript here.")
            place = place.narrow(-1 - axis, before, shape[-1 - axis])
        if fill:
            self.before.append(f"{out}.fill({_number(fill)});")
        text = self._read(x, _like(shape, like.dtype))
        self.lines.append(
            f"for (let i = 0; i < {math.prod(shape)}; i++) {out}[{self._at(place)}] = {text};"
        )
        return _Value(out, like)

    def _lookup(self, like: Tensor, x: Any, index: Any, axis: int) -> _Value:
        source, which = self._contiguous(x), self._contiguous(index)
        inner = math.prod(source.like.shape[axis + 1 :])
        out, count = self._new(like), which.like.numel()
        sizes = f"{source.like.shape[axis]}, {count}, {inner}"
        self.lines.append(f"lookup({out}, {source.array}, {which.array}, {sizes});")
        return _Value(out, like)

    def _searched(
        self, like: Tensor, steps: Any, x: Any, *, right: bool = False, side: Any = None, **_: Any
    ) -> _Value:
        among, value = self._contiguous(steps), self._contiguous(x)
        out, alone = self._new(like), among.like.dim() == 1
        inner = like.numel() if alone or not like.dim() else like.shape[-1]
        after = int(right or side == "right")
        sizes = f"{among.like.shape[-1]}, {inner}, {after}"
        self.lines.append(f"search({out}, {among.array}, {value.array}, {sizes});")
        return _Value(out, like)

    def _gather(self, like: Tensor, x: Any, axis: int, index: Any, **_: Any) -> _Value:
        source, which = self._materialised(x), self._contiguous(index)
        axis %= like.dim() or 1
        seen = source.like.select(axis, 0).unsqueeze(axis).expand(like.shape)
        out, stride = self._new(like), source.like.stride(axis) if like.dim() else 1
        at = self._at(seen) if any(seen.stride()) else str(seen.storage_offset())
        self.lines.append(
            f"for (let i = 0; i < {like.numel()}; i++) "
            f"{out}[i] = {source.array}[{at}+{which.array}[i]*{stride}];"
        )
        return _Value(out, like)


def _norm(x: Tensor, order: float = 2, dim: Any = None, *given: Any, **options: Any) -> Tensor:
    keepdim = given[0] if given else options.get("keepdim", False)
    axes = list(range(x.dim())) if dim is None else dim
    return x.to(options.get("dtype") or x.dtype).abs().pow(order).sum(axes, keepdim).pow(1 / order)


def _like(shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def _flat(values: Any) -> list[Any]:
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return [each for value in values for each in _flat(value)]
    return [values]


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def engine() -> str | None:
    """A program of this machine that runs JavaScript: node, else a browser; ``None`` if none."""
    for name in ("node", "chromium", "google-chrome", "chromium-browser", "chrome"):
        if path := shutil.which(name):
            return path
    return None


def run_javascript(code: str, program: str | None = None) -> str:
    """What a script says, the value of its ``answer``, a text.

    Raises:
        RuntimeError: If it does not end, or ends in an error.
    """
    program = program or engine()
    if program is None:
        raise RuntimeError("There is neither node nor Chromium on this machine.")
    with tempfile.TemporaryDirectory() as folder:
        if Path(program).name.startswith("node"):
            path = Path(folder) / "script.js"
            path.write_text(f"{code}\nprocess.stdout.write(answer);", encoding="utf-8")
            words = [program, str(path)]
        else:
            path = Path(folder) / "page.html"
            path.write_text(
                f'<!doctype html><meta charset="utf-8"><pre id="answer"></pre><script>{code}\n'
                f'document.getElementById("answer").textContent = answer;</script>',
                encoding="utf-8",
            )
            words = [program, "--headless", "--no-sandbox", "--disable-gpu",
                     f"--user-data-dir={folder}/profile", "--dump-dom", path.as_uri()]  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{program} does not run a script: {error}") from error
    said = done.stdout.decode(errors="replace")
    if Path(program).name.startswith("node"):
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.decode(errors='replace')[-500:]}")
        return said
    found = re.search(r'<pre id="answer">(.*?)</pre>', said, re.DOTALL)
    if found is None or not found[1]:
        raise RuntimeError(f"{program} did not run the script to its end.")
    return found[1]


def carried_out(
    script: Script, rows: Sequence[Sequence[Tensor]], program: str | None = None
) -> list[list[Tensor]]:
    """What a script gives for some arguments, in node or a browser, as flat tensors.

    Raises:
        RuntimeError: If there is neither, or the script ends in an error.
    """
    given = [[each.flatten().tolist() for each in row] for row in rows]
    code = (
        f"{runtime()}\nconst f = {script.text};\n"
        f"const rows = {json.dumps(given)};\n"
        "const answer = JSON.stringify(rows.map((r) => f(...r.map((v) => Float64Array.from(v)))"
        ".map((v) => Array.from(v, String))));"
    )
    found = json.loads(run_javascript(code, program))
    return [[torch.tensor([float(v) for v in each], dtype=torch.float64) for each in row]
            for row in found]  # fmt: skip
