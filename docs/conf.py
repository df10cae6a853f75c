"""How the pages are built: ``make docs`` writes ``site/``; a warning (a broken link, an unknown name) is an error."""

project = "jaxopt-mini"
author = "the jaxopt-mini authors"
copyright = "2026, the jaxopt-mini authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["design.md"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jaxopt-mini"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature says it already
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
intersphinx_mapping: dict[str, tuple[str, None]] = {}
