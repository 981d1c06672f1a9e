"""The units of the documentation, and what a node that is stopped leaves running."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tele_command import BIN, Cluster, Tele, free_port

UNITS = Path(__file__).resolve().parents[2] / "docs" / "examples" / "systemd"
PARTS = ("auth", "proxy", "node")


def service(part: str) -> configparser.SectionProxy:
    """Return the section Service of a unit."""
    parsed = configparser.ConfigParser(interpolation=None, comment_prefixes="#")
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(UNITS / f"tele-{part}.service")
    return parsed["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("part", PARTS)
def test_systemd_takes_the_unit(part: str, tmp_path: Path) -> None:
    """Systemd knows every setting, and says nothing against any."""
    unit = tmp_path / f"tele-{part}.service"
    text = (UNITS / unit.name).read_text()
    assert "/opt/tele/bin/twistd" in text
    unit.write_text(text.replace("/opt/tele/bin", str(BIN)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    assert done.returncode == 0


@pytest.mark.parametrize("part", PARTS)
def test_the_unit_runs_its_part(part: str) -> None:
    """With its own file and folder, started again when it fails, with time to end."""
    unit = service(part)
    assert unit["ExecStart"].endswith(f" tele-{part} --config /etc/tele/{part}.yaml")
    assert unit["Restart"] == "always"
    assert unit["StateDirectory"] == f"tele-{part}"
    assert unit["StateDirectoryMode"] == "0700"
    assert int(unit["TimeoutStopSec"]) > 30  # shutdown_grace
    assert unit["LimitNOFILE"] == "524288"
    assert ("LoadCredential" in unit) == (part != "auth")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("name", ["identity", "krl"])
def test_systemd_takes_the_timer(name: str, tmp_path: Path) -> None:
    """And the service that it starts, whose file has to be beside it."""
    for kind in ("service", "timer"):
        text = (UNITS / f"tele-{name}.{kind}").read_text()
        (tmp_path / f"tele-{name}.{kind}").write_text(text.replace("/opt/tele/bin", str(BIN)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / f"tele-{name}.timer")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if f"tele-{name}" in line] == []
    assert done.returncode == 0


def test_the_timer_renews_an_identity(cluster: Cluster, tele: Tele) -> None:
    """The command of its unit, with the environment that systemd gives it."""
    unit = service("identity")
    assert (unit["Type"], unit["User"]) == ("oneshot", "tele-identity")
    own = cluster.tele.json("status")
    token = cluster.tele.json(
        "tokens", "add", "--bot", "unit", "--role", "access", "--login", own["logins"][0]
    )["token"]
    (tele.folder / "token").touch(0o600)
    (tele.folder / "token").write_text(f"{token}\n")
    program, *words = unit["ExecStart"].split()
    assert program == "/opt/tele/bin/tele"
    given = {"${CA_PIN}": own["ca_pins"][0], "/var/lib/tele-identity": str(tele.home)}
    for _ in range(2):
        tele.run(
            *(given.get(w, w.replace("${CREDENTIALS_DIRECTORY}", str(tele.folder))) for w in words),
            TELE_PROXY=cluster.listen,
        )
    assert len(cluster.tele.json("audit", "ls", "--event", "user.login", "--of", "unit")) == 1
    assert tele.json("status")["user"] == "unit"


def test_only_a_node_may_act_as_others_and_leaves_sessions_alone() -> None:
    """Auth and proxies have an account and no privileges; a node restricts nothing that its
    sessions would inherit, and a restart of it kills nothing that they left running.
    """
    for part in ("auth", "proxy"):
        assert service(part)["DynamicUser"] == service(part)["NoNewPrivileges"] == "yes"
        assert service(part)["ProtectSystem"] == "strict"
    node = service("node")
    assert (node["KillMode"], node["Delegate"]) == ("process", "yes")
    # All sessions are tasks of this unit: it is not to be the limit of all users together.
    assert node["TasksMax"] == "infinity"
    confining = ("Protect", "Private", "Restrict", "NoNew", "Capability", "SystemCall", "UMask")
    assert [name for name in node if name.startswith(confining)] == []


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")
def test_background_programs_of_users_outlive_the_node(tele: Tele) -> None:
    """SIGTERM for the node's process alone, as ``KillMode=process`` sends it, ends the node; a
    program that was detached from its session goes on, and the node starts again beside it.
    """
    cluster = Cluster(tele, tele.folder / "state", "own", f"127.0.0.1:{free_port()}")
    left: int | None = None
    try:
        cluster.up("--cluster", cluster.name, "--listen", cluster.listen)
        command = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!"
        left = int(tele.run("ssh", socket.gethostname(), command).stdout)
        os.kill(int((cluster.folder / "tele.pid").read_text()), signal.SIGTERM)
        deadline = time.monotonic() + 60
        while (
            tele.run("status", status=None).returncode == 0
            and tele.run("ls", status=None).returncode != 6
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tele.run("down", "--dir", cluster.folder)
        assert Path(f"/proc/{left}/comm").read_text() == "sleep\n"
        cluster.up()
        assert tele.run("ssh", socket.gethostname(), f"cat /proc/{left}/comm").stdout == "sleep\n"
    finally:
        if left is not None:
            os.kill(left, signal.SIGKILL)
        cluster.down()
