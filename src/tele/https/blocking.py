"""How does the command line call auth, without a reactor?

Invariants:

* Standard library only, besides our values: a command starts fast.
* Through the network's proxy if ``HTTPS_PROXY`` names one
  (:mod:`tele.outbound.blocking_dial`): TLS is end to end. Never a redirect, never TLS below 1.3.
* Whatever fails is one :class:`tele.errors.TeleError` with a sentence for the user.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tele.errors import AccessDenied, InvalidInput, NotLoggedIn, TeleError, Unreachable
from tele.https.api_errors import decode_error, read_line
from tele.https.call_rules import (
    BODY_LIMIT,
    CONNECT_TIMEOUT,
    STREAM_TIMEOUT,
    certificate_refused,
    check_size,
    cut_off,
    headers_of,
    is_error,
    may_repeat,
    other_server,
    read_response,
    refuses_certificate,
    timeout_of,
)
from tele.https.encoding import encode_request
from tele.https.identity import ALPN, TlsFiles, TlsIdentity
from tele.model.addresses import Address
from tele.model.api.operation import Nothing, Operation
from tele.outbound import blocking_dial

if TYPE_CHECKING:  # the whole table takes longer to import than all the rest
    from tele.model.api.members import ClusterInfo

Req = TypeVar("Req")
Res = TypeVar("Res")

_CHECK: Final = "\ncheck the address, and that it runs there"


class _Connection(http.client.HTTPConnection):
    """Connects to one address and expects another name there."""

    def __init__(self, address: str, context: ssl.SSLContext, server_name: str | None) -> None:
        host, port = Address.parse(address)
        super().__init__(host, port, timeout=CONNECT_TIMEOUT)
        self._context = context
        self._server_name = server_name

    def connect(self) -> None:
        raw = blocking_dial.connect(self.host, self.port, CONNECT_TIMEOUT)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._context.wrap_socket(raw, server_hostname=self._server_name)
        except BaseException:
            raw.close()
            raise


class _LocalConnection(http.client.HTTPConnection):
    """Connects to auth's socket on this machine; the kernel tells auth our account."""

    def __init__(self, path: str) -> None:
        super().__init__("local", timeout=CONNECT_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            raw.settimeout(self.timeout)
            raw.connect(self._path)
        except BaseException:
            raw.close()
            raise
        self.sock = raw


class BlockingAuthority:
    """Auth at ``address``, for programs that may block.

    ``trust`` are the host authority's certificates (PEM) and ``server_name`` is
    ``auth.<cluster>``; ``identity`` None calls only what is open to anyone. Not to
    be shared between threads. Use as a context manager, or ``close()`` it.
    """

    def __init__(
        self,
        address: str,
        identity: TlsFiles | TlsIdentity | None,
        trust: Sequence[str],
        server_name: str,
    ) -> None:
        context = _context(identity)
        _trust(context, trust)
        self._address = address
        self._trusted: tuple[tuple[str, ...], str] | None = (tuple(trust), server_name)
        self._make: Callable[[], http.client.HTTPConnection] = lambda: _Connection(
            address, context, server_name
        )
        self._connection: http.client.HTTPConnection | None = None

    @classmethod
    def local(cls, path: str) -> BlockingAuthority:
        """Return auth at its socket on this machine, for the account that runs it and root."""
        made = cls.__new__(cls)
        made._address = path
        made._trusted = None
        made._make = lambda: _LocalConnection(path)
        made._connection = None
        return made

    def __enter__(self) -> BlockingAuthority:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def perform(self, operation: Operation[Req, Res], request: Req) -> Res:
        """Return the response; raises a :class:`tele.errors.TeleError`."""
        fresh = self._connection is None
        try:
            return self._perform(operation, request)
        except (ConnectionError, http.client.BadStatusLine) as error:
            self.close()
            if fresh or not may_repeat(operation):
                raise self._explain(error) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._explain(error) from None
        # The idle connection was closed meanwhile.
        try:
            return self._perform(operation, request)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._explain(error) from None

    def _explain(self, error: Exception) -> TeleError:
        """Return why there was no response, also by asking the proxy and auth."""
        if self._trusted is None:
            return _explained(self._address, error)
        return explain(self._address, error, *self._trusted)

    def wrong_clock(self) -> TeleError | None:
        """Return how this machine's clock differs from auth's, if it does."""
        if self._trusted is None:
            return None
        return _wrong_clock(self._address, *self._trusted)

    def _perform(self, operation: Operation[Req, Res], request: Req) -> Res:
        if self._connection is None:
            self._connection = self._make()
        connection = self._connection
        response = _send(connection, operation, request)
        body = response.read(BODY_LIMIT + 1)
        if len(body) > BODY_LIMIT:
            self.close()
        check_size(self._address, len(body))
        value: Res = read_response(operation, response.status, body)
        return value

    def follow(self, operation: Operation[Req, Res], request: Req) -> Iterator[Res]:
        """Yield each value of a streaming operation until the server ends it.

        Raises :class:`Unreachable` when the server has sent nothing for 45 seconds.
        Uses a connection of its own, which is closed when the iterator is.
        """
        with closing(self._make()) as connection:
            try:
                response = _send(connection, operation, request)
                if is_error(response.status):
                    raise decode_error(response.status, response.read(BODY_LIMIT))
                connection.sock.settimeout(STREAM_TIMEOUT)
                while line := response.readline(BODY_LIMIT):
                    if line == b"\n":
                        continue
                    if not line.endswith(b"\n"):
                        raise cut_off(self._address)
                    yield read_line(operation, line)
            except (OSError, http.client.HTTPException) as problem:
                raise self._explain(problem) from None


def _send(
    connection: http.client.HTTPConnection, operation: Operation[Any, Any], request: Any
) -> http.client.HTTPResponse:
    encoded = encode_request(operation, request)
    headers = dict(headers_of(encoded))
    if connection.sock is None:
        connection.connect()
    connection.sock.settimeout(timeout_of(operation))
    # Without a body the end of the head is the end of the request: its failure is one.
    try:
        connection.request(operation.method, encoded.target, encoded.body or None, headers)
    except ConnectionError:
        # A request that is refused by its head is answered, and closed before its body came.
        if not encoded.body:
            raise
    return connection.getresponse()


def _context(identity: TlsFiles | TlsIdentity | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(list(ALPN))
    try:
        if isinstance(identity, TlsFiles):
            context.load_cert_chain(identity.certificate, identity.key, password=_no_password)
        elif identity is not None:
            _load(context, identity)
    except FileNotFoundError:
        raise NotLoggedIn("there is no certificate yet; log in first") from None
    except (ssl.SSLError, ValueError):
        raise NotLoggedIn("the certificate and its key cannot be read; log in again") from None
    return context


def _trust(context: ssl.SSLContext, trust: Sequence[str]) -> None:
    try:
        context.load_verify_locations(cadata="\n".join(trust))
    except (ssl.SSLError, ValueError):
        raise InvalidInput("the cluster's CA certificates cannot be read") from None


def _no_password() -> str:
    # Otherwise OpenSSL asks for one on the terminal.
    raise ValueError("the key is encrypted")


def _load(context: ssl.SSLContext, identity: TlsIdentity) -> None:
    # The standard library reads files only. This one has no name and no disk.
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(identity.key + b"\n" + identity.certificate.encode("ascii"))
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    finally:
        os.close(descriptor)


def _wrong_clock(address: str, trust: Sequence[str], server_name: str) -> TeleError | None:
    from tele.https import probing

    context = _context(None)
    _trust(context, trust)
    return probing.wrong_clock(
        lambda context, name: _Connection(address, context, name), context, server_name
    )


def explain(
    address: str, error: Exception, trust: Sequence[str] = (), server_name: str = ""
) -> TeleError:
    """Return why there was no response through the proxy at ``address``, as an error for the user.

    A certificate that was refused may be one of another date, and a connection that was closed may
    mean that auth is away: auth's clock, or the proxy, is asked.
    """
    problem = _explained(address, error)
    if isinstance(problem, AccessDenied | NotLoggedIn) and trust:
        return _wrong_clock(address, trust, server_name) or problem
    dropped = isinstance(error, ConnectionResetError | BrokenPipeError | TimeoutError)
    closed = isinstance(error, ssl.SSLError | http.client.BadStatusLine)
    if isinstance(problem, Unreachable) and (dropped or closed):
        from tele.https import probing

        found = probing.proxy_status(
            lambda context, _: _Connection(address, context, None), address
        )
        return found or problem
    return problem


def _explained(address: str, error: Exception) -> TeleError:
    text = f"the proxy {address} cannot be reached: it did not answer: "
    if address.startswith("/"):
        text = f"auth at {address} did not answer: "
    match error:
        case ssl.SSLCertVerificationError():
            return other_server(
                address,
                f" ({error.verify_message}); if its CA was replaced, log in again with its pin",
            )
        case ssl.SSLError() if refuses_certificate(str(error.reason)):
            return certificate_refused(address)
        case ssl.SSLError():
            return Unreachable(f"{text}TLS failed ({error.reason or 'connection closed'})")
        case TimeoutError():
            return Unreachable(f"{text}no answer in time{_CHECK}")
        case http.client.HTTPException():
            return Unreachable(f"{text}it does not speak HTTP as auth does")
        case socket.gaierror():
            return Unreachable(f"{text}there is no such name{_CHECK}")
        case OSError():
            why = error.strerror or "the connection was closed"
            return Unreachable(f"{text}{why}{_CHECK}")
    return Unreachable(text + type(error).__name__ + _CHECK)


def fetch_cluster_blocking(address: str, pins: Sequence[str]) -> ClusterInfo:
    """Ask an unverified server for its cluster, and check the answer against ``pins``.

    With pins, all of the answer is verified: see :mod:`tele.https.pinning`.
    Without, it is an :class:`~tele.https.pinning.UnverifiedCluster`.
    """
    # cryptography is slow to import, and only the first contact needs it here.
    from tele.https.pinning import pinned, server_name, unverified
    from tele.model.api.members import CLUSTER

    context = _context(None)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with closing(_Connection(address, context, None)) as connection:
        try:
            response = _send(connection, CLUSTER, Nothing())
            body = response.read(CLUSTER.limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise explain(address, error) from None
    info: ClusterInfo = read_response(CLUSTER, response.status, body)
    if not pins:
        return unverified(info)
    trust = pinned(address, info, pins)
    with BlockingAuthority(address, None, trust, server_name(info.cluster)) as authority:
        return authority.perform(CLUSTER, Nothing())
