"""Which operations, bounds and events are there? Directives that ask the program itself.

``.. api-table::`` becomes a table of all operations, ``.. api-costs::`` one of what each may
cost, ``.. api-limits::`` the server's bounds, ``.. host-quotas::`` what a host may send,
``.. audit-codes::`` the names of events and
``.. tape-kinds::`` those of frames, so that a page cannot differ from the program.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import attrs
from api_costs import WORK
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tele.auth.quotas import QUOTAS
from tele.https.limits import Limits
from tele.https.openapi import who_may
from tele.model.api.table import OPERATIONS
from tele.model.codec import format_duration
from tele.model.event import CODES
from tele.model.frame import KIND_MEANINGS, FrameKind


def costs() -> Iterator[tuple[str, ...]]:
    """Yield what may be sent, by whom, its limit, deadline, units and work, for each operation."""
    for operation in OPERATIONS.values():
        may = "; ".join(who_may(who) for who in operation.who)
        takes_body = operation.method in ("POST", "PUT", "PATCH")
        limit = f"{operation.limit // 1024:,} KiB" if takes_body else "no body"
        until = (
            "the end of the certificate" if operation.streams
            else format_duration(operation.timeout)
        )  # fmt: skip
        name = f"``{operation.method} {operation.path}``"
        yield name, may, limit, until, str(operation.cost), WORK[operation.name]


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield method and path, summary, and who may call, of each operation."""
    for operation in OPERATIONS.values():
        stream = " (stream)" if operation.streams else ""
        may = "; ".join(who_may(who) for who in operation.who)
        yield f"``{operation.method} {operation.path}``", operation.summary + stream, may


def limits() -> Iterator[tuple[str, str]]:
    """Yield name and default of each bound of the server."""
    for attribute in attrs.fields(Limits):
        value = attribute.default
        shown = format_duration(value) if isinstance(value, timedelta) else f"{value:,}"
        yield f"``{attribute.name}``", shown


def list_table(heads: tuple[str, ...], body: Iterator[tuple[str, ...]]) -> list[str]:
    """Return the lines of a list-table."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (heads, *body):
        lines += [f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(row)]
    return lines


class ApiTable(SphinxDirective):
    """``.. api-table::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        lines = list_table(("Operation", "Does", "For"), rows())
        return self.parse_text_to_nodes("\n".join(lines))


class ApiCosts(SphinxDirective):
    """``.. api-costs::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        heads = ("Operation", "Who may send it", "Limit", "Deadline", "Units", "What auth does")
        return self.parse_text_to_nodes("\n".join(list_table(heads, costs())))


class ApiLimits(SphinxDirective):
    """``.. api-limits::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        return self.parse_text_to_nodes("\n".join(list_table(("Bound", "Value"), limits())))


class HostQuotas(SphinxDirective):
    """``.. host-quotas::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        body = (
            (f"``{quota.name}``", quota.unit, f"{quota.burst:,.0f}", f"{quota.per_second:,.0f}")
            for quota in QUOTAS
        )
        heads = ("Quota", "Of", "At once", "Each second")
        return self.parse_text_to_nodes("\n".join(list_table(heads, body)))


class AuditCodes(SphinxDirective):
    """``.. audit-codes::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        body = ((f"``{name}``", f"``{code}``") for name, code in CODES.items())
        return self.parse_text_to_nodes("\n".join(list_table(("Event", "Code"), body)))


class TapeKinds(SphinxDirective):
    """``.. tape-kinds::``."""

    def run(self) -> list[Node]:
        """Return the table."""
        body = (
            (str(kind.value), f"``{kind.name.lower()}``", KIND_MEANINGS[kind]) for kind in FrameKind
        )
        return self.parse_text_to_nodes("\n".join(list_table(("Kind", "Name", "Data"), body)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directives."""
    app.add_directive("api-table", ApiTable)
    app.add_directive("api-costs", ApiCosts)
    app.add_directive("api-limits", ApiLimits)
    app.add_directive("host-quotas", HostQuotas)
    app.add_directive("audit-codes", AuditCodes)
    app.add_directive("tape-kinds", TapeKinds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
