"""Invariant: any reply of an egress proxy gives a connection, None, or an error, and is bounded."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import Unreachable
from tele.outbound.egress import Login, read_via
from tele.outbound.proxy_handshakes import ANSWER_LIMIT, ask

VIAS = (read_via("http://gate:1"), read_via("socks5://gate:1"))
SEEDS = (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest", b"\5\2\1\0\5\0\0\1\0\0\0\0\0\0rest")


def check(data: bytes) -> None:
    """Hold the invariant for ``data``, in pieces of seven bytes."""
    for via in VIAS:
        asking = ask(via, "node.example", 22, Login("user", "secret"))
        asking.begin()
        given, problem = 0, ""
        try:
            while given < len(data) and not asking.done:
                asking.receive(data[given : given + 7])
                given += 7
        except Unreachable as error:
            problem = str(error)
        assert "secret" not in problem
        assert problem.isprintable()
        assert problem or data[:given].endswith(asking.rest)
        assert problem or asking.done or given < ANSWER_LIMIT + 14


def attempt(dice: Dice) -> None:
    """A good answer with damage."""
    check(dice.damaged(dice.choice(SEEDS), 6))


if __name__ == "__main__":
    main(attempt)
