"""Which names may the certificate of an OpenSSH sshd have? None that a member has or could have.

``tele ca sign-host`` signs for a machine that is not a member of the cluster, with the authority
that signs for members: an OpenSSH client tells them apart by their names only. Invariants:

* No name is a host id, lies in the cluster's domain, or is reserved for auth or proxies.
* No name or address is one of a member. Those of a registered machine (``tele nodes add``) are
  what its own certificate has.
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
_RESERVED: Final = frozenset(role.value for role in HostRole) | {"localhost"}


def plain_name(text: str) -> str:
    """Return a host name as it is compared: without case, port, brackets and final dot."""
    return host_of(text).lower().rstrip(".")


def check_name(text: str, cluster: str) -> None:
    """Raise :class:`InvalidInput` for a text that is not a host name, or could be a member's."""
    if not is_host_name(text):
        raise InvalidInput(f"{quoted(text)} is not a host name or address")
    check_key_id(text, cluster)


def check_key_id(text: str, cluster: str) -> None:
    """Raise :class:`InvalidInput` for a text that could be a name of a member."""
    name = plain_name(text)
    if not name or len(text) > KEY_ID_LIMIT or not text.isprintable():
        raise InvalidInput(f"{quoted(text)} is not a name for a certificate")
    check_principal(name, cluster)
    if name in _RESERVED:
        raise InvalidInput(f"{quoted(text)} is reserved for members of the cluster: choose another")


async def check_free(text: str, members: Members, hosts: Hosts) -> None:
    """Raise :class:`Conflict` for a name or an address of a member."""
    name = plain_name(text)
    member = await members.named(name)
    if member is not None and not member.sshd:
        raise _taken(text, f"a name of {member.role.value} {member.name}")
    check_no_members(text, hosts)


def check_no_members(text: str, hosts: Hosts) -> None:
    """Raise :class:`Conflict` for an address of a member, or the name of one that is online."""
    name = plain_name(text)
    for role in HostRole:
        for host in hosts.all(role):
            if host.sshd:
                continue  # it is what the certificate is for
            if name == host.name.lower() or name in map(plain_name, host.addresses):
                raise _taken(text, f"an address of {role.value} {host.name}")


def _taken(text: str, what: str) -> Conflict:
    return Conflict(
        f"{quoted(text)} is {what}: choose another name, or remove the member first: tele nodes rm"
    )
