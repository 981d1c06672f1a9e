"""Several auths on one store in PostgreSQL: each, and the database, may go at any moment."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from postgres_server import PostgresServer, programs, running_server
from three_processes import Cluster, free_port, wait_for

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed")
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(
    database: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two auths, a proxy and a node that know both, and an administrator who is logged in."""
    folder = tmp_path_factory.mktemp("several")
    cluster = Cluster(folder)
    cluster.ports = {part: free_port() for part in ("auth", "auth2", "proxy", "node")}
    try:
        yield _started(cluster, database)
    finally:
        cluster.stop()


def _started(cluster: Cluster, database: PostgresServer) -> Cluster:
    folder, ports = cluster.folder, cluster.ports
    keys = {part: _signing_key(cluster, part) for part in ("auth", "auth2")}
    for part in keys:
        others = json.dumps([key for other, key in keys.items() if other != part])
        cluster.write(
            f"{part}.yaml",
            [
                "version: v1",
                f"data_dir: {folder}/{part}",
                "auth:",
                "  cluster_name: interop",
                f"  listen: 127.0.0.1:{ports[part]}",
                f"  store: {json.dumps(database.url())}",
                f"  recordings: dir:{folder}/recordings",
                f"  signing_keys: {{sealed_by: 'file:{folder}/{part}.key', also_for: {others}}}",
            ],
        )
        cluster.start(part)
    local = ("--config", str(folder / "auth2.yaml"))
    token = json.loads(
        cluster.tele("tokens", "add", "--role", "proxy,node", "--format", "json", *local).stdout
    )
    (folder / "token").touch(0o600)
    (folder / "token").write_text(token["token"])
    cluster.pin = token["ca_pin"]
    auths = json.dumps([f"127.0.0.1:{ports[part]}" for part in ("auth", "auth2")])
    join = f"join: {{auth: {auths}, token_file: {folder}/token, ca_pin: '{token['ca_pin']}'}}"
    listens = {part: f"listen: 127.0.0.1:{ports[part]}" for part in ("proxy", "node")}
    cluster.write(
        "proxy.yaml",
        ["version: v1", f"data_dir: {folder}/proxy", "proxy:", f"  {listens['proxy']}",
         f"  public_addr: 127.0.0.1:{ports['proxy']}", f"  {join}"],
    )  # fmt: skip
    cluster.write(
        "node.yaml",
        ["version: v1", f"data_dir: {folder}/node", "node:", "  name: web1",
         f"  {listens['node']}", f"  {join}"],
    )  # fmt: skip
    cluster.start("proxy")
    cluster.start("node")
    alice = cluster.person("alice", "access", "editor", "auditor")
    wait_for(alice.online, "the node to be online")
    return alice


def _signing_key(cluster: Cluster, part: str) -> str:
    """Make the key by which an auth opens those of the CAs, and return its public key."""
    made = cluster.tele("ca", "keygen", f"file:{cluster.folder}/{part}.key")
    return made.stdout.decode().strip()


def _says(cluster: Cluster, word: str) -> bool:
    done = cluster.ssh(cluster.host, f"echo {word}", check=False)
    return done.stdout.strip() == word.encode()


def _works(cluster: Cluster, *command: str) -> bool:
    return cluster.tele(*command, check=False).returncode == 0


@pytest.mark.parametrize("gone", ["auth", "auth2"])
def test_an_auth_that_is_killed_is_not_missed(cluster: Cluster, gone: str) -> None:
    """Logins, sessions and changes of users go on at the other one; after its start it knows what
    happened meanwhile.
    """
    assert _says(cluster, "before")
    cluster.kill(gone)
    name = f"made-without-{gone}"
    wait_for(
        lambda: _works(cluster, "users", "add", name, "--role", "access", "--login", "root"),
        "an auth to make a user",
    )
    assert _says(cluster, "meanwhile")
    wait_for(cluster.online, "the node to be online again")
    cluster.start(gone)
    local = ("--config", str(cluster.folder / f"{gone}.yaml"))
    names = cluster.tele("users", "ls", "--format", "names", *local).stdout.decode().split()
    assert name in names
    assert _works(cluster, "users", "rm", name)


def test_the_database_may_be_killed(cluster: Cluster, database: PostgresServer) -> None:
    """Who is logged in reaches nodes meanwhile, changes are refused with the reason, and nobody has
    to restart anything afterwards. What was acknowledged is there.
    """
    cluster.tele("users", "add", "kept", "--role", "access", "--login", "root")
    database.end(signal.SIGQUIT)
    refused = cluster.tele("users", "add", "bob", "--role", "access", check=False)
    assert refused.returncode != 0
    assert "the database postgres at" in refused.stderr.decode()
    assert _says(cluster, "meanwhile")
    database.start()
    wait_for(
        lambda: _works(cluster, "users", "add", "bob", "--role", "access", "--login", "root"),
        "auth to make a user again",
    )
    names = cluster.tele("users", "ls", "--format", "names").stdout.decode().split()
    assert {"alice", "kept", "bob"} <= set(names)
    wait_for(cluster.online, "the node to be online again")


def test_a_lock_is_known_at_all_auths(cluster: Cluster) -> None:
    """A change at one auth has effect for who is served by the other one."""
    bob = cluster.person("locked-out", "access")
    assert _says(bob, "free")
    for part in ("auth", "auth2"):
        local = ("--config", str(cluster.folder / f"{part}.yaml"))
        made = json.loads(
            cluster.tele("locks", "add", "--user", "locked-out", "--format", "json", *local).stdout
        )
        wait_for(lambda: not _says(bob, "free"), "the lock to have effect")
        cluster.tele("locks", "rm", made["metadata"]["name"], *local)
        wait_for(lambda: _says(bob, "free"), "the lock to have no effect any more")


def test_an_auth_with_an_archive_of_its_own_is_refused(cluster: Cluster) -> None:
    """It does not start, and says what the others need."""
    path = cluster.folder / "auth3.yaml"
    cluster.ports["auth3"] = free_port()
    text = (cluster.folder / "auth.yaml").read_text()
    text = text.replace(f"{cluster.folder}/auth\n", f"{cluster.folder}/auth3\n")
    text = text.replace(f":{cluster.ports['auth']}\n", f":{cluster.ports['auth3']}\n")
    path.write_text(text.replace("/recordings\n", "/others\n"))
    with pytest.raises(AssertionError, match="this archive is not that of the other auths"):
        cluster.start("auth3")
    cluster.processes.pop("auth3").wait(20)


def test_the_audit_of_both_is_one_chain(cluster: Cluster) -> None:
    """It verifies, whichever auth appended what, and so do recordings that either received."""
    assert cluster.tele("audit", "verify").stdout.startswith(b"ok")
    recordings = json.loads(cluster.tele("recordings", "ls", "--format", "json").stdout)
    assert recordings
    verified = cluster.tele("recordings", "verify", recordings[-1]["id"])
    assert verified.stdout.startswith(b"ok")
