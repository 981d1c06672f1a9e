"""When and how do both ends of a connection agree on keys (RFC 4253, sections 7 to 9)?

The part of a key exchange that client and server share; each adds its own messages 30 and 31.

Invariants:

* At most one exchange runs at a time. Either end may start one once it is authenticated.
* Markers (extension negotiation, strict key exchange) count in the first exchange only
  (OpenSSH PROTOCOL, section 1.10).
* Each direction changes keys at its NEWKEYS, and no earlier.
* A peer that starts exchanges faster than :class:`RekeyPace` allows waits, and is not cut off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime

from tele.admission.limits import Limits
from tele.conch.transport.exchange import Exchange
from tele.conch.transport.incoming import Incoming
from tele.conch.transport.outgoing import Outgoing
from tele.errors import ProtocolError
from tele.sockets.buffers import PADDING
from tele.wire import numbers as n
from tele.wire.ciphers import Secrets
from tele.wire.negotiation import COOKIE_SIZE, make_kexinit, negotiate, parse_kexinit

_T = TypeVar("_T")


class Party(Protocol):
    """The transport that keys are exchanged for."""

    isClient: bool
    isAuthenticated: bool
    #: The hash of the first exchange.
    sessionID: bytes | None
    ourVersionString: bytes
    otherVersionString: bytes
    _peerSupportsExtensions: bool
    clock: IReactorTime
    limits: Limits
    incoming: Incoming
    outgoing: Outgoing

    @property
    def supportedKeyExchanges(self) -> Sequence[bytes]:
        """Key exchange methods to offer."""

    @property
    def supportedCiphers(self) -> Sequence[bytes]:
        """Ciphers to offer."""

    @property
    def supportedMACs(self) -> Sequence[bytes]:
        """MACs to offer."""

    @property
    def our_markers(self) -> tuple[bytes, bytes]:
        """Our markers: extension negotiation, strict key exchange."""

    @property
    def peer_markers(self) -> tuple[bytes, bytes]:
        """The peer's."""

    def host_key_algorithms(self) -> tuple[bytes, ...]:
        """Return which host key algorithms to offer."""

    def sendKexInit(self) -> None:
        """Start an exchange."""

    def kex_agreed(self, exchange: Exchange) -> None:
        """Both KEXINITs are there."""


class KeyExchange:
    """The key exchanges of one connection. ``current`` is the one that runs."""

    __slots__ = ("_party", "_rekey_at", "_strict", "current")

    def __init__(self, party: Party) -> None:
        self._party = party
        self._rekey_at = 0.0
        self._strict = False
        self.current: Exchange | None = None

    # -- KEXINIT ----------------------------------------------------------------------
    def start(self) -> None:
        """Send our KEXINIT: the first message of an exchange, or the answer to the peer's."""
        if self.current is not None:
            raise RuntimeError("a key exchange is running already")
        party = self._party
        markers = () if party.sessionID else party.our_markers
        ours = make_kexinit(
            (*party.supportedKeyExchanges, *markers),
            party.host_key_algorithms(),
            os.urandom(COOKIE_SIZE),
            tuple(party.supportedCiphers),
            tuple(party.supportedMACs),
        )
        self.current = Exchange(ours)
        party.outgoing.send_kexinit(ours.payload)

    def kexinit_received(self, packet: bytes) -> None:
        """The peer starts an exchange, or answers ours."""
        party = self._party
        theirs = parse_kexinit(packet)
        if party.sessionID is None:
            extensions, strict = party.peer_markers
            self._strict = strict in theirs.kex
            party._peerSupportsExtensions = extensions in theirs.kex
        if self.current is None:
            party.sendKexInit()
        exchange = self.running()
        exchange.theirs = theirs
        client, server = self._ordered(exchange.ours, theirs)
        exchange.agreement = negotiate(client, server)
        exchange.skip_guess = exchange.agreement.wrong_guess and not party.isClient
        party.kex_agreed(exchange)

    def skips(self, number: int) -> bool:
        """Whether message ``number`` belongs to a wrong guess of the client, and is ignored."""
        exchange = self.current
        if exchange is None or not exchange.skip_guess or number != n.KEX_INIT:
            return False
        exchange.skip_guess = False
        return True

    def running(self) -> Exchange:
        """Return the exchange that runs. Raises :class:`ProtocolError` if none does."""
        if self.current is None:
            raise ProtocolError("a key exchange message without a key exchange")
        return self.current

    def _ordered(self, ours: _T, theirs: _T) -> tuple[_T, _T]:
        """Return the client's and the server's of a pair."""
        return (ours, theirs) if self._party.isClient else (theirs, ours)

    # -- keys -------------------------------------------------------------------------
    def hash_inputs(self) -> dict[str, bytes]:
        """Return the inputs of the exchange hash that both ends know alike."""
        party, exchange = self._party, self.running()
        theirs = exchange.theirs
        if theirs is None:
            raise ProtocolError("a key exchange message before KEXINIT")
        client, server = self._ordered(exchange.ours, theirs)
        client_line, server_line = self._ordered(party.ourVersionString, party.otherVersionString)
        return {
            "client_version": client_line,
            "server_version": server_line,
            "client_kexinit": client.payload,
            "server_kexinit": server.payload,
        }

    def keys_agreed(self, shared: bytes, digest: bytes, first: tuple[int, bytes] | None) -> None:
        """The secret is known: send NEWKEYS, and everything after it under the new keys.

        ``first`` is a message that follows NEWKEYS at once.
        """
        party, exchange = self._party, self.running()
        agreement = exchange.agreement
        if agreement is None:
            raise ProtocolError("a key exchange message before KEXINIT")
        if party.sessionID is None:
            party.sessionID = digest
        exchange.secrets = secrets = Secrets(shared, digest, party.sessionID)
        outgoing = party.outgoing
        outgoing.send(n.NEWKEYS, b"")
        if party.isClient:
            cipher, mac = agreement.cipher_to_server, agreement.mac_to_server
        else:
            cipher, mac = agreement.cipher_to_client, agreement.mac_to_client
        sequence = 0 if self._strict else outgoing.sealer.sequence
        outgoing.renew(secrets.sealer(cipher, party.isClient, PADDING, sequence, mac), first)

    def newkeys_received(self, packet: bytes) -> None:
        """The peer sends under the new keys from now on: the exchange is over."""
        party, exchange = self._party, self.running()
        secrets, agreement = exchange.secrets, exchange.agreement
        if packet or secrets is None or agreement is None:
            raise ProtocolError("NEWKEYS before a key exchange was complete")
        opener = party.incoming.opener
        if party.isClient:
            cipher, mac = agreement.cipher_to_client, agreement.mac_to_client
        else:
            cipher, mac = agreement.cipher_to_server, agreement.mac_to_server
        sequence = 0 if self._strict else opener.sequence
        party.incoming.opener = secrets.opener(
            cipher, not party.isClient, opener.limit, sequence, mac
        )
        self.current = None
        self._rekey_at = party.clock.seconds() + party.limits.rekey_seconds

    # -- renewing ---------------------------------------------------------------------
    @property
    def octets(self) -> int:
        """How many bytes were sent and received under the present keys."""
        party = self._party
        return party.incoming.opener.octets + party.outgoing.sealer.octets

    @property
    def is_due(self) -> bool:
        """Whether the keys were used for so long, or so much, that we renew them."""
        party = self._party
        if self.current is not None or not party.isAuthenticated:
            return False
        limits, sealer, opener = party.limits, party.outgoing.sealer, party.incoming.opener
        return (
            sealer.octets >= limits.rekey_octets
            or opener.octets >= limits.rekey_octets
            or sealer.packets >= limits.rekey_packets
            or opener.packets >= limits.rekey_packets
            or party.clock.seconds() >= self._rekey_at
        )
