"""Which egress proxy and which login do the configuration and the environment give a host?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from tele.config.values import JoinConfig
from tele.errors import InvalidInput, Unreachable
from tele.https.client import RemoteAuthority, fetch_cluster
from tele.https.identity import TlsIdentity
from tele.https.pool import Endpoint
from tele.membership.joining import Network
from tele.model.api.members import ClusterInfo
from tele.outbound.dialer import Dialer
from tele.outbound.egress import ProxyLogin, always, from_environment, parse_login
from tele.private_files import check_secret, read_secret


def host_dialer(
    reactor: IReactorTime, join: JoinConfig | None, environ: Mapping[str, str] = os.environ
) -> Dialer:
    """Return the dialer of a host that joins as ``join`` says.

    None: the host runs in the process of its auth, and uses no egress proxy. Raises
    :class:`InvalidInput` for an invalid environment variable, and when others can read the login
    file.
    """
    if join is None:
        return Dialer(reactor)
    if join.via_login_file is not None:
        check_secret(join.via_login_file, "via_login_file")
    if join.via is None:
        return Dialer(reactor, from_environment(environ))
    return Dialer(reactor, always(join.via), _login_reader(join.via_login_file))


def _login_reader(path: Path | None) -> Callable[[], ProxyLogin | None]:
    def read() -> ProxyLogin | None:
        if path is None:
            return None
        # A missing file is tried again, like a proxy that does not answer yet.
        try:
            return parse_login(_read(path))
        except OSError as error:
            raise Unreachable(f"via_login_file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Unreachable(f"via_login_file {path}: not UTF-8") from None
        except InvalidInput as error:
            raise Unreachable(f"via_login_file {path}: {error}") from None

    return read


def _read(path: Path) -> str:
    try:
        return read_secret(path, "via_login_file").decode("utf-8")
    except InvalidInput as error:
        raise Unreachable(str(error)) from None


def network(dialer: Dialer, auth: Endpoint | None = None) -> Network:
    """Return how auth is reached: through ``auth`` if it is given; to join, through ``dialer``."""

    def connect(
        reactor: IReactorTime,
        addresses: Sequence[str],
        identity: Callable[[], TlsIdentity | None],
        trust: Callable[[], Sequence[str]] | None,
        server_name: str,
    ) -> RemoteAuthority:
        return RemoteAuthority(
            reactor, addresses, identity, trust, server_name, endpoint=auth or dialer.endpoint
        )

    def fetch(reactor: IReactorTime, address: str, pins: Sequence[str]) -> Deferred[ClusterInfo]:
        return fetch_cluster(reactor, address, pins, dialer.endpoint)

    return Network(connect, fetch)
