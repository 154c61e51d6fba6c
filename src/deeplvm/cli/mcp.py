"""The verbs as tools of the Model Context Protocol, over standard input and output."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from docstring_parser import parse

from deeplvm.registry import hint_of

if TYPE_CHECKING:
    from mcp.server import MCPServer

# No program says for its user that foreign code may run; and results are objects always.
_WITHOUT = ("trust", "json")
_WORD = (str, int, float, bool)
_INSTRUCTIONS = (
    "deeplvm learns deep latent-variable models from data files, and judges them. Begin with "
    "datasets, recipes and fit; a fit makes a RUN folder, which the other tools take. Results are "
    "JSON; an error is one line that says what to do next. Paths are those of the machine on "
    "which this server runs."
)


def mcp() -> None:
    """Serve the verbs as tools to a program that speaks the Model Context Protocol (stdio)."""
    server().run("stdio")


def server() -> MCPServer:
    """The server, with a tool for each verb.

    Raises:
        ValueError: If the package mcp is not there.
    """
    from deeplvm.cli.app import application

    try:
        from mcp.server import MCPServer
    except ImportError as error:
        raise ValueError(
            'deeplvm mcp needs a package that is not here: pip install "deeplvm[mcp]"'
        ) from error
    made, app = MCPServer("deeplvm", instructions=_INSTRUCTIONS), application([])
    made.add_tool(fit, structured_output=False)
    for name in [each for each in app if each[:1] != "-" and each not in ("fit", "mcp")]:
        made.add_tool(_tool(name, app[name].default_command), structured_output=False)
    return made


async def fit(
    data: str, recipe: str = "vae", out: str | None = None, words: Sequence[str] = ()
) -> str:
    """Learn a model from data: trains, evaluates and writes a report; returns the evaluation.

    Other options are words as on the command line, ["--epochs", "20"]; ["--help"] lists those of
    a recipe. Training may take long: ["--minutes", "5"] ends it.
    """
    folder = [] if out is None else ["--out", out]
    return await _run("fit", [data, "--recipe", recipe, *folder, *words, "--json"])


def _tool(name: str, verb: Any) -> Callable[..., Any]:
    """A function with the verb's own parameters, by name, that runs it in its own process."""
    said = parse(inspect.getdoc(verb) or "")
    helps = {each.arg_name: " ".join((each.description or "").split()) for each in said.params}
    known = inspect.signature(verb).parameters
    kept = [each for each in known.values() if each.name not in _WITHOUT]

    async def run(**given: Any) -> str:
        words: list[str] = []
        for each in kept:
            value = given.get(each.name)
            if value is None or value == each.default:
                continue
            values = [str(v) for v in (value if isinstance(value, list) else [value])]
            flag = each.name.replace("_", "-")
            if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL):
                words += values
            elif isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", *values]
        return await _run(name, [*words, "--json"] if "json" in known else words)

    run.__name__, run.__doc__ = name, f"{said.short_description}\n\n{said.long_description or ''}"
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [_parameter(verb, each, helps.get(each.name, "")) for each in kept],
        return_annotation=str,
    )
    return run


def _parameter(verb: Any, known: inspect.Parameter, text: str) -> inspect.Parameter:
    """The parameter as a tool has it: by name, of a type that JSON has."""
    from pydantic import Field

    hint = _plain(hint_of(verb, known.name))
    default = known.default
    if known.kind is known.VAR_POSITIONAL:
        hint, default = list[hint], []  # type: ignore[valid-type]
    default = str(default) if isinstance(default, Path) else default
    return inspect.Parameter(
        known.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=list(default) if isinstance(default, tuple) else default,
        annotation=Annotated[hint, Field(description=text)],
    )


def _plain(hint: Any) -> Any:
    """A type of words as JSON has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _plain(inner[0])
    if origin in (Union, UnionType):
        return Union[tuple([_plain(each) for each in inner])]  # noqa: UP007 - of a list
    if origin in (list, tuple):
        return list[_plain(inner[0])]  # type: ignore[misc]
    return hint if hint in _WORD or hint is type(None) or origin is Literal else str


async def _run(verb: str, words: Sequence[str]) -> str:
    """What a command line prints; an error is its one line."""
    from mcp.server.mcpserver.exceptions import ToolError

    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deeplvm", verb, *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
    )  # fmt: skip
    try:
        out, err = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.terminate()  # where nobody waits any longer
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        raise ToolError(lines[-1] if lines else f"deeplvm {verb} ended with {process.returncode}")
    with suppress(ValueError):  # words stay words
        return json.dumps(json.loads(out), ensure_ascii=False)
    return out.decode(errors="replace")
