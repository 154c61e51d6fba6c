"""The verbs as tools of the Model Context Protocol, over standard input and output."""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from docstring_parser import parse

from deeplvm.registry import hint_of

if TYPE_CHECKING:
    from mcp.server import MCPServer

# No program says for its user that foreign code may run; and results are objects always.
_WITHOUT = ("trust", "json")
_NOT_SERVED = ("mcp", "push")  # what is published is a person's word as well
_INSTRUCTIONS = (
    "deeplvm learns deep latent-variable models from data files, and judges them. Begin with "
    "datasets, recipes and fit; a fit makes a RUN folder, which the other tools take. Results are "
    "JSON; an error is one line that says what to do next."
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
        raise ValueError('deeplvm mcp lacks a package: pip install "deeplvm[mcp]"') from error
    made, app = MCPServer("deeplvm", instructions=_INSTRUCTIONS), application([])
    for name in [each for each in app if each[:1] != "-" and each not in _NOT_SERVED]:
        verb = app[name].default_command
        tool = _composed(name, verb) if name in ("fit", "tune") else _tool(name, verb)
        made.add_tool(tool, structured_output=False)
    return made


def _composed(name: str, verb: Any) -> Callable[..., Any]:
    """A verb whose options depend on the recipe."""

    async def run(data: str, recipe: str = "vae", words: Sequence[str] = ()) -> str:
        return await _run(name, [data, f"--recipe={recipe}", *words, "--json"])

    run.__name__ = name
    run.__doc__ = (
        f'{inspect.getdoc(verb)}\n\nOptions are words as on the command line, ["--out", "runs/a", '
        f'"--minutes", "5"]; ["--help"] lists those of a recipe.'
    )
    return run


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
            flag = _flag(verb, each.name)
            values = value if isinstance(value, list) else [value]
            if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL):
                words += [f"./{v}" if str(v)[:1] == "-" else str(v) for v in values]  # no option
            elif isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [f"{flag}={v}" for v in values]
        return await _run(name, [*words, "--json"] if "json" in known else words)

    run.__name__, run.__doc__ = name, f"{said.short_description}\n\n{said.long_description or ''}"
    parameters = [_parameter(verb, each, helps.get(each.name, "")) for each in kept]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _flag(verb: Any, name: str) -> str:
    """The option of a parameter on the command line, which may have another name there."""
    written = getattr(hint_of(verb, name), "__metadata__", ())
    said = [flag for each in written for flag in getattr(each, "name", None) or ()]
    return next((flag for flag in said if flag[:2] == "--"), f"--{name.replace('_', '-')}")


def _parameter(verb: Any, known: inspect.Parameter, text: str) -> inspect.Parameter:
    """The parameter as a tool has it: by name, of a type that JSON has."""
    from pydantic import Field

    written, default = hint_of(verb, known.name), known.default
    told = [each.help for each in getattr(written, "__metadata__", ()) if hasattr(each, "help")]
    hint, text = _plain(written), text or next(filter(None, told), "")
    if known.kind is known.VAR_POSITIONAL:
        hint, default = list[hint], []  # type: ignore[valid-type]
    return inspect.Parameter(
        known.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=[*default] if isinstance(default, tuple) else default,
        annotation=Annotated[hint, Field(description=text)],
    )


def _plain(hint: Any) -> Any:
    """A type of words as JSON has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _plain(inner[0])
    if origin in (Union, UnionType):
        return functools.reduce(operator.or_, [_plain(each) for each in inner])
    if origin in (list, tuple):
        return list.__class_getitem__(_plain(inner[0]))
    return hint if hint in (str, int, float, bool, type(None)) or origin is Literal else str


async def _run(verb: str, words: Sequence[str]) -> str:
    """What a command line prints; an error is its one line."""
    from mcp.server.mcpserver.exceptions import ToolError

    if any([word.startswith("--trust") for word in words]):
        raise ToolError("--trust is a person's word; only the command line takes it.")
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
    return out.decode(errors="replace")
