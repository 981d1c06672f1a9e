"""What does a client sign to log in with a certificate (RFC 4252, section 7)?"""

from __future__ import annotations

from typing import Final

from tele.certs.algorithms import USER_ALGORITHMS
from tele.certs.certificate import Certificate
from tele.errors import BadCertificate
from tele.wire import numbers as n
from tele.wire.fields import boolean, string

PUBLICKEY: Final = b"publickey"


def login_algorithm(certificate: Certificate) -> bytes:
    """Return the best algorithm for ``certificate``. Raises :class:`BadCertificate`."""
    for name, algorithm in USER_ALGORITHMS.items():
        if algorithm.blob_type == certificate.type:
            return name
    raise BadCertificate("our certificate is of an unknown type", "algorithm")


def login_request(login: str, service: bytes, algorithm: bytes, blob: bytes) -> bytes:
    """Return the payload of a USERAUTH_REQUEST, which its signature follows."""
    return (
        string(login.encode("utf-8"))
        + string(service)
        + string(PUBLICKEY)
        + boolean(True)
        + string(algorithm)
        + string(blob)
    )


def signed_part(session_id: bytes, request: bytes) -> bytes:
    """Return what the signature of ``request`` covers."""
    return string(session_id) + bytes((n.USERAUTH_REQUEST,)) + request
