"""Version lines."""

from __future__ import annotations

import pytest

from tele.errors import ProtocolError
from tele.wire.version import LINE_LIMIT, PREAMBLE_LIMIT, take_version


def test_lines() -> None:
    """A line may end with CR LF or LF; what follows is not taken."""
    assert take_version(b"SSH-2.0-x y\r\nrest", False) == (b"SSH-2.0-x y", 13)
    assert take_version(b"SSH-2.0-x\nrest", False) == (b"SSH-2.0-x", 10)


@pytest.mark.parametrize("data", [b"", b"S", b"SSH-", b"SSH-2.0-abc"])
def test_incomplete_lines_wait(data: bytes) -> None:
    """What may still become a version line is waited for."""
    assert take_version(data, False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"X",
        b"\r\n",
        b"\nSSH-2.0-x\r\n",
        b"SSH-1.5-x\r\n",
        b"SSH-1.99-x\r\n",
        b"SSH-2.0-\x00\r\n",
        b"SSH-2.0-\x1b[2J\r\n",
        b"SSH-2.0-\xff\r\n",
        b"SSH-2.0-" + b"x" * LINE_LIMIT,
        b"SSH-2.0-" + b"x" * LINE_LIMIT + b"\r\n",
    ],
)
def test_what_a_server_refuses(data: bytes) -> None:
    """A client's first line is a short printable 2.0 version, at once."""
    with pytest.raises(ProtocolError):
        take_version(data, False)


def test_what_a_client_skips() -> None:
    """A client skips lines before the server's version, and knows what 1.99 means."""
    data = b"hello\r\n\r\nSSH-1.99-x\r\n"
    assert take_version(data, True) == (b"SSH-1.99-x", len(data))
    assert take_version(b"hello\r\nSS", True) is None


def test_a_client_does_not_skip_for_ever() -> None:
    """The lines before the version are bounded, one by one and together."""
    with pytest.raises(ProtocolError):
        take_version(b"x" * PREAMBLE_LIMIT, True)
    with pytest.raises(ProtocolError):
        take_version(b"x\n" * PREAMBLE_LIMIT, True)
