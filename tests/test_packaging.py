"""What the code imports is what pyproject.toml declares, no more and no less."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Needed by name at run time though nobody imports it: pandas reads and writes parquet with it.
BY_NAME = {"pyarrow"}
# Imported where they are used alone, and named where they are absent; pydantic is mcp's own.
EXTRAS = {
    "constriction", "h5py", "huggingface-hub", "mcp", "onnx", "onnxruntime", "optuna", "polars",
    "pydantic",
}  # fmt: skip


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Top-level names of the third-party modules that the package imports, wherever it does."""
    names: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"deeplvm"}


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {canonical(re.split(r"[<>=]", each)[0]) for each in project["dependencies"]}


def test_every_import_is_declared_and_every_declaration_is_used() -> None:
    owners = packages_distributions()
    used = {canonical(owners.get(name, [name])[0]) for name in imported()}
    assert used | BY_NAME == declared() | EXTRAS
    assert not EXTRAS & declared()


def test_every_declared_package_is_pinned_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split(";")[0].strip().split("==") for line in lines if line[:1].isalpha())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    names = {canonical(re.split(r"[\[<>=]", each)[0]) for each in extras} - {"deeplvm"}
    assert declared() | names <= {canonical(name) for name in pins}
    assert pins["torch"] == "2.13.0"
