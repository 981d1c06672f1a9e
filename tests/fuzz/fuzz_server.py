"""Invariant: whatever an unauthenticated client sends, the server answers, disconnects or waits,
never raises, never authenticates it, and keeps no more than one packet.
"""

from __future__ import annotations

from ipaddress import ip_network

from attempts import Dice, main
from ssh_attacker import Attacker
from tele.admission.limits import Limits
from tele.admission.penalties import PenaltyRules
from tele.testing.ssh import World
from tele.wire import numbers as n
from tele.wire.fields import string, uint32
from tele.wire.negotiation import make_kexinit
from tele.wire.packets import PlainSealer

SERVICE_REQUEST = bytes((n.SERVICE_REQUEST,)) + string(b"ssh-userauth")
OURS = make_kexinit((b"curve25519-sha256",), (b"ssh-ed25519",), bytes(16)).payload[1:]

#: Shared by all runs: making keys is the slow part. No source gets penalties.
WORLD = World(limits=Limits(penalties=PenaltyRules(exempt=(ip_network("0.0.0.0/0"),))))


def check(plain: bytes, sealed: list[bytes]) -> None:
    """Hold the invariant for bytes before keys, and for messages under keys."""
    client = Attacker(WORLD)
    client.raw(plain)
    _close(client)
    client = Attacker(WORLD)
    client.ready_to_login()
    for message in sealed:
        client.send(message)
    _close(client)
    assert not WORLD.realm.calls


def _close(client: Attacker) -> None:
    server = client.server
    assert not server.isAuthenticated
    assert len(server.incoming.kept) <= server.incoming.opener.limit + 64
    server.connectionLost()


def message(dice: Dice) -> bytes:
    """A message that a client may send before authentication, or may not."""
    good = (
        SERVICE_REQUEST,
        bytes((n.KEXINIT,)) + OURS,
        bytes((n.KEX_INIT,)) + string(dice.randbytes(32)),
        bytes((n.NEWKEYS,)),
        bytes((n.PING,)) + string(b"x"),
        bytes((n.EXT_INFO,)) + uint32(1) + string(b"ext-info-in-auth@openssh.com") + string(b"0"),
        bytes((n.DISCONNECT,)) + uint32(11) + string(b"bye") + string(b""),
        bytes((dice.randint(0, 255),)) + dice.bytes_up_to(100),
    )
    return dice.damaged(dice.choice(good), 3) or b"\0"


def attempt(dice: Dice) -> None:
    """Bytes before keys, often a good beginning of them; and messages under keys."""
    plain = dice.damaged(b"SSH-2.0-x\r\n", 1)
    if dice.random() < 0.8:
        plain = b"SSH-2.0-x\r\n"
        for _ in range(dice.randint(0, 4)):
            buffer = memoryview(bytearray(1 << 16))
            plain += buffer[: PlainSealer().seal(message(dice), buffer, 0)]
        plain = dice.damaged(plain, 2)
    check(plain, [message(dice) for _ in range(dice.randint(0, 8))])


if __name__ == "__main__":
    main(attempt)
