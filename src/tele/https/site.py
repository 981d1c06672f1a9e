"""What may a part serve to browsers beside its own pages? Values and one interface.

Invariant: a response has the header fields that it was made with, and no others but its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

from attrs import field, frozen
from twisted.internet.interfaces import IProtocol

Headers = Sequence[tuple[bytes, bytes]]


@frozen
class SiteFile:
    """A response with status 200: its body and its header fields, without the length."""

    body: bytes = field(repr=False)
    headers: Headers


@frozen
class Refusal:
    """A request is refused with ``status`` and a sentence."""

    status: int
    error: str


class StreamTo(Enum):
    """What a stream of a page is connected to: auth, or the SSH server of this port."""

    AUTH = "auth"
    SSH = "ssh"


@frozen
class Switch:
    """The connection is no longer HTTP after ``head`` (status 101); ``around(inner)`` is its
    protocol, over ``inner``, which reads and writes what the browser's stream carries.
    """

    head: bytes
    to: StreamTo

    def around(self, inner: IProtocol) -> IProtocol:
        """Return the protocol of the connection."""
        raise NotImplementedError


class Site(Protocol):
    """The pages for browsers. Paths are without a query."""

    @property
    def headers(self) -> Headers:
        """Header fields of every response of the port, errors too."""

    def file(self, path: bytes, headers: Mapping[bytes, bytes]) -> SiteFile | None:
        """Return what a GET of ``path`` is answered with, or None. Names of ``headers`` of the
        request are in lower case.
        """

    def cluster(self, name: str, trust: Sequence[str]) -> SiteFile:
        """Return the document from which a page learns its cluster, and the CAs (PEM) of its
        hosts.
        """

    def stream_at(self, path: bytes) -> StreamTo | None:
        """Return what a page opens a stream to at ``path``; None if it opens none there."""

    def stream(self, to: StreamTo, headers: Mapping[bytes, bytes]) -> Switch | Refusal:
        """Decide about a request for a stream."""
