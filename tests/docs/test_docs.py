"""Every code block of the README and of the site runs, in order, page by page, in an empty folder.

``python`` blocks of a page share their names. In a ``console`` block the lines after ``$`` are
commands; the lines below one, if any, are what it must print on standard output, with ``...`` for
what may vary. An HTML comment just above a block changes that, unseen by the reader:

* ``<!-- skip: REASON -->``: the block is not run; the reason is obligatory.
* ``<!-- instead: REASON`` + lines + ``-->``: these run in its place (a shorter training, say).

``<!-- setup`` + lines + ``-->`` runs where it stands, to make what the page supposes: commands if
it starts with ``$``, otherwise Python.

Pages with figures are left to the site's builder, which runs their blocks to draw them
(``docs/_extensions/figures.py``) and fails where one fails.
"""

from __future__ import annotations

import contextlib
import io
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DRAWN = [page for page in PAGES if "<!-- figure: " in page.read_text(encoding="utf-8")]

BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$"
    r"|(?:^<!-- (?P<rule>skip|instead):(?P<comment>.*?)-->\n)?"
    r"^(?P<fence>`{3,})(?P<language>\w+)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    code: str
    rule: str | None = None
    comment: str = ""


def blocks(text: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["setup"] is not None:
            language = "console" if match["setup"].startswith("$ ") else "python"
            found.append(Block(line, language, match["setup"]))
        elif match["language"] in {"python", "console"}:
            rule, comment = match["rule"], (match["comment"] or "").strip()
            found.append(Block(line, match["language"], match["code"], rule, comment))
    return found


def run(block: Block, names: dict[str, Any], page: Path) -> None:
    code = block.code
    if block.rule is not None:
        reason, _, replacement = block.comment.partition("\n")
        assert reason.strip(), f"{page}:{block.line}: say why the block is not run as it stands"
        if block.rule == "skip":
            return
        code = replacement + "\n"
    if block.language == "python":
        # Blank lines put the block where it stands in its page, so that a traceback points there.
        exec(compile("\n" * block.line + code, str(page), "exec"), names)
        return
    for command, expected in commands(code):
        printed = console(command)
        if expected and not OutputChecker().check_output(
            expected, printed, ELLIPSIS | NORMALIZE_WHITESPACE
        ):
            pytest.fail(f"{page}:{block.line}: $ {command}\nprinted\n{printed}\nnot\n{expected}")


def commands(code: str) -> list[tuple[str, str]]:
    """Pairs of a command and what it must print; a backslash continues a line."""
    pieces = re.split(r"^\$ ", code.replace("\\\n", " "), flags=re.MULTILINE)
    assert not pieces[0].strip(), f"a console block starts with '$ ', this one with {pieces[0]!r}"
    return [(first, rest) for first, _, rest in (piece.partition("\n") for piece in pieces[1:])]


def console(command: str) -> str:
    """Standard output of a command; `deeplvm` runs in this process, which has torch loaded."""
    arguments = shlex.split(command, comments=True)
    if arguments[0] != "deeplvm":
        done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
        return done.stdout
    from deeplvm.cli import main  # here, so that a broken command line fails its pages only

    output, code = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", arguments)
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    assert not code, f"$ {command}\nended with exit code {code}"
    return output.getvalue()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in DRAWN],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)  # a page is read by people who have not changed it
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        run(block, names, page)


def test_pages_with_figures_have_nothing_that_the_builder_does_not_run() -> None:
    """It runs Python as it stands, and no commands."""
    for page in DRAWN:
        found = blocks(page.read_text(encoding="utf-8"))
        assert {(block.language, block.rule) for block in found} == {("python", None)}, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Relative links lead to files; the site's builder checks its own, but not the README's."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page}: no file {target}"


def test_a_page_is_read_as_promised() -> None:
    page = (
        "<!-- setup\na = 1\n-->\n\n```python\nb = a\n```\n<!-- skip: too long -->\n```console\n"
        "$ sleep 100\n```\n<!-- instead: shorter\n$ echo 2\n-->\n```console\n$ echo 1\n1\n```\n"
        "```toml\nc = 3\n```\n"
    )
    assert [(block.line, block.language, block.rule) for block in blocks(page)] == [
        (1, "python", None),
        (5, "python", None),
        (8, "console", "skip"),
        (12, "console", "instead"),
    ]
    assert commands("$ ls \\\n  -l\na\nb\n$ pwd\n") == [("ls    -l", "a\nb\n"), ("pwd", "")]


def test_output_must_match(tmp_path: Path) -> None:
    run(Block(1, "console", "$ echo one two\none ...\n"), {}, tmp_path)
    with pytest.raises(pytest.fail.Exception, match="printed\ntwo"):
        run(Block(1, "console", "$ echo two\none\n"), {}, tmp_path)
    with pytest.raises(AssertionError, match="say why"):
        run(Block(1, "python", "", "skip", ""), {}, tmp_path)


def test_the_reference_names_every_module() -> None:
    """A package added to the library is added to the reference; ``cli`` has a page a verb."""
    import deeplvm

    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/api").glob("*.md"))
    modules = {module.name for module in pkgutil.iter_modules(deeplvm.__path__)}
    named = set(re.findall(r"automodule:: deeplvm\.(\w+)", pages))
    assert modules - {"__main__", "cli"} <= named


def test_every_command_has_its_page() -> None:
    from deeplvm.cli.app import application

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = {page.stem for page in (ROOT / "docs/verbs").glob("*.md")}
    assert set(re.findall(r"\(docs/verbs/(\w+)\.md\)", text)) == pages
    assert {name for name in application([]) if name[:1] != "-"} == pages


def test_the_readme_names_every_recipe_in_its_group() -> None:
    from deeplvm.recipes import PUBLISHED

    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Recipes\n")[2]
    groups = section.partition("\n## ")[0].split("\n### ")[1:]
    named = {g.partition("\n")[0]: re.findall(r"^\| `(\w+)` \|", g, re.MULTILINE) for g in groups}
    assert named == {group: list(names) for group, names in PUBLISHED.items()}
    names = [name for group in PUBLISHED.values() for name in group]
    assert len(names) == len(set(names))


def test_the_readme_gives_the_reason_for_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| package | for |")[2].partition("\n\n")[0]
    named = set(re.findall(r"[\w-]+", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE))))
    assert {re.split(r"[<>=]", each)[0] for each in project["dependencies"]} == named - {"---"}
    extras = text.partition("\nExtras, ")[2].partition("\n\n")[0]
    for extra in project["optional-dependencies"]:
        assert f"`{extra}`" in extras, f"extra {extra} is not in the README"


def test_the_numbers_in_the_tests_have_their_key() -> None:
    number = r"\b(?:R\d(?:\.\d+)+|RA(?:\.\d)+|TB\d)"
    key = (ROOT / "docs/requirements.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert set(re.findall(number, sources)) <= set(re.findall(number, key))
