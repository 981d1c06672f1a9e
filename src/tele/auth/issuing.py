"""Which certificates does auth issue? The rules of the cluster, over ``certs``.

Invariants:

* SSH and X.509 certificates of one identity are issued together and have the same content.
* A user's certificate names the logins that the user's roles allow now, no others.
* It expires no later than the user and each role that it names, and lasts no longer than the
  shortest ``max_session_ttl`` of these roles.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from tele.auth.authorities import Authorities
from tele.certs.certificate import PRINCIPALS_LIMIT, Certificate
from tele.certs.check import CheckedUser
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_sshd,
    issue_target,
    issue_user,
)
from tele.certs.keys import parse_line, parse_public_key
from tele.certs.x509 import issue_tls, read_tls_public_key, serial_number
from tele.errors import AccessDenied, BadCertificate, InvalidInput, quoted
from tele.model.access import Grant, Reason
from tele.model.addresses import plain_network
from tele.model.api.members import PublicKeys
from tele.model.authority import AuthorityKind, Certificates
from tele.model.identity import HostIdentity, HostRole, UserIdentity
from tele.model.lifetimes import HOST_LIFETIME
from tele.model.presence import Host
from tele.model.resources import Role, User
from tele.rbac.forwards import any_port, given_by
from tele.rbac.logins import expand, logins_of
from tele.rbac.revoking import LONGEST_CERTIFICATE
from tele.rbac.transfers import files_of

#: The principal of a user whose roles allow no login. No account can have this name, so that the
#: certificate is valid for the API only.
NO_LOGIN: Final = "-tele-no-login"

HOST_TLS_NAMES_LIMIT: Final = 64


def check_keys(keys: PublicKeys) -> None:
    """Raise :class:`InvalidInput` for public keys that no certificate could be issued for."""
    key_blob(keys.ssh)
    read_tls_public_key(keys.tls)


def key_blob(line: str) -> bytes:
    """Return the blob of a plain public key line. Raises :class:`InvalidInput`."""
    try:
        return parse_public_key(parse_line(line)).blob
    except BadCertificate as error:
        raise InvalidInput(str(error)) from None


class Issuer:
    """Issues certificates of one cluster."""

    def __init__(
        self,
        cluster: str,
        authorities: Authorities,
        now: Callable[[], datetime],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._cluster = cluster
        self._authorities = authorities
        self._now = now
        self._entropy = entropy

    def is_dropped(self, issued: datetime) -> bool:
        """Whether a host's certificate that was ``issued`` then is of a dropped TLS key."""
        since = self._authorities[AuthorityKind.HOST].stored.tls_since
        return since is not None and issued < since

    def _session_id(self) -> str:
        return str(uuid.UUID(bytes=self._entropy(16), version=4))

    def user_request(
        self,
        user: User,
        roles: Sequence[Role],
        ttl: timedelta,
        issued: datetime,
        address: str = "",
        logins: tuple[str, ...] = (),
    ) -> UserCertificateRequest:
        """Return the content of a certificate for ``user`` with ``roles``; ``ttl`` is cut.

        ``address`` is the address that the user calls from, for roles that pin it. With ``logins``
        the certificate is for these only. Raises :class:`AccessDenied` for a login that no role
        allows, and if an address has to be pinned that is not known.
        """
        if ttl <= timedelta(0):
            raise InvalidInput("the lifetime has to be positive")
        allowed = logins_of(user.spec.traits, roles)
        for login in logins:
            if login not in allowed:
                raise AccessDenied(
                    f"the roles of {user.metadata.name} do not allow login {quoted(login)}",
                    Reason.LOGIN,
                )
        principals = logins or allowed
        if len(principals) > PRINCIPALS_LIMIT:
            raise InvalidInput(
                f"the roles of {user.metadata.name} allow {len(principals)} logins; a certificate"
                f" holds {PRINCIPALS_LIMIT}"
            )
        # A node decides by the roles that apply to it. The certificate permits what any role with
        # one of these logins permits.
        giving = [
            given_by(
                role, forced=bool(role.spec.options.force_command) or files_of(role) is not None
            )
            for role in roles
            if set(_logins(user, role)) & set(principals)
        ]
        return UserCertificateRequest(
            user=user.metadata.name,
            cluster=self._cluster,
            logins=principals or (NO_LOGIN,),
            roles=tuple(role.metadata.name for role in roles),
            login_session=self._session_id(),
            lifetime=_lifetime(user, roles, ttl, issued),
            traits=user.spec.traits,
            port_forwarding=any(any_port(each) for each in giving),
            agent_forwarding=any(each.agent for each in giving),
            x11_forwarding=any(each.x11 for each in giving),
            source_address=_pinned(user, roles, address),
        )

    def user(
        self, request: UserCertificateRequest, keys: PublicKeys, now: datetime
    ) -> tuple[Certificates, int]:
        """Issue both certificates of a user, as of ``now``; returns them and their serial."""
        authority = self._authorities[AuthorityKind.USER]
        ssh = issue_user(authority.ssh, key_blob(keys.ssh), request, now, self._entropy)
        identity = UserIdentity(
            user=request.user,
            cluster=self._cluster,
            expires=now + request.lifetime,
            roles=request.roles,
            logins=request.logins,
            traits=request.traits,
            login_session=request.login_session,
            mfa=request.mfa,
            serial=ssh.serial,
        )
        tls = issue_tls(
            authority.tls_certificate, authority.tls, keys.tls, identity, now, self._entropy
        )
        made = Certificates(ssh.line, tls, identity.expires, self._authorities.trusted)
        return made, ssh.serial

    def sign_user(
        self, request: UserCertificateRequest, public_key: str, now: datetime
    ) -> Certificate:
        """Issue an SSH certificate for a key made elsewhere, as of ``now``."""
        authority = self._authorities[AuthorityKind.USER]
        return issue_user(authority.ssh, key_blob(public_key), request, now, self._entropy)

    def host(
        self,
        host_id: str,
        name: str,
        role: HostRole,
        keys: PublicKeys,
        addresses: Sequence[str],
        issued: datetime | None = None,
        lifetime: timedelta = HOST_LIFETIME,
        serial: int = 0,
    ) -> Certificates:
        """Issue both certificates of a host. ``addresses`` are hosts without a port.

        Their time of issue is ``issued``, or now; ``serial`` is for the TLS certificate.
        """
        authority = self._authorities[AuthorityKind.HOST]
        now = self._now() if issued is None else issued
        request = HostCertificateRequest(
            host_id, name, self._cluster, role, tuple(addresses), lifetime
        )
        ssh = issue_host(authority.ssh, key_blob(keys.ssh), request, now, self._entropy)
        identity = HostIdentity(host_id, name, self._cluster, role, now + lifetime, serial=serial)
        tls = issue_tls(
            authority.tls_certificate, authority.tls, keys.tls, identity, now, self._entropy,
            addresses[:HOST_TLS_NAMES_LIMIT],
        )  # fmt: skip
        return Certificates(ssh.line, tls, identity.expires, self._authorities.trusted)

    def sign_sshd(
        self, name: str, public_key: str, principals: tuple[str, ...], lifetime: timedelta
    ) -> Certificate:
        """Issue a host certificate for an OpenSSH sshd; see :mod:`tele.auth.sshd_names`."""
        authority = self._authorities[AuthorityKind.HOST]
        return issue_sshd(
            authority.ssh, key_blob(public_key), name, principals, lifetime, self._now(),
            self._entropy,
        )  # fmt: skip

    def serial_number(self) -> int:
        """Return a serial number for a TLS certificate."""
        return serial_number(self._entropy)

    def target(
        self, host: Host, proxy_id: str, public_key: str, longest: timedelta = HOST_LIFETIME
    ) -> tuple[Certificate, datetime]:
        """Certify a proxy's key with the names of a host; returns the end of the certificate, too.

        Nothing else of a member is in it: it is no proof of a membership.
        """
        authority, moment = self._authorities[AuthorityKind.HOST], self._now()
        request = HostCertificateRequest(
            host.id,
            host.name,
            self._cluster,
            HostRole.NODE,
            host.names,
            min(longest, HOST_LIFETIME),
        )
        blob = key_blob(public_key)
        made = issue_target(authority.ssh, blob, request, proxy_id, moment, self._entropy)
        return made, moment + request.lifetime

    def minted(
        self,
        user: CheckedUser,
        grant: Grant,
        session_id: str,
        host: Host,
        proxy_id: str,
        public_key: str,
        expires: datetime,
    ) -> Certificate:
        """Certify a proxy's key for one login of ``user`` to ``host`` that ``grant`` allows.

        A node refuses it if it is for another host. An sshd cannot tell: for one there is a further
        principal, which no user's certificate has, and which is all that it needs to accept.

        It counts as issued when the user's own certificate was, so that what revokes or restricts
        that one holds for it, too; so does a lock on that one, whose serial it has.
        """
        identity = user.identity
        request = UserCertificateRequest(
            user=identity.user,
            cluster=self._cluster,
            logins=(grant.login, f"session:{grant.login}@{host.name}")
            if host.sshd
            else (grant.login,),
            roles=identity.roles,
            login_session=identity.login_session,
            lifetime=expires - identity.issued,
            traits=identity.traits,
            mfa=identity.mfa,
            mfa_host=user.mfa_host,
            port_forwarding=grant.port_forwarding,
            agent_forwarding=grant.agent_forwarding,
            x11_forwarding=grant.x11_forwarding,
            force_command=grant.certified_command,
            pty=grant.permit_pty,
            session=session_id,
            target=host.id,
            proxy=proxy_id,
            of_serial=identity.serial,
        )
        authority = self._authorities[AuthorityKind.USER]
        blob = key_blob(public_key)
        return issue_user(authority.ssh, blob, request, identity.issued, self._entropy)


def _lifetime(user: User, roles: Sequence[Role], ttl: timedelta, issued: datetime) -> timedelta:
    """Return the lifetime of a certificate that is issued at ``issued``."""
    ends = [user.metadata.expires, *(role.metadata.expires for role in roles)]
    left = [each - issued for each in ends if each is not None]
    longest = [role.spec.options.max_session_ttl for role in roles]
    lifetime = min(ttl, LONGEST_CERTIFICATE, *longest, *left)
    if lifetime < timedelta(seconds=1):
        raise AccessDenied(
            f"user {user.metadata.name} or one of their roles has expired",
            Reason.EXPIRED.value,
        )
    return lifetime


def _logins(user: User, role: Role) -> tuple[str, ...]:
    return expand(role.spec.allow.logins, user.spec.traits)


def _pinned(user: User, roles: Sequence[Role], address: str) -> str | None:
    """Return the ``source-address`` of a certificate: the user's address, if a role pins it."""
    pinning = [role.metadata.name for role in roles if role.spec.options.pin_source_ip]
    if not pinning:
        return None
    try:
        return str(plain_network(address.partition("%")[0]))
    except ValueError:
        raise AccessDenied(
            f"role {pinning[0]} pins certificates of {user.metadata.name} to the client's address,"
            " which is not known here: log in with a password",
            "address",
        ) from None


_HOST = re.compile(r"[A-Za-z0-9_\[:](?:[A-Za-z0-9._:%\[\]-]{0,252})", re.ASCII)


def is_host_name(text: str) -> bool:
    """Whether ``text`` is a host name or an IP address: no wildcard, no list, no path."""
    return _HOST.fullmatch(text) is not None
