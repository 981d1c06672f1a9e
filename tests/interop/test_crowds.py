"""Three hundred users log in at the same instant, from one address, with default settings."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from three_processes import Cluster

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="OpenSSH is not installed")

LOGIN = pwd.getpwuid(os.geteuid()).pw_name
CROWD = 300


@pytest.fixture(scope="module")
def keys(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """A key with a certificate, several times."""
    path = tmp_path_factory.mktemp("key") / "k"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    done = cluster.tele("ca", "sign-user", f"{path}.pub", "--user", "alice")
    Path(f"{path}-cert.pub").write_bytes(done.stdout)
    return [(str(path), f"{path}-cert.pub")]


def connect(keys: list[tuple[str, str]], port: int, **named: Any) -> Any:
    """Log in once."""
    return asyncssh.connect(
        named.pop("host", "127.0.0.1"), port, username=LOGIN, client_keys=keys, known_hosts=None,
        config=None, agent_path=None, login_timeout=120, **named,
    )  # fmt: skip


def problems(results: list[Any]) -> list[str]:
    """Return what went wrong."""
    return [repr(each) for each in results if isinstance(each, BaseException)]


def test_at_a_node(cluster: Cluster, keys: list[tuple[str, str]]) -> None:
    """All log in: a client without a place waits for one, and none is dropped."""

    async def come() -> None:
        port = cluster.ports["node"]
        made = await asyncio.gather(
            *(connect(keys, port) for _ in range(CROWD)), return_exceptions=True
        )
        try:
            assert problems(made) == []
        finally:
            for each in made:
                if not isinstance(each, BaseException):
                    each.abort()

    asyncio.run(come())


def test_through_a_proxy(cluster: Cluster, keys: list[tuple[str, str]]) -> None:
    """The same through a proxy, whose one address they share at the node: each of them is counted
    by user.
    """

    async def come_once() -> Any:
        proxy = await connect(keys, cluster.ports["proxy"])
        try:
            return proxy, await connect(keys, 22, host="web1", tunnel=proxy)
        except BaseException:
            proxy.abort()
            raise

    async def come() -> None:
        made = await asyncio.gather(*(come_once() for _ in range(CROWD)), return_exceptions=True)
        try:
            assert problems(made) == []
        finally:
            for each in made:
                if not isinstance(each, BaseException):
                    each[1].abort()
                    each[0].abort()

    asyncio.run(come())
