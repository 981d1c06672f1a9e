"""Invariant: each packet has exactly one answer, or it ends the session with BadPacket.

Only requests that change nothing are tried, as the user who runs this.
"""

from __future__ import annotations

from attempts import Dice, main
from tele.spawner.sftp_fields import BadPacket
from tele.spawner.sftp_server import Server

#: Close, read, lstat, fstat, opendir, readdir, realpath, stat, readlink, and no such thing.
HARMLESS = (4, 5, 7, 8, 11, 12, 16, 17, 19, 0, 1, 2, 21, 99, 255)

#: A request of an extension, and the names of those that change what a path names.
EXTENDED = 200
CHANGING = tuple(
    len(name).to_bytes(4, "big") + name
    for name in (b"posix-rename@openssh.com", b"hardlink@openssh.com", b"lsetstat@openssh.com")
)


def check(packets: list[tuple[int, bytes]]) -> None:
    """Hold the invariant for packets of (type, what follows it)."""
    answers: list[bytes] = []
    server = Server(answers.append)
    server.received(b"\1\0\0\0\3")
    try:
        for kind, rest in packets:
            assert kind in HARMLESS or (kind == EXTENDED and not rest[4:].startswith(CHANGING))
            answers.clear()
            try:
                server.received(bytes((kind,)) + rest)
            except BadPacket:
                return
            (answer,) = answers
            assert int.from_bytes(answer[:4], "big") == len(answer) - 4
            assert answer[5:9] == rest[:4]
    finally:
        server.close()


SEEDS = [
    (16, b"\0\0\0\1\0\0\0\1."),
    (17, b"\0\0\0\2\0\0\0\4/etc"),
    (11, b"\0\0\0\3\0\0\0\4/usr"),
    (12, b"\0\0\0\4\0\0\0\4\0\0\0\1"),
    (5, b"\0\0\0\5\0\0\0\4\0\0\0\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    (200, b"\0\0\0\6\0\0\0\x0ehome-directory\0\0\0\4root"),
    (200, b"\0\0\0\7\0\0\0\x17expand-path@openssh.com\0\0\0\2~/"),
    (200, b"\0\0\0\x08\0\0\0\x12limits@openssh.com"),
    (
        200,
        b"\0\0\0\x09\0\0\0\x1ausers-groups-by-id@openssh.com\0\0\0\x08\0\0\0\0\xff\xff\xff\xff\0\0\0\4\0\0\0\5",
    ),
    (
        200,
        b"\0\0\0\x0a\0\0\0\x09copy-data\0\0\0\4\0\0\0\1"
        + bytes(16)
        + b"\0\0\0\4\0\0\0\2"
        + bytes(8),
    ),
]


def attempt(dice: Dice) -> None:
    """Requests, some with damage."""
    packets = []
    for _ in range(dice.randint(1, 12)):
        kind, rest = dice.choice(SEEDS)
        if dice.random() < 0.2:
            kind = dice.choice(HARMLESS)
        packets.append((kind, dice.damaged(rest)))
    check(packets)


if __name__ == "__main__":
    main(attempt)
