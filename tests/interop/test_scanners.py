"""What scanners of SSH servers find: ssh-audit, ssh-keyscan."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tele._version import VERSION
from test_engine_clients import Server, start, stop

SECONDS = 120

#: Findings of ssh-audit that stay, and why.
KNOWN = {
    # Clients older than OpenSSH 9.9 have no hybrid method; those that have prefer it, as we do.
    "does not provide protection against post-quantum attacks": {
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it is by default."""
    running = start(tmp_path_factory.mktemp("scanned"))
    yield running
    stop(running)


@pytest.fixture
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that treats loopback as any other address."""
    running = start(tmp_path_factory.mktemp("strict"), STRICT="yes")
    yield running
    stop(running)


def audit(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("ssh-audit")
    return subprocess.run(
        [str(program), *arguments, "-p", str(server.port), "127.0.0.1"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_ssh_audit_finds_no_weak_algorithm(server: Server) -> None:
    """Only known findings fail or warn; no compression and no known vulnerability."""
    done = audit(server, "--json", "--skip-rate-test")
    found: dict[str, Any] = json.loads(done.stdout)
    offered = {kind: found[kind] for kind in ("kex", "key", "enc", "mac")}
    assert all(offered.values())
    held = [
        (entry["algorithm"], text)
        for entries in offered.values()
        for entry in entries
        for level in ("fail", "warn")
        for text in entry.get("notes", {}).get(level, ())
    ]
    assert [each for each in held if each[0] not in KNOWN.get(each[1], ())] == []
    assert found["compression"] == ["none"]
    assert found.get("cves", []) == []
    assert "kex-strict-s-v00@openssh.com" in {entry["algorithm"] for entry in offered["kex"]}


def read_greeting(server: Server) -> bytes:
    """Connect, read the version line, and disconnect; empty if the server refuses."""
    with socket.create_connection(("127.0.0.1", server.port), SECONDS) as connection:
        try:
            return connection.recv(255)
        except ConnectionResetError:
            return b""


def test_a_scanner_is_shut_out(strict: Server) -> None:
    """Connections of one address are limited (DHEat); then a scan sees no algorithms."""
    assert all(read_greeting(strict).startswith(b"SSH-2.0-OpenSSH_tele") for _ in range(10))
    in_a_row = 0  # a single one may have been dropped because of other connections
    for _ in range(2000):
        in_a_row = 0 if read_greeting(strict) else in_a_row + 1
        if in_a_row == 20:
            break
    assert in_a_row == 20
    scan = audit(strict, "--skip-rate-test", "--json")
    assert "curve25519" not in scan.stdout
    assert "Traceback" not in scan.stdout + scan.stderr


@pytest.mark.skipif(shutil.which("ssh-keyscan") is None, reason="OpenSSH is not installed")
def test_ssh_keyscan(server: Server) -> None:
    """It gets the host's key, and with ``-c`` its certificate, and nothing but our version."""
    plain, certificate = (
        subprocess.run(
            ["ssh-keyscan", "-T", "60", *arguments, "-p", str(server.port), "127.0.0.1"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        for arguments in ((), ("-c",))
    )
    known = (server.folder / "known_keys").read_text().split()
    assert plain.stdout.split()[1:3] == known[1:3]
    assert "ssh-ed25519-cert-v01@openssh.com" in certificate.stdout
    banners = {line.split(" ", 2)[2] for line in plain.stderr.splitlines() if " SSH-" in line}
    assert banners == {f"SSH-2.0-OpenSSH_tele_{VERSION.partition('+')[0]}"}
