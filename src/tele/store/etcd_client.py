"""How is etcd asked? Through its JSON gateway, with one connection. Synchronous, for threads.

Invariants:

* Who the members are is checked, unless they are on this machine: the store decides who is an
  administrator.
* A request that changes something is sent once, unless it cannot have been done.
* A password is in a file that no other user can read, never in the configuration or in an error.
* A member that accepts no token, however new, is asked twice and not for ever.
* Nothing here knows the reactor.

Source: etcd's API reference, version 3.4 and later (``rpc.proto``), and its gRPC gateway: keys and
values are base64, 64-bit numbers are strings, fields that are zero are left out.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from attrs import field, frozen

from tele.errors import InvalidInput, StorageFull, TeleError, Unavailable
from tele.private_files import read_secret

PORT: Final = 2379
#: After all members have failed, calls fail at once for so many seconds.
RETRY_SECONDS: Final = 1.0
#: The largest answer that is read, in bytes.
ANSWER_LIMIT: Final = 1 << 30

#: Codes of gRPC in answers (``google/rpc/code.proto``).
_NOT_FOUND: Final = 5
_EXHAUSTED: Final = 8
_OUT_OF_RANGE: Final = 11
_UNAUTHENTICATED: Final = 16
#: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION, ...: etcd has done nothing.
_REFUSALS: Final = frozenset({3, _NOT_FOUND, 7, 9, _OUT_OF_RANGE, _UNAUTHENTICATED})

_WORDS: Final = frozenset({"ca", "cert", "key", "user", "password_file", "tls"})


@frozen
class Place:
    """Where a store in etcd is. ``prefix`` comes before all keys."""

    endpoints: tuple[tuple[str, int], ...]
    prefix: str
    tls: ssl.SSLContext | None = field(eq=False)
    user: str | None = None
    password_file: str | None = None

    @property
    def shown(self) -> str:
        """How errors call it."""
        return f"etcd at {', '.join(f'{host}:{port}' for host, port in self.endpoints)}"


class Refused(TeleError):
    """A member's answer is an error. ``code`` is one of gRPC."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class LeaseGone(TeleError):
    """A put names a lease that has ended: nothing was done."""


class Compacted(TeleError):
    """The revision is not in the store any more."""


def read_url(url: str) -> Place:
    """Return the place that ``//HOST:PORT,HOST:PORT/PREFIX?WORDS`` is; raises InvalidInput."""
    parts = urlsplit(url)
    words = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "@" in parts.netloc or "password" in words:
        raise InvalidInput(
            "store: a password does not belong into the URL: say ?user=NAME&password_file=FILE"
        )
    unknown = sorted(set(words) - _WORDS)
    if unknown or not parts.netloc or parts.fragment:
        problem = f"unknown parameter {unknown[0]}" if unknown else "not the URL of etcd"
        raise InvalidInput(
            f"store: {problem}; it is etcd://HOST:2379,HOST:2379/PREFIX and parameters, such as"
            " ?ca=FILE"
        )
    if ("user" in words) != ("password_file" in words):
        raise InvalidInput("store: user and password_file are given together")
    endpoints = tuple(map(_endpoint, parts.netloc.split(",")))
    local = all(_is_local(host) for host, _ in endpoints)
    return Place(
        endpoints, f"/{parts.path.strip('/') or 'tele'}", _context(words, local),
        words.get("user"), words.get("password_file"),
    )  # fmt: skip


def _endpoint(text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname:
            return parts.hostname, parts.port or PORT
    except ValueError:
        pass
    raise InvalidInput(f"store: {text!r} is not HOST:PORT")


def _is_local(host: str) -> bool:
    try:  # a name that begins like a loopback address is a name
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _context(words: Mapping[str, str], local: bool) -> ssl.SSLContext | None:
    wanted = words.get("tls", "on" if not local or {"ca", "cert", "key"} & set(words) else "off")
    if wanted == "off":
        if not local:
            raise InvalidInput(
                "store: without TLS anyone on the way is an administrator of the cluster: leave"
                " tls=off out, and say ca=FILE if a CA of your own signs etcd's certificates"
            )
        return None
    if wanted != "on":
        raise InvalidInput("store: tls is on or off")
    try:
        context = ssl.create_default_context(cafile=words.get("ca"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if "cert" in words:
            read_secret(Path(words.get("key", words["cert"])), "store: the private key")
            context.load_cert_chain(words["cert"], words.get("key"))
    except OSError as error:  # ssl's errors are of this kind
        raise InvalidInput(f"store: cannot use the files of ca, cert and key: {error}") from None
    return context


class EtcdClient:
    """One connection to one member, made when it is needed; another member when that one fails.

    ``patience`` is how many seconds a member may take to connect or to answer.
    """

    def __init__(self, place: Place, patience: float) -> None:
        self._place = place
        self._patience = patience
        self._at = 0
        self._connection: http.client.HTTPConnection | None = None
        #: Held while the connection is made known or closed; see :meth:`interrupt`.
        self._guard = threading.Lock()
        self._token: str | None = None
        self._failed_at = -RETRY_SECONDS
        self._failure = ""

    # -- calls ------------------------------------------------------------------------
    def read(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request that changes nothing, from whichever member answers.

        Raises :class:`Unavailable`, :class:`Compacted` and, for what etcd does not take,
        :class:`Refused`.
        """
        for last in (*[False] * len(self._place.endpoints), True):
            try:
                return self._call(path, body)
            except Unavailable:
                if last or (self._connection is None and self._is_down()):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def change(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request that changes something. It is sent at most once.

        Raises as :meth:`read`, and :class:`StorageFull` and :class:`LeaseGone`. An
        :class:`Unavailable` says it when the outcome is unknown.
        """
        connection = self._connected()  # what fails here was not sent
        try:
            return self._call(path, body, connection)
        except StorageFull as error:  # etcd does the change that it answers with this at first
            raise StorageFull(f"{error}; whether the change was made is unknown") from None
        except Unavailable as error:
            raise Unavailable(f"{error}; whether the change was made is unknown") from None

    def stream(self, path: str, body: Mapping[str, Any], silence: float) -> Iterator[Any]:
        """Return the messages of an answer without an end, as they come.

        Raises :class:`Unavailable` when none comes for ``silence`` seconds.
        """
        connection = self._connected()
        try:
            self._send(connection, path, body)
            connection.sock.settimeout(silence)
            response = connection.getresponse()
            while line := response.readline(ANSWER_LIMIT):
                message = json.loads(line)
                if "result" not in message:
                    raise self._refusal(message.get("error", message))
                yield message["result"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{self._place.shown} failed: {_reason(error)}") from None
        finally:
            self._next()
        raise Unavailable(f"{self._place.shown} ended the answer")

    def _call(
        self,
        path: str,
        body: Mapping[str, Any],
        connection: http.client.HTTPConnection | None = None,
    ) -> dict[str, Any]:
        """Send a request once, or twice if the token had ended: nothing was done then."""
        for may_repeat in (True, False):
            status, answer = self._exchange(connection or self._connected(), path, body)
            if status == http.client.OK:
                return answer
            error = self._refusal(answer)
            ended = isinstance(error, Refused) and error.code == _UNAUTHENTICATED
            if ended and may_repeat and self._token is not None:
                self._token = connection = None
                continue
            if isinstance(error, Unavailable):
                self._next()
            raise error
        raise AssertionError("the last attempt returns or raises")

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        try:
            self._send(connection, path, body)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._next()
            raise Unavailable(f"{self._place.shown} failed: {_reason(error)}") from None
        if not isinstance(answer, dict):
            self._next()
            raise Unavailable(f"{self._place.shown} answers what etcd does not")
        return response.status, answer

    def _send(
        self, connection: http.client.HTTPConnection, path: str, body: Mapping[str, Any]
    ) -> None:
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = self._token
        connection.request("POST", f"/v3/{path}", json.dumps(body).encode(), headers)

    def _refusal(self, answer: object) -> TeleError:
        words: dict[str, Any] = answer if isinstance(answer, dict) else {}
        code = int(words.get("code") or words.get("grpc_code") or 0)
        text = _text(words.get("message") or words.get("error") or answer)
        if code == _EXHAUSTED and "space" in text:
            return StorageFull(
                f"{self._place.shown} is full: compact and defragment it, or raise its"
                " --quota-backend-bytes, and then disarm the alarm (etcdctl alarm disarm)"
            )
        if code == _NOT_FOUND and "lease" in text:
            return LeaseGone(text)
        if code == _OUT_OF_RANGE and "compacted" in text:
            return Compacted(text)
        if code in _REFUSALS or "larger than max" in text:
            return Refused(code, f"{self._place.shown} refuses: {text}")
        return Unavailable(f"{self._place.shown} failed: {text}")

    # -- connection -------------------------------------------------------------------
    def _is_down(self) -> bool:
        return time.monotonic() - self._failed_at < RETRY_SECONDS

    def _connected(self) -> http.client.HTTPConnection:
        connection = self._connection
        if connection is None or not _is_open(connection.sock):
            if self._is_down():
                raise Unavailable(self._failure)
            connection = self._connect_to_any()
        if self._place.user is not None and self._token is None:
            self._token = self._log_in(connection, self._place.user)
        return connection

    def _connect_to_any(self) -> http.client.HTTPConnection:
        errors = []
        for _ in self._place.endpoints:
            try:
                return self._connect()
            except (OSError, http.client.HTTPException) as error:
                errors.append(_reason(error))
                self._next()
        self._failed_at = time.monotonic()
        self._failure = f"cannot reach {self._place.shown}: {'; '.join(dict.fromkeys(errors))}"
        raise Unavailable(self._failure)

    def _connect(self) -> http.client.HTTPConnection:
        self.close()
        host, port = self._place.endpoints[self._at]
        # A member that is a black hole leaves time for the others.
        wait = self._patience / (len(self._place.endpoints) + 1)
        made = (
            http.client.HTTPConnection(host, port, timeout=wait)
            if self._place.tls is None
            else http.client.HTTPSConnection(host, port, timeout=wait, context=self._place.tls)
        )
        made.connect()
        made.sock.settimeout(self._patience)
        with self._guard:
            self._connection = made
        return made

    def _log_in(self, connection: http.client.HTTPConnection, user: str) -> str:
        """Return a token for the user, which requests carry; it ends after five minutes."""
        try:
            secret = read_secret(Path(self._place.password_file or ""), "store: password_file")
            password = secret.decode().rstrip("\n")
        except InvalidInput as error:
            raise Unavailable(str(error)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"cannot read the password of the store: {error}") from None
        words = {"name": user, "password": password}
        status, answer = self._exchange(connection, "auth/authenticate", words)
        if status != http.client.OK:
            text = _text(answer.get("message") or answer.get("error"))
            raise Unavailable(f"{self._place.shown} refuses the user {user}: {text}")
        return str(answer["token"])

    def _next(self) -> None:
        """Go on with another member."""
        self.close()
        self._token = None
        self._at = (self._at + 1) % len(self._place.endpoints)

    def interrupt(self) -> None:
        """End what waits for a member, which may not answer at all. Called in another thread."""
        with self._guard:
            if self._connection is not None and self._connection.sock is not None:
                with suppress(OSError):
                    self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the connection."""
        with self._guard:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()


def _is_open(sock: socket.socket | None) -> bool:
    """Whether the other side has not closed an idle connection. Below TLS, it may seem open."""
    if sock is None:
        return False
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(sock, select.POLLIN)
    try:
        return not poll.poll(0) or bool(socket.socket.recv(sock, 1, socket.MSG_PEEK))
    except OSError:
        return False


def _text(error: object) -> str:
    """Return what a member says, on one line."""
    return " ".join(str(error).split())[:300]


def _reason(error: Exception) -> str:
    return _text(str(error) or type(error).__name__)
