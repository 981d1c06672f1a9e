"""The pages' own SSH client, without a browser, against OpenSSH's sshd and a server of ours.

One run of Node.js (``web_core/ssh.ts``) logs in to all servers and checks all certificates; each
test looks at a part of what came of it.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from pages_bundle import bundle
from tele.certs.issue import (
    HostCertificateRequest,
    UserCertificateRequest,
    issue_host,
    issue_user,
)
from tele.certs.keys import PrivateKey
from tele.model.identity import HostRole
from test_client_sshd import LOGIN, SSHD, Sshd, sshd
from test_engine_clients import Server, start, stop

MEGABYTE: Final = 1 << 20
NOW: Final = datetime.now(UTC)
#: The client has all of this before its window is shut (``WINDOW`` in ``connection.ts``).
WINDOW: Final = MEGABYTE
#: Which byte of what the server sends is changed: in its version, its lists, its reply, its first
#: encrypted messages.
CHANGED: Final = (5, 12, 60, 300, 900, 1300, 1500, 1700, 1900)
#: Kinds of host keys, and what else these servers have.
KINDS: Final = {
    "ssh-ed25519": ("RekeyLimit 1M",),
    "ssh-rsa": ("KexAlgorithms ecdh-sha2-nistp256", "Ciphers aes128-gcm@openssh.com"),
    "ecdsa-sha2-nistp256": (),
}

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not installed")


@contextmanager
def changing(port: int, at: int) -> Iterator[int]:
    """A proxy that was taken over, for one connection: it changes the byte ``at`` of what the
    server sends. Yields its port.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(60)

    def copy(source: socket.socket, target: socket.socket, changed: int) -> None:
        sent = 0
        with suppress(OSError):
            while data := bytearray(source.recv(65536)):
                if sent <= changed < sent + len(data):
                    data[changed - sent] ^= 1
                sent += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError), ExitStack() as stack:
            client = stack.enter_context(listening.accept()[0])
            server = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            other = threading.Thread(target=copy, args=(client, server, -1))
            other.start()
            copy(server, client, at)
            other.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()
        thread.join()


def certificates() -> dict[str, dict[str, Any]]:
    """Certificates of hosts, by what is wrong with them."""
    hosts, host = PrivateKey.generate(), PrivateKey.generate()
    request = HostCertificateRequest("h-1", "web1", "interop", HostRole.NODE)

    def issued(
        signer: PrivateKey = hosts, at: datetime = NOW, key: PrivateKey = host, **changed: Any
    ) -> bytes:
        return issue_host(signer, key.public.blob, evolve(request, **changed), at, os.urandom).blob

    user = UserCertificateRequest("web1", "interop", ("h-1.interop",), (), "s", timedelta(hours=1))
    ecdsa = PrivateKey.generate("ecdsa-sha2-nistp256")
    good = issued()
    later = NOW + timedelta(days=2)
    blobs = {
        "good": good,
        "P-256 signs": issued(ecdsa),
        "other CA": issued(PrivateKey.generate()),
        "other host": issued(host_id="h-2", name="web2"),
        "other cluster": issued(cluster="elsewhere"),
        "of a user": issue_user(hosts, host.public.blob, user, NOW, os.urandom).blob,
        "expired": issued(at=NOW - timedelta(days=3), lifetime=timedelta(days=1)),
        "not yet": issued(at=later),
        "other kind": issued(key=ecdsa),
        "plain key": host.public.blob,
        "changed": good[:80] + bytes((good[80] ^ 1,)) + good[81:],
        "changed signature": good[:-1] + bytes((good[-1] ^ 1,)),
        "cut": good[:-10],
        "longer": good + b"\0",
        "empty": b"",
    }
    trust = {"name": "h-1.interop", "authorities": [hosts.public.line, ecdsa.public.line]}
    return {
        name: {
            "algorithm": "ssh-ed25519-cert-v01@openssh.com",
            "blob": base64.b64encode(blob).decode(),
            "trust": trust,
            "now": int(NOW.timestamp()),
        }
        for name, blob in blobs.items()
    }


def pkcs8(key: Any) -> str:
    return base64.b64encode(
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    ).decode()


MINE: Final = PrivateKey.generate("ecdsa-sha2-nistp256")


def at_sshd(server: Sshd, name: str = "h-1.interop", hosts: str = "") -> dict[str, Any]:
    """How to log in to ``server``, which has to be ``name``."""
    request = UserCertificateRequest(
        "alice", "interop", (LOGIN, "another"), ("dev",), "s-1", timedelta(hours=1)
    )
    made = issue_user(server.users, MINE.public.blob, request, NOW, os.urandom)
    private = load_ssh_private_key(MINE.to_openssh(), None)
    return {
        "port": server.port, "login": LOGIN, "key": pkcs8(private), "certificate": made.line,
        "trust": {"name": name, "authorities": [hosts or server.hosts.public.line]},
    }  # fmt: skip


def at_engine(server: Server, **named: str) -> dict[str, Any]:
    """How to log in to a server of ours."""
    folder = server.folder
    return {
        "port": server.port, "login": "alice",
        "key": pkcs8(load_ssh_private_key((folder / "ecdsa").read_bytes(), None)),
        "certificate": (folder / "ecdsa-cert.pub").read_text().strip(),
        "trust": {
            "name": "h-1.engine",
            "authorities": [(folder / "hosts_authority.pub").read_text().strip()],
        },
        **named,
    }  # fmt: skip


def cases(usual: Sshd, others: dict[str, Sshd], engine: Server) -> dict[str, dict[str, Any]]:
    """All that is done with the servers."""
    give, take = f"head -c {3 * MEGABYTE} /dev/zero", {"sent": 2 * MEGABYTE}
    return {
        "command": {**at_sshd(usual), "command": "echo out; echo err >&2; exit 3"},
        "signal": {**at_sshd(usual), "command": "kill -TERM $$"},
        "download": {**at_sshd(usual), "command": give},
        "upload": {**at_sshd(usual), "command": "wc -c", **take},
        "rekeys": {**at_sshd(usual), "command": give, "rekey": MEGABYTE},
        "rekeys, upload": {**at_sshd(usual), "command": "wc -c", "rekey": MEGABYTE, **take},
        "slow": {**at_sshd(usual), "command": give, "slow": True},
        "ours": {**at_engine(engine), "command": f"give {3 * MEGABYTE}"},
        "ours, upload": {**at_engine(engine), "command": "count", **take},
        "ours, rekeys": {
            **at_engine(engine), "command": f"give {3 * MEGABYTE}", "rekey": MEGABYTE
        },
        "other login": at_sshd(usual) | {"login": "third"},
        "other name": at_sshd(usual, "h-2.interop"),
        "other CA": at_sshd(usual, hosts=PrivateKey.generate().public.line),
        **{name: at_sshd(server) for name, server in others.items()},
    }  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of it, done once."""
    folder = tmp_path_factory.mktemp("ssh")
    program = bundle("ssh", folder)
    with ExitStack() as stack:
        made = {}
        for kind, lines in KINDS.items():
            (folder / kind).mkdir()
            made[kind] = stack.enter_context(sshd(folder / kind, *lines, host_kind=kind))
        (folder / "engine").mkdir()
        engine = start(folder / "engine", REKEY_OCTETS=str(MEGABYTE))
        stack.callback(stop, engine)
        usual = made.pop("ssh-ed25519")
        ports = {at: stack.enter_context(changing(usual.port, at)) for at in CHANGED}
        changed = {f"changed {at}": at_sshd(usual) | {"port": port} for at, port in ports.items()}
        usually = {"command": "echo done", "sent": 0, "rekey": 1 << 30, "slow": False}
        wanted = {
            kind: [{"name": name, **usually, **case} for name, case in each.items()]
            for kind, each in (("cases", cases(usual, made, engine)), ("changed", changed))
        } | {
            "certificates": list(certificates().values()),
        }
        done = subprocess.run(
            ["node", str(program)], input=json.dumps(wanted), capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("server", ["ssh-rsa", "ecdsa-sha2-nistp256"])
def test_hosts_with_other_keys(seen: dict[str, Any], server: str) -> None:
    """RSA with P-256 and AES-128, and ECDSA: a host proves itself with the key that it has."""
    assert seen[server]["first"] == "done\n"


def test_a_command(seen: dict[str, Any]) -> None:
    """Output, errors and the exit status arrive apart; so does a signal."""
    found = seen["command"]
    assert found["first"] == "out\n"
    assert found["errors"].endswith("err\n")
    assert found["exit"] == {"status": 3, "signal": ""}
    assert seen["signal"]["exit"] == {"status": None, "signal": "TERM"}


@pytest.mark.parametrize("case", ["download", "rekeys", "ours", "ours, rekeys"])
def test_bytes_arrive_whole(seen: dict[str, Any], case: str) -> None:
    """More than the window, also while keys are exchanged by either side."""
    assert seen[case]["received"] == 3 * MEGABYTE


@pytest.mark.parametrize("case", ["upload", "rekeys, upload", "ours, upload"])
def test_bytes_are_sent_whole(seen: dict[str, Any], case: str) -> None:
    """What is sent while keys are exchanged waits, and is not lost."""
    assert seen[case]["first"].strip() == str(2 * MEGABYTE)


@pytest.mark.parametrize(
    ("case", "least"), [("rekeys", 3), ("rekeys, upload", 2), ("ours, rekeys", 3), ("upload", 2)]
)
def test_keys_are_exchanged_again(seen: dict[str, Any], case: str, least: int) -> None:
    """When the client wants it, and when the server does."""
    assert seen[f"{case}: exchanges"] >= least


def test_what_is_not_read_is_bounded(seen: dict[str, Any]) -> None:
    """A tab that does not read gets a window of data, and all of it later (attack)."""
    found = seen["slow"]
    assert 0 < found["kept"] <= WINDOW
    assert found["received"] == 3 * MEGABYTE


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("other login", "the log-in as third was refused"),
        ("other name", "it is for h-1"),
        ("other CA", "its authority is not of this cluster"),
    ],
)
def test_refusals(seen: dict[str, Any], case: str, why: str) -> None:
    """Another host than the one that was asked for gets no log-in (attack)."""
    assert why in seen[case]["refused"]


@pytest.mark.parametrize("at", CHANGED)
def test_a_changed_byte_ends_the_connection(seen: dict[str, Any], at: int) -> None:
    """Wherever a proxy changes what it passes on (attack)."""
    assert "refused" in seen[f"changed {at}"]


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        ("good", ""),
        ("P-256 signs", ""),
        ("other CA", "its authority is not of this cluster"),
        ("other host", "it is for h-2"),
        ("other cluster", "it is for h-1.elsewhere, h-1"),
        ("of a user", "it is not that of a host"),
        ("expired", "it has expired"),
        ("not yet", "it is not valid yet"),
        ("other kind", "a key of another kind, or no certificate"),
        ("plain key", "a key of another kind, or no certificate"),
        ("changed", "its authority did not sign it"),
        ("changed signature", "its authority did not sign it"),
        ("cut", "cannot be read"),
        ("longer", "cannot be read"),
        ("empty", "cannot be read"),
    ],
)
def test_certificates_of_hosts(seen: dict[str, Any], certificate: str, why: str) -> None:
    """Only the cluster's CA, for this host, now, makes a host this one (attack)."""
    found = seen["checked"][list(certificates()).index(certificate)]
    assert (why in found) if why else ("h-1.interop" in found and "refused" not in found)


def test_logins_in_a_certificate(seen: dict[str, Any]) -> None:
    """The page offers the accounts that the certificate is for."""
    assert seen["logins"] == [LOGIN, "another"]
