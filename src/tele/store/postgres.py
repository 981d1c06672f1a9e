"""A store in PostgreSQL, for clusters with several auths. Where is it, and who learns of changes?

Invariants:

* Who the server is is checked, unless it is on this machine: the store decides who is an
  administrator.
* A password is in a file or in the environment, never in the configuration or in an error.
* Other processes are woken after commits, and look by themselves each second.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tele.errors import InvalidInput, TeleError
from tele.log import make_logger
from tele.store.polled import PolledBackend
from tele.store.postgres_session import Database, PostgresSession

log = make_logger(__name__)

READERS: Final = 4
#: How many seconds a call may take.
PATIENCE: Final = 15.0
#: How long changes are gathered before other processes are woken.
ANNOUNCE_SECONDS: Final = 0.015
#: How often the thread that listens looks whether it has to end, and how long it waits after an
#: error.
LISTEN_SECONDS: Final = 1.0

#: A server that checks certificates is checked with these.
_CHECKED: Final = ("verify-ca", "verify-full")

#: What holds unless the URL says something else.
_DEFAULTS: Final[Mapping[str, str]] = {
    "application_name": "tele-auth",
    "connect_timeout": "5",
    "target_session_attrs": "read-write",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


def read_url(url: str, patience: float = PATIENCE) -> Database:
    """Return the database at ``url``; raises :class:`InvalidInput`.

    The server ends a statement that takes longer than ``patience`` seconds, and a transaction that
    waits a third of it for a process that was stopped: others can write again then.
    """
    try:
        words: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.Error:  # its text may have the URL, and that a password
        raise InvalidInput(
            "store: not the URL of a database; it is postgresql://USER@HOST:PORT/DATABASE and"
            " parameters of libpq, such as ?passfile=FILE"
        ) from None
    if "service" in words or "PGSERVICE" in os.environ:
        raise InvalidInput("store: services of libpq are not used: say the host in the URL")
    if "password" in words:
        raise InvalidInput(
            "store: a password does not belong into the URL: put it into a file with mode 0600 and"
            " say passfile=FILE, or into the environment (PGPASSFILE, PGPASSWORD)"
        )
    hosts = str(words.get("host") or os.environ.get("PGHOST") or "")
    addresses = str(words.get("hostaddr") or os.environ.get("PGHOSTADDR") or "")
    if not all(_is_local(host) for host in (*hosts.split(","), *addresses.split(","))):
        _check_tls(words)
    for name, value in _DEFAULTS.items():
        words.setdefault(name, value)
    limits = (
        f"-c statement_timeout={patience * 1000:.0f}"
        f" -c idle_in_transaction_session_timeout={patience * 1000 / 3:.0f}"
    )
    words["options"] = f"{words.get('options', '')} {limits}".strip()
    words["client_encoding"] = "UTF8"
    name = words.get("dbname") or os.environ.get("PGDATABASE") or words.get("user") or ""
    shown = f"the database {name} at {hosts or addresses or 'this machine'}"
    return Database(make_conninfo("", **words), shown)


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:  # a name that begins like a loopback address is a name
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_tls(words: dict[str, Any]) -> None:
    mode = words.setdefault("sslmode", os.environ.get("PGSSLMODE", "verify-full"))
    if mode not in _CHECKED:
        raise InvalidInput(
            f"store: sslmode={mode} does not check who the server is, and who answers as the store"
            " is the cluster's administrator: say sslmode=verify-full&sslrootcert=FILE"
        )
    if "sslrootcert" not in words and "PGSSLROOTCERT" not in os.environ:
        home = os.path.expanduser("~/.postgresql/root.crt")
        roots = ssl.get_default_verify_paths().cafile
        words["sslrootcert"] = home if os.path.exists(home) else roots or "system"


class _Listener(threading.Thread):
    """Calls ``wake`` in this thread when another process has announced changes."""

    def __init__(self, session: PostgresSession, wake: Callable[[int], None]) -> None:
        super().__init__(name="tele-store-listener", daemon=True)
        self._session = session
        self._wake = wake
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                connection = self._session.listen()
                while not self._ended.is_set():
                    for notification in connection.notifies(timeout=LISTEN_SECONDS):
                        self._wake(notification.pid)
            except (TeleError, psycopg.Error) as error:
                # Changes are looked for each second all the same.
                log.debug("no notifications of the store", error=str(error))
                self._ended.wait(LISTEN_SECONDS)
        self._session.close()

    def end(self) -> None:
        """Called in another thread."""
        self._ended.set()
        self._session.interrupt()


class PostgresBackend(PolledBackend):
    """Keeps everything in the database at ``url`` (a URL of libpq, without a password).

    Raises :class:`InvalidInput` for a URL that is not acceptable, and
    :class:`tele.errors.Unavailable` when the database cannot be used. It waits for the database:
    make it before the process serves.
    """

    def __init__(self, url: str, reactor: IReactorTime, patience: float = PATIENCE) -> None:
        database = read_url(url, patience)
        sessions = [PostgresSession(database) for _ in range(READERS + 1)]
        try:
            seen = sessions[0].prepare()
        except BaseException:
            sessions[0].close()
            raise
        self._writing = sessions[0]
        self._announcing: IDelayedCall | None = None
        super().__init__(reactor, sessions, seen, patience)
        self._listener = _Listener(PostgresSession(database), self._woken)
        self._listener.start()

    def close(self) -> Deferred[None]:
        """See :class:`tele.interfaces.IBackend`."""
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None
        self._listener.end()
        return super().close()

    def _threads(self) -> list[threading.Thread]:
        return [*super()._threads(), self._listener]

    def _woken(self, process: int) -> None:
        """Called in the thread that listens. What this process announced, it has read."""
        if process != self._writing.backend_pid:
            self._from_thread(self._poll)

    def _committed(self, revision: int) -> int:
        if self._announcing is None and self._closed is None:
            self._announcing = self._reactor.callLater(ANNOUNCE_SECONDS, self._announce)
        return super()._committed(revision)

    def _announce(self) -> None:
        self._announcing = None
        told: Deferred[None] = self._ask(self._writes, lambda _: self._writing.announce())
        told.addErrback(lambda failure: log.debug("not announced", error=str(failure.value)))
