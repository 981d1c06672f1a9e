"""What do fleets of these sizes need? Directives that ask ``bench/fleet.py``.

``.. fleet-table:: 2000 10000`` becomes its table, ``.. measured-table::`` what it calculates with,
so that the page cannot differ from the calculation.
"""

from __future__ import annotations

import attrs
from api_table import list_table
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from fleet import Measured, planned


class FleetTable(SphinxDirective):
    """``.. fleet-table:: NODES...``."""

    required_arguments = 1
    optional_arguments = 9

    def run(self) -> list[Node]:
        """Return the table."""
        columns = [planned(int(nodes)).rows() for nodes in self.arguments]
        rows = [(row[0][0], *(value for _, value in row)) for row in zip(*columns, strict=True)]
        return self.parse_text_to_nodes("\n".join(list_table(rows[0], iter(rows[1:]))))


class MeasuredTable(SphinxDirective):
    """``.. measured-table::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        rows = ((f"``{each.name}``", f"{each.default:g}") for each in attrs.fields(Measured))
        return self.parse_text_to_nodes("\n".join(list_table(("Figure", "Measured"), rows)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directives."""
    app.add_directive("fleet-table", FleetTable)
    app.add_directive("measured-table", MeasuredTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
