"""Administration from the command line, on a running cluster."""

from __future__ import annotations

import json
import os
import pwd
import re
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tele_command import BIN, Cluster, read_line

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client")


def test_tokens(cluster: Cluster) -> None:
    """A token is shown once; the list has everything but the secret."""
    tele = cluster.tele
    made = tele.json("tokens", "add", "--role", "node,proxy", "--ttl", "1h", "--label", "env=lab")
    assert set(made) == {"token", "roles", "expires", "ca_pin"}
    assert made["roles"] == ["node", "proxy"]
    assert made["ca_pin"] == tele.json("status")["ca_pins"][0]
    listed = tele.json("tokens", "ls")
    (row,) = [t for t in listed if t["labels"] == {"env": "lab"}]
    assert made["token"] not in json.dumps(listed)
    tele.run("tokens", "rm", row["id"])
    assert row["id"] not in [t["id"] for t in tele.json("tokens", "ls")]
    removed = tele.json("audit", "ls", "--event", "token.delete")
    assert row["id"] in [event["token_id"] for event in removed]
    text = tele.run("tokens", "add", "--max-uses", "1")
    assert len(text.stdout.split()) == 1
    assert made["ca_pin"] in text.stderr


def test_users(cluster: Cluster) -> None:
    """A user without a given password gets an invitation, or one that is generated; what is shown
    once is on standard output alone.
    """
    tele = cluster.tele
    for words, name, shown in (
        ((), "ivan", r"ivan:[a-z2-7]{32}"),
        (("--invite-ttl", "1h"), "ines", r"ines:[a-z2-7]{32}"),
        (("--password",), "carol", r"[a-z2-7]{16,}"),
    ):
        account = ("--login", "carol,www", "--role", "access")
        done = tele.run("users", "add", name, *account, *words)
        assert re.fullmatch(shown, done.stdout.strip())
        assert done.stdout.strip() not in done.stderr
    made = json.loads(tele.run("users", "add", "iris", "--format", "json").stdout)
    assert (made["password"], made["invitation"][:5]) == (None, "iris:")
    for words in (("--invite",), ("--password-file", "-"), ("--invite-ttl", "1h")):
        assert "--" in tele.fails(2, "users", "add", "igor", "--password", *words, stdin="")
    for name in ("ivan", "ines", "iris"):
        tele.run("users", "rm", name)
    (row,) = [u for u in tele.json("users", "ls") if u["metadata"]["name"] == "carol"]
    assert row["spec"]["traits"]["logins"] == ["carol", "www"]
    again = json.loads(tele.run("users", "reset", "carol", "--format", "json").stdout)
    assert again["name"] == "carol"
    assert again["password"] != done.stdout.strip()
    tele.run("users", "rm", "carol")
    assert "carol" in tele.fails(5, "users", "rm", "carol")
    assert "name of a user" in tele.fails(2, "users", "add", "no name")
    for content, why in ((b"\xff\xfe", "is not text"), (b"\nx", "is empty")):
        (tele.folder / "password").touch(0o600)
        (tele.folder / "password").write_bytes(content)
        file = tele.folder / "password"
        assert why in tele.fails(2, "users", "add", "dora", "--password-file", file)


def test_users_are_updated(cluster: Cluster) -> None:
    """What is named changes and the rest stays; what makes no sense is said before anything is."""
    tele = cluster.tele
    tele.run("users", "add", "hugo", "--login", "hugo,www", "--ttl", "8h")

    def hugo() -> tuple[list[str], list[str], bool]:
        (row,) = [u for u in tele.json("users", "ls") if u["metadata"]["name"] == "hugo"]
        spec = row["spec"]
        return spec["roles"], spec["traits"]["logins"], row["metadata"]["expires"] is not None

    assert hugo() == (["access"], ["hugo", "www"], True)
    tele.run("users", "update", "hugo", "--add-role", "auditor", "--login", "hugo,deploy")
    assert hugo() == (["access", "auditor"], ["hugo", "deploy"], True)
    tele.run("users", "update", "hugo", "--remove-role", "access", "--remove-login", "deploy",
             "--add-login", "db", "--no-expiry")  # fmt: skip
    assert hugo() == (["auditor"], ["hugo", "db"], False)
    tele.run("users", "update", "hugo", "--expires", "2099-01-01T00:00:00Z")
    assert hugo()[2]
    for words, why in (
        ((), "nothing to change"),
        (("--remove-role", "access"), "has no role"),
        (("--role", "acess"), "no such role"),
        (("--ttl", "1h", "--expires", "2099-01-01T00:00:00Z"), "give one of them"),
        (("--ttl", "1h", "--no-expiry"), "--no-expiry excludes"),
        (("--expires", "2001-01-01T00:00:00Z"), "in the past"),
        (("--expires", "tomorrow"), "is not a time"),
    ):
        assert why in tele.fails(2, "users", "update", "hugo", *words), words
    assert "no such user" in tele.fails(5, "users", "update", "hugp", "--add-role", "auditor")
    tele.run("users", "rm", "hugo")


def test_resources_go_round(cluster: Cluster, tmp_path: Path) -> None:
    """What ``get`` prints ``apply`` takes, changed or not; one change that is late is refused."""
    tele = cluster.tele
    role = tmp_path / "role.yaml"
    role.write_text(
        "kind: role\nversion: v1\nmetadata: {name: deploy}\n"
        "spec:\n  allow:\n    logins: [deploy]\n    node_labels: {env: [lab]}\n"
    )
    assert "role/deploy applied" in tele.run("apply", "-f", role).stderr
    printed = tele.run("get", "role/deploy").stdout
    assert "logins:\n    - deploy" in printed
    role.write_text(printed.replace("- deploy", "- www"))
    tele.run("apply", "-f", role)
    late = tele.fails(1, "apply", "-f", role)
    assert "role deploy has changed since it was read" in late
    assert tele.json("get", "role/deploy")["spec"]["allow"]["logins"] == ["www"]
    assert "deploy" in tele.run("get", "roles", "--format", "names").stdout.split()
    tele.run("rm", "role/deploy")
    assert tele.json("audit", "ls", "--event", "role.delete")[-1]["name"] == "deploy"
    assert "deploy" in tele.fails(5, "get", "role/deploy")


def test_the_settings_of_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    """They are printed whole, applied and edited; what is not supported changes nothing."""
    tele = cluster.tele
    before = tele.json("get", "cluster")
    assert before["metadata"]["name"] == cluster.name
    assert before["spec"]["session_recording"]["capture_head"] == "1MiB"
    file = tmp_path / "cluster.yaml"
    file.write_text(tele.run("get", "cluster").stdout.replace("1MiB", "512KiB"))
    assert f"cluster/{cluster.name} applied" in tele.run("apply", "-f", file).stderr
    file.write_text(tele.run("get", "cluster").stdout)
    tele.run("apply", "-f", file)
    late = tele.fails(1, "apply", "-f", file)
    assert "has changed since it was read" in late
    assert tele.run("edit", "cluster", EDITOR="true").stderr == "nothing changed\n"
    tele.run("edit", f"cluster/{cluster.name}", EDITOR="sed -i s/512KiB/2MiB/")
    assert tele.json("get", "cluster")["spec"]["session_recording"]["capture_head"] == "2MiB"
    event = tele.json("audit", "ls", "--event", "cluster.update")[-1]
    assert event["before"]["capture_head"] == "512KiB"
    for script, why in (
        ("s/2MiB/2MB/", "is not a size"),
        ("s/mode: node/mode: cloud/", "mode"),
        ("s/kind: cluster/kind: role/", "cannot be edited"),
    ):
        said = tele.fails(2, "edit", "cluster", EDITOR=f"sed -i '{script}'", TMPDIR=str(tmp_path))
        assert why in said
        kept = Path(said.partition("your text is in ")[2].splitlines()[0])
        assert kept.stat().st_mode & 0o777 == 0o600
        assert "session_recording" in kept.read_text()
    assert "no such cluster" in tele.fails(5, "get", "cluster/other")
    assert "cannot be removed" in tele.fails(2, "rm", f"cluster/{cluster.name}")
    assert "is not KIND/NAME" in tele.fails(2, "edit", "role")
    assert "cannot be edited" in tele.fails(2, "edit", "node/web1")
    file.write_text(tele.run("get", "cluster").stdout.replace("2MiB", "1MiB"))
    tele.run("apply", "-f", file)


def test_apply_reads_all_before_it_changes_anything(cluster: Cluster) -> None:
    """An error in the second document leaves the first unapplied; the error names the line."""
    tele = cluster.tele
    first = "kind: role\nversion: v1\nmetadata: {name: first}\nspec: {}\n"
    said = tele.fails(2, "apply", "-f", "-", stdin=first + "---\nkind: nonsense\n")
    assert "nonsense" in said
    assert "first" in tele.fails(5, "get", "role/first")
    twice = tele.fails(2, "apply", "-f", "-", stdin="kind: role\nkind: user\n")
    assert "standard input:2: key 'kind' is given twice" in twice
    assert "no documents" in tele.fails(2, "apply", "-f", "-", stdin="# nothing\n")
    newer = tele.fails(2, "apply", "-f", "-", stdin=first.replace("v1", "v9"))
    assert newer.rstrip().endswith("version: 'v9' is none of v1")
    unknown = first.replace("spec: {}", "spec: {alow: {}}")
    assert "unknown key 'alow'" in tele.fails(2, "apply", "-f", "-", stdin=unknown)


def test_kinds_that_do_not_exist(cluster: Cluster) -> None:
    """The kinds that there are get listed; a name has to be given to remove."""
    assert "user, role" in cluster.tele.fails(2, "get", "pods")
    assert "KIND/NAME" in cluster.tele.fails(2, "rm", "role")


def test_authorities(cluster: Cluster, tmp_path: Path) -> None:
    """Pins are those that users compare; exports are what OpenSSH reads."""
    tele = cluster.tele
    rows = {row["kind"]: row for row in tele.json("ca", "status")}
    assert set(rows) == {"user", "host"}
    assert rows["host"]["pins"] == tele.json("status")["ca_pins"]
    hosts = tele.run("ca", "export", "--type", "host", "--format", "known_hosts").stdout
    assert hosts.startswith(f"@cert-authority *.{cluster.name} ssh-ed25519 ")
    key = tele.run("ca", "export", "--type", "user").stdout
    (tmp_path / "ca.pub").write_text(key)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", tmp_path / "ca.pub"], capture_output=True, text=True, check=True
    ).stdout
    assert rows["user"]["ssh_fingerprints"][0] in shown
    assert (
        "BEGIN CERTIFICATE" in tele.run("ca", "export", "--type", "user", "--format", "pem").stdout
    )


def test_keys_are_signed(cluster: Cluster, tmp_path: Path) -> None:
    """Certificates for keys made elsewhere, for automation and for an sshd."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    tele = cluster.tele
    user, login = (tele.json("status")[key] for key in ("user", "logins"))
    tele.run(
        "ca", "sign-user", tmp_path / "k.pub", "--user", user, "--login", login[0], "--ttl", "1h"
    )
    assert f'Key ID: "{user}"' in listing(tmp_path / "k-cert.pub")
    done = tele.run("ca", "sign-host", tmp_path / "k.pub", "--principal", "a.example", "--out", "-")
    (tmp_path / "h").write_text(done.stdout)
    assert "host certificate" in listing(tmp_path / "h")
    said = tele.fails(4, "ca", "sign-user", tmp_path / "k.pub", "--user", user, "--login", "xyz")
    assert "xyz" in said
    # An sshd's certificate has no name by which a member could be meant.
    (node,) = tele.json("ls")
    for name, status in (
        (f"{node['name']}.{cluster.name}", 2), (f"x.{cluster.name}", 2), (node["id"], 2),
        (f"proxy.{cluster.name}", 2), (cluster.name, 2), (node["name"], 1),
    ):  # fmt: skip
        words = ("ca", "sign-host", tmp_path / "k.pub", "--principal", f"a.example,{name}")
        assert "another name" in tele.fails(status, *words)
    # A private key that is named by mistake is read here, and goes nowhere.
    assert "k: not a public key" in tele.fails(2, "ca", "sign-user", tmp_path / "k", "--user", user)


def listing(path: Path) -> str:
    return subprocess.run(
        ["ssh-keygen", "-Lf", path], capture_output=True, text=True, check=True
    ).stdout


def test_nodes(cluster: Cluster) -> None:
    """Nodes are named by name or id; unknown ones are said to be unknown."""
    tele = cluster.tele
    assert tele.run("ls", "--format", "names").stdout == f"{socket.gethostname()}\n"
    assert (tele.home / cluster.name / ".nodes").read_text() == f"{socket.gethostname()}\n"
    assert "no such node" in tele.fails(5, "nodes", "rm", "nothing")
    assert "is not a label" in tele.fails(2, "ls", "env")
    assert "only operator is =" in tele.fails(2, "ls", "env!=prod")
    name = socket.gethostname()
    host_id = tele.json("ls")[0]["id"]
    for words, shown in (((name[1:].upper(), host_id[:9]), [name]), ((name, "no such"), [])):
        searched = [each for word in words for each in ("--search", word)]
        assert [row["name"] for row in tele.json("ls", *searched)] == shown
    assert "--search is empty" in tele.fails(2, "ls", "--search", "")
    yaml = YAML(typ="safe").load(tele.run("ls", "--format", "yaml").stdout)
    assert yaml[0]["name"] == socket.gethostname()


def test_machines_with_sshd(cluster: Cluster) -> None:
    """They are registered, listed as nodes, changed and removed."""
    tele = cluster.tele
    words = ("nodes", "add", "db-legacy", "--address")
    said = tele.run(
        *words, "127.0.0.1:1", "--labels", "env=legacy", "--principals", "db.example.org"
    )
    assert said.stderr == "node db-legacy registered at 127.0.0.1:1\n"
    (row,) = tele.json("ls", "env=legacy")
    assert (row["name"], row["addresses"], row["mode"], row["status"]) == (
        "db-legacy", ["127.0.0.1:1"], "direct", "offline",
    )  # fmt: skip
    assert (row["sshd"], row["names"]) == (True, ["db.example.org"])
    assert "offline, never reached" in tele.run("ls", "env=legacy").stdout
    assert "tele nodes rm" in tele.fails(1, *words, "127.0.0.1:2")
    changed = json.loads(tele.run(*words, "127.0.0.1", "--replace", "--format", "json").stdout)
    assert (changed["id"], changed["addresses"]) == (row["id"], ["127.0.0.1:22"])
    assert "reserved" in tele.fails(2, "nodes", "add", "proxy", "--address", "127.0.0.1:1")
    assert "is not an address" in tele.fails(2, *words, "a b:1", "--replace")
    tele.run("nodes", "rm", "db-legacy")
    assert "db-legacy" not in [node["name"] for node in tele.json("ls")]
    assert tele.json("audit", "ls", "--event", "node.add")[-1]["server_name"] == "db-legacy"


def test_an_unknown_node_is_named(cluster: Cluster) -> None:
    """Ssh ends with 255, and the last line of its errors includes the proxy's: no such node."""
    done = cluster.tele.run("ssh", "no-such-node", "true", status=255)
    assert "no such node" in done.stderr


def test_a_login_that_the_certificate_is_not_for(cluster: Cluster) -> None:
    """Ssh alone says no more than no; the node has it in the audit."""
    done = cluster.tele.run("ssh", f"daemon@{socket.gethostname()}", "true", status=255)
    assert "denied: the certificate of" in done.stderr
    assert "is not for login 'daemon', only for" in done.stderr
    assert [e for e in cluster.tele.json("audit", "ls") if e["login"] == "daemon" and not e["ok"]]


def test_a_login_in_a_url_is_read_as_ssh_does(cluster: Cluster) -> None:
    """One with escapes, which names of directories need, is not called denied when it is not."""
    own = pwd.getpwuid(os.getuid()).pw_name
    escaped = f"%{ord(own[0]):02X}{own[1:]}"
    done = cluster.tele.run("ssh", f"ssh://{escaped}@{socket.gethostname()}", "true")
    assert "denied" not in done.stderr


def test_audit(cluster: Cluster) -> None:
    """Events are one list, oldest first, each with the hash of the one before."""
    tele = cluster.tele
    tele.run("tokens", "add")
    events = tele.json("audit", "ls", "--limit", "0")
    assert all(a["hash"] == b["previous"] for a, b in pairwise(events))
    assert "cluster.create" in [event["event"] for event in events]
    made = tele.json("audit", "ls", "--event", "token.create")
    assert made
    assert all(e["event"] == "token.create" for e in made)
    assert len(tele.json("audit", "ls", "--limit", "1")) == 1
    assert tele.json("audit", "ls", "--limit", "1")[0]["event"] == "token.create"
    assert tele.json("audit", "ls", "--since", "1h", "--until", "59m") == []
    assert "neither a time" in tele.fails(2, "audit", "ls", "--since", "yesterday")


@pytest.fixture
def following(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """``tele audit ls --follow`` while a test runs."""
    with subprocess.Popen(
        [
            str(BIN / "tele"),
            "audit",
            "ls",
            "--follow",
            "--format",
            "json",
            "--event",
            "user.create",
        ],
        env=cluster.tele.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_audit_follows(cluster: Cluster, following: subprocess.Popen[str]) -> None:
    """New events come as they happen, one JSON text a line."""
    assert following.stdout is not None
    # The stream is open some time after the program has started: until then go on.
    for number in range(100):
        cluster.tele.run("users", "add", f"f{number}")
        if select.select([following.stdout], [], [], 0.3)[0]:
            break
    event = json.loads(read_line(following))
    assert event["event"] == "user.create"


def test_sessions(cluster: Cluster) -> None:
    """A session that runs is listed, and shown, while it runs."""
    with subprocess.Popen(
        [str(BIN / "tele"), "ssh", socket.gethostname(), "echo ready; cat"],
        env=cluster.tele.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdin is not None
        assert read_line(session) == "ready\n"
        rows: list[Any] = []
        for _ in range(100):
            rows = cluster.tele.json("sessions", "ls")
            if rows:
                break
        assert rows
        shown = cluster.tele.json("sessions", "show", rows[0]["id"])
        assert shown | rows[0] == shown
        assert (shown["kind"], shown["participants"][0]["user"]) == ("ssh", rows[0]["user"])
        text = cluster.tele.run("sessions", "show", rows[0]["id"]).stdout
        assert "Participants:" in text
        session.stdin.close()
        assert session.wait(30) == 0
    assert "no such session runs" in cluster.tele.fails(5, "sessions", "show", rows[0]["id"])


def test_the_owner_of_auth_needs_no_login(cluster: Cluster) -> None:
    """``--config`` on auth's machine works before the first login."""
    config = cluster.folder / "tele.yaml"
    names = cluster.tele.run(
        "users", "ls", "--format", "names", "--config", config, TELE_HOME="/nowhere"
    ).stdout
    assert cluster.tele.json("status")["user"] in names.split()


def test_the_error_says_that_auth_does_not_run(cluster: Cluster, tmp_path: Path) -> None:
    """What to start is said, and a file without auth is not taken for one."""
    config = tmp_path / "a.yaml"
    config.write_text("version: v1\ndata_dir: d\nauth: {cluster_name: c}\n")
    assert "twistd -n tele-auth" in cluster.tele.fails(6, "users", "ls", "--config", config)
    config.write_text("version: v1\nproxy: {join: {auth: a}}\n")
    assert "auth: missing section" in cluster.tele.fails(2, "users", "ls", "--config", config)


def _until_written(folder: Path, keys: int) -> None:
    """Wait until the file of the user CA has so many keys; those of the host CA have one."""
    deadline = time.monotonic() + 60
    path = folder / "user_ca.pub"
    while not path.exists() or len(path.read_text().splitlines()) != keys:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (folder / "host_ca.pub").read_text().count("\n") == 1


def test_ca_rotate(cluster: Cluster) -> None:
    """A CA rotates alone, is rolled back, and each phase is shown, refused or begun."""
    tele = cluster.tele
    alone = ("--type", "tls-user")

    def phase() -> str:
        items = tele.json("ca", "status", "--rotation")
        assert {item["phase"] for item in items if item["ca"] != "tls-user"} == {"standby"}
        return next(str(item["phase"]) for item in items if item["ca"] == "tls-user")

    assert "--phase" in tele.fails(2, "ca", "rotate", "--manual", *alone)
    assert "--manual" in tele.fails(2, "ca", "rotate", "--phase", "init", *alone)
    assert "it has to be" in tele.fails(2, "ca", "rotate", "--grace", "8h", *alone)
    assert "only init can" in tele.fails(2, "ca", "rotate", "--rollback", *alone)
    text = tele.run("ca", "rotate", "--manual", "--phase", "init", *alone).stdout
    assert "tls-user" in text
    assert phase() == "init"
    pins = next(c["pins"] for c in tele.json("ca", "status") if c["kind"] == "user")
    assert len(pins) == 2
    tele.run("ls")
    deadline = time.monotonic() + 60
    while any(host.get("behind") for host in tele.json("nodes", "ls", "--rotation")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    kept = tele.folder / "kept"
    kept.mkdir()
    watching = subprocess.Popen(
        [BIN / "tele", "ca", "export", "--watch", kept, "--every", "1s"],
        env=tele.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _until_written(kept, 1)
        tele.run("ca", "rotate", "--manual", "--phase", "init", "--type", "user")
        _until_written(kept, 2)
        exported = tele.run("ca", "export", "--type", "user").stdout
        assert (kept / "user_ca.pub").read_text() == exported
        tele.run("ca", "rotate", "--rollback", "--type", "user")
        tele.run("ca", "rotate", "--manual", "--phase", "standby", "--type", "user", "--force")
        _until_written(kept, 1)
    finally:
        watching.terminate()
        watching.wait()
    assert "--type" in tele.fails(2, "ca", "export")
    assert "1s to 24h" in tele.fails(2, "ca", "export", "--watch", kept, "--every", "0s")
    tele.run("ca", "rotate", "--rollback", *alone)
    tele.run("ca", "rotate", "--manual", "--phase", "standby", *alone)
    assert phase() == "standby"
    assert "tls-user" in tele.run("ca", "status", "--watch").stdout
    events = tele.json("audit", "ls", "--event", "ca.rotate")
    mine = [event for event in events if event["ca"] == "tls-user"]
    assert [event["phase"] for event in mine] == ["init", "rollback", "standby"]
    assert not any(event["forced"] for event in mine)
    after = next(c["pins"] for c in tele.json("ca", "status") if c["kind"] == "user")
    assert after == pins[:1]
