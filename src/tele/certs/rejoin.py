"""How does a host whose certificate has expired prove that it is a member?

By a signature of the SSH host key that auth has registered for it. The signature covers the
cluster, the host and the keys of the new certificates: replaying it gives certificates for keys
that the attacker does not have.
"""

from __future__ import annotations

from typing import Final

from tele.certs.algorithms import SIGNATURE_ALGORITHMS
from tele.certs.keys import PrivateKey, parse_line, parse_public_key
from tele.errors import BadCertificate
from tele.model.identity import HostRole
from tele.wire.fields import string

#: Separates this signature from all others of the same key.
_CONTEXT: Final = b"tele-rejoin-v1@tele"


def _signed(cluster: str, host_id: str, role: HostRole, ssh: str, tls: str) -> bytes:
    fields = (cluster, host_id, role.value, ssh, tls)
    return string(_CONTEXT) + b"".join(string(field.encode()) for field in fields)


def sign_rejoin(
    key: PrivateKey, cluster: str, host_id: str, role: HostRole, ssh: str, tls: str
) -> bytes:
    """Return the proof (an SSH signature blob) for the public keys ``ssh`` and ``tls``."""
    return key.sign(_signed(cluster, host_id, role, ssh, tls))


def check_rejoin(
    registered: str,
    signature: bytes,
    cluster: str,
    host_id: str,
    role: HostRole,
    ssh: str,
    tls: str,
) -> None:
    """Raise :class:`BadCertificate` unless the key of the line ``registered`` made the proof."""
    try:
        key = parse_public_key(parse_line(registered))
        key.verify(signature, _signed(cluster, host_id, role, ssh, tls), SIGNATURE_ALGORITHMS)
    except BadCertificate as error:
        raise BadCertificate(f"the proof is not of the registered key: {error}", "proof") from None
