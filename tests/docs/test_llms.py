"""What programs read first is made of the pages that people read."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
LLMS = runpy.run_path(str(DOCS / "_extensions" / "llms.py"))


def test_llms_txt_is_that_of_the_pages() -> None:
    """Written anew by ``python docs/_extensions/llms.py``."""
    assert LLMS["FILE"].read_text("utf-8") == LLMS["text"]()


def test_it_names_every_verb_with_a_sentence() -> None:
    found = LLMS["text"]()
    for page in (DOCS / "verbs").glob("*.md"):
        assert f"](docs/verbs/{page.name}): " in found, page.name
    assert "docs/api" not in found.partition("## Reference")[0]
