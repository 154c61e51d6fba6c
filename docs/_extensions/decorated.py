"""Signatures of functions to which a decorator gives an option that their source does not have.

Sphinx shows defaults as the source writes them, and counts on as many there as in the signature.
Where these differ, defaults are shown as values.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

from sphinx.ext.autodoc._dynamic import _preserve_defaults as preserve_defaults

_written = preserve_defaults._get_arguments


def arguments(decorated: Any) -> ast.arguments | None:
    """The arguments as the source has them; ``None`` where the signature has others."""
    found = _written(decorated)
    if found is None:
        return None
    try:
        parameters = inspect.signature(decorated).parameters.values()
    except (TypeError, ValueError):
        return found
    options = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    return found if options == [each.arg for each in found.kwonlyargs] else None


def setup(_: Any) -> dict[str, bool]:
    """Put it in the place of Sphinx's own."""
    preserve_defaults._get_arguments = arguments
    return {"parallel_read_safe": True}
