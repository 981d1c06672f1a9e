"""What do references to other pages become in a manual page? Their text."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx


def without_links(app: Sphinx, doctree: nodes.document, _docname: str) -> None:
    """Replace links inside the documentation, which lead nowhere in a terminal, by their text."""
    if app.builder.name != "man":
        return
    for reference in list(doctree.findall(nodes.reference)):
        if reference.get("internal") and reference.parent is not None:
            reference.parent.replace(reference, reference.children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of it."""
    app.connect("doctree-resolved", without_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
