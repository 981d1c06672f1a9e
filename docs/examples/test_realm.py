"""How a program tests a realm of its own: without a network, and with real certificates."""

from twisted.conch.avatar import ConchUser
from twisted.cred.portal import IRealm
from zope.interface import implementer

from tele.embed.ssh import CertificateCredentials, make_portal
from tele.errors import AccessDenied
from tele.testing import World


@implementer(IRealm)
class Developers:
    """Admits developers only."""

    def requestAvatar(self, credentials: CertificateCredentials, mind, *interfaces):
        """Return a user with the rights of ConchUser; the user reads a denial's text."""
        if "dev" not in credentials.checked.identity.roles:
            raise AccessDenied("developers only", "role")
        return interfaces[0], ConchUser(), lambda: None


def connect(*roles: str):
    """Connect a user who has these roles; return both ends and their world."""
    world = World()
    world.factory.portal = make_portal(Developers())
    ends = world.connect(world.client(world.identity(roles=roles)))
    ends.settle()
    return ends, world


def test_developers_get_in() -> None:
    """They are authenticated, and their connection service runs."""
    ends, world = connect("dev")
    assert ends.server.isAuthenticated
    assert world.services[-1].calls == [("started",)]


def test_others_are_denied() -> None:
    """They read why, and the audit reports it."""
    ends, world = connect("guest")
    refused = []
    ends.ready.addErrback(lambda failure: refused.append(str(failure.value)))
    assert refused == ["developers only"]
    assert [denied.reason for denied in world.denied] == ["role"]
