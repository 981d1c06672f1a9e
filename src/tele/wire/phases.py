"""Which message may the peer send now?

The peer's side of an SSH connection as a table: phase, message number, next phase. A message that
is not in the table closes the connection, with one exception: after authentication a number that
SSH does not define is answered with UNIMPLEMENTED (RFC 4253, section 11.4).

Invariants:

* All transitions live here.
* During the first key exchange nothing is admitted but the exchange itself and DISCONNECT,
  whether or not the peer speaks strict key exchange (OpenSSH PROTOCOL, section 1.10).
* Between the peer's KEXINIT and its NEWKEYS no message of a service is admitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from tele.errors import ProtocolError
from tele.wire import numbers as n


class Phase(Enum):
    """What is expected next."""

    KEXINIT = "the first KEXINIT"
    KEX = "the first key exchange message"
    NEWKEYS = "the first NEWKEYS"
    SERVICE = "the service request or its answer"
    AUTH = "authentication"
    OPEN = "anything"
    REKEX = "a key exchange message"
    RENEWKEYS = "NEWKEYS"


_Row = Mapping[int, Phase]


def _stay(phase: Phase, *messages: int) -> dict[int, Phase]:
    return dict.fromkeys(messages, phase)


_ALWAYS: Final = (n.DISCONNECT,)
_NOISE: Final = (n.DISCONNECT, n.IGNORE, n.UNIMPLEMENTED, n.DEBUG)
_CONNECTION: Final = (
    n.GLOBAL_REQUEST,
    n.REQUEST_SUCCESS,
    n.REQUEST_FAILURE,
    *range(n.CHANNEL_OPEN, n.CHANNEL_FAILURE + 1),
)


def _exchange(message: int, *late: int) -> dict[Phase, _Row]:
    """Return the rows that both roles share.

    ``message`` is the peer's part of the exchange; ``late`` is admitted when it is OPEN.
    """
    return {
        Phase.KEXINIT: _stay(Phase.KEXINIT, *_ALWAYS) | {n.KEXINIT: Phase.KEX},
        Phase.KEX: _stay(Phase.KEX, *_ALWAYS) | {message: Phase.NEWKEYS},
        Phase.NEWKEYS: _stay(Phase.NEWKEYS, *_ALWAYS) | {n.NEWKEYS: Phase.SERVICE},
        Phase.OPEN: _stay(Phase.OPEN, *_NOISE, *_CONNECTION, n.PING, n.PONG, *late)
        | {n.KEXINIT: Phase.REKEX},
        Phase.REKEX: _stay(Phase.REKEX, *_NOISE) | {message: Phase.RENEWKEYS},
        Phase.RENEWKEYS: _stay(Phase.RENEWKEYS, *_NOISE) | {n.NEWKEYS: Phase.OPEN},
    }


#: What a server admits. A late USERAUTH_REQUEST is admitted to be ignored (RFC 4252, 5.1);
#: some clients, such as Paramiko, ask for the service again before each key that they offer.
FROM_CLIENT: Final[Mapping[Phase, _Row]] = _exchange(n.KEX_INIT, n.USERAUTH_REQUEST) | {
    Phase.SERVICE: _stay(Phase.SERVICE, *_NOISE, n.EXT_INFO, n.PING)
    | {n.SERVICE_REQUEST: Phase.AUTH},
    Phase.AUTH: _stay(Phase.AUTH, *_NOISE, n.SERVICE_REQUEST, n.USERAUTH_REQUEST, n.PING),
}

#: What a client admits.
FROM_SERVER: Final[Mapping[Phase, _Row]] = _exchange(n.KEX_REPLY) | {
    Phase.SERVICE: _stay(Phase.SERVICE, *_NOISE, n.EXT_INFO, n.PING)
    | {n.SERVICE_ACCEPT: Phase.AUTH},
    Phase.AUTH: _stay(
        Phase.AUTH,
        *_NOISE,
        n.EXT_INFO,
        n.PING,
        n.USERAUTH_FAILURE,
        n.USERAUTH_BANNER,
        n.USERAUTH_PK_OK,
    )
    | {n.USERAUTH_SUCCESS: Phase.OPEN},
}

_KNOWN: Final = frozenset(
    number for table in (FROM_CLIENT, FROM_SERVER) for row in table.values() for number in row
)


class MessageFilter:
    """Admits the peer's messages. ``phase`` is what is expected next."""

    __slots__ = ("_table", "phase")

    def __init__(self, table: Mapping[Phase, _Row]) -> None:
        self._table = table
        self.phase = Phase.KEXINIT

    def admit(self, number: int) -> bool:
        """Admit one message. False: its number is unknown, and it is answered with UNIMPLEMENTED.

        Raises :class:`ProtocolError` if it is not allowed now.
        """
        following = self._table[self.phase].get(number)
        if following is not None:
            self.phase = following
            return True
        if self.phase is Phase.OPEN and number not in _KNOWN:
            return False
        raise ProtocolError(f"message {number} while waiting for {self.phase.value}")

    def authenticated(self) -> None:
        """Authentication succeeded: from now on a server admits the connection service."""
        if self.phase is not Phase.AUTH:
            raise ProtocolError(f"authenticated while waiting for {self.phase.value}")
        self.phase = Phase.OPEN
