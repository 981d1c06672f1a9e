"""Invariant: a reader of transfers never raises, and tells no SHA-256 but the right one.

Streams of SFTP and of scp, damaged and in any pieces.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from attempts import Dice, main
from tele.model.session import Launched
from tele.model.transfer import Transfer
from tele.spawner.sftp_fields import BadPacket
from tele.spawner.sftp_server import Server
from tele.transfers.choosing import observer_of

CONTENT = b"content of a file\n" * 20


def string(data: bytes) -> bytes:
    """Return length and bytes."""
    return struct.pack(">I", len(data)) + data


def check(told: list[Transfer], broken: list[str]) -> None:
    """Hold the invariant for what was reported."""
    assert len(broken) <= 1
    for transfer in told:
        assert not (transfer.sha256 and transfer.unhashed)
        assert len(transfer.path) <= 4 * 4096 + 40


def sftp_streams(dice: Dice, folder: str) -> tuple[list[Transfer], list[str]]:
    """A client that does anything, and the node's own server.

    What is told of a file that was opened once is compared with the file, as it is then.
    """
    told: list[Transfer] = []
    broken: list[str] = []
    opened: Counter[bytes] = Counter()

    def report(transfer: Transfer) -> None:
        told.append(transfer)
        if transfer.sha256 and opened[os.fsencode(transfer.path)] == 1:
            content = Path(transfer.path).read_bytes()
            if transfer.op == "read":
                content = content[: transfer.bytes]
            assert transfer.sha256 == hashlib.sha256(content).hexdigest(), transfer

    observer = observer_of(Launched("subsystem", b"sftp", files=True), report, broken.append)
    server = Server(lambda reply: pieces(dice, observer.output, reply))
    handles = [string(struct.pack(">I", number)) for number in range(1, 4)]
    names = [string(os.fsencode(f"{folder}/{number}")) for number in range(2)]
    waiting: list[bytes] = []  # a client need not wait for replies
    try:
        packet = b"\1\0\0\0\3"
        for number in range(dice.randint(1, 25)):
            pieces(dice, observer.input, string(packet))
            waiting.append(packet)
            if dice.random() < 0.5:
                serve(server, waiting)
            handle, name = dice.choice(handles), dice.choice(names)
            offset = dice.choice((0, 0, 18, 36, 100))
            size = dice.choice((18, 18, 36, 0))
            flags = dice.choice((1, 2 | 8 | 16, 2 | 8, 3 | 8, 2 | 4 | 8))
            if dice.random() < 0.1:
                opened[name[4:]] += 1
                for packet in new_file(name, server._next + 1, number + 100):
                    pieces(dice, observer.input, string(packet))
                    waiting.append(packet)
                serve(server, waiting)
            kind, rest = dice.choice((
                (3, name + struct.pack(">II", flags, 0)),
                (4, handle),
                (5, handle + struct.pack(">QI", offset, size)),
                (6, handle + struct.pack(">Q", offset) + string(CONTENT[offset : offset + size])),
                (10, handle + struct.pack(">IQ", 1, dice.choice((0, offset, offset + size)))),
                (17, name),
            ))  # fmt: skip
            opened[name[4:]] += (kind == 3) * (1 if flags & 3 != 3 else 2)
            request = struct.pack(">I", number if dice.random() < 0.8 else 1)
            packet = bytes((kind,)) + request + rest
            if dice.random() < 0.05:
                packet = packet[:5] + dice.damaged(packet[5:])
                if kind == 3:  # nothing outside of the folder
                    packet = bytes((4,)) + packet[1:]
                opened.update(dict.fromkeys((each[4:] for each in names), 2))
        serve(server, waiting)
    except BadPacket:
        pass
    finally:
        server.close()
        observer.ended("ok")
    return told, broken


def new_file(name: bytes, handle: int, number: int) -> list[bytes]:
    """Requests that write a new file, which the server opens as ``handle``."""
    named = string(struct.pack(">I", handle))
    return [
        bytes((kind,)) + struct.pack(">I", number + at) + rest
        for at, (kind, rest) in enumerate((
            (3, name + struct.pack(">II", 2 | 8 | 16, 0)),
            (6, named + bytes(8) + string(CONTENT)),
            (4, named),
        ))
    ]  # fmt: skip


def serve(server: Server, waiting: list[bytes]) -> None:
    """Serve all requests that wait."""
    while waiting:
        server.received(waiting.pop(0))


def pieces(dice: Dice, take: Callable[[memoryview], None], data: bytes) -> None:
    """Pass ``data`` on in pieces."""
    at = 0
    while at < len(data):
        size = dice.choice((1, 4, 9, 13, 1000, len(data)))
        take(memoryview(data)[at : at + size])
        at += size


def scp_streams(dice: Dice) -> tuple[list[Transfer], list[str]]:
    """A transfer by scp, either way, damaged."""
    told: list[Transfer] = []
    broken: list[str] = []
    observer = observer_of(Launched("exec", b"scp -t x"), told.append, broken.append)
    size = dice.randint(0, 50)
    lines = [b"D0755 0 d\n", b"C0644 %d f\n" % size, CONTENT[:size] + b"\0", b"E\n", b"T1 0 1 0\n"]
    sides: list[Callable[[memoryview], None]] = [observer.input, observer.output]
    if dice.random() < 0.5:
        sides.reverse()
    pieces(dice, sides[1], b"\0")
    for line in lines:
        pieces(dice, sides[0], dice.damaged(line, 1))
        pieces(dice, sides[1], dice.choice((b"\0", b"\0", b"\0", b"\1no\n", b"\2", b"hello")))
    observer.ended("ok")
    return told, broken


def attempt(dice: Dice) -> None:
    """Streams of one protocol, and what was told of them."""
    if dice.random() < 0.5:
        check(*scp_streams(dice))
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "0").write_bytes(CONTENT)
        check(*sftp_streams(dice, folder))


if __name__ == "__main__":
    main(attempt)
