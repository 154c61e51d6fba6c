"""The verb that writes a beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from deeplvm.cli.console import count, in_json, tell


def new(
    what: Annotated[Literal["recipe"], Parameter(help="What: a recipe.")],
    name: Annotated[str, Parameter(help="Its name, a word of Python; the file is NAME.py.")],
    /,
    *,
    json: bool = False,
) -> None:
    """Write a recipe of your own to begin with: a commented file that runs.

    Args:
        json: Print which file was written as an object.
    """
    from contextlib import nullcontext
    from importlib.resources import files
    from keyword import iskeyword

    from deeplvm.files import write_atomically

    path, command = Path(f"{name}.py"), f"deeplvm fit digits --recipe {name}.py:{name}"
    if not name.isidentifier() or iskeyword(name):
        raise ValueError(f"{name!r} is no name of a function in Python; take letters, digits, _.")
    if path.exists():
        raise ValueError(f"{path} exists; name another {what}, or try it: {command}")
    text = files("deeplvm.cli").joinpath("template.py").read_text(encoding="utf-8")
    text = text.replace("FILE:mine", f"{path}:{name}").replace("def mine(", f"def {name}(")
    with in_json("new", path) if json else nullcontext():
        write_atomically(path, text.replace("runs/mine", f"runs/{name}").encode())
        count(command=command)
    if not json:
        tell(f"{path}  the recipe, commented; try it:\n{command}")
