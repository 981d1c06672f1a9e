"""What does auth store of a host that joined, in one role?

Invariant: a revocation outlasts every certificate that its host was ever issued.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import Factory, field, frozen

from tele.model.addresses import plain_address
from tele.model.bounds import OMITTED
from tele.model.identity import HostRole
from tele.model.lifetimes import HOST_LIFETIME
from tele.model.revocation import HostRevocation, revoked_before

EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Revocations outlast the certificates that they revoke, also on clocks that differ.
REVOKED_LONGER: Final = timedelta(hours=1)
REVOKED_FOR: Final = HOST_LIFETIME + REVOKED_LONGER


@frozen
class Member:
    """A host that joined, in one role.

    ``labels`` and ``addresses`` are those of its token, ``source`` is the address that it calls
    from, if its certificates are for that, too. ``expires`` is the end of its last certificate,
    ``issued`` the latest time of issue; certificates issued before ``since`` are of a host that it
    replaced. Older versions wrote ``valid_from``, the end of its first certificate, and no
    ``expires``.

    ``sshd``: it did not join but was registered, has no key or certificate of the cluster, and runs
    OpenSSH's sshd; ``addresses`` are further names in its host certificate.

    ``told_to_seal`` is when it first announced itself after recordings were encrypted.
    ``outlasting`` is the end of an earlier certificate that lasts longer than the last one.
    """

    host_id: str
    role: HostRole
    name: str
    ssh_public_key: str
    joined: datetime
    expires: datetime = EARLIEST
    since: datetime = EARLIEST
    issued: datetime = EARLIEST
    labels: Mapping[str, str] = Factory(dict)
    addresses: tuple[str, ...] = ()
    source: str = ""
    valid_from: datetime = EARLIEST
    sshd: bool = field(default=False, metadata=OMITTED)
    told_to_seal: datetime = field(default=EARLIEST, metadata=OMITTED)
    outlasting: datetime = field(default=EARLIEST, metadata=OMITTED)

    @property
    def ends(self) -> datetime:
        """The end of its last certificate, as far as it is known."""
        return max(self.expires, self.valid_from)


@frozen
class NameHolder:
    """The member that a name or an address belongs to."""

    role: HostRole
    host_id: str


def is_loopback(text: str) -> bool:
    """Whether ``text`` is a loopback address."""
    address = plain_address(text)
    return address is not None and address.is_loopback


def outlasting(before: Member, expires: datetime) -> datetime:
    """Return the end of an earlier certificate that lasts longer than until ``expires``."""
    longest = max(before.ends, before.outlasting)
    return longest if longest > expires else EARLIEST


def names_of(member: Member) -> tuple[str, ...]:
    """Return the names and addresses that are the member's alone, in lower case."""
    names = (member.name, *member.addresses, member.source)
    return tuple(name.lower() for name in names if name and not is_loopback(name))


def addresses_of(member: Member) -> tuple[str, ...]:
    """Return the addresses that the certificates of ``member`` are for."""
    return tuple(dict.fromkeys(each for each in (*member.addresses, member.source) if each))


def revocation_of(member: Member, now: datetime) -> HostRevocation:
    """Return what revokes all certificates of ``member``: the clock may have been set back."""
    before = revoked_before(max(now, member.issued))
    return HostRevocation(member.host_id, member.role, member.name, before)


def revoked_for(member: Member, revocation: HostRevocation, now: datetime) -> timedelta:
    """Return how long a revocation is kept: longer than any certificate of ``member`` lasts."""
    last = max(member.ends, member.outlasting) + REVOKED_LONGER
    return max(revocation.before - now + REVOKED_FOR, last - now)
