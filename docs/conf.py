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
import minigpt_flax
from docs.generate import public, surfaces

project = "jaxopt-mini"
author = "the jaxopt-mini authors"
copyright = "2026, the jaxopt-mini authors"
extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
nb_execution_mode = "off"  # notebooks show their saved outputs
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "jaxopt-mini"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).parent / "_static" / "scorer.js")
html_copy_source = html_show_sourcelink = False
templates_path = ["_templates"]
html_math_renderer = "mathml"
smartquotes = False  # "--flag" is no dash
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature says it already
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def check_reference(app: Any, env: Any) -> None:
    """Warns of every public name of the two packages, and of other modules on these pages, that has no entry."""
    domain = env.get_domain("py")
    known = {name.rpartition(".")[2] for name in domain.objects}
    for module in map(importlib.import_module, sorted({*surfaces("jaxopt_mini"), *domain.modules})):
        for name in sorted(set(public(module)) - known):
            logging.getLogger(__name__).warning("%s.%s has no entry in the reference", module.__name__, name)
    for name in sorted(set(minigpt_flax.__all__) - known):
        logging.getLogger(__name__).warning("minigpt_flax.%s has no entry in the reference", name)


def keep_sections(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Removes from an optimizer's entry what its page in the catalog shows typeset: all but the sections."""
    if app.env.docname.startswith("optimizers/catalog/"):
        text = "\n".join(lines)
        start = re.search(r"^(Args|Returns):$", text, flags=re.MULTILINE)
        lines[:] = text[start.start() if start else 0 :].partition("\n>>>")[0].splitlines()


def link_sources(app: Any, docname: str, source: list[str]) -> None:
    """Links to a module of the repository lead to its rendered source on the site."""
    up = "../" * docname.count("/")
    source[0] = re.sub(
        r"\[(`[^`\]]+`)\]\((?:\.\./)+((?:jaxopt_mini|minigpt_flax)/[\w/]+)\.py\)",
        rf'<a href="{up}_modules/\2.html">{{literal}}\1</a>',
        source[0],
    )


def add_twin(app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Offers the template the same page in the other language, or the front page where that has none."""
    docs, chinese = app.env.found_docs, pagename.startswith("zh/")
    twin = pagename.removeprefix("zh/") if chinese else f"zh/{pagename}"
    fallback = "index" if chinese else "zh/index"
    context["twin"] = next((name for name in (twin, fallback) if name in docs), None)
    context["twin_label"], context["twin_language"] = ("English", "en") if chinese else ("中文", "zh-CN")
    if chinese:
        context["language"] = "zh-CN"


def escape_bars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Lets the bars of norms, ``|g|``, be bars: reStructuredText would look for a substitution of that name."""
    for i, line in enumerate(lines):
        if not line.startswith("    "):  # a formula or an example, taken as it stands
            parts = re.split(r"(``.*?``)", line)
            lines[i] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


def write_math(writer: Any, node: Any) -> None:
    """Writes a formula as MathML, which browsers show without a script or a network."""
    block = isinstance(node, nodes.math_block)
    latex = node.astext().replace(r"\dots", r"\ldots")  # docutils lacks the first
    latex = re.sub(r"\\(?:begin|end)\{aligned\}", "", latex) if block else latex  # it aligns rows without
    formula = tex2mathml(latex, as_block=block)
    # On a phone a long one scrolls in its own box.
    writer.body.append(f'<div class="formula">{formula}</div>' if block else formula)
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
    app.connect("autodoc-process-docstring", keep_sections, priority=50)
    app.connect("autodoc-process-docstring", escape_bars, priority=100)
    app.connect("source-read", link_sources)
    app.connect("html-page-context", add_twin)
