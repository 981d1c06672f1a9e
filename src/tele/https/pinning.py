"""How does a client that trusts no CA yet verify auth?

By a pin: the hash of the host authority's public key, given together with the
address. The response of an unverified server is used for one thing only, to find the
certificate that the pin names; everything else is asked again under that
certificate. So a machine in the middle can neither add an authority of its own
beside the pinned one nor change what is not covered by the pin.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from tele.certs.pins import check_pins
from tele.errors import InvalidInput
from tele.model.api.members import ClusterInfo
from tele.model.authority import AuthorityKind, authority_of


@frozen
class UnverifiedCluster(ClusterInfo):
    """The response of a server that was not verified. Show its pin to the user."""


def unverified(info: ClusterInfo) -> UnverifiedCluster:
    """Return ``info`` as what it is when there was no pin."""
    return UnverifiedCluster(
        info.cluster, info.version, info.time, info.authorities, info.proxies, info.former
    )


def pinned(address: str, info: ClusterInfo, pins: Sequence[str]) -> tuple[str, ...]:
    """Return those of the host authority's certificates (PEM) that ``pins`` mean.

    A pin may be of a key that was replaced lately: auth shows a path from it in the handshake.

    Raises :class:`tele.errors.AccessDenied` (reason ``pin``) if there are none: this is
    another cluster, or a machine in the middle.
    """
    authority = authority_of(info.authorities, AuthorityKind.HOST)
    offered = authority.tls_certificates if authority is not None else ()
    try:
        return tuple(check_pins((*offered, *info.former), pins))
    except ValueError:
        raise InvalidInput(f"{address} sent a CA certificate that cannot be read") from None


def server_name(cluster: str) -> str:
    """Return the name that auth's certificate has in ``cluster``."""
    return f"auth.{cluster}"
