"""``tele login`` and ``tele logout``: get and remove certificates.

Invariants:

* Private keys are made here and never leave the machine; the SSH key is of the suite of the
  cluster's CA.
* A password is sent only to a server that was verified: by the CA of an earlier login, by a pin, or
  by the user, who compares the pin.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from tele.cli.auth_client import (
    SKEW_SECONDS,
    Where,
    host_keys,
    trusted_hosts,
    typed_options,
    where_options,
)
from tele.cli.home import CertificateSummary, Home, Profile, is_valid, safe_name
from tele.cli.lists import read_password, ttl_option, warn_shorter
from tele.cli.login_secrets import check_ways, is_fresh, kept_keys, read_invitation, read_token
from tele.cli.openssh import proxy_address, write_openssh_files
from tele.cli.second_factors import accept, otp_option, show_codes, with_factor
from tele.errors import InvalidInput, NotLoggedIn, TeleError, WrongClock, quoted
from tele.model.lifetimes import BOT_LIFETIME, USER_LIFETIME
from tele.model.scalars import format_duration
from tele.text import difference

if TYPE_CHECKING:
    from tele.certs.keys import PrivateKey
    from tele.certs.x509 import TlsKey
    from tele.model.api.members import PublicKeys
    from tele.model.api.users import KnownDevice
    from tele.model.authority import Certificates


@click.command()
@click.option("--proxy", envvar="TELE_PROXY", metavar="HOST:PORT", help="[env: TELE_PROXY]")
@click.option("--cluster", envvar="TELE_CLUSTER", help="[env: TELE_CLUSTER]")
@click.option("--user", envvar="TELE_USER", help="[env: TELE_USER; default: the last one, or you]")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file whose first line is the password; - is standard input.",
)
@ttl_option(USER_LIFETIME)
@click.option("--ca-pin", multiple=True, help="sha256:... of the cluster's host CA.")
@click.option("--if-needed", is_flag=True, help="Do nothing if there is a valid certificate.")
@click.option(
    "--invite",
    is_flag=False,
    flag_value="",
    metavar="[CODE]",
    help="Accept an invitation: set your password. Without CODE, asks for it.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Log in as a machine identity, with the token in this file; - is standard input."
    f" --ttl is {format_duration(BOT_LIFETIME)} then.",
)
@otp_option()
@click.option(
    "--renew",
    is_flag=True,
    help="With --token-file: do nothing while a third of the certificate's time is left.",
)
def login(
    proxy: str | None,
    cluster: str | None,
    user: str | None,
    password_file: Path | None,
    ttl: timedelta | None,
    ca_pin: tuple[str, ...],
    if_needed: bool,
    invite: str | None,
    token_file: Path | None,
    otp: str | None,
    renew: bool,
) -> None:
    """Get short-lived certificates for a cluster."""
    home = Home.find()
    check_ways(renew=renew)
    token = None
    if token_file is not None:
        token, user = read_token(token_file, user)
    if invite is not None:
        invite, user = read_invitation(invite, user)
    profile = home.chosen(cluster, proxy, user)
    # With --if-needed and pins, a certificate of another cluster does not count.
    pinned_before = profile is not None and (
        not ca_pin or any(p in profile.ca_pins for p in ca_pin)
    )
    if if_needed and profile is not None and pinned_before and is_valid(home.summary(profile)):
        return
    if renew and profile is not None and pinned_before and is_fresh(home.summary(profile)):
        return
    address = proxy or (profile.proxy if profile else None)
    if address is None:
        raise click.UsageError("no proxy: give --proxy HOST:PORT, or set TELE_PROXY")
    address = str(proxy_address(address))
    profile = profile or home.by_proxy(address)
    name = safe_name("user", user or (profile.user if profile else _own_name()))

    known, pins, trust, authority_keys = _first_contact(home, profile, address, ca_pin)
    if cluster is not None and cluster != known:
        raise InvalidInput(f"the cluster behind {address} is {known}, not {cluster}")
    password = ""
    if token is None:
        password = _read_password(password_file, name, known, new=invite is not None)

    from tele.certs.suites import suite_of
    from tele.certs.x509 import TlsKey
    from tele.https.blocking import BlockingAuthority
    from tele.model.api.invitations import AcceptInvitation
    from tele.model.api.members import PublicKeys
    from tele.model.api.tokens import TOKEN_LOGIN, TokenLogin
    from tele.model.api.users import LOGIN, LoginRequest
    from tele.model.authority import AuthorityKind, authority_of

    profile = Profile(known, address, name, pins)
    kept = kept_keys(home.files(profile)) if renew else None
    ssh, tls = kept or (suite_of(authority_keys).generate(), TlsKey.generate())
    keys = PublicKeys(ssh.public.line, tls.public_pem)
    lifetime = USER_LIFETIME if ttl is None else ttl
    if token is not None and ttl is None:
        lifetime = BOT_LIFETIME
    codes: tuple[str, ...] = ()
    got: Certificates
    with BlockingAuthority(address, None, trust, f"auth.{known}") as authority:
        if invite is not None:
            accepted = AcceptInvitation(invite, password, keys, lifetime)
            got, codes = accept(authority, accepted, known, name, otp)
        elif token is not None:
            got = authority.perform(TOKEN_LOGIN, TokenLogin(token, keys, lifetime))
        else:
            device = _device(home, profile, keys)
            got = with_factor(
                lambda factor: authority.perform(
                    LOGIN, LoginRequest(name, password, keys, lifetime, device, factor)
                ),
                otp,
            )
    # The pins that hold now: a rotation may have replaced the key that was pinned.
    host = authority_of(got.authorities, AuthorityKind.HOST)
    profile = Profile(known, address, name, pins if host is None else host.pins)
    summary = store_certificates(
        home, profile, ssh, tls, got, machine=token is not None, kept=kept is not None
    )
    _report_login(profile, summary)
    if codes:
        show_codes(codes)
    warn_shorter(got.ssh, ttl)


def _device(home: Home, profile: Profile, keys: PublicKeys) -> KnownDevice | None:
    """Return the proof that this user logged in from here before, if there is a certificate."""
    from tele.certs.device import LINE_LIMIT, prove_device
    from tele.certs.keys import PrivateKey
    from tele.model.api.users import KnownDevice

    files = home.files(profile)
    try:
        key = PrivateKey.from_openssh(files.key.read_bytes())
        kind, certificate, *_ = files.certificate.read_text("utf-8").split()
    except (OSError, ValueError, TeleError):
        return None  # a first login, or a damaged folder, which this login repairs
    line = f"{kind} {certificate}"
    if len(line) > LINE_LIMIT:
        return None
    return KnownDevice(line, prove_device(key, profile.user, keys))


def _own_name() -> str:
    import getpass

    return getpass.getuser()


class _Known(NamedTuple):
    """What is known of a cluster before the login. ``authority_keys`` are SSH's (lines)."""

    cluster: str
    pins: tuple[str, ...]
    certificates: tuple[str, ...]
    authority_keys: tuple[str, ...]


def _first_contact(
    home: Home, profile: Profile | None, address: str, given: Sequence[str]
) -> _Known:
    """Return the cluster's name, its pins, and the certificates and SSH keys of its host CA."""
    if profile is not None and not given:
        try:
            files = home.files(profile)
            return _Known(profile.cluster, profile.ca_pins, trusted_hosts(files), host_keys(files))
        except TeleError:
            given = profile.ca_pins  # the authorities are damaged: fetch them again
    from tele.certs.pins import read_pin
    from tele.https.blocking import fetch_cluster_blocking
    from tele.model.authority import AuthorityKind, authority_of

    pins = tuple(read_pin(each) for each in given)
    info = fetch_cluster_blocking(address, pins)
    safe_name("cluster", info.cluster)
    host = authority_of(info.authorities, AuthorityKind.HOST)
    if host is None:
        raise TeleError(f"{address} has no host CA; is it a proxy of tele?")
    certificates = host.tls_certificates
    if pins:  # the answer is verified; a pin of a key that was replaced lately means all of them
        certificates = _pinned(certificates, pins) or certificates
    else:
        pins = _confirmed(address, info.cluster, certificates)
    return _Known(info.cluster, pins, certificates, host.ssh_public_keys)


def _pinned(certificates: Sequence[str], pins: Sequence[str]) -> tuple[str, ...]:
    from tele.certs.pins import pin

    return tuple(each for each in certificates if pin(each) in pins)


def _confirmed(address: str, cluster: str, certificates: Sequence[str]) -> tuple[str, ...]:
    """Let the user compare the pins, computed here; return them."""
    from tele.certs.pins import pin
    from tele.cli.output import print_notice

    pins = tuple(pin(each) for each in certificates)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise NotLoggedIn(
            f"the identity of {address} is not known; ask the cluster's administrator for the CA\n"
            f"pin (tele ca status) and type: tele login --proxy {address} --ca-pin PIN"
        )
    print_notice(f"First contact with the cluster {cluster} at {address}. The pin of its CA is")
    for each in pins:
        print_notice(f"  {each}")
    if not click.confirm("Is this the pin that its administrator gave you?", err=True):
        raise NotLoggedIn("not confirmed: nothing was sent")
    return pins


def _read_password(file: Path | None, user: str, cluster: str, *, new: bool) -> str:
    """Return the password; a ``new`` one is asked for twice."""
    if file is not None:
        return read_password(file)
    if not sys.stdin.isatty():
        raise click.UsageError("no terminal to ask for the password: use --password-file")
    what = f"{'New password' if new else 'Password'} of {user} in {cluster}"
    password: str = click.prompt(what, hide_input=True, confirmation_prompt=new, err=True)
    return password


def store_certificates(
    home: Home,
    profile: Profile,
    ssh: PrivateKey,
    tls: TlsKey,
    got: Certificates,
    *,
    machine: bool = False,
    kept: bool = False,
) -> CertificateSummary:
    """Store the certificates of auth with the keys that were made here; return their summary.

    Those of a ``machine`` do not get into the ssh-agent. With ``kept`` the keys are in their files
    already, with a certificate that programs may be using now.
    """
    import json

    from cryptography.x509 import load_pem_x509_certificate

    from tele.certs.certificate import parse_certificate
    from tele.certs.keys import parse_line
    from tele.certs.x509 import read_identity
    from tele.cli.agent import add_to_agent, remove_from_agent
    from tele.cli.output import plain, print_notice
    from tele.model.identity import UserIdentity

    identity = read_identity(load_pem_x509_certificate(got.tls.encode("ascii")))
    right = parse_certificate(parse_line(got.ssh)).key == ssh.public
    if not right or not isinstance(identity, UserIdentity) or identity.cluster != profile.cluster:
        raise TeleError("auth's certificates are not for these keys; nothing was stored")
    if identity.user != profile.user:
        raise TeleError(f"auth's certificates are for {quoted(identity.user)}; nothing was stored")
    files = home.files(profile)
    comment = f"{profile.user}@{profile.cluster}"
    if not kept:
        remove_from_agent(files)
        files.summary.unlink(missing_ok=True)  # not logged in until all files are written
        home.write(files.key, ssh.to_openssh())
        home.write(files.public, f"{ssh.public.line} {comment}\n")
        home.write(files.tls_key, tls.to_pem())
    home.write(files.certificate, f"{got.ssh} {comment}\n")
    home.write(files.tls_certificate, got.tls)
    home.write(files.authorities, json.dumps(plain(got.authorities), indent=1))
    home.save_profile(profile)
    write_openssh_files(home, profile)
    expires, issued = got.expires.timestamp(), identity.issued.timestamp()
    summary = CertificateSummary(
        profile.user, identity.logins, identity.roles, expires, issued, got.session_mfa
    )
    home.save_summary(profile, summary)
    problem = None if machine else add_to_agent(files, summary.expires - time.time())
    if problem is not None:
        print_notice(f"note: not in the ssh-agent: {problem}")
    return summary


def _report_login(profile: Profile, summary: CertificateSummary) -> None:
    from tele.cli.output import ROUNDING, print_notice, span

    ahead = time.time() - summary.issued
    if abs(ahead) > SKEW_SECONDS:
        text = f"the clock of this machine is {difference(ahead)} auth's"
        if not is_valid(summary):
            raise WrongClock(
                f"{text}: here the certificate has expired already\n"
                "set the clock that is wrong; there is no need to log in again"
            )
        print_notice(f"note: {text}: set the clock that is wrong")
    left = span(summary.expires - time.time() + ROUNDING)
    logins = ", ".join(summary.logins) or "none"
    print_notice(f"logged in to {profile.cluster} as {profile.user} for {left}; logins: {logins}")


@click.command()
@click.option("--all", "everywhere", is_flag=True, help="For all clusters and users.")
@where_options()
def logout(everywhere: bool, where: Where) -> None:
    """Remove keys and certificates, also from the ssh-agent."""
    from tele.cli.agent import remove_from_agent
    from tele.cli.session_factor import remove_session_files

    home = Home.find()
    if everywhere and (typed := typed_options("cluster", "proxy", "me")):
        raise InvalidInput(f"--all excludes {', '.join(typed)}")
    if everywhere:
        profiles = [p for name in home.clusters() if (p := home.profile(name)) is not None]
    else:
        profile = home.chosen(where.cluster, where.proxy, where.user)
        profiles = [] if profile is None else [profile]
    for profile in profiles:
        files = home.files(profile)
        remove_from_agent(files)
        remove_session_files(files)
        for path in (
            files.summary, files.key, files.public, files.certificate, files.tls_key,
            files.tls_certificate,
        ):  # fmt: skip
            path.unlink(missing_ok=True)
