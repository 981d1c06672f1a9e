"""``tele ca``: show the cluster's authorities, rotate them, sign keys."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import click

from tele.cli.auth_client import Where, open_authority, typed_options, where_options
from tele.cli.authority_files import one_key
from tele.cli.home import replace_file, safe_name
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.lists import split_words, ttl_option, warn_shorter
from tele.cli.output import Column, format_option, plain, print_notice, print_text, show_list, words
from tele.errors import InvalidInput, NotFound
from tele.model.lifetimes import HOST_LIFETIME, USER_LIFETIME

_COLUMNS = (
    Column("KIND", lambda a: a["kind"]),
    Column("PHASE", lambda a: a["phase"]),
    Column("EXPIRES", lambda a: a["expires"]),
    Column("SSH KEY", lambda a: words(a["ssh_fingerprints"])),
    Column("PIN", lambda a: words(a["pins"])),
)


@click.group(
    cls=LazyGroup,
    lazy={
        "status": Lazy("tele.cli.authorities:status", "Show the authorities and their pins."),
        "rotate": Lazy("tele.cli.rotation:rotate", "Replace the keys of the CAs."),
        "keygen": Lazy("tele.cli.ca_keygen:keygen", "Make a key that seals the CAs' keys."),
        "export": Lazy("tele.cli.authorities:export", "Print public keys, for other programs."),
        "sign-user": Lazy("tele.cli.authorities:sign_user", "Sign a public key, for automation."),
        "sign-host": Lazy("tele.cli.authorities:sign_host", "Sign the host key of an sshd."),
    },
)
def ca() -> None:
    """Show the cluster's authorities, sign keys."""


@click.command()
@click.option("--rotation", is_flag=True, help="Show how far a rotation is, and who holds it up.")
@click.option("--watch", is_flag=True, help="Show that at each change, until none is in progress.")
@format_option("names")
@where_options(local=True)
def status(rotation: bool, watch: bool, form: str, where: Where) -> None:
    """Show the authorities and their pins."""
    if rotation or watch:
        from tele.cli.rotation import watch_rotation

        watch_rotation(form, where, watch=watch)
        return
    from tele.model.api.authorities import AUTHORITIES
    from tele.model.api.operation import Nothing

    with open_authority(where) as authority:
        found = authority.perform(AUTHORITIES, Nothing()).items
    show_list(form, found, _COLUMNS, name=lambda a: a["kind"])


@click.command()
@click.option("--type", "kind", type=click.Choice(("user", "host")), help="Which CA to print.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("openssh", "known_hosts", "pem")),
    default="openssh",
    show_default=True,
    help="openssh: lines for sshd's TrustedUserCAKeys; known_hosts: for clients; pem: X.509.",
)
@click.option(
    "--watch",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Keep the files user_ca.pub, host_ca.pub and known_hosts in this folder up to date,"
    " until interrupted.",
)
@click.option("--every", default="1m", show_default=True, help="How often --watch asks auth.")
@click.option(
    "--krl",
    is_flag=True,
    help="Print the user certificates that are revoked now, for sshd's RevokedKeys.",
)
@where_options(local=True)
def export(
    kind: str | None, form: str, folder: Path | None, every: str, krl: bool, where: Where
) -> None:
    """Print the public keys of an authority, for other programs.

    While a CA rotates, there are two keys, and both are to be trusted.
    """
    if krl:
        if typed := typed_options("kind", "form", "folder"):
            raise InvalidInput(f"--krl excludes {', '.join(typed)}")
        _export_krl(where)
        return
    if folder is not None:
        from tele.cli.authority_files import keep_files, read_period

        if kind is not None:
            raise click.UsageError("--watch writes the keys of both CAs: leave --type out")
        keep_files(folder, read_period(every), where)
        return
    if kind is None:
        raise click.UsageError("give --type, --krl or --watch")
    from tele.certs.known_hosts import cert_authority_lines
    from tele.model.api.authorities import AUTHORITIES
    from tele.model.api.members import CLUSTER
    from tele.model.api.operation import Nothing

    if form == "known_hosts" and kind != "host":
        raise InvalidInput("known_hosts is about hosts: give --type host")
    with open_authority(where) as authority:
        found = authority.perform(AUTHORITIES, Nothing()).trusted
        cluster = authority.perform(CLUSTER, Nothing()).cluster
    trusted = next((each for each in found if each.kind.value == kind), None)
    if trusted is None:
        raise NotFound(f"the cluster has no {kind} authority")
    if form == "pem":
        print_text("".join(trusted.tls_certificates).rstrip("\n"))
    elif form == "known_hosts":
        names = [f"*.{safe_name('cluster', cluster)}"]
        print_text(cert_authority_lines(names, trusted.ssh_public_keys).rstrip("\n"))
    else:
        for key in trusted.ssh_public_keys:
            print_text(one_key(key))


def _export_krl(where: Where) -> None:
    from tele.model.api.operation import Nothing
    from tele.model.api.revocation import GET_KRL

    if sys.stdout.isatty():
        raise InvalidInput("the list is not text: redirect it to a file")
    with open_authority(where) as authority:
        listed = authority.perform(GET_KRL, Nothing())
    sys.stdout.buffer.write(listed.data)
    sys.stdout.buffer.flush()


def _read_key(path: Path) -> str:
    """Return the line of a public key; anything else, such as a private key, is not sent."""
    from tele.certs.keys import parse_line

    try:
        line = path.read_text("utf-8").strip()
        parse_line(line)
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not a public key") from None
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None
    return line


def _write(path: Path, output: Path | None, certificate: str, expires: str) -> None:
    """Write the certificate where OpenSSH looks for it: beside its key."""
    target = output
    if target is None:
        target = path.with_name(path.name.removesuffix(".pub") + "-cert.pub")
        if not sys.stdout.isatty():  # a script that reads it gets it, too
            print_text(certificate)
    if str(target) == "-":
        print_text(certificate)
    else:
        if target.exists() and not target.is_file():  # a pipe, or a device
            target.write_text(certificate + "\n", "ascii")
        else:
            replace_file(target.resolve(), certificate + "\n", 0o644)
        print_notice(f"{target}: valid until {expires}")


_key = click.argument("key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_out = click.option(
    "--out",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where to write; - is standard output. Default: KEY-cert.pub beside the key, and"
    " standard output if that is no terminal.",
)


@click.command()
@_key
@click.option("--user", "name", required=True, help="The user that the certificate is for.")
@click.option("--login", "logins", multiple=True, help="OS accounts; default: all of the user's.")
@ttl_option(USER_LIFETIME)
@_out
@where_options(local=True, user=False)
def sign_user(
    key: Path,
    name: str,
    logins: tuple[str, ...],
    ttl: timedelta | None,
    out: Path | None,
    where: Where,
) -> None:
    """Sign the public key in the file KEY for a user, for automation."""
    from tele.model.api.authorities import SIGN_USER, SignUser

    lifetime = USER_LIFETIME if ttl is None else ttl
    request = SignUser(name, _read_key(key), split_words(logins), lifetime)
    with open_authority(where) as authority:
        signed = plain(authority.perform(SIGN_USER, request))
    _write(key, out, signed["certificate"], signed["expires"])
    warn_shorter(signed["certificate"], ttl)


@click.command()
@_key
@click.option("--principal", "principals", multiple=True, required=True, help="A name of the host.")
@click.option("--name", default="", help="The key id; default: the first principal.")
@ttl_option(HOST_LIFETIME)
@_out
@where_options(local=True)
def sign_host(
    key: Path,
    principals: tuple[str, ...],
    name: str,
    ttl: timedelta | None,
    out: Path | None,
    where: Where,
) -> None:
    """Sign the public host key in the file KEY, for an sshd."""
    from tele.model.api.authorities import SIGN_HOST, SignHost

    lifetime = HOST_LIFETIME if ttl is None else ttl
    request = SignHost(_read_key(key), split_words(principals), name, lifetime)
    with open_authority(where) as authority:
        signed = plain(authority.perform(SIGN_HOST, request))
    _write(key, out, signed["certificate"], signed["expires"])
