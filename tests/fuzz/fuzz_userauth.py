"""Invariant: whatever the authentication service receives, only a request signed for this
session succeeds; each other one gets the same failure, or closes the connection.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network

from attempts import Dice, main
from ssh_attacker import Attacker, numbers, request
from tele.admission.limits import Limits
from tele.admission.penalties import PenaltyRules
from tele.certs.keys import PrivateKey
from tele.conch.server.userauth import HOSTBOUND
from tele.testing.ssh import START, World
from tele.wire import numbers as n
from tele.wire.fields import Reader, boolean, string, uint32

WORLD = World(limits=Limits(penalties=PenaltyRules(exempt=(ip_network("0.0.0.0/0"),))))
IDENTITIES = [
    WORLD.identity(),
    WORLD.identity("alice"),
    WORLD.identity("nobody"),
    WORLD.identity(authority=PrivateKey.generate()),
    WORLD.identity(now=START - timedelta(days=1)),
    WORLD.identity(cluster="other"),
    WORLD.identity(source_address="203.0.113.0/24"),
]
ANSWERS = {
    n.USERAUTH_FAILURE, n.USERAUTH_PK_OK, n.DISCONNECT, n.PONG, n.UNIMPLEMENTED,
    n.USERAUTH_SUCCESS, n.EXT_INFO, n.SERVICE_ACCEPT, n.USERAUTH_BANNER,
}  # fmt: skip
FAILURE = bytes((n.USERAUTH_FAILURE,)) + string(b"publickey") + boolean(False)


def check(client: Attacker, messages: list[bytes], good: set[bytes]) -> None:
    """Hold the invariant; ``good`` are the messages that succeed."""
    WORLD.realm.calls.clear()
    WORLD.denied.clear()
    WORLD.services.clear()
    for message in messages:
        client.send(message)
        if client.server.isAuthenticated:
            assert message in good
            break
    sent = client.receive()
    assert set(numbers(sent)) <= ANSWERS
    assert all(m == FAILURE for m in sent if m[0] == n.USERAUTH_FAILURE)
    assert len(sent) <= 64
    for denied in WORLD.denied:
        assert denied.message.isprintable()
        assert denied.login.isprintable()
        assert len(denied.message) < 1000
    logins = [name for what, name in WORLD.realm.calls if what == "login"]
    assert bool(logins) == client.server.isAuthenticated
    client.server.connectionLost()
    assert not client.server.incoming.kept


def hostbound(client: Attacker, dice: Dice) -> bytes:
    """A good request that is bound to a host, perhaps to another one."""
    identity = WORLD.identity()
    host_key = client.host_key if dice.random() < 0.7 else dice.damaged(client.host_key)
    body = (
        string(b"root") + string(b"ssh-connection") + string(HOSTBOUND) + boolean(True)
        + string(identity.certificate.type) + string(identity.certificate.blob)
        + string(host_key)
    )  # fmt: skip
    message = bytes((n.USERAUTH_REQUEST,)) + body
    return message + string(identity.private.sign(string(client.session_id) + message))


def message(client: Attacker, dice: Dice) -> bytes:
    """One message, good or nearly so."""
    kind = dice.randint(0, 8)
    identity = dice.choice(IDENTITIES)
    if kind <= 2:
        return client.login_request(identity)
    if kind == 3:
        return hostbound(client, dice)
    if kind == 4:
        blob = dice.damaged(identity.certificate.blob)
        return client.query(identity.certificate.type, blob, b"root")
    if kind == 5:
        name = dice.choice((b"none", b"password", b"keyboard-interactive", b"hostbased", b"\xff"))
        return request(dice.choice((b"root", b"", b"\xff")), name, dice.bytes_up_to(40))
    if kind == 6:
        return bytes((n.PING,)) + string(dice.bytes_up_to(40))
    if kind == 7:
        return bytes((n.SERVICE_REQUEST,)) + string(b"ssh-userauth")
    return bytes((dice.randint(1, 255),)) + uint32(dice.number())


def normal(message: bytes) -> bytes:
    """A request with its boolean as OpenSSH writes it: any value but zero is true."""
    reader = Reader(message[1:])
    at = 1 + sum(4 + len(reader.string()) for _ in range(3))
    return message[:at] + b"\1" + message[at + 1 :]


def attempt(dice: Dice) -> None:
    """A few requests, some of them damaged."""
    client = Attacker(WORLD)
    client.ready_to_login()
    messages, good = [], set()
    for _ in range(dice.randint(1, 10)):
        whole = message(client, dice)
        sent = whole
        if dice.random() < 0.6:
            sent = dice.damaged(whole, 3) or b"\0"
        # Good are those that are signed for this session by a permitted user.
        same = sent == whole or (len(sent) == len(whole) and sent[1:] and _same(sent, whole))
        if same:
            good.add(sent)
        messages.append(sent)
    check(client, messages, good)


def _same(sent: bytes, whole: bytes) -> bool:
    try:
        return sent[0] == whole[0] == n.USERAUTH_REQUEST and normal(sent) == whole
    except Exception:
        return False


if __name__ == "__main__":
    main(attempt)
