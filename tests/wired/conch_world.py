"""A world whose server is a Conch program: a portal with checkers of its own."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh import keys
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import succeed

from tele.certs.keys import PrivateKey
from tele.embed.ssh import CertificateChecker as Certificates
from tele.embed.ssh import HostKeys, Trust, factory, parse_line, userauth
from tele.testing.ssh import CLUSTER, Avatar, Realm, World
from tele.wire import numbers as n
from tele.wire.fields import boolean, string

PASSWORD = b"correct horse"


class ConchRealm(Realm):
    """A realm that gets certificates, or the name that a checker of Conch's returns."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: object) -> Any:
        if isinstance(avatarId, bytes):
            self.calls.append(("login", avatarId.decode()))
            return succeed(
                (IConchUser, Avatar(avatarId), lambda: self.calls.append(("logout", "")))  # type: ignore[arg-type]
            )
        return super().requestAvatar(avatarId, mind, *interfaces)


def conch_key(key: PrivateKey) -> Any:
    """Return a key of ours as Conch's."""
    return keys.Key.fromString(key.to_openssh())


class AtOnce(userauth.SSHUserAuthServer):
    """Answers without a delay, for tests that do not wait."""

    passwordDelay = 0


@define
class ConchWorld(World):
    """Lets root in with a password, a plain key, or a certificate."""

    plain_key: PrivateKey = Factory(PrivateKey.generate)

    def __attrs_post_init__(self) -> None:
        self.realm = ConchRealm()
        super().__attrs_post_init__()
        passwords = InMemoryUsernamePasswordDatabaseDontUse(root=PASSWORD)
        plain = SSHPublicKeyChecker(
            InMemorySSHKeyDB({b"root": [conch_key(self.plain_key).public()]})
        )
        made: Any = type(
            "Program", (factory.SSHFactory,), {"limits": self.limits, "clock": self.clock}
        )()
        made.portal = Portal(self.realm, [passwords, plain, Certificates()])
        made.privateKeys = {b"ssh-ed25519": conch_key(self.host_key)}
        made.publicKeys = {b"ssh-ed25519": conch_key(self.host_key).public()}
        made.on_denied = self.denied.append
        made.user_trust = lambda: Trust(CLUSTER, frozenset({self.user_authority.public.blob}))
        made.services = {b"ssh-userauth": AtOnce, b"ssh-connection": self._connection}
        made.startFactory()
        made.all_host_keys = (HostKeys(self.host_key, self.host_certificate),)
        self.factory = made


def password_request(password: bytes, login: bytes = b"root", change: bool = False) -> bytes:
    """Return a USERAUTH_REQUEST with a password."""
    rest = boolean(change) + string(password)
    return (
        bytes((n.USERAUTH_REQUEST,))
        + string(login)
        + string(b"ssh-connection")
        + string(b"password")
        + rest
    )


def key_request(
    key: PrivateKey, session_id: bytes, login: bytes = b"root", signature: bytes | None = None
) -> bytes:
    """Return a signed USERAUTH_REQUEST with a plain key; by a wrong ``signature`` if given."""
    body = (
        bytes((n.USERAUTH_REQUEST,))
        + string(login)
        + string(b"ssh-connection")
        + string(b"publickey")
        + boolean(True)
        + string(key.public.type)
        + string(parse_line(key.public.line))
    )
    made = key.sign(string(session_id) + body) if signature is None else signature
    return body + string(made)
