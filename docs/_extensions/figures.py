"""Figures that are computed when the site is built, by the code that the reader sees.

``<!-- figure: WHAT IT SHOWS -->`` just above a ``python`` block of a page: the blocks of the page
run in order, as in the tests, and the figure that this one leaves open stands below it, with the
comment as its description. Lines and letters are grey and the ground is clear, for light and dark.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from sphinx.application import Sphinx

mpl.use("svg")
import matplotlib.pyplot as plt

BLOCK = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->$"
    r"|(?:^<!-- figure: (?P<alt>.*?) -->\n)?^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
GREY = "#777777"
COLOURS = (
    "axes.edgecolor", "axes.labelcolor", "axes.titlecolor",
    "text.color", "xtick.color", "ytick.color",
)  # fmt: skip
STYLE = {
    **dict.fromkeys(COLOURS, GREY),
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "savefig.transparent": True,
    "savefig.bbox": "tight",
    "svg.hashsalt": "deeplvm",  # the same picture is the same file
}


def draw(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the figures of a page below the blocks that draw them."""
    if "<!-- figure: " not in source[0]:
        return
    folder = Path(app.srcdir) / "_build" / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, Any] = {"__name__": "__main__"}
    name = page.replace("/", "-")

    def drawn(match: re.Match[str]) -> str:
        lines = source[0].count("\n", 0, match.start("code")) if match["code"] else 0
        code = match["setup"] if match["code"] is None else match["code"]
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * lines + code, f"{page}.md", "exec"), names)
        if not match["alt"]:
            return match[0]
        file = folder / f"{name}-{match.start()}.svg"
        plt.savefig(file, metadata={"Date": None})
        plt.close("all")
        return f"{match[0]}\n\n![{match['alt']}](/_build/figures/{file.name})"

    with mpl.rc_context(STYLE):
        source[0] = BLOCK.sub(drawn, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", draw)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
