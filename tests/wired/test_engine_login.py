"""Two ends exchange keys, check certificates and log in."""

from __future__ import annotations

from twisted.conch.ssh.transport import SSHClientTransport, SSHServerTransport
from zope.interface.verify import verifyObject

from ssh_ends import World
from tele.conch.datapath import IDataTransport


def test_login_with_certificates() -> None:
    """A client that trusts the host's authority logs in with a user certificate."""
    world = World()
    ends = world.connect()
    assert ends.ready.called
    assert ends.server.avatar.credentials.login == "root"
    assert ends.server.avatar.credentials.checked.identity.user == "alice"
    assert ends.client.host.principals[0] == "h-1.test"
    assert world.services[0].calls == [("started",)]
    assert isinstance(ends.server, SSHServerTransport)
    assert isinstance(ends.client, SSHClientTransport)
    assert verifyObject(IDataTransport, ends.server)
