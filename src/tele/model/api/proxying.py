"""Operations of proxies that end users' SSH, to record sessions where a host does not."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Hosts, Operation
from tele.model.bounds import OMITTED, AtMost
from tele.model.identity import HostRole

#: Characters of a login, an id or an address, and of a key or certificate.
WORD_LIMIT: Final = 256
KEY_LIMIT: Final = 32 * 1024
#: Bytes of what a client signs to log in, and of its signature.
PROOF_LIMIT: Final = 64 * 1024


@frozen
class CertifyTarget:
    """Certify a key of the calling proxy for the host ``host_id``: the proxy answers for it.

    ``ssh_public_key`` is a line. Empty: auth makes the key, which is the only one that clients
    without host certificates log in with (``session_recording.proxy_plain_keys``).
    """

    host_id: str = field(validator=AtMost(WORD_LIMIT))
    ssh_public_key: str = field(default="", validator=AtMost(KEY_LIMIT))


@frozen
class MintSession:
    """Register a session that ends at the calling proxy, and certify one login for it.

    ``certificate`` is the user's (a line), ``exchange`` the session identifier of the user's
    connection to the proxy, ``request`` what the user signed to log in there and ``signature`` the
    signature. ``transcript`` is what ``exchange`` is the hash of, where ``request`` names no host
    key. ``remote_addr`` (``host:port``) is the user's. Without ``ssh_public_key`` (a line)
    the session is registered, and nothing is certified.
    """

    session_id: str = field(validator=AtMost(WORD_LIMIT))
    host_id: str = field(validator=AtMost(WORD_LIMIT))
    login: str = field(validator=AtMost(WORD_LIMIT))
    certificate: str = field(validator=AtMost(KEY_LIMIT))
    exchange: bytes = field(validator=AtMost(WORD_LIMIT))
    request: bytes = field(validator=AtMost(PROOF_LIMIT))
    signature: bytes = field(repr=False, validator=AtMost(PROOF_LIMIT))
    remote_addr: str = field(validator=AtMost(WORD_LIMIT))
    ssh_public_key: str = field(default="", validator=AtMost(KEY_LIMIT))
    transcript: bytes = field(default=b"", repr=False, validator=AtMost(PROOF_LIMIT))


@frozen
class CertifiedKey:
    """An SSH certificate (a line; empty if none was wanted), and its end.

    ``private_key``: in OpenSSH's form, of a key that auth has made.
    """

    certificate: str
    expires: datetime
    private_key: bytes = field(default=b"", repr=False, metadata=OMITTED)


_PROXIES = (Hosts((HostRole.PROXY,)),)

CERTIFY_TARGET = Operation(
    "certify_target", "POST", "/v1/proxying/targets", CertifyTarget, CertifiedKey, _PROXIES,
    "Certify a key of the calling proxy with the names of a host",
    cost=5,
)  # fmt: skip

MINT_SESSION = Operation(
    "mint_session", "POST", "/v1/proxying/sessions", MintSession, CertifiedKey, _PROXIES,
    "Register a session that ends at the calling proxy, and certify one login for it",
    limit=512 * 1024, cost=5,
)  # fmt: skip
