"""Invariant: whatever a stranger sends, the server answers, ends or waits, and never raises,
never lets them in, and keeps no more of it than one packet.
"""

from __future__ import annotations

from ipaddress import ip_network

from ssh_attacker import Attacker
from ssh_ends import World
from tele.conch.limits import Limits
from tele.conch.penalties import PenaltyRules

#: Shared by all runs: making keys is the slow part. Nobody is shut out for what they do.
WORLD = World(limits=Limits(penalties=PenaltyRules(exempt=(ip_network("0.0.0.0/0"),))))


def check(plain: bytes, sealed: list[bytes]) -> None:
    """Hold the invariant for bytes before keys, and for messages under keys."""
    stranger = Attacker(WORLD)
    stranger.raw(plain)
    _leave(stranger)
    stranger = Attacker(WORLD)
    stranger.ready_to_login()
    for message in sealed:
        stranger.say(message)
    _leave(stranger)
    assert not WORLD.realm.calls


def _leave(stranger: Attacker) -> None:
    server = stranger.server
    assert not server.isAuthenticated
    assert len(server.incoming.kept) <= server.incoming.opener.limit + 64
    server.connectionLost()
