"""How a program tests a realm of its own: without a network, and with real certificates."""

from twisted.conch.avatar import ConchUser
from twisted.cred.portal import IRealm
from zope.interface import implementer

from tele.embed.ssh import CertificateCredentials, make_portal
from tele.errors import AccessDenied
from tele.testing import World


@implementer(IRealm)
class Developers:
    """Lets developers in, and nobody else."""

    def requestAvatar(self, credentials: CertificateCredentials, mind, *interfaces):
        """Return somebody who may do what ConchUser may; a denial's text is for the person."""
        if "dev" not in credentials.checked.identity.roles:
            raise AccessDenied("developers only", "role")
        return interfaces[0], ConchUser(), lambda: None


def connect(*roles: str):
    """Connect somebody who has these roles; return both ends and the world they are in."""
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


def test_nobody_else_does() -> None:
    """They read why, and the audit hears of it."""
    ends, world = connect("guest")
    refused = []
    ends.ready.addErrback(lambda failure: refused.append(str(failure.value)))
    assert refused == ["developers only"]
    assert [denied.reason for denied in world.denied] == ["role"]
