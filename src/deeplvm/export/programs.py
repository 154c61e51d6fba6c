"""Functions of a run as files: ONNX and PyTorch's pt2, held against the run when they are written.

A file has all that it needs, preprocessing too; in its metadata (``deeplvm``, JSON) stand names,
columns, units, categories, and whether a likelihood is exact or a bound.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deeplvm.data.variable import Variable
from deeplvm.export.functions import (
    Decoder,
    Encoder,
    ExportError,
    Function,
    LogLikelihood,
    Port,
    parts_of,
    quietly,
)
from deeplvm.files import beside
from deeplvm.runs.run import Run, version

Part = Literal["encoder", "decoder", "log-likelihood"]
Form = Literal["onnx", "pt2"]
AGREEMENT = 1e-4  # relative to the largest value of a result
_ROWS = 20  # that are compared
_LARGEST = 2**31 - 1  # bytes of a protocol buffer
_COLUMNS = 1_000  # of a table whose columns are an argument each
FORMAT = 1


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        path: Where.
        part: Which function.
        rows: How many rows were compared with the run itself.
        difference: The largest difference of a result, relative to its largest value.
        inputs: Names of the arguments.
        outputs: Names of the results.
    """

    path: Path
    part: Part
    rows: int
    difference: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.path}: {', '.join(self.outputs)} of {self.part}; as the run within "
            f"{self.difference:.1g} on {self.rows} rows"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        plain = {name: getattr(self, name) for name in ("part", "rows", "difference")}
        names = {"inputs": list(self.inputs), "outputs": list(self.outputs)}
        return {"path": str(self.path), **plain, **names}


def function_of(run: Run, part: Part, particles: int = 64, seed: int = 0) -> Function:
    """A part of a run as a function of tensors."""
    if part == "decoder":
        return Decoder(run)
    return Encoder(run, seed) if part == "encoder" else LogLikelihood(run, particles, seed)


def write(
    run: Run, part: Part, path: Path, form: Form, *, particles: int = 64, seed: int = 0
) -> Written:
    """Write a part of a run to a file, if what is written agrees with the run.

    Args:
        run: A finished run.
        part: Which function.
        path: Where; written whole or not at all.
        form: ``"onnx"``, or ``"pt2"``, which ``torch.export.load`` opens.
        particles: Of the likelihood.
        seed: Of the noise that becomes part of the file.

    Raises:
        ExportError: If it cannot be exported, a package is not installed, or what came of it
            differs from the run by more than 1e-4 of the largest value.
    """
    if form == "onnx":
        _refuse_absent()
    function = function_of(run, part, particles, seed)
    arguments = _rows_for(run, function)
    with torch.no_grad():
        expected = function(*arguments)
    about = _about(run, part, function)
    path.parent.mkdir(parents=True, exist_ok=True)  # where there is something to write
    with beside(path) as temporary:
        if form == "onnx":
            content = _as_onnx(function, about)
            results = _run_onnx(content, function, arguments)
            temporary.write_bytes(content)
        else:
            content, results = _as_pt2(function, about, arguments)
            temporary.write_bytes(content)
        difference = max([_difference(*each) for each in zip(results, expected, strict=True)])
        if not difference <= AGREEMENT:
            raise ExportError(
                f"{path} was not written: what came of the {part} differs from the run by "
                f"{difference:.1g} of the largest value, more than {AGREEMENT:g}."
            )
    ports = [tuple([port["name"] for port in about[which]]) for which in ("inputs", "outputs")]
    return Written(path, part, len(arguments[0]), difference, ports[0], ports[1])


def _as_pt2(
    function: Function, about: dict[str, Any], arguments: tuple[Tensor, ...]
) -> tuple[bytes, tuple[Tensor, ...]]:
    """What torch.export.load opens, and what it then says of some rows."""
    extra = {"deeplvm": json.dumps(about, ensure_ascii=False)}
    program, file = function.program(), io.BytesIO()  # torch aborts where a disk is full
    try:
        with quietly(), torch.no_grad():
            torch.export.save(program, file, extra_files=extra)
            file.seek(0)
            results = torch.export.load(file).module()(*arguments)
    except (RuntimeError, AssertionError, TypeError) as error:  # of its own format
        said = " ".join(str(error).split())[:200]
        raise ExportError(
            f"torch.export does not read back what it wrote of the {type(function).__name__} of "
            f"this model ({type(error).__name__}: {said}); write --to onnx."
        ) from error
    return file.getvalue(), results


def _difference(found: Tensor, expected: Tensor) -> float:
    """Of a result, relative to its largest value in an element, or to a thousandth of all."""
    first, second = (each.double().reshape(len(each), -1) for each in (found, expected))
    if not torch.equal(first.isnan(), second.isnan()):
        return float("inf")
    first, second = first.nan_to_num(), second.nan_to_num()
    largest = second.abs().amax(0)
    scale = torch.maximum(largest, 1e-3 * largest.max()).clamp(min=1e-30)
    return float(((first - second).abs() / scale).max())


def _rows_for(run: Run, function: Function) -> tuple[Tensor, ...]:
    """Rows of the run's data as their file has them, or some that are drawn where it is gone."""
    drawn = function.example(_ROWS)
    known = {port.name for port in function.inputs} & set(run.description.variables)
    if isinstance(function, Decoder) or not known:
        return drawn
    try:
        rows = run.data.test if run.data.rows("test") else run.data.valid
        rows = rows[:_ROWS]
    except (ValueError, OSError):
        return drawn
    found = []
    for port, other in zip(function.inputs, drawn, strict=True):
        if port.name == "y" or port.variable is None:
            found.append(rows["y"][:].nan_to_num().to(port.dtype) if "y" in rows else other)
        else:
            found.append(in_units(port.variable, rows.exact(port.name)).to(port.dtype))
    least = min([len(each) for each in found])
    return tuple([each[:least] for each in found])


def in_units(variable: Variable, exact: Tensor) -> Tensor:
    """Rows as :meth:`Selection.exact` gives them in the units of their file.

    Categories are codes, dates days since 1970-01-01; of grey values that were drawn as 0 and 1,
    black and white.
    """
    parts, table = parts_of(variable), variable.columns is not None
    steps = torch.tensor([1 / round(1 / part.step) for part in parts], dtype=torch.float64)
    origin = torch.tensor([part.origin for part in parts], dtype=torch.float64)
    own = exact.double() * (steps if table else steps[0]) + (origin if table else origin[0])
    return own if variable.grey is None else own * variable.grey


def _about(run: Run, part: Part, function: Function) -> dict[str, Any]:
    """What stands in the file beside its numbers."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "function": part,
        "deeplvm": version(),
        "recipe": run.config.recipe,
        "data": run.description.name,
        "model": hashlib.sha256(run.weights.read_bytes()).hexdigest(),
        "inputs": [_port(port) for port in function.inputs],
        "outputs": [_port(port) for port in function.outputs],
    }
    if isinstance(function, LogLikelihood):
        about["likelihood"] = "exact" if function.exact else "bound"
        about["particles"] = function.particles
    return about


def _port(port: Port) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": port.name,
        "shape": ["rows", *port.shape],
        "type": str(port.dtype).removeprefix("torch."),
        "meaning": port.meaning,
    }
    variable = port.variable
    if variable is None:
        return plain
    if port.name.startswith("probability_") or variable.columns is None:
        return {**plain, **_values(variable)}
    columns = variable.by_column
    return {**plain, "columns": [{"name": n, **_values(v)} for n, v in columns.items()]}


def _values(part: Variable) -> dict[str, Any]:
    """What the values of an element are."""
    found: dict[str, Any] = {"kind": part.kind}
    if part.categories is not None:
        found["categories"] = list(part.categories)
    if part.kind == "date":
        found["unit"] = "days since 1970-01-01"
    if part.grey is not None:
        found["range"] = [0, part.grey]
    return found


def _refuse_absent() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise ExportError(
                f"ONNX files are made with {package}, which is not installed: pip install "
                f'"deeplvm[onnx]".'
            ) from error


def _as_onnx(function: Function, about: dict[str, Any]) -> bytes:
    """The bytes of the file; columns with categories become arguments of their own."""
    program = function.program()
    names = {
        "input_names": [port.name for port in function.inputs],
        "output_names": [port.name for port in function.outputs],
    }
    with quietly():
        made = torch.onnx.export(program, dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
    assert made is not None
    model = made.model_proto
    if model.ByteSize() > _LARGEST:
        raise ExportError(
            f"The {about['function']} has {model.ByteSize() / 2**30:.1f} GiB, and an ONNX file "
            f"holds 2; write --to pt2."
        )
    apart = [port for port in function.inputs if is_apart(port)]
    if apart:
        model = _with_columns(model, function, apart)
        about["inputs"] = [
            each
            for port, plain in zip(function.inputs, about["inputs"], strict=True)
            for each in (_column_ports(port) if port in apart else [plain])
        ]
    entry = model.metadata_props.add()
    entry.key, entry.value = "deeplvm", json.dumps(about, ensure_ascii=False)
    model.doc_string = f"{about['function']} of {about['recipe']} fitted to {about['data']}"
    return model.SerializeToString()


def is_apart(port: Port) -> bool:
    """Whether an argument of an ONNX file is its columns, or its texts, each by itself."""
    variable = port.variable
    if variable is None or port.name.startswith("probability_"):
        return False
    parts = parts_of(variable)
    text = any([part.categories is not None for part in parts])
    if variable.columns is None:
        return text
    return (text or bool(variable.parts)) and len(parts) <= _COLUMNS


def _column_ports(port: Port) -> list[dict[str, Any]]:
    found = []
    for part, kind in _columns_of(port):
        of_texts = "NaN, or an empty text, where missing" if kind == "string" else "NaN if missing"
        meaning = "the label" if port.name == "y" else f"the column {part.name}; {of_texts}"
        values = {n: v for n, v in _values(part).items() if n != "unit" or kind != "string"}
        about = {"name": _title(port, part), "shape": ["rows"], "type": kind, "meaning": meaning}
        found.append({**about, **values})
    return found


def _title(port: Port, part: Variable) -> str:
    return port.name if port.name == "y" else part.name


def _columns_of(port: Port) -> list[tuple[Variable, str]]:
    """The columns of an argument with the type of each: texts, or numbers."""
    assert port.variable is not None
    found = []
    for part in parts_of(port.variable):
        kind = "double" if part.kind == "date" else "float"
        if part.categories is not None:
            whole = part.types[:1] == ("int",) and all([_is_whole(t) for t in part.categories])
            kind = "int64" if whole and port.name == "y" else "float" if whole else "string"
        found.append((part, kind))
    return found


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdecimal()


_NONE = ("", "nan", "NaN", "None", "<NA>")  # how a missing text comes from a table


def _with_columns(model: Any, function: Function, apart: Sequence[Port]) -> Any:
    """A model whose arguments are columns, texts of categories among them, put together first."""
    from onnx import TensorProto, compose, helper

    types = {"string": TensorProto.STRING, "float": TensorProto.FLOAT,
             "double": TensorProto.DOUBLE, "int64": TensorProto.INT64}  # fmt: skip
    outputs = {port.name for port in function.outputs}
    titles = [_title(port, part) for port in apart for part, _ in _columns_of(port)]
    titles += [port.name for port in function.inputs if port not in apart]
    if taken := sorted(outputs.intersection(titles)):
        raise ExportError(
            f"The column {taken[0]!r} has the name of a result, and ONNX has one name for each; "
            f"write --to pt2."
        )
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise ExportError(f"Two arguments would be called {twice[0]!r}; write --to pt2.")
    inner = "deeplvm/"
    model = compose.add_prefix(
        model, inner, rename_nodes=True, rename_edges=True, rename_inputs=True,
        rename_outputs=False, rename_initializers=True, rename_value_infos=True,
        rename_functions=False,
    )  # fmt: skip
    graph, nodes, inputs = model.graph, [], []
    kept = {value.name: value for value in graph.input}
    rows = next(iter(kept.values())).type.tensor_type.shape.dim[0].dim_param or "rows"
    for port in function.inputs:
        name = f"{inner}{port.name}"
        if port not in apart:
            value = kept[name]
            nodes.append(helper.make_node("Identity", [port.name], [name]))
            value.name = port.name
            inputs.append(value)
            continue
        joined = []
        wanted = types[{torch.float64: "double", torch.int64: "int64"}.get(port.dtype, "float")]
        for place, (part, kind) in enumerate(_columns_of(port)):
            title, at = _title(port, part), f"{name}/{place}"
            inputs.append(helper.make_tensor_value_info(title, types[kind], [rows]))
            found = title
            if part.categories is not None:
                nodes.append(_codes(title, f"{at}/code", part.categories, kind))
                found = f"{at}/code"
                if kind == "float":  # a hole equals no key
                    nodes += [
                        helper.make_node("IsNaN", [title], [f"{at}/hole"]),
                        helper.make_node(
                            "Where", [f"{at}/hole", title, found], [f"{at}/code_or_hole"]
                        ),
                    ]
                    found = f"{at}/code_or_hole"
            nodes.append(helper.make_node("Cast", [found], [f"{at}/number"], to=wanted))
            joined.append(f"{at}/number")
        if port.name == "y":
            nodes.append(helper.make_node("Identity", joined, [name]))
            continue
        axis = f"{name}/axis"
        graph.initializer.append(helper.make_tensor(axis, TensorProto.INT64, [1], [1]))
        columns = [f"{each}/column" for each in joined]
        nodes += [
            helper.make_node("Unsqueeze", [each, axis], [column])
            for each, column in zip(joined, columns, strict=True)
        ]
        nodes.append(helper.make_node("Concat", columns, [name], axis=1))
    del graph.input[:]
    graph.input.extend(inputs)
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    return model


def _codes(title: str, found: str, categories: Sequence[str], kind: str) -> Any:
    """A node from the values of categories to their codes; −1 where it is none of them."""
    from onnx import helper

    node = {"op_type": "LabelEncoder", "inputs": [title], "outputs": [found]}
    if kind == "int64":
        return helper.make_node(
            **node, domain="ai.onnx.ml", keys_int64s=[int(text) for text in categories],
            values_int64s=list(range(len(categories))), default_int64=-1,
        )  # fmt: skip
    codes = {text: float(code) for code, text in enumerate(categories)}
    keys: dict[str, Any] = {"keys_floats": [float(text) for text in codes if kind == "float"]}
    if kind == "string":
        codes |= {text: float("nan") for text in _NONE if text not in codes}
        keys = {"keys_strings": list(codes)}
    return helper.make_node(
        **node, domain="ai.onnx.ml", **keys, values_floats=list(codes.values()),
        default_float=-1.0,
    )  # fmt: skip


def feeds(function: Function, arguments: Sequence[Tensor]) -> dict[str, Any]:
    """Arguments as an ONNX file takes them: columns by name, categories as their texts."""
    found: dict[str, Any] = {}
    for port, argument in zip(function.inputs, arguments, strict=True):
        values = argument.numpy()
        if not is_apart(port):
            found[port.name] = values
            continue
        for place, (part, kind) in enumerate(_columns_of(port)):
            own = values if port.name == "y" else values[:, place]
            if part.categories is not None:
                codes = np.where(np.isnan(own), -1, own).astype(int)
                texts = np.array([*part.categories, ""], object)[codes]
                if kind != "string":
                    own = np.array([float(t) if t else np.nan for t in texts])
                else:
                    own = texts
            types = {"string": object, "double": np.float64, "int64": np.int64}
            found[_title(port, part)] = own.astype(types.get(kind, np.float32))
    return found


def _run_onnx(content: bytes, function: Function, arguments: Sequence[Tensor]) -> list[Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(each) for each in session.run(None, feeds(function, arguments))]


#: What a part is called in a file's name.
FILES: Mapping[Part, str] = {
    p: p.replace("-", "_") for p in ("encoder", "decoder", "log-likelihood")
}  # type: ignore[misc]


def write_all(
    run: Run,
    parts: Sequence[Part] | None,
    place: Path,
    form: Form,
    *,
    particles: int = 64,
    seed: int = 0,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[Written], dict[Part, str]]:
    """Write parts of a run; those that cannot be are told, or refused if they were asked for.

    Args:
        run: A finished run.
        parts: Which; all that can be exported if ``None``.
        place: A file, of one part, or a folder that is made if it is not there.
        form: As for :func:`write`.
        particles: As for :func:`write`.
        seed: As for :func:`write`.
        told: Is told what is done.

    Returns:
        The files, and why other parts have none.

    Raises:
        ExportError: As :func:`write` of a part that was asked for, or if none can be exported.
    """
    one = place.suffix == f".{form}"
    if one and (parts is None or len(parts) != 1):
        raise ExportError(
            f"{place} is one file, and a file has one function; name it with --part "
            f"({', '.join(FILES)}), or name a folder."
        )
    written: list[Written] = []
    refused: dict[Part, str] = {}
    for part in dict.fromkeys(parts or FILES):
        path = place if one else place / f"{FILES[part]}.{form}"
        told(f"{part} …")
        try:
            found = write(run, part, path, form, particles=particles, seed=seed)
        except ExportError as error:
            if parts is not None:
                raise
            refused[part] = str(error)
            continue
        written.append(found)
    if not written:
        raise ExportError(" ".join(dict.fromkeys(refused.values())))
    return written, refused
