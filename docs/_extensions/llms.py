"""``llms.txt``: every page of the site with its first sentence, for programs that read.

``python docs/_extensions/llms.py`` writes it anew; a test says when that is due. The form is that
of https://llmstxt.org.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
FILE = DOCS.parent / "llms.txt"
_TREE = re.compile(r"```\{toctree\}\n(?P<options>(?::.*\n)*)\n(?P<pages>(?:\S.*\n)+)```")


def first_words(page: Path) -> tuple[str, str]:
    """The title of a page, and the first sentence of its first paragraph of words."""
    text = re.sub(r"<!--.*?-->|^(`{3,}).*?^\1$", "", page.read_text("utf-8"), flags=re.M | re.S)
    title, *paragraphs = [e for e in text.split("\n\n") if e.strip()] or [page.stem.capitalize()]
    said = next(
        (p for p in paragraphs if p.strip()[0] not in "#|-{:!>" and p.strip()[:2] != "$$"), ""
    )
    said = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(said.split()))
    return title.lstrip("# ").strip(), re.split(r"(?<=[.?])\s(?=[A-Z`*])|:$", said)[0]


def text() -> str:
    """The file."""
    index = DOCS / "index.md"
    title, words = first_words(index)
    lines = [f"# {title}", "", f"> {words}", ""]
    lines.append(
        "Programs that drive the command line read docs/programs.md first: `--json` on every "
        "verb, exit codes, errors that say the next step, tools by `deeplvm mcp`."
    )
    for tree in _TREE.finditer(index.read_text("utf-8")):
        caption = re.search(r":caption: (.*)", tree["options"])
        pages = [DOCS / f"{page}.md" for page in tree["pages"].split()]
        lines += ["", f"## {caption[1] if caption else 'More'}", ""]
        for page in [each for each in pages if each.is_file()]:
            name, said = first_words(page)
            lines.append(
                f"- [{name}](docs/{page.relative_to(DOCS)})" + (f": {said}" if said else "")
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
