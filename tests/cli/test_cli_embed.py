"""Programs that embed tele, and plugins that it finds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tele.certs.keys import PrivateKey
from tele.cli.home import Home
from tele.config.reading import load
from tele_command import Cluster, Tele, read_line

DOCS = Path(__file__).resolve().parents[2] / "docs"

PLUGINS = """
from twisted.plugin import IPlugin
from zope.interface import implementer

from tele.interfaces import (
    IArchiveFactory, IAuditSinkFactory, IBackendFactory, IRecorderFactory
)


class Factory:
    help = "for a test"

    def __init__(self, kind):
        self.kind = kind

    def make(self, arguments, surroundings):
        return (self.kind, arguments, str(surroundings.data_dir))


def make(interface, kind):
    return implementer(IPlugin, interface)(type(kind, (Factory,), {}))(kind)


store = make(IBackendFactory, "my-store")
place = make(IArchiveFactory, "my-place")
sink = make(IAuditSinkFactory, "my-sink")
recorder = make(IRecorderFactory, "my-recorder")
"""

USES_PLUGINS = """
from pathlib import Path

from tele.embed import choose, load_config
from tele.interfaces import (
    IArchiveFactory, IAuditSinkFactory, IBackendFactory, IRecorderFactory, Surroundings
)

config = load_config(Path("tele.yaml")).config
here = Surroundings(None, Path("/d"))
for interface, chosen in (
    (IBackendFactory, config.auth.store),
    (IArchiveFactory, config.auth.recordings),
    (IAuditSinkFactory, config.auth.audit[0]),
    (IRecorderFactory, config.node.recorder[0]),
):
    print(*choose(interface, chosen, here))
"""

PLUGIN_CONFIG = """
version: v1
data_dir: d
auth: {cluster_name: c, store: "my-store:1", recordings: my-place, audit: ["my-sink:a:b"]}
node: {recorder: "my-recorder:x"}
"""


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")
def test_the_example_of_a_node_works(cluster: Cluster, tmp_path: Path) -> None:
    """The program of the documentation joins, serves, and its recorder sees the session."""
    tele = cluster.tele
    made = tele.json("tokens", "add", "--role", "node")
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text(made["token"])
    auth = load(cluster.folder / "tele.yaml").config.auth
    assert auth is not None
    with subprocess.Popen(
        [
            sys.executable, DOCS / "examples" / "embed_node.py",
            tmp_path / "node", str(auth.listen), tmp_path / "token", made["ca_pin"],
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        assert program.stderr is not None
        try:
            assert read_line(program).startswith("serving on port "), program.stderr.read()
            for _ in range(100):
                if any(node["addresses"] for node in tele.json("ls", "embedded=yes")):
                    break
            assert tele.run("ssh", "embedded", "printf 12345").stdout == "12345"
            user, login = (tele.json("status")[key] for key in ("user", "logins"))
            assert read_line(program) == f"{user} as {login[0]}: 5 bytes\n"
            program.terminate()
            program.wait(30)
            assert program.stderr.read() == ""
        finally:
            program.kill()


def test_the_example_of_a_client_works(cluster: Cluster) -> None:
    """The program of the documentation runs a command on the cluster's node, and on no other, with
    the very files that a login wrote.
    """
    home = Home(cluster.tele.home)
    profile = home.profile(cluster.tele.json("status")["cluster"])
    assert profile is not None
    files = home.files(profile)
    nodes = [each for each in cluster.tele.json("ls") if "embedded" not in each["labels"]]
    node = next(each for each in nodes if each["addresses"])
    login = cluster.tele.json("status")["logins"][0]

    def run(name: str, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable, DOCS / "examples" / "run_command.py",
                node["addresses"][0], name, login, files.folder, files.user, command,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    done = run(node["name"], "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    refused = run("another", "echo out")
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert "BadCertificate" in refused.stderr


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")
def test_the_example_of_a_conch_program_works(tmp_path: Path) -> None:
    """The program of the documentation serves OpenSSH; who is not known stays outside."""
    for name in ("host", "known", "unknown"):
        key = PrivateKey.generate()
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_bytes(key.to_openssh())
        (tmp_path / f"{name}.pub").write_text(f"{key.public.line}\n")
    (tmp_path / "known_hosts").write_text(f"example {(tmp_path / 'host.pub').read_text()}")
    example = str(DOCS / "examples" / "conch_server.py")
    words = [sys.executable, example, "host", "known.pub"]
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            port = read_line(program).split()[-1]

            def ssh(key: str) -> subprocess.CompletedProcess[str]:
                options = (
                    f"Port={port}", f"IdentityFile={key}", "IdentitiesOnly=yes", "BatchMode=yes",
                    "UserKnownHostsFile=known_hosts", "HostKeyAlias=example", "User=alice",
                )  # fmt: skip
                given = [word for option in options for word in ("-o", option)]
                return subprocess.run(
                    ["ssh", "-F", "none", *given, "-T", "127.0.0.1"], input="1 2 3\nx\n",
                    cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
                )  # fmt: skip

            assert ssh("known").stdout == "6\nnumbers, please\n"
            assert "Permission denied (publickey)" in ssh("unknown").stderr
        finally:
            program.terminate()
            program.wait(30)


def test_plugins_of_another_package_are_found(tele: Tele) -> None:
    """A module in a folder ``tele/plugins`` on the path adds kinds for every key that has one."""
    folder = tele.folder / "site" / "tele" / "plugins"
    folder.mkdir(parents=True)
    (folder / "my_plugins.py").write_text(PLUGINS)
    (tele.folder / "tele.yaml").write_text(PLUGIN_CONFIG)
    done = subprocess.run(
        [sys.executable, "-c", USES_PLUGINS], cwd=tele.folder,
        env={**tele.environment, "PYTHONPATH": str(tele.folder / "site")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "my-store 1 /d\nmy-place  /d\nmy-sink a:b /d\nmy-recorder x /d\n", (
        done.stderr
    )


def test_twistd_lists_services_without_importing_them(tele: Tele) -> None:
    """``twistd --help`` knows our services and imports nothing of ours for it."""
    program = (
        "import sys\n"
        "from twisted.application.service import IServiceMaker\n"
        "from twisted.plugin import getPlugins\n"
        "names = {p.tapname for p in getPlugins(IServiceMaker)}\n"
        "print(sorted(n for n in names if n.startswith('tele')))\n"
        "print([m for m in sys.modules if m.partition('.')[0] == 'tele'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=tele.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names, modules = done.stdout.splitlines()
    assert names == "['tele', 'tele-auth', 'tele-node', 'tele-proxy']"
    assert modules == "[]"


def twistd(tele: Tele, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "twistd", "-n", "--pidfile=", *map(str, words)],
        env=tele.environment, cwd=tele.folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_twistd_reports_all_mistakes_of_a_file(tele: Tele) -> None:
    """Status 2, and nothing was started or written."""
    config = tele.folder / "tele.yaml"
    config.write_text("version: v1\ndata_dir: d\nauth: {cluster_name: c, store: mysql, x: 1}\n")
    done = twistd(tele, "tele-auth", "--config", config)
    assert done.returncode == 2
    assert (
        f"{config}:3: auth.store: no plugin for mysql; there are etcd, memory, postgresql, sqlite"
        in done.stderr
    )
    assert f"{config}:3: auth.x: unknown key" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tele.folder / "d").exists()


def test_twistd_needs_the_section(tele: Tele) -> None:
    """``tele-node`` with a file for auth says which section is missing."""
    config = tele.folder / "tele.yaml"
    config.write_text("version: v1\ndata_dir: d\nauth: {cluster_name: c}\n")
    done = twistd(tele, "tele-node", "--config", config)
    assert done.returncode == 2
    assert "node: there is no such section" in done.stderr


def test_what_cannot_start_ends_twistd_with_a_status(tele: Tele) -> None:
    """A service manager sees the failure; the log has one sentence."""
    config = tele.folder / "tele.yaml"
    pin = "sha256:" + "0" * 64
    config.write_text(
        f"version: v1\ndata_dir: d\nproxy: {{join: {{auth: a, token_file: t, ca_pin: '{pin}'}}}}\n"
    )
    done = twistd(tele, "tele-proxy", "--config", config)
    assert done.returncode == 1
    assert 'cannot start error="token_file' in done.stderr
    assert "Traceback" not in done.stderr
