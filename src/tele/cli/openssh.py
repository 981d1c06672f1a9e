"""``tele config``: the configuration of OpenSSH for a cluster.

With it ``ssh node.cluster`` works: it names the user's key and certificate, the cluster's host
authority as the only trusted one (so that ssh never asks about a host key), and the proxy.

Invariants:

* Only checked names and addresses get into the file.
* ``~/.ssh/config`` gets one line at its top, once; nothing else in it changes.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from tele.cli.auth_client import Where, current, host_keys, where_options
from tele.cli.home import DEFAULT_PORT, Home, Profile, replace_file, safe_name
from tele.errors import InvalidInput, TeleError, quoted
from tele.model.addresses import Address

#: The algorithms for host keys: certificates only. See tele.certs.algorithms.
_FIPS_HOST_KEYS = (
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
#: Seconds for each address of the proxy. Not for nodes: there ssh would count the time that the
#: user needs to confirm a key at the proxy.
CONNECT_SECONDS = 10
#: Seconds of silence until ssh sends a keepalive, so that NAT gateways keep the connection; so many
#: without a reply end the connection, after three minutes.
ALIVE_SECONDS = 30
ALIVE_MISSES = 6
_HOST_KEYS = ("ssh-ed25519", *_FIPS_HOST_KEYS)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+", re.ASCII)


def proxy_address(address: str, default_port: int = DEFAULT_PORT) -> Address:
    """Read the address of a proxy, which may stand in a configuration of OpenSSH.

    Raises :class:`InvalidInput`.
    """
    read = Address.parse(address, default_port)
    if _HOST.fullmatch(read.host) is None:
        raise InvalidInput(f"{quoted(address)} is not an address such as example.com:3080")
    return read


def this_program() -> list[str]:
    """Return the command that runs ``tele`` with any PATH, which ssh may have changed."""
    beside = Path(sys.executable).with_name("tele")
    if beside.is_file():
        return [str(beside)]
    found = shutil.which("tele")
    return [found] if found else [sys.executable, "-m", "tele.cli"]


def _quoted(path: Path) -> str:
    """Return a path for ssh_config(5): quoted, with percent signs escaped."""
    text = str(path)
    if '"' in text or not text.isprintable():
        raise InvalidInput(f"OpenSSH cannot read the path {quoted(text)}; set TELE_HOME")
    return '"' + text.replace("%", "%%") + '"'


class Login(NamedTuple):
    """What OpenSSH logs in with: three files, the route to a node, and the host authority."""

    user: str
    key: Path
    certificate: Path
    known_hosts: Path
    route: str
    authority_keys: Sequence[str]


def host_key_algorithms(authority_keys: Sequence[str]) -> str:
    """Return the host key algorithms for hosts of the CA with these keys (lines).

    OpenSSH in FIPS mode refuses a configuration that names Ed25519, so it is left out for a
    cluster whose keys are for such clients; and one older than 10.4 refuses composite keys, which
    are named only if the CA signs with one.
    """
    fips = all(key.startswith(("ecdsa-", "ssh-rsa ")) for key in authority_keys)
    kinds = _FIPS_HOST_KEYS if fips else _HOST_KEYS
    if authority_keys and authority_keys[0].startswith("ssh-mldsa44-ed25519@"):
        kinds = ("ssh-mldsa44-ed25519", *kinds)
    return ",".join(f"{kind}-cert-v01@openssh.com" for kind in kinds)


def ssh_config(home: Home, profile: Profile) -> str:
    """Return the configuration for one cluster and the user who is logged in."""
    files = home.files(profile)
    return _own_config(home, profile, files.key, files.certificate)


def _own_config(home: Home, profile: Profile, key: Path, certificate: Path) -> str:
    files = home.files(profile)
    program = [*this_program(), "--home", str(home.path), "proxy", "ssh"]
    command = shlex.join([*program, "--cluster", profile.cluster]).replace("%", "%%")
    if not command.isprintable():
        raise InvalidInput(f"OpenSSH cannot read the path {quoted(home.path)}; set TELE_HOME")
    route = f"ProxyCommand {command} '%r@%h:%p'"
    paths = (key, certificate, files.known_hosts)
    return _ssh_config(profile, Login(profile.user, *paths, route, host_keys(files)))


def ssh_config_with(home: Home, profile: Profile, key: Path, certificate: Path) -> str:
    """Return :func:`ssh_config` with another key and certificate for nodes."""
    return _own_config(home, profile, key, certificate)


def _ssh_config(profile: Profile, login: Login) -> str:
    cluster = profile.cluster
    if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", cluster) is None:
        raise InvalidInput(f"OpenSSH cannot match names of a cluster named {quoted(cluster)}")
    host, port = proxy_address(profile.proxy)
    # Patterns of ssh_config(5) are case-sensitive, DNS names are not.
    names = " ".join(f"*.{each}" for each in (cluster, cluster.upper()))
    proxies = " ".join((f"proxy.{cluster}", f"proxy.{cluster}".upper()))
    return f"""\
# Cluster {cluster}, for OpenSSH. Written by tele: changes are lost.
Host {names}
    IdentityFile {_quoted(login.key)}
    CertificateFile {_quoted(login.certificate)}
    IdentitiesOnly yes
    PreferredAuthentications publickey
    UserKnownHostsFile {_quoted(login.known_hosts)}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    CheckHostIP no
    CanonicalizeHostname no
    ServerAliveInterval {ALIVE_SECONDS}
    ServerAliveCountMax {ALIVE_MISSES}
    HostKeyAlgorithms {host_key_algorithms(login.authority_keys)}

Host {proxies}
    HostName {host}
    Port {port}
    User {login.user}
    ConnectTimeout {CONNECT_SECONDS}
    HostKeyAlias proxy.{cluster}
    ControlMaster no
    ControlPath none
    ProxyCommand none

Host {names} !{proxies.replace(" ", " !")}
    Port 3022
    {login.route}
"""


def config_for_key(home: Home, profile: Profile, key: Path) -> str:
    """Return a configuration that logs in with ``key`` and its certificate only.

    It needs neither ``tele`` nor the files of the user who is logged in: the host authority is
    written beside the key. Raises :class:`InvalidInput`.
    """
    from tele.certs.certificate import parse_certificate
    from tele.certs.keys import parse_line

    key = key.absolute()
    certificate = key.with_name(f"{key.name}-cert.pub")
    for path in (key, certificate):
        if not path.is_file():
            raise InvalidInput(
                f"--identity: there is no file {path}; give a private key, with its certificate"
                f" beside it: tele ca sign-user {key.name}.pub --user NAME"
            )
    try:
        user = parse_certificate(parse_line(certificate.read_text("ascii"))).key_id
    except (ValueError, InvalidInput):
        raise InvalidInput(f"--identity: {certificate} is not an SSH certificate") from None
    found = key.with_name(f"{key.name}-known_hosts")
    route = f"ProxyJump proxy.{profile.cluster}"
    authority_keys = host_keys(home.files(profile))
    login = Login(safe_name("user", user), key, certificate, found, route, authority_keys)
    text = _ssh_config(profile, login)
    replace_file(found, known_hosts(profile.cluster, authority_keys), 0o644)
    return text


def _config_for_folder(folder: Path) -> str:
    """Return :func:`config_for_key` for the last login with ``--home FOLDER``."""
    home = Home(folder.absolute())
    profile = home.chosen()
    if profile is None:
        raise InvalidInput(
            f"--identity: there was no login in {folder}; type: tele --home {folder} login"
            " --token-file FILE"
        )
    return config_for_key(home, profile, home.files(profile).key)


def known_hosts(cluster: str, keys: tuple[str, ...]) -> str:
    """Return lines that make ``keys`` (``type base64``) the authority of hosts of ``cluster``."""
    lines = []
    for key in keys:
        if re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*", key) is None:
            raise TeleError("the cluster's CA keys are damaged; log in again")
        lines.append(f"@cert-authority *.{cluster} {key}\n")
    return "".join(lines)


def write_openssh_files(home: Home, profile: Profile) -> Path:
    """Write ``known_hosts`` and ``ssh_config`` of the profile; return the latter.

    Files that do not change are not written: other connections may be reading them.
    """
    files = home.files(profile)
    for path, content in (
        (files.known_hosts, known_hosts(profile.cluster, host_keys(files))),
        (files.ssh_config, ssh_config(home, profile)),
    ):
        try:
            same = path.read_text("utf-8") == content
        except (OSError, ValueError):
            same = False
        if not same:
            home.write(path, content)
    return files.ssh_config


def openssh_program(name: str) -> str:
    """Return the path of ``ssh`` or ``scp``; raises :class:`TeleError`."""
    found = shutil.which(name)
    if found is None:
        raise TeleError(
            f"OpenSSH's client is not installed: there is no {name} in PATH\n"
            "install the package openssh-client (Debian, Ubuntu) or openssh-clients (Fedora)"
        )
    return found


def install(home: Home) -> tuple[Path, bool]:
    """Make ``~/.ssh/config`` include the configurations of all clusters.

    Returns the file, and whether it was changed.
    """
    folder = Path.home() / ".ssh"
    path = folder / "config"
    line = f"Include {_quoted(home.path / '*' / 'ssh_config')}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        target = path.resolve()  # keeps a symbolic link
        there = target.read_text("utf-8", "surrogateescape") if target.exists() else ""
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    except OSError as error:
        raise TeleError(f"cannot use {path}: {error.strerror}") from None
    if any(each.strip() == line for each in there.splitlines()):
        return path, False
    content = f"{line}\n\n{there}" if there else f"{line}\n"
    replace_file(target, content.encode("utf-8", "surrogateescape"), mode)
    return path, True


@click.command()
@click.option("--install", "do_install", is_flag=True, help="Include it in ~/.ssh/config.")
@click.option(
    "--identity",
    type=click.Path(path_type=Path),
    help="Log in with this key and its certificate (`tele ca sign-user`), or as the machine"
    " identity whose folder this is (`tele --home FOLDER login --token-file`).",
)
@where_options()
def config(do_install: bool, identity: Path | None, where: Where) -> None:
    """Print a configuration for OpenSSH, or install it for ssh, scp, rsync and git."""
    from tele.cli.output import print_notice, print_text

    if do_install and identity is not None:
        raise InvalidInput(
            "--install is for your own login; with --identity, write the output to a file and use"
            " ssh -F FILE"
        )
    if identity is not None and identity.is_dir():
        print_text(_config_for_folder(identity).rstrip("\n"))
        return
    home, profile = current(where)
    if identity is not None:
        print_text(config_for_key(home, profile, identity).rstrip("\n"))
        return
    written = write_openssh_files(home, profile)
    if not do_install:
        print_text(written.read_text("utf-8").rstrip("\n"))
        return
    openssh_program("ssh")
    path, changed = install(home)
    print_notice(f"{path} {'now includes' if changed else 'includes'} the clusters in {home.path}")
    real = Path(pwd.getpwuid(os.getuid()).pw_dir)
    if real.resolve() != Path.home().resolve():
        print_notice(f"note: ssh reads {real / '.ssh/config'}, not HOME")
    print_notice(f"type: ssh NODE.{profile.cluster}")
