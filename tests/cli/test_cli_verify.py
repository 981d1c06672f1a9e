"""What an auditor does: recordings and the audit are verified, with files tampered with."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from tele.audit.chain import link
from tele.model.codec import decode, encode
from tele.model.event import Event
from tele_command import BIN, Cluster, Tele

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")


def until(found: Callable[[], Any]) -> Any:
    """Wait for something to be there."""
    deadline = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)
    return value


def node(cluster: Cluster) -> str:
    return cluster.tele.run("ls", "--format", "names").stdout.strip()


def recorded(cluster: Cluster, text: str) -> str:
    """Run a session that prints ``text``; return the id of its recording, when it is complete."""
    before = {row["id"] for row in cluster.tele.json("recordings", "ls")}
    cluster.tele.run("ssh", node(cluster), "echo", text)

    def complete() -> Any:
        rows = cluster.tele.json("recordings", "ls")
        return [r["id"] for r in rows if r["id"] not in before and r["complete"]]

    (found,) = until(complete)
    return str(found)


def folder(cluster: Cluster, recording: str) -> Path:
    """Where auth keeps the files of a recording."""
    return cluster.folder / "recordings" / recording[:2] / recording


def in_folder(cluster: Cluster, where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``tele`` in the folder ``where``."""
    command, environment = [str(BIN / "tele"), *words], cluster.tele.environment
    return subprocess.run(
        command, env=environment, cwd=where, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def put_back(path: Path) -> Iterator[None]:
    """Have a folder or file as it was, afterwards."""
    kept = path.with_name(f"{path.name}.kept")
    (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept)
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        kept.replace(path) if kept.is_file() else shutil.move(kept, path)


@pytest.fixture(scope="module")
def two(cluster: Cluster) -> tuple[str, str]:
    """Two recordings."""
    return recorded(cluster, "first"), recorded(cluster, "second")


# -- recordings ---------------------------------------------------------------------------
def test_verify_names_the_user_of_a_recording(cluster: Cluster, two: tuple[str, str]) -> None:
    """What is verified is shown: id, user, login, node."""
    said = cluster.tele.run("recordings", "verify", two[0]).stdout
    assert said.startswith(f"ok: {two[0]}: ")
    shown = cluster.tele.json("recordings", "verify", two[0])
    status = cluster.tele.json("status")
    assert (shown["ok"], shown["state"]) == (True, "complete")
    assert (shown["user"], shown["cluster"]) == (status["user"], cluster.name)


@pytest.mark.parametrize("what", ["all", "chunks", "first chunk", "manifest", "one more"])
def test_anothers_files_in_the_archive(cluster: Cluster, two: tuple[str, str], what: str) -> None:
    """Files of one recording in the folder of another one are found, all of them or some."""
    mine, others = (folder(cluster, name) for name in two)
    names = {path.name for path in others.iterdir()}
    chunks = {name for name in names if name.endswith(".chunk")}
    taken = {"all": names, "chunks": chunks, "first chunk": {"00000000.chunk"},
             "manifest": {"manifest"}}  # fmt: skip
    with put_back(mine):
        if what == "one more":
            shutil.copy(others / "00000000.chunk", mine / f"{len(chunks):08d}.chunk")
        for name in taken.get(what, ()):
            shutil.copy(others / name, mine / name)
        done = cluster.tele.run("recordings", "verify", two[0], status=1)
        shown = cluster.tele.run("recordings", "verify", two[0], "--format", "json", status=1)
    assert two[0] in done.stderr
    assert done.stdout == ""
    faults = json.loads(shown.stdout)["faults"]
    assert {f["text"] for f in faults} <= {
        text.strip().partition("verification failed: ")[2] or text.strip()
        for text in done.stderr.splitlines()
    }
    wrong = {"all": None, "chunks": 1, "first chunk": 0, "manifest": 0, "one more": len(chunks)}
    assert wrong[what] in [f["chunk"] for f in faults]
    if what in ("chunks", "first chunk"):
        assert any(two[1] in f["text"] for f in faults)
    cluster.tele.run("recordings", "verify", two[0])


def test_an_export_that_fails_leaves_no_file(
    cluster: Cluster, two: tuple[str, str], tmp_path: Path
) -> None:
    """A part of a recording looks like one, and would be in the way of the next export."""
    mine, others = (folder(cluster, name) for name in two)
    file = tmp_path / "out.txt"
    with put_back(mine):
        shutil.copy(others / "00000000.chunk", mine / "00000000.chunk")
        cluster.tele.run("recordings", "export", two[0], file, status=1)
    assert not file.exists()
    cluster.tele.run("recordings", "export", two[0], file)
    assert "first" in file.read_text()


def test_several_recordings_are_held_at_once(cluster: Cluster, two: tuple[str, str]) -> None:
    """As several are removed at once; the audit names each, and a wrong one stops at its place."""
    tele = cluster.tele
    tele.run("recordings", "hold", *two, "--reason", "case 12")
    assert {row["id"] for row in tele.json("recordings", "holds")} == set(two)
    held = tele.run("audit", "ls", "--event", "recording.hold").stdout
    assert all(f"recording={each} " in held for each in two)
    tele.run("recordings", "release", two[0], "none-such", two[1], "--reason", "over", status=5)
    assert [row["id"] for row in tele.json("recordings", "holds")] == [two[1]]
    tele.run("recordings", "release", two[1], "--reason", "over")
    assert tele.json("recordings", "holds") == []


def test_a_file_is_not_taken_for_the_recording_whose_id_it_has_as_its_name(
    cluster: Cluster, two: tuple[str, str], tmp_path: Path
) -> None:
    """A user who may write to an auditor's working directory cannot have another recording
    verified.
    """
    wanted, other = two
    for name in (wanted, wanted[:8], "0bad"):
        cluster.tele.run("recordings", "export", other, tmp_path / f"{name}.tape")
        (tmp_path / f"{name}.tape").rename(tmp_path / name)
    for name in (wanted, wanted[:8]):
        for command in ("verify", "show"):
            done = in_folder(cluster, tmp_path, "recordings", command, name)
            assert done.returncode == 0, done.stderr
            assert wanted in done.stdout
    missing = in_folder(cluster, tmp_path, "recordings", "verify", "0bad")
    assert (missing.returncode, missing.stdout) == (5, "")
    assert "type ./0bad" in missing.stderr
    by_path = in_folder(cluster, tmp_path, "recordings", "verify", "./0bad")
    assert other in by_path.stdout


def test_a_missing_manifest_and_a_changed_row(cluster: Cluster, two: tuple[str, str]) -> None:
    """Neither a manifest that is gone nor a row in the store that says another user passes."""
    with put_back(folder(cluster, two[0])):
        (folder(cluster, two[0]) / "manifest").unlink()
        assert "manifest is missing" in cluster.tele.fails(1, "recordings", "verify", two[0])
    key = f"/recordings/rows/{two[0]}"
    with store(cluster) as file:
        ((value,),) = file.execute("SELECT value FROM items WHERE key = ?", (key,)).fetchall()
        row = {**json.loads(value), "user": "mallory"}
        changed = json.dumps(row, sort_keys=True, separators=(",", ":")).encode()
        update(file, key, changed)
        try:
            said = cluster.tele.fails(1, "recordings", "verify", two[0])
        finally:
            update(file, key, value)
    assert "user" in said
    assert "mallory" in said


@pytest.mark.parametrize(("ended", "status"), [(True, 8), (False, 9)])
def test_incomplete_recordings_are_distinguished(
    cluster: Cluster, two: tuple[str, str], ended: bool, status: int
) -> None:
    """A session whose node did not send all of it, and one whose end was never reported."""
    key = f"/recordings/rows/{two[0]}"
    with put_back(folder(cluster, two[0])), store(cluster) as file:
        (folder(cluster, two[0]) / "manifest").unlink()
        ((value,),) = file.execute("SELECT value FROM items WHERE key = ?", (key,)).fetchall()
        row = {**json.loads(value), "complete": False}
        if not ended:
            row["ended"] = None
        update(file, key, json.dumps(row, sort_keys=True, separators=(",", ":")).encode())
        try:
            done = cluster.tele.run("recordings", "verify", two[0], status=status)
        finally:
            update(file, key, value)
    assert done.stdout == ""
    assert "not uploaded" in done.stderr if ended else "never finished" in done.stderr
    assert "the session is running" not in done.stderr


def test_offline_with_nothing_but_the_authority(
    cluster: Cluster, two: tuple[str, str], tmp_path: Path
) -> None:
    """A file and the host authority's key, or its fingerprint, are enough; another is refused."""
    file, ca = tmp_path / "a.tape", tmp_path / "ca.pub"
    cluster.tele.run("recordings", "export", two[0], file)
    ca.write_text(cluster.tele.run("ca", "export", "--type", "host").stdout)
    (host,) = [a for a in cluster.tele.json("ca", "status") if a["kind"] == "host"]
    auditor = Tele(tmp_path)
    for trust in (ca, host["ssh_fingerprints"][0]):
        assert "ok: " in auditor.run("recordings", "verify", file, "--ca", trust).stdout
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    for trust in (tmp_path / "k.pub", "SHA256:" + "A" * 43):
        assert "authority" in auditor.fails(1, "recordings", "verify", file, "--ca", trust)
    (tmp_path / "empty").write_text("")
    said = auditor.fails(2, "recordings", "verify", file, "--ca", tmp_path / "empty")
    assert "tele ca export" in said
    words = ("recordings", "verify", file, "--ca", ca, "--cluster", "other")
    assert "not other" in auditor.fails(1, *words)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"first", b"fir5t") if b"first" in data else data[:-1])
    auditor.fails(1, "recordings", "verify", file, "--ca", ca)


def test_a_running_session_is_distinguished_from_an_ended_one(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Status 7 while it runs; the file exported meanwhile stays incomplete: status 9."""
    before = {row["id"] for row in cluster.tele.json("recordings", "ls")}
    client = subprocess.Popen(
        [str(BIN / "tele"), "ssh", node(cluster), "cat"],
        env=cluster.tele.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    file = tmp_path / "open.tape"
    try:
        rows = until(
            lambda: [
                r["id"] for r in cluster.tele.json("recordings", "ls") if r["id"] not in before
            ]
        )
        name = rows[0]
        until(lambda: cluster.tele.run("recordings", "export", name, file, status=None).stdout
              or file.exists())  # fmt: skip
        done = cluster.tele.run("recordings", "verify", name, status=7)
        assert done.stdout == ""
        assert "the session is running" in done.stderr
    finally:
        client.communicate(b"", timeout=60)
    until(lambda: cluster.tele.run("recordings", "verify", name, status=None).returncode == 0)
    assert "exported before" in cluster.tele.run("recordings", "verify", file, status=9).stderr


# -- the audit ------------------------------------------------------------------------
@contextmanager
def store(cluster: Cluster) -> Iterator[sqlite3.Connection]:
    """The store of a running auth, opened by its owner."""
    connection = sqlite3.connect(cluster.folder / "auth.sqlite", isolation_level=None, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def update(file: sqlite3.Connection, key: str, value: bytes | None) -> None:
    file.execute("UPDATE items SET value = ? WHERE key = ?", (value, key))


def head(cluster: Cluster, *words: object) -> str:
    """Verify the audit; return the mark."""
    ok, mark = cluster.tele.run("audit", "verify", *words).stdout.splitlines()
    assert ok.startswith("ok: ")
    return mark.removeprefix("head: ")


def test_a_whole_audit(cluster: Cluster, two: tuple[str, str]) -> None:
    """By the API, as auth's owner and in the file; from the beginning and from a mark."""
    mark = head(cluster)
    head(cluster, "--head", mark)
    head(cluster, "--head", mark.partition(":")[2], "--after", mark)
    config = cluster.folder / "tele.yaml"
    head(cluster, "--config", config, "--head", mark)
    head(cluster, "--store", cluster.folder / "auth.sqlite", "--head", mark)
    shown = cluster.tele.json("audit", "verify")
    assert shown["ok"]
    assert shown["events"] >= int(mark.partition(":")[0])
    for number in (1, 1_000_000):  # a mark that is not there is not called good
        said = cluster.tele.fails(1, "audit", "verify", "--after", f"{number}:{'0' * 64}")
        assert "the last good event is none" in said
    assert "not a mark" in cluster.tele.fails(2, "audit", "verify", "--head", "zz")
    assert "NUMBER:HASH" in cluster.tele.fails(2, "audit", "verify", "--after", "0" * 64)


def test_the_rights_of_an_auditor_are_enough(cluster: Cluster, tmp_path: Path) -> None:
    """A user who may list events may check them; any other is refused."""
    password = tmp_path / "p"
    password.touch(0o600)
    password.write_text("correct horse battery\n")
    pin = cluster.tele.json("status")["ca_pins"][0]
    for name, role in (("otto", "auditor"), ("anna", "access")):
        made = ("users", "add", name, "--role", role, "--password-file", password)
        cluster.tele.run(*made)
        theirs = Tele(tmp_path / name)
        theirs.folder.mkdir()
        words = ("login", "--proxy", cluster.listen, "--user", name)
        theirs.run(*words, "--password-file", password, "--ca-pin", pin)
        theirs.run("audit", "verify", status=0 if role == "auditor" else 4)


def test_an_audit_that_was_tampered_with(cluster: Cluster, two: tuple[str, str]) -> None:
    """Changed, removed, reordered and inserted events, a tail cut off, a head moved back and an
    audit without any event end with status 1.
    """
    mark = head(cluster)
    count = int(mark.partition(":")[0])
    path = cluster.folder / "auth.sqlite"

    def key(number: int) -> str:
        return f"/audit/events/{number:016d}"

    with store(cluster) as file:
        kept = dict(
            file.execute(
                "SELECT key, value FROM items WHERE key >= '/audit/e' AND key < '/audit/i'"
            ).fetchall()
        )
        second, third = kept[key(2)], kept[key(3)]
        third_id = json.loads(third)["id"]

        def found(changes: dict[str, bytes | None], *words: object) -> str:
            for name, value in changes.items():
                update(file, name, value)
            try:
                said = cluster.tele.fails(1, "audit", "verify", *words)
                assert cluster.tele.fails(1, "audit", "verify", "--store", path, *words)
            finally:
                for name in changes:
                    update(file, name, kept[name])
            return said

        was, becomes = (b"true", b"false") if b'"ok":true' in third else (b"false", b"true")
        changed = third.replace(b'"ok":' + was, b'"ok":' + becomes)
        assert changed != third
        assert third_id in found({key(3): changed})
        fourth_id = json.loads(kept[key(4)])["id"]
        assert fourth_id in found({key(3): None})
        assert third_id in found({key(2): third, key(3): second})
        assert "event 3" in found({key(3): second, key(4): third})
        last = json.dumps([count - 1, json.loads(kept[key(count)])["previous"]]).encode()
        cut: dict[str, bytes | None] = {key(count): None, "/audit/head": last}
        assert "is missing" in found(cut, "--head", mark)
        assert "it was moved back" in found({"/audit/head": last})
        assert "it was moved back" in found({"/audit/head": b'[0,""]'})
        assert "it was moved back" in found({"/audit/head": None})
        nothing: dict[str, bytes | None] = dict.fromkeys(kept)
        assert "the end was cut off, or all was replaced" in found(nothing)
    head(cluster, "--head", mark)


def rewritten(kept: dict[str, bytes]) -> dict[str, bytes]:
    """The audit made anew from its first event on, as the owner of the store can: a whole chain."""
    changed, previous = {}, ""
    for key in sorted(key for key in kept if key.startswith("/audit/events/")):
        event = decode(Event, kept[key])
        if not previous:
            event = evolve(event, user="mallory")
        linked = link(event, previous)
        changed[key], previous = encode(linked), linked.hash
    number = len(changed)
    return {**changed, "/audit/head": json.dumps([number, previous]).encode()}


def test_an_audit_made_anew_differs_from_what_others_have(
    cluster: Cluster, two: tuple[str, str], tmp_path: Path
) -> None:
    """The owner of the store rewrites all of it, and even what is in the archive: the heads that a
    node and the proxy kept show it, with auth and without.
    """
    at_node = cluster.folder / "identity" / "node" / "audit-heads"
    at_proxy = cluster.folder / "identity" / "proxy" / "audit-heads"
    until(lambda: at_node.exists() and at_proxy.exists())
    copy = tmp_path / "copy"
    shutil.copytree(cluster.folder / "identity", copy)
    ca = tmp_path / "ca.pub"
    ca.write_text(cluster.tele.run("ca", "export", "--type", "host").stdout)
    said = cluster.tele.run("audit", "verify", "--heads", at_node, "--heads", at_proxy).stdout
    assert "as auth signed them" in said
    assert cluster.tele.json("audit", "verify")["signed_heads"] >= 1  # of the archive
    path = tmp_path / "auth.sqlite"
    with store(cluster) as file, sqlite3.connect(path) as other:
        file.backup(other)
    auditor = Tele(tmp_path)
    offline = ("audit", "verify", "--store", path, "--heads", copy, "--ca", ca)
    auditor.run(*offline)
    with sqlite3.connect(path) as file:
        kept = dict(
            file.execute(
                "SELECT key, value FROM items WHERE key >= '/audit/e' AND key < '/audit/i'"
            ).fetchall()
        )
        for key, value in rewritten(kept).items():
            update(file, key, value)
    auditor.run("audit", "verify", "--store", path)  # the chain is whole
    said = auditor.fails(1, *offline)
    assert "is the first that was changed" in said
    assert "auth signed at" in said
    with store(cluster) as file:
        kept = dict(
            file.execute(
                "SELECT key, value FROM items WHERE key >= '/audit/e' AND key < '/audit/i'"
            ).fetchall()
        )
        for key, value in rewritten(kept).items():
            update(file, key, value)
        try:
            found = cluster.tele.fails(1, "audit", "verify", "--heads", at_node)
            assert "is the first that was changed" in found
            assert "is the first that was changed" in cluster.tele.fails(1, "audit", "verify")
        finally:
            for key, value in kept.items():
                update(file, key, value)
    cluster.tele.run("audit", "verify", "--heads", at_node)


def test_heads_that_auth_did_not_sign(cluster: Cluster, tmp_path: Path) -> None:
    """A node that was taken over raises no false alarm: what it made up is ignored, and named."""
    at_node = cluster.folder / "identity" / "node" / "audit-heads"
    until(at_node.exists)
    copy = tmp_path / "audit-heads"
    good = at_node.read_bytes().splitlines()[-1]
    forged = json.dumps({**json.loads(good), "hash": "0" * 64}).encode()
    copy.write_bytes(good + b"\n" + forged + b"\n")
    done = cluster.tele.run("audit", "verify", "--heads", copy)
    assert "1 of 2 heads are ignored" in done.stderr
    copy.write_bytes(forged + b"\n")
    assert "that auth of cluster" in cluster.tele.fails(2, "audit", "verify", "--heads", copy)
    copy.write_bytes(b"x\n")
    assert "no signed head" in cluster.tele.fails(2, "audit", "verify", "--heads", copy)
