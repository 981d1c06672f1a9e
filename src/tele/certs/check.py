"""Is this certificate valid, for this use and at this time?

Invariants:

* The order of checks is OpenSSH's (auth2-pubkey.c): all cheap checks come before the public-key
  operation of the CA, so that a forged certificate costs its parsing only.
* The caller gets one reason code; the peer gets none.
* An unknown critical option refuses the certificate (PROTOCOL.certkeys); an unknown
  extension is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from attrs import frozen

from tele.certs import algorithms
from tele.certs.certificate import FOREVER, Certificate, CertKind
from tele.certs.keys import parse_public_key
from tele.errors import BadCertificate, ProtocolError, quoted
from tele.model.access import CertificateLimits
from tele.model.addresses import plain_address, plain_network
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.model.patterns import matches
from tele.rbac.certificate import limits_of
from tele.wire.fields import Reader

#: Names of a host certificate that an error lists.
SHOWN_PRINCIPALS: Final = 8

# Extensions of tele, in user certificates ...
CLUSTER: Final = "tele-cluster"
ROLES: Final = "tele-roles"
TRAITS: Final = "tele-traits"
LOGIN_SESSION: Final = "tele-login-session"
MFA: Final = "tele-mfa"
#: The id of the host for a session on which the user has shown a second factor.
MFA_HOST: Final = "tele-mfa-host"
#: The id of the session for which auth certified a proxy's key.
SESSION: Final = "tele-session"
#: In the host certificate of a proxy's key: the host that it answers for, and the proxy.
TARGET: Final = "tele-target"
PROXY: Final = "tele-proxy"
#: The serial of the user's own certificate, in one that auth made for a session of a proxy.
OF_SERIAL: Final = "tele-of-serial"
# ... and in host certificates.
HOST_ID: Final = "tele-host-id"
NODE_NAME: Final = "tele-node-name"
ROLE: Final = "tele-role"

# Critical options.
FORCE_COMMAND: Final = "force-command"
SOURCE_ADDRESS: Final = "source-address"
VERIFY_REQUIRED: Final = "verify-required"

#: The end of a certificate that never ends, as a time that Python can hold.
LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC)
_LAST_SECOND: Final = int(LATEST.timestamp())

#: Certificates are valid from so long before they are issued: clocks differ slightly.
BACKDATE: Final = timedelta(minutes=1)


@frozen
class CheckedUser:
    """A user certificate that passed, for one login, from one address."""

    identity: UserIdentity
    force_command: str | None = None
    verify_required: bool = False
    extensions: frozenset[str] = frozenset()
    #: The session that a proxy ends, if the certificate is for one login of that, and the id of the
    #: host on which that is.
    session: str = ""
    target: str = ""
    #: Of this certificate. That of the identity is the user's own, by which it is locked.
    serial: int = 0
    #: Whether it is valid for some addresses of clients only. One for a session of a proxy counts
    #: as such: the proxy has checked the user's own.
    pinned: bool = True
    mfa_host: str = ""

    @property
    def limits(self) -> CertificateLimits:
        """What it withholds from whatever the user's roles allow."""
        return limits_of(self.extensions, self.force_command, self.pinned, self.mfa_host)


@frozen
class CheckedHost:
    """A host certificate that passed. ``identity`` is None when another CA's tool made it."""

    principals: tuple[str, ...]
    identity: HostIdentity | None


def check_user(
    certificate: Certificate,
    algorithm: bytes,
    trusted: Collection[bytes],
    login: str | None,
    remote_addr: str,
    now: datetime,
    cluster: str | None = None,
) -> CheckedUser:
    """Check a user certificate offered as ``algorithm`` for ``login`` from ``remote_addr``.

    ``trusted`` are key blobs of user authorities. ``login`` None accepts any principal
    (a jump host starts no sessions). With ``cluster`` the certificate must be of that
    cluster. Raises :class:`BadCertificate` whose reason is one of ``algorithm``,
    ``authority``, ``kind``, ``validity``, ``principal``, ``option``, ``address``,
    ``cluster``, ``signature``.
    """
    offered = algorithms.USER_ALGORITHMS.get(algorithm)
    if offered is None or offered.blob_type != certificate.type:
        raise BadCertificate(f"{quoted(algorithm)} is not allowed for this key", "algorithm")
    _check_common(certificate, CertKind.USER, trusted, now)
    if login is not None and login not in certificate.principals:
        raise BadCertificate(f"the certificate is not for login {quoted(login)}", "principal")
    critical = certificate.critical
    unknown = sorted(set(critical) - {FORCE_COMMAND, SOURCE_ADDRESS, VERIFY_REQUIRED})
    if unknown:
        raise BadCertificate(f"unknown critical option {quoted(unknown[0])}", "option")
    if SOURCE_ADDRESS in critical and not _address_in(remote_addr, critical[SOURCE_ADDRESS]):
        raise BadCertificate(f"not valid from {remote_addr}", "address")
    identity = _user_identity(certificate)
    if cluster is not None and identity.cluster != cluster:
        raise BadCertificate(f"of cluster {quoted(identity.cluster)}, not {cluster}", "cluster")
    force = critical.get(FORCE_COMMAND)
    session = _decode(certificate.extensions.get(SESSION, b""))
    _check_signature(certificate)
    return CheckedUser(
        identity,
        None if force is None else _decode(force),
        VERIFY_REQUIRED in critical,
        frozenset(certificate.extensions),
        session,
        _decode(certificate.extensions.get(TARGET, b"")),
        certificate.serial,
        SOURCE_ADDRESS in critical or bool(session),
        _decode(certificate.extensions.get(MFA_HOST, b"")),
    )


def check_host(
    certificate: Certificate, trusted: Collection[bytes], names: Collection[str], now: datetime
) -> CheckedHost:
    """Check a host certificate: it must name one of ``names`` (host names, in any case).

    ``trusted`` are key blobs of host authorities. Raises :class:`BadCertificate`.
    """
    _check_common(certificate, CertKind.HOST, trusted, now)
    wanted = {name.lower() for name in names}
    if not any(_matches(principal.lower(), wanted) for principal in certificate.principals):
        expected = " or ".join(quoted(name) for name in sorted(names))
        given = ", ".join(quoted(name) for name in certificate.principals[:SHOWN_PRINCIPALS])
        raise BadCertificate(
            f"the certificate is not for {expected}, but for {given or 'no name'}", "principal"
        )
    if certificate.critical:
        raise BadCertificate("a host certificate has no critical options", "option")
    _check_signature(certificate)
    return CheckedHost(certificate.principals, _host_identity(certificate))


def check_member(
    certificate: Certificate,
    trusted: Collection[bytes],
    cluster: str,
    roles: Collection[HostRole],
    now: datetime,
) -> CheckedHost:
    """Check the host certificate by which a member of ``cluster`` proves itself to another.

    It has to have an identity with one of ``roles``, and to name its id, so ``identity`` is never
    None. ``trusted`` are key blobs of host authorities. Raises :class:`BadCertificate`.
    """
    _check_common(certificate, CertKind.HOST, trusted, now)
    if certificate.critical:
        raise BadCertificate("a host certificate has no critical options", "option")
    identity = _host_identity(certificate)
    if identity is None or identity.host_id not in certificate.principals:
        raise BadCertificate("it does not name its host", "principal")
    if identity.cluster != cluster:
        raise BadCertificate(f"of cluster {quoted(identity.cluster)}, not {cluster}", "cluster")
    if identity.role not in roles:
        raise BadCertificate(f"a {identity.role.value} has no business here", "role")
    _check_signature(certificate)
    return CheckedHost(certificate.principals, identity)


def _check_common(
    certificate: Certificate, kind: CertKind, trusted: Collection[bytes], now: datetime
) -> None:
    if certificate.authority_key not in trusted:
        shown = certificate.authority_fingerprint
        raise BadCertificate(f"its authority {shown} is not of this cluster", "authority")
    if certificate.kind is not kind:
        raise BadCertificate(f"it is a {certificate.kind.name.lower()} certificate", "kind")
    seconds = now.timestamp()
    if seconds < certificate.valid_after:
        raise BadCertificate(
            f"it is not valid yet: it begins at {_shown(certificate.valid_after)}, and here it is"
            f" {_shown(seconds)}: which clock is wrong?",
            "validity",
        )
    if certificate.valid_before != FOREVER and seconds >= certificate.valid_before:
        raise BadCertificate(
            f"it has expired: it ended at {_shown(certificate.valid_before)}, and here it is"
            f" {_shown(seconds)}",
            "validity",
        )
    if not certificate.principals:
        raise BadCertificate("it has no principals", "principal")


def _shown(seconds: float) -> str:
    """Return a date as text."""
    return f"{datetime.fromtimestamp(min(seconds, _LAST_SECOND), UTC):%F %T} UTC"


def check_answers_for(
    certificate: Certificate, trusted: Collection[bytes], host_id: str, proxy_id: str, now: datetime
) -> None:
    """Raise :class:`BadCertificate` unless a proxy answers for a host with this certificate."""
    _check_common(certificate, CertKind.HOST, trusted, now)
    named = tuple(_decode(certificate.extensions.get(name, b"")) for name in (TARGET, PROXY))
    if named != (host_id, proxy_id):
        raise BadCertificate("it is that of another host, or another proxy's", "host")
    _check_signature(certificate)


def is_genuine(certificate: Certificate, trusted: Collection[bytes]) -> bool:
    """Whether one of ``trusted`` signed it; nothing else is checked."""
    if certificate.authority_key not in trusted:
        return False
    try:
        _check_signature(certificate)
    except BadCertificate:
        return False
    return True


def _check_signature(certificate: Certificate) -> None:
    try:
        kind = Reader(certificate.signature).string(64)
    except ProtocolError:
        raise BadCertificate("its signature is malformed", "signature") from None
    if kind not in algorithms.SIGNATURE_ALGORITHMS:
        raise BadCertificate(f"signed with {quoted(kind)}, which is not allowed", "signature")
    authority = parse_public_key(certificate.authority_key)
    authority.verify(certificate.signature, certificate.signed, (kind,))


def _address_in(remote_addr: str, listed: bytes) -> bool:
    """Whether an address is in a comma separated list of addresses and networks."""
    address = plain_address(remote_addr)
    try:
        networks = [plain_network(each.strip()) for each in listed.decode("ascii").split(",")]
    except ValueError:
        return False
    return address is not None and any(address in network for network in networks)


def _matches(principal: str, wanted: Collection[str]) -> bool:
    """Whether a host principal names one of ``wanted``; ``*`` and ``?`` as OpenSSH has them."""
    return principal in wanted or any(matches(principal, name) for name in wanted)


def _decode(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise BadCertificate("an option of it is not UTF-8", "option") from None


def _expiry(certificate: Certificate) -> datetime:
    if certificate.valid_before >= LATEST.timestamp():
        return LATEST
    return datetime.fromtimestamp(certificate.valid_before, UTC)


def issue_time(certificate: Certificate) -> datetime:
    """Return when a certificate of ours was issued, to the second: it is valid from earlier."""
    return datetime.fromtimestamp(min(certificate.valid_after, _LAST_SECOND), UTC) + BACKDATE


def _user_identity(certificate: Certificate) -> UserIdentity:
    extensions = certificate.extensions

    def text(name: str) -> str:
        return _decode(extensions.get(name, b""))

    return UserIdentity(
        user=certificate.key_id,
        cluster=text(CLUSTER),
        expires=_expiry(certificate),
        roles=tuple(role for role in text(ROLES).split(",") if role),
        logins=certificate.principals,
        traits=_traits(extensions.get(TRAITS, b"")),
        login_session=text(LOGIN_SESSION),
        mfa=MFA in extensions,
        issued=issue_time(certificate),
        serial=_own_serial(certificate),
    )


def _own_serial(certificate: Certificate) -> int:
    """Return the serial of the certificate with which the user logged in."""
    of = _decode(certificate.extensions.get(OF_SERIAL, b""))
    if not {SESSION, MFA_HOST} & certificate.extensions.keys() or not of:
        return certificate.serial
    if not (of.isascii() and of.isdecimal() and len(of) <= 20):
        raise BadCertificate(f"its {OF_SERIAL} is malformed", "option")
    return int(of)


def _traits(value: bytes) -> Mapping[str, tuple[str, ...]]:
    if not value:
        return {}
    try:
        read = json.loads(value)
        if not isinstance(read, dict):
            raise TypeError
        traits = {}
        for name, values in read.items():
            if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
                raise TypeError
            traits[name] = tuple(values)
    except (ValueError, TypeError, RecursionError):
        raise BadCertificate(f"its {TRAITS} is malformed", "option") from None
    return traits


def _host_identity(certificate: Certificate) -> HostIdentity | None:
    extensions = certificate.extensions
    if HOST_ID not in extensions:
        return None
    try:
        role = HostRole(_decode(extensions.get(ROLE, b"")))
    except ValueError:
        raise BadCertificate(f"its {ROLE} is unknown", "option") from None
    return HostIdentity(
        host_id=_decode(extensions[HOST_ID]),
        name=_decode(extensions.get(NODE_NAME, b"")),
        cluster=_decode(extensions.get(CLUSTER, b"")),
        role=role,
        expires=_expiry(certificate),
        issued=issue_time(certificate),
    )
