"""What is one operation of the API, and who may call it?

The table (:mod:`tele.model.api.table`) drives the server, the client and the
OpenAPI document.

Encoding of a request: attributes named in ``path`` are in the path; an attribute ``data`` of type
bytes is the body, as octets; all others are in the query for GET, DELETE and octet bodies, and in
a JSON body otherwise. A response with an attribute ``data`` of type bytes is sent as octets and has
no other attribute, unless it is a part of a blob: then they are header fields.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Generic, TypeVar

from attrs import frozen

from tele.model.identity import HostRole

Req = TypeVar("Req")
Res = TypeVar("Res")


@frozen
class Anyone:
    """No client certificate is needed."""


@frozen
class Hosts:
    """A host certificate with one of these roles."""

    roles: tuple[HostRole, ...] = (HostRole.NODE, HostRole.PROXY, HostRole.AUTH)


@frozen
class Users:
    """Any valid user certificate; the operation itself limits users to their own resources."""


@frozen
class Permitted:
    """A user whose roles have a rule for this resource and verb.

    ``each``: the operation itself asks about each object, so that a rule with a condition is enough
    to call it.
    """

    resource: str
    verb: str
    each: bool = False


Who = Anyone | Hosts | Users | Permitted


@frozen
class Operation(Generic[Req, Res]):
    """One row of the table.

    ``who``: any one of them is enough. ``streams``: the response is a sequence of ``response``
    values, one JSON text a line (an empty line is a keepalive), until either side ends it.
    ``limit`` is the largest request body in bytes. ``cost`` is charged to the caller's share of
    auth's work, in units of a request that reads or writes one resource. ``ranges``: the response
    is a :class:`Octets`, and ``start``, ``end`` and ``if_range`` of the request are header fields.
    """

    name: str
    method: str
    path: str
    request: type[Req]
    response: type[Res]
    who: tuple[Who, ...]
    summary: str
    streams: bool = False
    limit: int = 256 * 1024
    timeout: timedelta = timedelta(seconds=30)
    cost: int = 1
    ranges: bool = False

    @property
    def path_fields(self) -> tuple[str, ...]:
        """Names of the request's attributes that are part of the path, in order."""
        return tuple(re.findall(r"\{(\w+)\}", self.path))


class Written:
    """A request that was written down before: its ``body`` is sent as it is.

    It is of a subclass of the operation's ``request``, and has no attribute in path or query.
    """

    @property
    def body(self) -> bytes:
        """Return its JSON."""
        raise NotImplementedError


@frozen
class Nothing:
    """No content."""


@frozen
class Octets:
    """Stored bytes: all, or of a blob with ``total`` bytes those from ``start`` on.

    ``tag`` is the blob's digest in hex. A client gets ``data`` alone.
    """

    data: bytes
    start: int = 0
    total: int = -1
    tag: str = ""
