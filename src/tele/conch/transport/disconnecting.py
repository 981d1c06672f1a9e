"""How does a connection end?

Invariants:

* After the end nothing is sent or handled, whatever else was received.
* A peer that does not read the last message keeps its socket for ``limits.linger`` seconds.
* One timer for each connection: until authentication it is the login grace time, at the end the
  linger time.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.admission.limits import Limits
from tele.conch.transport.small_messages import TEXT_LIMIT, SmallMessages
from tele.log import Lines, make_logger
from tele.model.addresses import Address, plain_host
from tele.text import printable_lines
from tele.wire import numbers as n
from tele.wire.fields import Reader, string, uint32

log = make_logger(__name__)


def _address(address: object) -> tuple[str, int]:
    return plain_host(getattr(address, "host", "")), getattr(address, "port", 0)


class Disconnecting(SmallMessages):
    """The part of a transport that ends the connection."""

    clock: IReactorTime
    limits: Limits
    #: Nothing is sent or handled any more; the connection is gone or about to go.
    closing: bool
    _lost: bool
    _timer: IDelayedCall | None

    # -- by us ------------------------------------------------------------------------
    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Send the reason, and end the connection. The peer may show it as it is."""
        if self.closing:
            return
        described = desc.decode("utf-8", "replace") if isinstance(desc, bytes) else desc
        text = printable_lines(described).encode("utf-8")[:TEXT_LIMIT]
        log.debug("disconnecting", reason=reason, error=text, **self.log_fields)
        self.closing = True
        self.incoming.stop()
        self.outgoing.send(n.DISCONNECT, uint32(reason) + string(text) + string(b""))
        self._close()

    def _close(self) -> None:
        self.closing = True
        self.incoming.stop()
        self.outgoing.push()
        self.outgoing.link.close()
        if not self._lost:
            self._stop_timer()
            self._timer = self.clock.callLater(self.limits.linger, self._linger_is_over)

    def _linger_is_over(self) -> None:
        self._timer = None
        self.outgoing.link.abort()

    def _abort(self) -> None:
        self.closing = True
        self.incoming.stop()
        self.outgoing.link.abort()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def crashed(self) -> None:
        """A message could not be handled; the connection is about to end."""

    # -- by time ----------------------------------------------------------------------
    def _start_grace(self) -> None:
        self._timer = self.clock.callLater(self.limits.login_grace, self._grace_is_over)

    def _grace_is_over(self) -> None:
        self._timer = None
        self.lines.info("connection closed: not authenticated in time",
                        **self.log_fields, seconds=self.limits.login_grace)  # fmt: skip
        self.grace_over()
        self._abort()

    def grace_over(self) -> None:
        """The time to authenticate is over; the connection is about to be aborted."""

    def peer_timed_out(self, seconds: float) -> None:
        """The peer has answered nothing for ``seconds``: end the connection."""
        self.lines.info("connection closed: keepalive requests not answered",
                        **self.log_fields, seconds=round(seconds))  # fmt: skip
        self._abort()

    # -- by the peer ------------------------------------------------------------------
    def ssh_DISCONNECT(self, packet: bytes) -> None:
        """The peer ends the connection."""
        reader = Reader(packet)
        code, text = reader.uint32(), reader.string()[:TEXT_LIMIT]
        self.receiveError(code, text)
        self._close()

    # -- who --------------------------------------------------------------------------
    @property
    def lines(self) -> Lines:
        """Where to log why the peer was disconnected."""
        return log

    def remote_addr(self) -> tuple[str, int]:
        """Return host and port of the peer; empty for what has none."""
        return _address(None if self.transport is None else self.transport.getPeer())

    def local_addr(self) -> tuple[str, int]:
        """Return host and port of our end; empty for what has none."""
        return _address(None if self.transport is None else self.transport.getHost())

    @property
    def log_fields(self) -> Mapping[str, str]:
        """See :class:`SmallMessages`."""
        return {"peer": str(Address(*self.remote_addr()))}
