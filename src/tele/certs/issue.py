"""How are certificates issued, for users and for hosts?

Invariants:

* A certificate is valid from one minute before its issue, so that a clock slightly behind accepts
  it, and always expires.
* Time and randomness (``now`` and ``entropy``) are arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from attrs import Factory, frozen

from tele.certs import check
from tele.certs.algorithms import certificate_type
from tele.certs.certificate import Certificate, CertKind, parse_certificate, write_options
from tele.certs.check import BACKDATE as BACKDATE
from tele.certs.keys import PrivateKey, parse_public_key
from tele.certs.names import check_name, own_addresses
from tele.errors import InvalidInput
from tele.model.identity import HostRole
from tele.model.lifetimes import HOST_LIFETIME, USER_LIFETIME
from tele.rbac.certificate import (
    PERMIT_AGENT_FORWARDING,
    PERMIT_PORT_FORWARDING,
    PERMIT_PTY,
    PERMIT_X11_FORWARDING,
)
from tele.wire.fields import Reader, string, uint32

Entropy = Callable[[int], bytes]


@frozen
class UserCertificateRequest:
    """The content of a user certificate; ``logins`` become its principals."""

    user: str
    cluster: str
    logins: tuple[str, ...]
    roles: tuple[str, ...]
    login_session: str
    lifetime: timedelta = USER_LIFETIME
    traits: Mapping[str, tuple[str, ...]] = Factory(dict)
    mfa: bool = False
    mfa_host: str = ""
    port_forwarding: bool = False
    agent_forwarding: bool = False
    x11_forwarding: bool = False
    source_address: str | None = None
    force_command: str | None = None
    pty: bool = True
    #: The session for which a proxy gets it, and the ids of the host on which that is, and of the
    #: proxy; and the serial of the user's own certificate.
    session: str = ""
    target: str = ""
    proxy: str = ""
    of_serial: int = 0


@frozen
class HostCertificateRequest:
    """The content of a host certificate; ``addresses`` are further principals."""

    host_id: str
    name: str
    cluster: str
    role: HostRole
    addresses: tuple[str, ...] = ()
    lifetime: timedelta = HOST_LIFETIME


def issue_user(
    authority: PrivateKey,
    public_key: bytes,
    request: UserCertificateRequest,
    now: datetime,
    entropy: Entropy,
) -> Certificate:
    """Sign a user certificate for the key blob ``public_key``."""
    extensions: dict[str, bytes] = {
        check.CLUSTER: request.cluster.encode(),
        check.LOGIN_SESSION: request.login_session.encode(),
        check.ROLES: ",".join(request.roles).encode(),
        check.TRAITS: json.dumps(request.traits, sort_keys=True, separators=(",", ":")).encode(),
    }
    if request.session:
        extensions[check.SESSION] = request.session.encode()
        extensions[check.TARGET] = request.target.encode()
        extensions[check.PROXY] = request.proxy.encode()
        extensions[check.OF_SERIAL] = str(request.of_serial).encode()
    if request.mfa_host:
        extensions[check.MFA_HOST] = request.mfa_host.encode()
        extensions[check.OF_SERIAL] = str(request.of_serial).encode()
    for allowed, name in (
        (request.pty, PERMIT_PTY),
        (request.port_forwarding, PERMIT_PORT_FORWARDING),
        (request.agent_forwarding, PERMIT_AGENT_FORWARDING),
        (request.x11_forwarding, PERMIT_X11_FORWARDING),
        (request.mfa, check.MFA),
    ):
        if allowed:
            extensions[name] = b""
    critical = {}
    if request.source_address is not None:
        critical[check.SOURCE_ADDRESS] = request.source_address.encode()
    if request.force_command is not None:
        critical[check.FORCE_COMMAND] = request.force_command.encode()
    return _sign(
        authority, public_key, CertKind.USER, request.user, request.logins, request.lifetime,
        critical, extensions, now, entropy,
    )  # fmt: skip


def host_principals(request: HostCertificateRequest) -> tuple[str, ...]:
    """Return the principals of a host certificate, each once, in order.

    Only a node's own names are principals. Raises :class:`InvalidInput` for a name that could be
    taken for another host's; such addresses are left out.
    """
    cluster = request.cluster
    by_id = (f"{request.host_id}.{cluster}", request.host_id)
    if request.role is HostRole.PROXY:
        return (*by_id, f"proxy.{cluster}")
    addresses = own_addresses(request.addresses, cluster)
    if request.role is HostRole.AUTH:
        return tuple(dict.fromkeys((*by_id, f"auth.{cluster}", *addresses)))
    check_name(request.name, cluster, request.role)
    name = request.name.lower()
    # A name with a dot could be the DNS name of another machine; localhost is any machine.
    short = () if "." in name or name == "localhost" else (name,)
    return tuple(dict.fromkeys((*by_id, f"{name}.{cluster}", *short, *addresses)))


def issue_host(
    authority: PrivateKey,
    public_key: bytes,
    request: HostCertificateRequest,
    now: datetime,
    entropy: Entropy,
) -> Certificate:
    """Sign a host certificate for the key blob ``public_key``."""
    extensions = {
        check.HOST_ID: request.host_id.encode(),
        check.NODE_NAME: request.name.encode(),
        check.CLUSTER: request.cluster.encode(),
        check.ROLE: request.role.value.encode(),
    }
    return _sign(
        authority, public_key, CertKind.HOST, f"{request.host_id}.{request.cluster}",
        host_principals(request), request.lifetime, {}, extensions, now, entropy,
    )  # fmt: skip


def issue_sshd(
    authority: PrivateKey,
    public_key: bytes,
    name: str,
    principals: tuple[str, ...],
    lifetime: timedelta,
    now: datetime,
    entropy: Entropy,
) -> Certificate:
    """Sign a host certificate for an OpenSSH sshd: no identity of the cluster in it."""
    return _sign(
        authority, public_key, CertKind.HOST, name, principals, lifetime, {}, {}, now, entropy
    )


def issue_target(
    authority: PrivateKey,
    public_key: bytes,
    host: HostCertificateRequest,
    proxy_id: str,
    now: datetime,
    entropy: Entropy,
) -> Certificate:
    """Sign a proxy's key with the names of ``host``, for which it answers: no identity is in it."""
    extensions = {check.TARGET: host.host_id.encode(), check.PROXY: proxy_id.encode()}
    return _sign(
        authority, public_key, CertKind.HOST, f"{host.host_id}.{host.cluster}",
        host_principals(host), host.lifetime, {}, extensions, now, entropy,
    )  # fmt: skip


def _sign(
    authority: PrivateKey,
    public_key: bytes,
    kind: CertKind,
    key_id: str,
    principals: tuple[str, ...],
    lifetime: timedelta,
    critical: Mapping[str, bytes],
    extensions: Mapping[str, bytes],
    now: datetime,
    entropy: Entropy,
) -> Certificate:
    if not principals:
        raise InvalidInput(f"a certificate for {key_id} would have no principals: no login or name")
    if lifetime <= timedelta(0):
        raise InvalidInput("a certificate's lifetime has to be positive")
    key = parse_public_key(public_key)
    body = Reader(key.blob)
    body.string()
    signed = (
        string(certificate_type(key.type))
        + string(entropy(32))
        + body.rest()
        # 0 means that a certificate has no serial number.
        + (int.from_bytes(entropy(8), "big") or 1).to_bytes(8, "big")
        + uint32(kind)
        + string(key_id.encode())
        + string(b"".join(string(principal.encode()) for principal in principals))
        + int((now - BACKDATE).timestamp()).to_bytes(8, "big")
        + int((now + lifetime).timestamp()).to_bytes(8, "big")
        + string(write_options(critical))
        + string(write_options(extensions))
        + string(b"")
        + string(authority.public.blob)
    )
    # Parsing it again makes an unusable request fail here, and not at the first login.
    return parse_certificate(signed + string(authority.sign(signed)))
