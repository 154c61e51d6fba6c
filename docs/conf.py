"""The site: Sphinx, Markdown pages, the API from the docstrings, mathematics as MathML.

Nothing is fetched, at build or at reading: the site works from a disk without a network.
"""

from __future__ import annotations

import sys
from pathlib import Path

from deeplvm import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "deeplvm"
copyright = "the deeplvm authors, Apache-2.0"  # noqa: A001
version = release = __version__

extensions = [
    "decorated",
    "figures",
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"deeplvm {release}"
html_copy_source = False
html_math_renderer = "mathml"  # _extensions/mathml.py

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
