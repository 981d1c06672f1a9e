"""Which names may the certificate of an OpenSSH sshd have? None by which a member is known.

``tele ca sign-host`` signs for a machine that is no member of the cluster. Its certificate is by
the same authority as those of members, so its names are all that keeps it apart for an OpenSSH
client. Invariants:

* No name of it is a host id, lies in the cluster's domain, or is a name kept for auth or proxies:
  clients take what they find there for members.
* No name or address of it is one that a member has.
"""

from __future__ import annotations

from typing import Final

from tele.auth.issuing import is_host_name
from tele.auth.members import Members
from tele.auth.presence import Hosts
from tele.certs.names import check_principal
from tele.errors import Conflict, InvalidInput, quoted
from tele.model.addresses import host_of
from tele.model.identity import HostRole

KEY_ID_LIMIT: Final = 256
_KEPT: Final = frozenset(role.value for role in HostRole) | {"localhost"}


def plain_name(text: str) -> str:
    """Return a host name as it is compared: without case, port, brackets and final dot."""
    return host_of(text).lower().rstrip(".")


def check_name(text: str, cluster: str) -> None:
    """Raise :class:`InvalidInput` for what is no host name, or could be taken for a member's."""
    if not is_host_name(text):
        raise InvalidInput(f"{quoted(text)} is no host name or address")
    check_key_id(text, cluster)


def check_key_id(text: str, cluster: str) -> None:
    """Raise :class:`InvalidInput` for a text that reads like a name of a member."""
    name = plain_name(text)
    if not name or len(text) > KEY_ID_LIMIT or not text.isprintable():
        raise InvalidInput(f"{quoted(text)} is no name for a certificate")
    check_principal(name, cluster)
    if name in _KEPT:
        raise InvalidInput(f"{quoted(text)} reads like a member of the cluster: give another name")


async def check_free(text: str, members: Members, hosts: Hosts) -> None:
    """Raise :class:`Conflict` for a name or an address that a member has."""
    name = plain_name(text)
    member = await members.named(name)
    if member is not None:
        raise _taken(text, f"that of {member.role.value} {member.name}")
    for role in HostRole:
        for host in hosts.all(role):
            if name == host.name.lower() or name in map(plain_name, host.addresses):
                raise _taken(text, f"what {role.value} {host.name} is reached by")


def _taken(text: str, what: str) -> Conflict:
    return Conflict(
        f"{quoted(text)} is {what}: a certificate for it could be taken for that one; give"
        " another name, or remove the member first: tele nodes rm"
    )
