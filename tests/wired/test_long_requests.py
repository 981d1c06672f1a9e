"""Commands and variables as long as the kernel takes them, by real clients on a real node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from small_cluster import ME, SmallCluster, SmallNode, small_cluster

LONGEST = 128 * 1024 - 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[SmallCluster]:
    with small_cluster(tmp_path) as made:
        made.person("alice", ME)
        yield made


def run(cluster: SmallCluster, node: SmallNode, command: str, env: dict[str, str]) -> Any:
    """Run a command with asyncssh: execve(2) refuses so long an argument."""
    people = cluster.folder / "people"

    async def ask() -> Any:
        async with asyncssh.connect(
            "127.0.0.1",
            node.port,
            username=ME,
            client_keys=[str(people / "alice")],
            known_hosts=None,
        ) as connection:
            return await connection.run(command, env=env)

    done: list[Any] = []
    cluster.reactor.getThreadPool().callInThread(lambda: done.append(asyncio.run(ask())))
    cluster.reactor.until(lambda: bool(done))
    return done[0]


@pytest.mark.parametrize("size", [5000, 100_000, 130_000])
def test_long_variables_arrive(cluster: SmallCluster, size: int) -> None:
    """OpenSSH's SetEnv, to the last byte, with bytes that are no text."""
    node = cluster.node()
    value = "x" * (size - 1) + "é"
    config = cluster.folder / "long"
    config.write_text(f"Host *\n SetEnv LC_LONG={value}\n")
    args = cluster.ssh_words("alice", node, "127.0.0.1", 'printf %s "$LC_LONG" | wc -c')
    done = cluster.run("ssh", "-F", str(config), *args[2:])
    assert done.stdout.strip() == b"%d" % (size + 1), done.stderr


def test_the_longest_command_and_variable_together(cluster: SmallCluster) -> None:
    """Both as long as they may be arrive; a command that is one byte longer says what to do."""
    node = cluster.node()
    command = 'echo "${#LC_LONG}"; : '
    longest = command + "y" * (LONGEST - len(command))
    value = "x" * (LONGEST - len("LC_LONG="))
    assert run(cluster, node, longest, {"LC_LONG": value}).stdout == f"{len(value)}\n"
    refused = run(cluster, node, longest + "y", {})
    assert f"a command of {LONGEST + 1} bytes cannot be run" in refused.stderr
    assert refused.exit_status == 254
