"""A peer that sends whatever a test wants, in SSH packets made by hand."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.testing import StringTransport

from tele.conch.client.transport import ClientIdentity
from tele.testing.ssh import Address, World
from tele.wire import numbers as n
from tele.wire.ciphers import CIPHERS, Secrets
from tele.wire.fields import Reader, boolean, string
from tele.wire.key_agreement import METHODS, exchange_hash, exchange_transcript
from tele.wire.negotiation import (
    EXT_INFO_CLIENT,
    STRICT_CLIENT,
    KexInit,
    make_kexinit,
    negotiate,
    parse_kexinit,
)
from tele.wire.packets import OVERHEAD, Opener, PlainOpener, PlainSealer, Sealer

VERSION = b"SSH-2.0-attacker"
PADDING = bytes(64)


@define
class Attacker:
    """The client's end at ``host``, against a server whose transport is in memory.

    ``received`` are the server's messages so far, with their numbers.
    """

    world: World
    strict: bool = True
    method: bytes = b"curve25519-sha256"
    host: str = "192.0.2.1"
    server: Any = field(init=False)
    transport: Any = field(init=False)
    sealer: Sealer = field(factory=PlainSealer, init=False)
    opener: Opener = field(init=False)
    received: list[bytes] = field(factory=list, init=False)
    session_id: bytes = field(default=b"", init=False)
    host_key: bytes = field(default=b"", init=False)
    _pending: bytes = field(default=b"", init=False)
    _line: bytes = field(default=b"", init=False)

    def __attrs_post_init__(self) -> None:
        self.server, self.transport = self.connect()
        self.opener = PlainOpener(1 << 20)

    def connect(self) -> tuple[Any, Any]:
        """Return a server's end and its transport."""
        address = Address(host=self.host)
        server: Any = self.world.factory.buildProtocol(address)
        transport = StringTransport(peerAddress=address)
        server.makeConnection(transport)
        return server, transport

    # -- bytes ------------------------------------------------------------------------
    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.server.dataReceived(data)

    def seal(self, *messages: bytes) -> bytes:
        """Return the packets of messages."""
        out = bytearray()
        for message in messages:
            buffer = memoryview(bytearray(len(message) + OVERHEAD))
            out += buffer[: self.sealer.seal(message, buffer, 0)]
        return bytes(out)

    def send(self, *messages: bytes) -> None:
        """Send messages in one segment."""
        self.raw(self.seal(*messages))

    def receive(self) -> list[bytes]:
        """Return the messages that came since the last call."""
        data = self._pending + self.transport.value()
        self.transport.clear()
        if not self._line:
            line, _, data = data.partition(b"\r\n")
            self._line = line
        fresh = []
        buffer = memoryview(bytearray(1 << 20))
        while taken := self.opener.open(memoryview(data), 0, len(data), buffer):
            data = data[taken:]
            fresh.append(bytes(buffer[1 : self.opener.payload_end]))
            if fresh[-1][0] == n.NEWKEYS and self._renewed is not None:
                self.opener, self._renewed = self._renewed, None
        self._pending = data
        self.received += fresh
        return fresh

    _renewed: Opener | None = field(default=None, init=False)

    @property
    def disconnected(self) -> bool:
        """Whether the server ended the connection."""
        return bool(self.transport.disconnecting)

    # -- key exchange -----------------------------------------------------------------
    def kexinit(self, **changes: Any) -> KexInit:
        """Our KEXINIT."""
        markers = (EXT_INFO_CLIENT, STRICT_CLIENT) if self.strict else (EXT_INFO_CLIENT,)
        return make_kexinit(
            changes.get("kex", (self.method, *markers)),
            changes.get("host_keys", (b"ssh-ed25519-cert-v01@openssh.com",)),
            bytes(16),
            changes.get("ciphers", CIPHERS),
        )

    def greet(self) -> None:
        """Send the version line."""
        self.raw(VERSION + b"\r\n")

    def exchange(self) -> None:
        """Exchange keys for the first time or again, and use them."""
        if not self.session_id:
            self.greet()
        ours = self.kexinit()
        self.send(ours.payload)
        theirs = parse_kexinit(next(m for m in self.receive() if m[0] == n.KEXINIT)[1:])
        agreement = negotiate(ours, theirs)
        initiation = METHODS[agreement.kex].initiate()
        self.send(bytes((n.KEX_INIT,)) + string(initiation.share))
        # Everything after the server's NEWKEYS is under keys that the reply leads to.
        data = self._pending + self.transport.value()
        self.transport.clear()
        buffer = memoryview(bytearray(1 << 20))
        taken = self.opener.open(memoryview(data), 0, len(data), buffer)
        reply = Reader(bytes(buffer[2 : self.opener.payload_end]))
        host_key, share, _ = reader_strings(reply, 3)
        shared = initiation.finish(share)
        transcript = exchange_transcript(
            client_version=VERSION,
            server_version=self._line,
            client_kexinit=ours.payload,
            server_kexinit=theirs.payload,
            host_key=host_key,
            client_share=initiation.share,
            server_share=share,
            secret=shared,
        )
        digest = exchange_hash(transcript)
        self.host_key = self.host_key or host_key
        self.session_id = self.session_id or digest
        secrets = Secrets(shared, digest, self.session_id)
        self.send(bytes((n.NEWKEYS,)))
        sequence = 0 if self.strict else self.sealer.sequence
        self.sealer = secrets.sealer(
            agreement.cipher_to_server, True, PADDING, sequence, agreement.mac_to_server
        )
        sequence = 0 if self.strict else self.opener.sequence + 1
        self._renewed = secrets.opener(
            agreement.cipher_to_client, False, 1 << 20, sequence, agreement.mac_to_client
        )
        self._pending = data[taken:]
        self.receive()

    # -- authentication ---------------------------------------------------------------
    def ask_service(self) -> None:
        """Ask for authentication."""
        self.send(bytes((n.SERVICE_REQUEST,)) + string(b"ssh-userauth"))
        self.receive()

    def login_request(self, identity: ClientIdentity | None = None) -> bytes:
        """A signed request that is good, or as good as ``identity`` is."""
        identity = identity or self.world.identity()
        body = identity.sign_request(self.session_id, b"ssh-connection")
        return bytes((n.USERAUTH_REQUEST,)) + body

    def query(self, algorithm: bytes, blob: bytes, login: bytes = b"root") -> bytes:
        """An unsigned question whether a key would do."""
        return request(login, b"publickey", boolean(False) + string(algorithm) + string(blob))

    def ready_to_login(self) -> None:
        """Be where authentication begins."""
        self.exchange()
        self.ask_service()

    def login(self) -> None:
        """Be where the connection is open."""
        self.ready_to_login()
        self.send(self.login_request())
        self.receive()


def request(login: bytes, method: bytes, rest: bytes = b"") -> bytes:
    """A USERAUTH_REQUEST."""
    head = string(login) + string(b"ssh-connection") + string(method)
    return bytes((n.USERAUTH_REQUEST,)) + head + rest


def reader_strings(reader: Reader, count: int) -> list[bytes]:
    """Return the next strings."""
    return [reader.string() for _ in range(count)]


def numbers(messages: list[bytes]) -> list[int]:
    """The numbers of messages."""
    return [message[0] for message in messages]
