"""Who signs with which key in each phase of a rotation? A directive that draws ``TABLE``.

``.. rotation-table::`` becomes the table, so that the page cannot differ from the source.
"""

from __future__ import annotations

from collections.abc import Iterator

from api_table import list_table
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tele.certs.rotation import TABLE

TITLES = ("Phase", "Users are signed by", "Hosts are signed by", "Trusted", "Next")


def rows() -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table, as text of a page."""
    for phase, rules in TABLE.items():
        trusted = " and ".join(key.value for key in rules.trusted)
        following = ", ".join(f"``{each.value}``" for each in rules.following)
        yield f"``{phase.value}``", rules.users.value, rules.hosts.value, trusted, following


class RotationTable(SphinxDirective):
    """``.. rotation-table::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        return self.parse_text_to_nodes("\n".join(list_table(TITLES, rows())))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("rotation-table", RotationTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
