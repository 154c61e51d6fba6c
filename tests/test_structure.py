"""The house: imports run downwards, nothing circles, and the idea stands on the ground, alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deeplvm

PACKAGE = Path(deeplvm.__file__).parent
# From the ground up; what stands on one floor does not know its neighbours.
FLOORS = (
    ("results",),
    ("core",),
    ("randomness", "files", "registry", "devices", "parallel", "grammar"),
    ("distributions",),
    ("unrolled",),
    ("sums",),
    ("recurrent",),
    ("networks",),
    ("gradients", "objectives"),
    ("conditionals",),
    ("data",),
    ("training",),
    ("recipes",),
    ("inference",),
    ("likelihood",),
    ("evaluation",),
    ("learning", "runs"),
    ("compression", "diagnosis", "export"),
    ("estimators", "report"),
    ("cli",),
)
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """What a file reads of the package when it runs: folder or file below it, and the line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in typing and node.module:
            root, *below = node.module.split(".")
            if root == "deeplvm":
                names = below[:1] or [alias.name for alias in node.names]
                yield from [(name, node.lineno) for name in names]


def test_every_folder_has_its_floor() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    assert there - {"py"} == set(FLOOR)


@pytest.mark.parametrize("name", FLOOR)
def test_imports_run_downwards(name: str) -> None:
    place = PACKAGE / name
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    climbs = [
        f"{path.relative_to(PACKAGE)}:{line} imports {other}"
        for path in files
        for other, line in imports(path)
        if other != name and FLOOR.get(other, -1) >= FLOOR[name]
    ]
    assert not climbs
