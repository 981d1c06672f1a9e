"""Which channels may a target open to the client?

Invariants:

* Those of what the client asked for, and no others; a bounded number at once. Each has to be
  answered in time.
* Each is recorded, and an event; those that were not asked for, too, within a rate limit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.conch.error import ConchError
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from tele.conch.connection.refusals import ADMINISTRATIVELY_PROHIBITED, RESOURCE_SHORTAGE
from tele.conch.connection.splice import SplicedChannel, open_splice
from tele.conch.forwarding.listening import ACCEPTED_LIMIT, ANSWER_TIMEOUT
from tele.conch.forwarding.remote import (
    PATH_CHANNEL,
    PORT_CHANNEL,
    PathRequest,
    PortRequest,
    path_channel,
    port_channel,
)
from tele.conch.session.session_forwarding import (
    AGENT_CHANNEL,
    DISPLAY_CHANNEL,
    DisplayRequest,
    IDisplay,
)
from tele.errors import ProtocolError, Unreachable
from tele.membership.audit_reporter import cut
from tele.model.addresses import Address
from tele.sessions.forward_permission import AGENT
from tele.sessions.forward_record import ForwardRecord, ForwardRecords
from tele.wire.fields import Reader, string, uint32

Request = PortRequest | PathRequest
#: The record of a channel, and its data for the client; None if it was not asked for.
Found = tuple[ForwardRecord, bytes] | None


@implementer(IDisplay)
@define(eq=False)
class RemoteDisplay:
    """A display that the client forwards to one session on the target."""

    request: DisplayRequest
    close: Callable[[], None] = field(repr=False)
    number: int = 0
    accepted: bool = False


@define(eq=False)
class Requested:
    """What the client has asked its ``target`` for, with the fields of its events."""

    target: str
    listening: dict[Request, dict[str, Any]] = field(factory=dict)
    displays: set[RemoteDisplay] = field(factory=set)
    agent: dict[str, Any] | None = None


class TargetChannels:
    """Accepts channels of a target (``ChannelAcceptor``), and opens them to the client.

    ``connection()`` is the client's connection; ``permitted(key)`` is whether the grant gives now
    what listens under a key, see :mod:`tele.sessions.forward_permission`.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        records: ForwardRecords,
        requested: Requested,
        connection: Callable[[], Any],
        permitted: Callable[[object], bool],
    ) -> None:
        self._permitted = permitted
        self._reactor = reactor
        self._records = records
        self._requested = requested
        self._connection = connection
        self._accepted = 0

    def accept(
        self, kind: bytes, data: bytes, remoteWindow: int, remoteMaxPacket: int
    ) -> Deferred[Any]:
        """See :class:`tele.conch.client.target_connection.ChannelAcceptor`."""
        record, extra = self._expected(kind, data)
        return Deferred.fromCoroutine(
            self._accept(kind, extra, record, remoteWindow, remoteMaxPacket)
        )

    async def _accept(
        self, kind: bytes, extra: bytes, record: ForwardRecord, window: int, max_packet: int
    ) -> SplicedChannel:
        if self._accepted >= ACCEPTED_LIMIT:
            error = ConchError(RESOURCE_SHORTAGE, f"{ACCEPTED_LIMIT} are forwarded already")
            record.refused(error)
            raise error
        self._accepted += 1
        record.on_end = self._one_less
        opening = open_splice(
            self._connection(),
            kind,
            extra,
            remoteWindow=window,
            remoteMaxPacket=max_packet,
            observer=record,
            for_client=False,
        )
        try:
            return await opening.addTimeout(ANSWER_TIMEOUT, self._reactor)
        except DeferredTimeout:
            late = Unreachable(f"the client did not answer in {ANSWER_TIMEOUT:.0f} seconds")
            record.refused(late)
            raise late from None
        except Exception as error:
            record.refused(error)
            raise

    def _one_less(self) -> None:
        self._accepted -= 1

    def _expected(self, kind: bytes, data: bytes) -> tuple[ForwardRecord, bytes]:
        """Return the record of a channel that the client asked for, and its data for the client.

        Raises ``ConchError`` for one that it did not ask for.
        """
        reader = Reader(data)
        found: Found = None
        if kind == PORT_CHANNEL:
            found = self._from_port(reader)
        elif kind == PATH_CHANNEL:
            found = self._from_path(reader)
        elif kind == AGENT_CHANNEL:
            found = self._from_agent()
        elif kind == DISPLAY_CHANNEL:
            found = self._from_display(reader)
        if found is None:
            shown = kind.decode("ascii", "replace")
            self._records.connected(
                True, kind=cut(shown), error="the target opened a channel that was not asked for"
            )
            raise ConchError(ADMINISTRATIVELY_PROHIBITED, "the client did not ask for it")
        reader.end()
        return found

    def _from_port(self, reader: Reader) -> Found:
        host, port = reader.text(255), reader.uint32()
        originator = _originator(reader)
        request = PortRequest(host, port)
        if request not in self._requested.listening:
            return None
        bound = str(Address(host, port))
        record = self._records.begin(
            "forwarded-tcpip",
            lambda: self._permitted(request),
            accepted=True,
            bound=bound,
            originator=str(Address(*originator)),
        )
        return record, port_channel(request, originator)

    def _from_path(self, reader: Reader) -> Found:
        request = PathRequest(reader.string())
        reader.string()
        if request not in self._requested.listening:
            return None
        bound = shown_path(request.path)
        record = self._records.begin(
            "forwarded-streamlocal", lambda: self._permitted(request), accepted=True, bound=bound
        )
        return record, path_channel(request)

    def _from_agent(self) -> Found:
        if self._requested.agent is None:
            return None
        bound = self._requested.target
        return self._records.begin(
            AGENT, lambda: self._permitted(AGENT), accepted=True, bound=bound
        ), b""

    def _from_display(self, reader: Reader) -> Found:
        originator = _originator(reader)
        usable = [
            each for each in self._requested.displays if not (each.request.single and each.accepted)
        ]
        if not usable:
            return None
        usable[0].accepted = True
        record = self._records.begin(
            "x11",
            lambda: self._permitted("x11"),
            accepted=True,
            bound=self._requested.target,
            originator=str(Address(*originator)),
        )
        return record, string(originator[0].encode()) + uint32(originator[1])


def _originator(reader: Reader) -> tuple[str, int]:
    host, port = reader.text(255), reader.uint32()
    if not host.isprintable() or port > 65535:
        raise ProtocolError("an originator that cannot be")
    return host, port


def shown_path(path: bytes) -> str:
    """Return the path of a socket as text."""
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
