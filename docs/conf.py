"""How the pages are built: ``make docs`` writes ``site/``.

A warning is an error: a broken link, an unknown name, a public name without an entry in the reference.
"""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from docs.generate import public, surfaces

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
exclude_patterns = ["project/design.md"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jaxopt-mini"
html_math_renderer = "mathml"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature says it already
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
intersphinx_mapping: dict[str, tuple[str, None]] = {}


def check_reference(app: Any, env: Any) -> None:
    """Warns of every public name of the two packages, and of other modules on these pages, that has no entry."""
    domain = env.get_domain("py")
    known = {name.rpartition(".")[2] for name in domain.objects}
    modules = {*surfaces("jaxopt_mini"), *surfaces("minigpt_flax"), *domain.modules}
    for module in map(importlib.import_module, sorted(modules)):
        for name in sorted(set(public(module)) - known):
            logging.getLogger(__name__).warning("%s.%s has no entry in the reference", module.__name__, name)


def escape_bars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Lets the bars of norms, ``|g|``, be bars: reStructuredText would look for a substitution of that name."""
    for i, line in enumerate(lines):
        if not line.startswith("    "):  # a formula or an example, taken as it stands
            parts = re.split(r"(``.*?``)", line)
            lines[i] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


def write_math(writer: Any, node: Any) -> None:
    """Writes a formula as MathML, which browsers show without a script or a network."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    # On a phone a long one scrolls in its own box.
    writer.body.append(f'<div style="overflow-x: auto">{formula}</div>' if block else formula)
    raise nodes.SkipNode


class DarkTwins(SphinxTransform):
    """Shows ``NAME-dark.svg`` in place of ``NAME.svg`` where the reader's theme is dark."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Adds to each picture its twin, and the classes by which the theme shows one of them."""
        for image in list(self.document.findall(nodes.image)):
            twin = image["uri"].removesuffix(".svg") + "-dark.svg"
            _, path = self.env.relfn2path(twin, self.env.docname)
            if image["uri"].endswith(".svg") and Path(path).is_file():
                dark = image.copy()
                dark["uri"] = twin
                image["classes"].append("only-light")
                dark["classes"].append("only-dark")
                image.parent.insert(image.parent.index(image) + 1, dark)


def setup(app: Any) -> None:
    """Adds all of these to the build."""
    app.add_transform(DarkTwins)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("env-check-consistency", check_reference)
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
