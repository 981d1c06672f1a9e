"""Parts that are away, and connections: what commands and logs say, with real processes."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from three_processes import Cluster, wait_for

COMMANDS = ("ls", "sessions ls", "recordings ls", "audit ls", "users ls", "tokens ls", "get roles")


@pytest.fixture
def without(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; what a test kills is started again after it."""
    yield cluster
    for part in ("auth", "proxy"):
        if part not in cluster.processes:
            cluster.start(part)
    wait_for(cluster.online, "everything to be back", 90)


@pytest.mark.parametrize("command", COMMANDS)
def test_auth_that_is_away_is_not_the_proxy(without: Cluster, command: str) -> None:
    """The proxy answers: it is up, auth is not, and since when."""
    if "auth" in without.processes:
        without.kill("auth")
    done = without.tele(*command.split(), check=False)
    said = done.stderr.decode()
    assert done.returncode == 6, said
    proxy = f"127.0.0.1:{without.ports['proxy']}"
    assert re.search(
        rf"the proxy {proxy} is up, but it cannot reach auth since 20\d\d-\d\d-\d\d [\d:]+ UTC",
        said,
    ), said
    assert "check that auth runs" in said


def test_a_login_reports_it_too(without: Cluster) -> None:
    """Also the first one, on a new machine."""
    without.kill("auth")
    proxy = f"127.0.0.1:{without.ports['proxy']}"
    args = ("login", "--proxy", proxy, "--user", "bob", "--password-file", "-")
    for more in ((), ("--ca-pin", without.pin)):
        done = without.tele(*args, *more, check=False, stdin=b"x\n")
        assert done.returncode == 6
        assert b"is up, but it cannot reach auth since" in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_proxy_that_is_away_is_reported(without: Cluster, command: str) -> None:
    """The error does not mention auth, whose state is unknown then."""
    if "proxy" in without.processes:
        without.kill("proxy")
    done = without.tele(*command.split(), check=False)
    said = done.stderr.decode()
    assert done.returncode == 6, said
    assert f"the proxy 127.0.0.1:{without.ports['proxy']} cannot be reached" in said
    assert "auth" not in said


def test_strict_locks_while_auth_is_away(without: Cluster, tmp_path: Path) -> None:
    """A node that was started without auth knows no locks of now: it refuses the login of a role
    that wants them, with the reason in its log, and lets others in; with auth it lets both in.
    """
    own = pwd.getpwuid(os.getuid()).pw_name
    role = tmp_path / "role.yaml"
    role.write_text(
        "kind: role\nversion: v1\nmetadata: {name: strictly}\nspec:\n"
        f"  allow: {{logins: [{own}], node_labels: {{'*': ['*']}}}}\n  options: {{lock: strict}}\n"
    )
    without.tele("apply", "-f", str(role))

    def sign(name: str, *held: str) -> tuple[str, ...]:
        key = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        without.tele("users", "add", name, "--role", ",".join(held), "--login", own)
        without.tele("ca", "sign-user", f"{key}.pub", "--user", name)
        config = tmp_path / f"{name}.config"
        config.write_bytes(without.tele("config", "--identity", str(key)).stdout)
        return ("ssh", "-F", str(config), without.host, "true")

    def logs_in(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    careful, other = sign("careful", "access", "strictly"), sign("other", "access")
    assert logs_in(careful).returncode == logs_in(other).returncode == 0
    without.kill("auth")
    without.kill("node")
    without.start("node")
    wait_for(lambda: logs_in(other).returncode == 0, "the node to serve", 60)
    refused = logs_in(careful)
    assert refused.returncode == 255
    log = (without.folder / "node.log").read_text()
    assert re.search(r"auth\.denied user=careful .*reason=stale", log)
    assert "has not heard from auth since it was started" in log
    without.start("auth")
    wait_for(lambda: logs_in(careful).returncode == 0, "word from auth", 90)
    for name in ("careful", "other"):
        without.tele("users", "rm", name)
    without.tele("rm", "role/strictly")


def test_connections_are_in_the_logs(cluster: Cluster) -> None:
    """At the node and at the proxy, one line for the start and one for the end; at auth log-ins."""
    cluster.ssh(cluster.host, "true")
    cluster.ssh("-l", "nobody-like-this", cluster.host, "true", check=False)
    bad = cluster.folder / "bad.password"
    bad.touch(0o600)
    bad.write_text("wrong")
    cluster.tele(
        "login", "--proxy", f"127.0.0.1:{cluster.ports['proxy']}", "--user", "alice",
        "--password-file", str(bad), check=False,
    )  # fmt: skip

    def log(part: str) -> str:
        return (cluster.folder / f"{part}.log").read_text()

    def all_there() -> bool:
        return all(re.search(line, log(part)) for part, line in LINES)

    wait_for(all_there, "the lines", 30)


#: Which part has a line like this.
LINES = (
    (
        "node",
        r"session\.start user=alice login=\w+ node=web1 remote_addr=127\.0\.0\.1:\d+ s",
    ),
    ("node", r"session\.end user=alice .*session_id=[0-9a-f-]{36}.*seconds="),
    ("node", r"auth\.denied user=alice login=nobody-like-this .*reason=principal"),
    ("proxy", r"connection\.start user=alice remote_addr=127\.0\.0\.1:\d+ login_session="),
    ("proxy", r"connection\.end user=alice .*nodes=web1 seconds="),
    ("auth", r"user\.login user=alice .*remote_addr=127\.0\.0\.1:\d+"),
    ("auth", r'user\.login user=alice .*ok=no error="wrong password'),
)
