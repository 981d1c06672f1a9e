"""Which modules does an idle node have in memory? Those that it needs to serve, and no others.

A module that is needed once is imported where it is needed, if that is at the start. What a
login or a session needs is imported before there is any: then the disk may be full, and there may
be no descriptor left to open a file with.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

#: Modules that an idle node does not import, and why it does not need them.
NEVER: Final = {
    "automat": "the states of tunnels; clients reach this node directly",
    "click": "the command line's",
    "sqlite3": "the store of auth",
    "tele.auth": "another process",
    "tele.certs.issue": "auth issues",
    "tele.cli": "another program",
    "tele.https.serve": "auth and proxies serve HTTPS",
    "tele.proxy": "another process",
    "tele.store": "the store of auth",
    "tele.testing": "for tests",
    "tele.tunnel.agent": "clients reach this node directly",
    "twisted.application.internet": "keeps tunnels; clients reach this node directly",
    "twisted.web": "auth and proxies serve HTTPS",
}

#: Modules that a node imports before the first login, whatever they take.
EARLY: Final = frozenset((
    "tele.certs.check", "tele.conch.connection.connection", "tele.conch.forwarding.local",
    "tele.conch.server.userauth", "tele.conch.session.channel", "tele.conch.session.programs",
    "tele.node.avatar", "tele.node.forwards", "tele.node.programs", "tele.node.spawning",
    "tele.rbac.decision", "tele.recording.recorder", "tele.recording.tee", "tele.recording.upload",
    "tele.tape.writer", "tele.wire.ciphers", "twisted.conch.ssh.transport", "zstandard",
))  # fmt: skip

PROGRAM: Final = """
import sys
from pathlib import Path
from tele.tap.node import Options, makeService
options = Options()
options.parseOptions(["--config", sys.argv[1]])
makeService(options)
from twisted.internet import reactor
from tele.embed.node import node_service
node_service(reactor, options.loaded.config.node, Path(sys.argv[2]))
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The modules of a node as ``twistd tele-node`` makes it, with their packages."""
    folder = tmp_path_factory.mktemp("idle")
    config = folder / "tele.yaml"
    config.write_text(
        f"version: v1\ndata_dir: {folder}/data\nnode:\n  name: idle\n  listen: 127.0.0.1:0\n"
        f"  join: {{auth: '127.0.0.1:1', ca_pin: 'sha256:{'0' * 64}'}}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config), str(folder / "data")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize("name", NEVER)
def test_an_idle_node_does_not_import(name: str, imported: set[str]) -> None:
    """It would stay in memory for as long as the node runs."""
    assert name not in imported, NEVER[name]


@pytest.mark.parametrize("name", sorted(EARLY))
def test_sessions_find_all_imported(name: str, imported: set[str]) -> None:
    """A login imports nothing: it could fail, and others would wait for it."""
    assert name in imported
