"""Mathematics as MathML, which browsers draw by themselves: no script, no font, no network.

The translation from TeX is docutils' own. What it cannot translate is a warning, so with ``-W`` it
fails the build and never reaches a reader as a half-formula.
"""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError, pick_math_environment
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


# What docutils calls otherwise, or cannot place: a matter of spelling, not of content.
SPELLINGS = {r"\\dots\b": r"\\ldots", r"\\textstyle\b\s*": ""}
# TeX puts a thin space between a function's name and what has no bracket: log p.
THIN = re.compile(r"<mo>&ApplyFunction;</mo>(?!\s*<mo[^>]*>[(\[])")


def _translate(tex: str, node: nodes.Element, *, as_block: bool) -> str:
    for ours, theirs in SPELLINGS.items():
        tex = re.sub(ours, theirs, tex.strip())
    if as_block and pick_math_environment(tex) == "align*":
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    try:
        mathml = tex2mathml(tex, as_block=as_block)
        return THIN.sub(r'\g<0><mspace width="0.17em"></mspace>', mathml)
    except (AttributeError, MathError) as error:  # AttributeError: how it meets unbalanced groups
        logger.warning("cannot show %r as MathML: %s", tex, error, location=node)
        return ""


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(_translate(node.astext(), node, as_block=False))
    raise nodes.SkipNode


def visit_displaymath(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(_translate(node.astext(), node, as_block=True))
    self.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
