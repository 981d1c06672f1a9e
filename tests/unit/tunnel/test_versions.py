"""Which side is to be upgraded."""

from __future__ import annotations

import pytest

from tele.conch.transport.transport import Transport
from tele.tunnel.versions import advice


@pytest.mark.parametrize(
    ("theirs", "ours", "older"),
    [
        ("0.1.0", "0.2.0", "the node"),
        ("0.2.0", "0.1.0", "this proxy"),
        ("0.10.0", "0.9.1", "this proxy"),
        ("0.9", "0.9.1", "the node"),
        ("0.1.0", "0.2.0.dev1+g1234", "the node"),
    ],
)
def test_the_older_side_is_named(theirs: str, ours: str, older: str) -> None:
    """By numbers, not by text."""
    line = f"SSH-2.0-OpenSSH_tele_{theirs}".encode()
    shown = ours.partition("+")[0]
    assert advice("node", line, "proxy", ours) == (
        f": the node has version {theirs}, this proxy has {shown}; upgrade {older}"
    )


@pytest.mark.parametrize(
    "line", [b"", b"SSH-2.0-OpenSSH_9.9", b"SSH-2.0-OpenSSH_tele_", b"SSH-2.0-OpenSSH_tele_\x1b[2J"]
)
def test_without_a_version_there_is_no_advice(line: bytes) -> None:
    """What a peer says that is no version is not repeated (attack)."""
    assert advice("node", line, "proxy", "1.0") == ""


def test_one_version_needs_no_upgrade() -> None:
    """The line that our transports send is understood."""
    assert advice("node", Transport.ourVersionString, "proxy") == ""
    assert "upgrade the node" in advice("node", Transport.ourVersionString, "proxy", "999.0")
