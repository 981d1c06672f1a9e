"""Invariant: any reply of an egress proxy is a connection, "not yet", or a refusal, and bounded."""

from __future__ import annotations

from attempts import Dice, main
from tele.errors import Unreachable
from tele.outbound.egress import ProxyLogin, parse_proxy
from tele.outbound.proxy_handshakes import REPLY_LIMIT, handshake_with

VIAS = (parse_proxy("http://egress:1"), parse_proxy("socks5://egress:1"))
SEEDS = (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nrest", b"\5\2\1\0\5\0\0\1\0\0\0\0\0\0rest")


def check(data: bytes) -> None:
    """Hold the invariant for ``data``, in pieces of seven bytes."""
    for via in VIAS:
        handshake = handshake_with(via, "node.example", 22, ProxyLogin("user", "secret"))
        handshake.begin()
        given, problem = 0, ""
        try:
            while given < len(data) and not handshake.done:
                handshake.receive(data[given : given + 7])
                given += 7
        except Unreachable as error:
            problem = str(error)
        assert "secret" not in problem
        assert problem.isprintable()
        assert problem or data[:given].endswith(handshake.rest)
        assert problem or handshake.done or given < REPLY_LIMIT + 14


def attempt(dice: Dice) -> None:
    """A good reply with damage."""
    check(dice.damaged(dice.choice(SEEDS), 6))


if __name__ == "__main__":
    main(attempt)
