"""How does the command line call auth, without a reactor?

Invariants:

* Standard library only, besides our values: a command starts fast.
* Through a proxy of the network where ``HTTPS_PROXY`` says so
  (:mod:`tele.outbound.blocking_dial`): TLS is end to end. Never a redirect, never TLS below 1.3.
* Whatever fails is one :class:`tele.errors.TeleError` with a sentence for a person.
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
from tele.https.encoding import decode_response, encode_request
from tele.https.identity import ALPN, TlsFiles, TlsIdentity
from tele.model.addresses import split_address
from tele.model.api.operation import Nothing, Operation
from tele.outbound import blocking_dial as leaving

if TYPE_CHECKING:  # the whole table takes longer to import than all the rest
    from tele.model.api.members import ClusterInfo

Req = TypeVar("Req")
Res = TypeVar("Res")

CONNECT_TIMEOUT: Final = 10.0
#: A stream that says nothing for so long, not even a keepalive, is dead.
SILENCE: Final = 45.0
RESPONSE_LIMIT: Final = 64 * 1024 * 1024
_IDEMPOTENT: Final = frozenset({"GET", "PUT", "DELETE", "PATCH"})

#: What OpenSSL calls it when the other side does not take our certificate.
_OUR_CERTIFICATE: Final = (
    "CERTIFICATE_EXPIRED",
    "BAD_CERTIFICATE",
    "UNKNOWN_CA",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_REQUIRED",
)

_CHECK: Final = "\ncheck the address, and that it runs there"


class _Connection(http.client.HTTPConnection):
    """Connects to one address and expects another name there."""

    def __init__(self, address: str, context: ssl.SSLContext, server_name: str | None) -> None:
        host, port = split_address(address)
        super().__init__(host, port, timeout=CONNECT_TIMEOUT)
        self._context = context
        self._server_name = server_name

    def connect(self) -> None:
        raw = leaving.connect(self.host, self.port, CONNECT_TIMEOUT)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._context.wrap_socket(raw, server_hostname=self._server_name)
        except BaseException:
            raw.close()
            raise


class _LocalConnection(http.client.HTTPConnection):
    """Connects to auth's socket on this machine; the kernel says who we are."""

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
    """Auth at ``address``, for programs that may wait.

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
            if fresh or operation.method not in _IDEMPOTENT:
                raise self._found_out(error) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._found_out(error) from None
        # A connection that had been kept open was closed meanwhile.
        try:
            return self._perform(operation, request)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._found_out(error) from None

    def _found_out(self, error: Exception) -> TeleError:
        """Return why there was no answer, also by asking the proxy and auth about it."""
        if self._trusted is None:
            return _explained(self._address, error)
        return found_out(self._address, error, *self._trusted)

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
        body = response.read(RESPONSE_LIMIT + 1)
        if len(body) > RESPONSE_LIMIT:
            self.close()
            raise Unreachable(f"{self._address} sent more than {RESPONSE_LIMIT} bytes")
        if response.status >= 300:
            raise decode_error(response.status, body)
        value: Res = decode_response(operation, body)
        return value

    def follow(self, operation: Operation[Req, Res], request: Req) -> Iterator[Res]:
        """Yield each value of a streaming operation until the server ends it.

        Raises :class:`Unreachable` when the server has said nothing for 45 seconds.
        Uses a connection of its own, which is closed when the iterator is.
        """
        with closing(self._make()) as connection:
            try:
                response = _send(connection, operation, request)
                if response.status >= 300:
                    raise decode_error(response.status, response.read(RESPONSE_LIMIT))
                connection.sock.settimeout(SILENCE)
                while line := response.readline(RESPONSE_LIMIT):
                    if line == b"\n":
                        continue
                    if not line.endswith(b"\n"):
                        raise Unreachable(f"{self._address} stopped in the middle of a line")
                    yield read_line(operation, line)
            except (OSError, http.client.HTTPException) as problem:
                raise self._found_out(problem) from None


def _send(
    connection: http.client.HTTPConnection, operation: Operation[Any, Any], request: Any
) -> http.client.HTTPResponse:
    encoded = encode_request(operation, request)
    headers = {"Host": "auth", "Accept-Encoding": "identity"}
    if encoded.content_type:
        headers["Content-Type"] = encoded.content_type
    if connection.sock is None:
        connection.connect()
    connection.sock.settimeout(operation.timeout.total_seconds())
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


def found_out(
    address: str, error: Exception, trust: Sequence[str] = (), server_name: str = ""
) -> TeleError:
    """Return why there was no answer through the proxy at ``address``, in words for a person.

    A certificate that did not count may be one of another date, and a connection that was closed
    one to auth, which is away: who knows is asked.
    """
    problem = _explained(address, error)
    if isinstance(problem, AccessDenied | NotLoggedIn) and trust:
        return _wrong_clock(address, trust, server_name) or problem
    dropped = isinstance(error, ConnectionResetError | BrokenPipeError | TimeoutError)
    closed = isinstance(error, ssl.SSLError | http.client.BadStatusLine)
    if isinstance(problem, Unreachable) and (dropped or closed):
        from tele.https import probing

        said = probing.proxy_says(lambda context, _: _Connection(address, context, None), address)
        return said or problem
    return problem


def _explained(address: str, error: Exception) -> TeleError:
    text = f"the proxy {address} cannot be reached: it did not answer: "
    if address.startswith("/"):
        text = f"auth at {address} did not answer: "
    match error:
        case ssl.SSLCertVerificationError():
            return AccessDenied(
                f"{address} is not the auth server of this cluster "
                f"({error.verify_message}); if its CA was replaced, log in again with its pin",
                reason="server",
            )
        case ssl.SSLError() if any(name in str(error.reason) for name in _OUR_CERTIFICATE):
            return NotLoggedIn(f"{address} does not accept this certificate; log in again")
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
    """Ask a server that nobody vouches for who it is, and check it against ``pins``.

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
            raise found_out(address, error) from None
    if response.status >= 300:
        raise decode_error(response.status, body)
    info = decode_response(CLUSTER, body)
    if not pins:
        return unverified(info)
    trust = pinned(address, info, pins)
    with BlockingAuthority(address, None, trust, server_name(info.cluster)) as authority:
        return authority.perform(CLUSTER, Nothing())
