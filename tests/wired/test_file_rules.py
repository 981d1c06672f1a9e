"""Which files roles allow to transfer, by OpenSSH's sftp and scp with a real node."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from recording_proxy import Proxied, end_programs
from small_cluster import ME, SmallCluster, SmallNode, set_role, small_cluster
from tele.model.actions import ForwardRules, TransferRules
from test_node_forwards import greeter

pytestmark = pytest.mark.skipif(shutil.which("scp") is None, reason="OpenSSH is not installed")


@define
class Place:
    """A node, and folders: ``in`` may be written, ``out`` read, the rest neither."""

    cluster: SmallCluster
    node: SmallNode
    folder: Path

    def scp(self, *words: str, legacy: bool = False) -> tuple[int, bytes]:
        """Copy; ``:in/x`` is on the node. Return the status, and what it says."""
        options = self.cluster.ssh_words("alice", self.node)
        named = [f"127.0.0.1:{self.folder}/{w[1:]}" if w.startswith(":") else w for w in words]
        done = self.cluster.run("scp", *(["-O"] if legacy else []), *options, *named)
        return done.returncode, done.stderr

    def sftp(self, *commands: str) -> tuple[int, bytes]:
        """Run commands in the folder."""
        options = self.cluster.ssh_words("alice", self.node)
        lines = "\n".join((f"cd {self.folder}", *commands)) + "\n"
        done = self.cluster.run(
            "sftp", "-q", "-b", "-", *options, "127.0.0.1", stdin=lines.encode()
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A user who may upload to ``in`` and download from ``out``, but no keys."""
    folder = tmp_path.resolve() / "node"
    for name in ("in", "out", "out/deep", "secret"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(name.encode())
    (folder / "out/x.key").write_bytes(b"key")
    (folder / "out/link").symlink_to("../secret")
    (folder / "in/link").symlink_to("../secret")
    with small_cluster(tmp_path) as cluster:
        cluster.person("alice", ME)
        node = cluster.node()
        rules = TransferRules(upload=(f"{folder}/in/**",), download=(f"{folder}/out/**",))
        keys = TransferRules(upload=("/**/*.key",), download=("/**/*.key",))
        set_role(cluster, node, {"file_transfer": rules}, {"file_transfer": keys})
        (tmp_path / "mine").write_bytes(b"mine" * 100_000)
        (tmp_path / "mine").chmod(0o640)
        (tmp_path / "tree/below").mkdir(parents=True)
        (tmp_path / "tree/below/leaf").write_bytes(b"leaf")
        yield Place(cluster, node, folder)


@pytest.mark.parametrize("legacy", [False, True], ids=["sftp", "scp"])
def test_scp(place: Place, tmp_path: Path, legacy: bool) -> None:
    """In both of its protocols it copies what the role allows, folders and times, too, and nothing
    else, by whatever path (attack).
    """

    def scp(*words: str) -> bool:
        return place.scp(*words, legacy=legacy)[0] == 0

    assert scp("-p", str(tmp_path / "mine"), ":in/")
    there = place.folder / "in/mine"
    assert there.read_bytes() == (tmp_path / "mine").read_bytes()
    assert there.stat().st_mode & 0o777 == 0o640
    assert int(there.stat().st_mtime) == int((tmp_path / "mine").stat().st_mtime)
    # The old protocol has a shell's words, the new one has none.
    assert scp(str(tmp_path / "mine"), ":in/new\\ name" if legacy else ":in/new name")
    assert (place.folder / "in/new name").exists()
    assert scp("-r", str(tmp_path / "tree"), ":in/")
    assert (place.folder / "in/tree/below/leaf").read_bytes() == b"leaf"
    assert scp(":out/file", str(tmp_path / "got"))
    assert (tmp_path / "got").read_bytes() == b"out"
    assert scp("-rp", ":out/deep", str(tmp_path / "deep"))
    assert (tmp_path / "deep/file").read_bytes() == b"out/deep"
    assert scp(":out/fi*", str(tmp_path / "globbed"))
    before = sorted(place.folder.rglob("*"))
    for source, target in (
        (":secret/file", str(tmp_path / "no")),
        (":in/file", str(tmp_path / "no")),
        (":out/x.key", str(tmp_path / "no")),
        (":out/link/file", str(tmp_path / "no")),
        (":out/../secret/file", str(tmp_path / "no")),
        (str(tmp_path / "mine"), ":secret/"),
        (str(tmp_path / "mine"), ":out/file"),
        (str(tmp_path / "mine"), ":in/link/file"),
        (str(tmp_path / "mine"), ":in/x.key"),
        (str(tmp_path / "mine"), ":in/../secret/new"),
    ):
        status, said = place.scp(source, target, legacy=legacy)
        assert status != 0, (source, target)
        assert b"ermission denied" in said or b"no role allows" in said or b"No such file" in said
    assert not (tmp_path / "no").exists()
    assert (place.folder / "secret/file").read_bytes() == b"secret"
    assert (place.folder / "out/file").read_bytes() == b"out"
    assert sorted(place.folder.rglob("*")) == before


def test_sftp(place: Place, tmp_path: Path) -> None:
    """What the role allows, and folders that lead there, are seen, and nothing else (attack)."""
    status, said = place.sftp("ls -1", "ls -1 out", f"get out/file {tmp_path}/got")
    assert status == 0, said
    assert set(said.split()) >= {b"in", b"out", b"out/deep", b"out/file"}
    assert not {b"secret", b"out/x.key"} & set(said.split())
    for refused in (
        "ls secret", f"get secret/file {tmp_path}/no", f"put {tmp_path}/mine secret/new",
        "rename in/file out/moved", "rename secret/file in/moved", "rm out/file", "rmdir secret",
        "chmod 777 secret/file", "chmod 777 in/link/file", "ln -s /etc/passwd in/passwd",
        "ln secret/file in/hard", "mkdir secret/new",
        f"get /proc/self/root{place.folder}/secret/file {tmp_path}/no",
        f"put {tmp_path}/mine /proc/self/cwd/tele-no",
    ):  # fmt: skip
        status, said = place.sftp(refused)
        assert status != 0, refused
    assert sorted(each.name for each in (place.folder / "secret").iterdir()) == ["file"]
    assert (place.folder / "secret/file").stat().st_mode & 0o777 != 0o777
    assert place.sftp("mkdir in/new", "rename in/file in/new/moved", "rm in/new/moved")[0] == 0


def test_nothing_else_runs(place: Place) -> None:
    """No shell, command, terminal, other subsystem or forward, which could get around it: the user
    reads why, and so does the audit (attack).
    """
    for words in (
        ("cat", f"{place.folder}/secret/file"),
        ("rsync", "--server", "--sender", ".", f"{place.folder}/secret/"),
        (f"scp -f {place.folder}/out/file; cat {place.folder}/secret/file",),
        ("/usr/lib/openssh/sftp-server",),
        (),
    ):
        done = place.cluster.ssh("alice", place.node, *words, stdin=b"id\n")
        assert done.returncode != 0, words
        assert b"secret" not in done.stdout
        assert b"uid=" not in done.stdout
    done = place.cluster.ssh("alice", place.node, options=("-W", f"127.0.0.1:{place.node.port}"))
    assert b"not allowed" in done.stderr
    refused = [event.error for event in place.cluster.wait_event("exec", 4)]
    assert sum("only some files may be transferred" in error for error in refused) >= 3, refused


def test_roles_add_files(place: Place, tmp_path: Path) -> None:
    """Without the denial the terminal of a role that restricts nothing is there again."""
    assert place.cluster.ssh("alice", place.node, "true").returncode != 0
    set_role(place.cluster, place.node)
    assert place.cluster.ssh("alice", place.node, "true").returncode == 0
    assert place.scp(":secret/file", str(tmp_path / "got"))[0] == 0


def test_through_a_recording_proxy(tmp_path: Path) -> None:
    """Behind a proxy that ends the session the node keeps the rules, of files and of forwards."""
    folder = tmp_path.resolve() / "node"
    for name in ("in", "secret"):
        (folder / name).mkdir(parents=True)
    (folder / "secret/file").write_bytes(b"secret")
    with small_cluster(tmp_path) as cluster, greeter() as (good, _), greeter() as (bad, _):
        cluster.person("alice", ME)
        proxied = Proxied(cluster)
        allow = {
            "file_transfer": TransferRules(upload=(f"{folder}/in/**",)),
            "forward": ForwardRules(local=(f"127.0.0.0/8:{good}",)),
        }
        set_role(cluster, proxied.node, allow)
        config, *_ = cluster.jump_words("alice", proxied.proxy, "web1.small")[1:]
        cluster.reactor.until(
            lambda: any(r.spec.allow.file_transfer.upload for r in proxied.proxy.member.state.roles)
        )
        jump = ("-F", config, "-J", "jump")
        lines = f"put {config} {folder}/in/new\nget {folder}/secret/file {tmp_path}/no\n"
        done = cluster.run("sftp", "-q", "-b", "-", *jump, "web1.small", stdin=lines.encode())
        assert done.returncode != 0
        assert (folder / "in/new").read_bytes() == Path(config).read_bytes(), done
        assert not (tmp_path / "no").exists()
        assert b"only some files" in proxied.ssh("cat", f"{folder}/secret/file").stderr
        for port, got in ((good, b"hello"), (bad, b"")):
            done = cluster.run("ssh", *jump, "-W", f"localhost:{port}", "web1.small")
            assert done.stdout == got, done
        end_programs(cluster)
