"""How does a command call auth?

Through the proxy of the chosen profile, with the user's certificate; the proxy relays the TLS
stream, which ends at auth. Or, with ``--config FILE`` on auth's machine, at its local socket, as
its owner: for the first user and token.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import click

from tele.cli.home import CertificateSummary, Files, Home, Profile, logged_in
from tele.cli.trust_age import refresh_soon
from tele.errors import InvalidInput, NotLoggedIn, TeleError, Unreachable
from tele.private_files import check_secret

if TYPE_CHECKING:  # attrs and cattrs take too long to import for `tele proxy ssh`
    from tele.https.blocking import BlockingAuthority
    from tele.model.api.operation import Operation

#: Clocks may differ by this much: certificates are valid from a minute before they are issued.
SKEW_SECONDS = 45.0
#: The socket in auth's data_dir where its owner may call it without a certificate.
LOCAL_SOCKET = "auth.sock"

Req = TypeVar("Req")
Res = TypeVar("Res")
F = TypeVar("F", bound=Callable[..., Any])


class Where(NamedTuple):
    """Which cluster a command uses, from the command line and the environment."""

    cluster: str | None = None
    proxy: str | None = None
    user: str | None = None
    config: Path | None = None


class Authority(Protocol):
    """Auth, for a blocking program."""

    def perform(self, operation: Operation[Req, Res], request: Req) -> Res:
        """Return the response; raises a :class:`tele.errors.TeleError`."""

    def follow(self, operation: Operation[Req, Res], request: Req) -> Iterator[Res]:
        """Yield each value of a streaming operation."""


def where_options(*, local: bool = False, user: bool = True) -> Callable[[F], F]:
    """Give a command the options that choose the cluster, as argument ``where``.

    With ``local`` also ``--config FILE``: ask auth on this machine, as its owner. Without
    ``user`` there is no ``--user``: the command has another option of that name.
    """

    def decorate(function: F) -> F:
        def command(
            *args: Any,
            cluster: str | None,
            proxy: str | None,
            me: str | None = None,
            config: Path | None = None,
            **rest: Any,
        ) -> Any:
            if config is not None and (typed := typed_options("cluster", "proxy", "me")):
                raise InvalidInput(
                    f"--config calls auth of that file, as its owner: leave out {', '.join(typed)}"
                )
            cluster, proxy = which_cluster(cluster, proxy)
            return function(*args, where=Where(cluster, proxy, me, config), **rest)

        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        command.__dict__.update(function.__dict__)  # options given below this one
        wrapped: Any = command
        if local:
            wrapped = click.option(
                "--config",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="On auth's machine: use auth of this configuration, as its owner.",
            )(wrapped)
        if user:
            wrapped = click.option(
                "--user",
                "me",
                envvar="TELE_USER",
                help="Your user in the cluster.  [env: TELE_USER]",
            )(wrapped)
        wrapped = click.option(
            "--proxy",
            envvar="TELE_PROXY",
            metavar="HOST:PORT",
            help="The cluster behind this proxy.  [env: TELE_PROXY]",
        )(wrapped)
        decorated: F = click.option(
            "--cluster", envvar="TELE_CLUSTER", help="The cluster.  [env: TELE_CLUSTER]"
        )(wrapped)
        return decorated

    return decorate


def typed_options(*names: str) -> list[str]:
    """Return which options of this command were typed, from the parameters ``names``."""
    context = click.get_current_context()
    typed = click.core.ParameterSource.COMMANDLINE
    return [
        each.opts[0]
        for each in context.command.params
        if each.name in names and context.get_parameter_source(each.name) is typed
    ]


def which_cluster(cluster: str | None, proxy: str | None) -> tuple[str | None, str | None]:
    """Return what chooses the cluster: an option has precedence over the environment.

    Raises :class:`InvalidInput` when both options are given and mean different ones.
    """
    typed = typed_options("cluster", "proxy")
    if typed == ["--cluster"]:
        return cluster, None
    if typed == ["--proxy"]:
        return None, proxy
    if typed and cluster is not None and proxy is not None:
        home = Home.find()
        behind = home.by_proxy(proxy)
        if home.profile(cluster) is not None and behind != home.profile(cluster):
            other = "none that you logged in to" if behind is None else behind.cluster
            raise InvalidInput(
                f"--cluster {cluster} and --proxy {proxy}: the cluster of that proxy is {other}"
            )
    return cluster, proxy


def valid_profile(
    home: Home, cluster: str | None = None, proxy: str | None = None, user: str | None = None
) -> tuple[Profile, CertificateSummary]:
    """Return the profile that the options choose, and the summary of its valid certificate.

    Raises :class:`NotLoggedIn` with the command to type; or :class:`WrongClock` if the certificate
    has expired by the clock of this machine only.
    """
    try:
        return logged_in(home, cluster, proxy, user)
    except NotLoggedIn:
        profile = home.chosen(cluster, proxy, user)
        summary = None if profile is None else home.summary(profile)
        if profile is None or summary is None:
            raise
        problem = _wrong_clock(home, profile)
        if problem is None:
            raise
        raise problem from None


def warn_clock_behind(summary: CertificateSummary) -> None:
    """Print a warning if the certificate is from the future by the clock of this machine."""
    behind = summary.issued - time.time()
    if behind > SKEW_SECONDS:
        from tele.cli.output import print_notice
        from tele.text import duration

        print_notice(
            f"tele: the clock of this machine is at least {duration(behind)} behind auth's: ssh may"
            " refuse the certificates of hosts; set the clock that is wrong"
        )


def _wrong_clock(home: Home, profile: Profile) -> TeleError | None:
    from tele.https.blocking import BlockingAuthority

    try:
        trust = trusted_hosts(home.files(profile))
        with BlockingAuthority(profile.proxy, None, trust, f"auth.{profile.cluster}") as remote:
            return remote.wrong_clock()
    except TeleError:
        return None  # auth cannot be asked


@contextmanager
def open_authority(where: Where = Where()) -> Iterator[Authority]:  # noqa: B008  (immutable)
    """Open auth of the cluster that ``where`` chooses.

    Raises :class:`tele.errors.NotLoggedIn` when there is no valid certificate.
    """
    if where.config is not None:
        with _local(where.config) as local:
            yield local
        return
    from tele.https.blocking import BlockingAuthority
    from tele.https.identity import TlsFiles

    home = Home.find()
    profile, _ = valid_profile(home, where.cluster, where.proxy, where.user)
    files = home.files(profile)
    check_secret(files.tls_key, "your key")
    identity = TlsFiles(files.tls_certificate, files.tls_key)
    with BlockingAuthority(
        profile.proxy, identity, trusted_hosts(files), f"auth.{profile.cluster}"
    ) as remote:
        yield remote
    refresh_soon(home, profile)


def running_socket(config: Path) -> Path | None:
    """Return the socket of the auth that runs with this configuration, if one does.

    Only ``data_dir`` is read: all of it, with its rules, takes longer than the whole command.
    """
    from tele.config.document import find_documents

    try:
        documents = find_documents(config.read_text("utf-8"), str(config), [])
    except (OSError, UnicodeDecodeError):
        return None
    found = documents[0].value if len(documents) == 1 else None
    if not isinstance(found, Mapping) or not {"auth", "data_dir"} <= found.keys():
        return None
    folder, auth = found["data_dir"].value, found["auth"].value
    if not isinstance(folder, str) or not isinstance(auth, Mapping):
        return None
    path = Path(os.path.normpath(config.absolute().parent / folder)) / LOCAL_SOCKET
    return path if path.exists() else None


def _local(config: Path) -> BlockingAuthority:
    from tele.https.blocking import BlockingAuthority

    if (running := running_socket(config)) is not None:
        return BlockingAuthority.local(str(running))
    from tele.config.reading import load

    loaded = load(config)
    if loaded.config.auth is None:
        raise loaded.problem("auth", "missing section: --config needs the configuration of auth")
    path = loaded.config.data_dir / LOCAL_SOCKET
    if not path.exists():
        raise Unreachable(
            f"auth does not run here: there is no {path}\n"
            f"to start it, type: twistd -n tele-auth --config {config}"
        )
    return BlockingAuthority.local(str(path))


def trusted_hosts(files: Files) -> tuple[str, ...]:
    """Return the certificates (PEM) of the cluster's host authority."""
    return tuple(_authority(files, "host")["tls_certificates"])


def host_keys(files: Files) -> tuple[str, ...]:
    """Return the SSH public keys (lines) of the cluster's host authority."""
    return tuple(_authority(files, "host")["ssh_public_keys"])


def host_keys_ever(files: Files) -> tuple[str, ...]:
    """Return those, and the keys that rotations have replaced: for what was recorded by then."""
    authority = _authority(files, "host")
    return (*authority["ssh_public_keys"], *authority.get("retired_ssh_keys", ()))


def _authority(files: Files, kind: str) -> dict[str, Any]:
    try:
        found = json.loads(files.authorities.read_text("utf-8"))
        authority: dict[str, Any] = next(each for each in found if each["kind"] == kind)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise TeleError(
            f"{files.authorities} is missing or damaged; log in again with --ca-pin"
        ) from None
    return authority


def current(where: Where) -> tuple[Home, Profile]:
    """Return the home and the profile that ``where`` chooses, with a valid certificate."""
    home = Home.find()
    profile, _ = valid_profile(home, where.cluster, where.proxy, where.user)
    return home, profile
