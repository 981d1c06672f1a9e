"""The commands of README and docs, typed as they stand there, by the users and on the
machines that the pages mean.

Each page is run from its beginning to its end. What stands for something else (``...``, ``ID``) is
replaced; what a page expects of the reader between two commands is a step ``before`` the next.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define, field

from document_blocks import ROOT, Block, blocks
from machines import Machine, network, until
from not_run import is_run

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("ssh"), reason="needs OpenSSH's client"),
]
#: The pages whose commands run here, all of them.
PAGES_RUN = {
    "README.rst",
    "docs/howto/backup.rst",
    "docs/howto/rotate.rst",
    "docs/howto/signing-keys.rst",
    "docs/howto/forwarding.rst",
    "docs/howto/test-access.rst",
    "docs/howto/offboarding.rst",
    "docs/howto/automation.rst",
    "docs/tutorial/first-cluster.rst",
    "docs/tutorial/three-machines.rst",
    "docs/reference/commands.rst",
    "docs/howto/services.rst",
    "docs/howto/add-node.rst",
    "docs/howto/verify.rst",
    "docs/howto/sshd-fleet.rst",
}


#: What users choose.
PASSWORD = "correct horse battery staple"


@define
class World:
    """The machines of a story, and what users learned on them so far."""

    machines: dict[str, Machine]
    passwords: dict[str, str] = field(factory=dict)
    invitations: list[str] = field(factory=list)
    words: dict[str, str] = field(factory=dict)

    def run(self, line: str, at: str, account: str = "root", stdin: str = "") -> str:
        """Type one line of a page, and note the invitation, token or pin that it prints."""
        typed = line
        for word, value in self.words.items():
            typed = typed.replace(word, value)
        if found := re.match(r"tele login .*--user (\S+)", typed):
            typed += " --password-file -"
            stdin = self.passwords[found[1]] + "\n"
        elif found := re.match(r"tele login .*--invite(?=\s|$)", typed):
            code = self.invitations.pop()
            typed = f"{found[0]} {code} --password-file -"
            self.passwords[code.partition(":")[0]] = PASSWORD
            stdin = PASSWORD + "\n"
        output = self.machines[at].run(typed, account, stdin)
        if found := re.search(r"the invitation of .*; shown this once\n(\S+)", output):
            self.invitations.append(found[1])
        if typed.startswith("tele tokens add"):
            (token,) = re.findall(r"\b[a-z2-7]{32}\b", output)
            for machine in self.machines.values():
                machine.write("/etc/tele/token", f"{token}\n")
        if found := re.search(r"sha256:[0-9a-f]{64}", output):
            self.words["sha256:..."] = found[0]
        return output


@contextmanager
def world(folder: Path, **machines: str) -> Iterator[World]:
    """Make the machines of a story."""
    with network(folder, **machines) as made:
        yield World(made)


def of_page(page: str) -> list[Block]:
    """Return the blocks of a page."""
    return list(blocks(ROOT / page))


def lines_of(page: str, first: str = "", last: str = "") -> list[str]:
    """Return the lines to type of a page that are run, from one to another that begin so."""
    lines = [line for block in of_page(page) for line in block.commands if is_run(line)]
    start = next(n for n, line in enumerate(lines) if line.startswith(first))
    end = max(n for n, line in enumerate(lines) if line.startswith(last))
    return lines[start : end + 1]


def file_of(page: str, has: str) -> str:
    """Return the configuration of a page that has a text."""
    (found,) = (
        block.text for block in of_page(page) if block.is_configuration and has in block.text
    )
    return found + "\n"


#: What is done on every machine of a story already.
INSTALLING = "python3 -m venv .venv && . .venv/bin/activate && pip install . && "


def newest_recording(it: World, at: str) -> str:
    """Return the id of a recording that is complete."""
    machine = it.machines[at]
    listed = "tele recordings ls --format names | head -1"
    until(lambda: machine.run(f'tele recordings verify "$({listed})"', status=None)[:3] == "ok:")
    return machine.run(listed).strip()


def test_a_cluster_on_this_machine(tmp_path: Path) -> None:
    """README and the first tutorial, by root on a new machine; then by another user of this machine
    and of another one; and the pages that need a cluster and nothing else.
    """
    with world(tmp_path, one="alice", other="alice", readme="") as it:
        for line in lines_of("README.rst", "python3", "tele down"):
            if "play ID" in line:
                it.words["ID"] = newest_recording(it, "readme")
            it.run(line.removeprefix(INSTALLING), "readme")
        for line in lines_of("docs/tutorial/first-cluster.rst", "python3", "tele down"):
            if "play ID" in line:
                it.words["ID"] = newest_recording(it, "one")
            output = it.run(line.removeprefix(INSTALLING), "one", stdin="echo I am $TELE_USER\n")
            if line.startswith("ssh "):
                assert "I am root" in output
        it.run("tele up --detach", "one")
        it.run("tele ca status", "one")
        for line in lines_of(
            "docs/tutorial/first-cluster.rst", "tele users add alice", "tele login --proxy 127"
        ):
            it.run(line, "one", "root" if "users" in line else "alice")
        assert it.run("tele ssh one 'id -un'", "one", "alice") == "alice\n"
        it.run("tele down", "one")
        it.run("rm -r /var/lib/tele /home/root/.tele", "one")
        (line,) = lines_of(
            "docs/tutorial/first-cluster.rst", "tele up --detach --listen", "tele up --detach --l"
        )
        it.run(line, "one")
        it.run("tele users add alice --role access --login alice", "one")
        it.run("tele ca status", "one")
        line = "tele login --proxy 10.0.0.1:3080 --ca-pin sha256:... --invite"
        it.run(line, "other", "alice")
        assert it.run("tele ssh one 'id -un; hostname'", "other", "alice") == "alice\none\n"
        _reference(it)
        _verifying(it)
        _backup(it)
        for line in lines_of("docs/howto/rotate.rst"):
            it.run(line, "one")
        it.words["/etc/tele/signing.key"] = "/home/signing.key"
        it.words["/root/recovery.key"] = "/home/recovery.key"
        for line in lines_of("docs/howto/signing-keys.rst"):
            assert "x25519:" in it.run(line, "one")


def _reference(it: World) -> None:
    """The pages on commands, forwarding and locks, by the administrator."""
    (script,) = (block.text for block in of_page("docs/reference/commands.rst") if block.is_script)
    it.machines["one"].write("/home/root/inventory", script + "\n", "755")
    assert '"one.tele"' in it.run("./inventory", "one")
    for line in lines_of("docs/reference/commands.rst") + lines_of("docs/howto/forwarding.rst"):
        it.run(line, "one")
    page = "docs/howto/test-access.rst"
    for name, has in (("policy-tests.yaml", "access_tests"), ("roles.yaml", "kind: role")):
        text = file_of(page, has).replace("node: web1", "node: one")
        it.machines["one"].write(f"/home/root/{name}", text)
    for line in lines_of(page):
        it.run(line.replace("@web1", "@one"), "one")
    it.run("tele users add bob --role access --login alice", "one")
    for line in lines_of("docs/howto/offboarding.rst", "$ ", "$ "):
        output = it.run(line.removeprefix("$ "), "one")
        if line.startswith("$ tele locks add"):
            (shown,) = re.findall(
                r"user-[0-9a-f]{8}", "\n".join(lines_of("docs/howto/offboarding.rst"))
            )
            it.words[shown] = output.splitlines()[0]


def _verifying(it: World) -> None:
    """The page for auditors; its marks and ids stand for those that were shown."""
    it.run("tele ssh one true", "one")
    it.words["1efbc034"] = newest_recording(it, "one")[:8]
    for line in lines_of("docs/howto/verify.rst"):
        output = it.run(line.removeprefix("$ "), "one")
        if found := re.search(r"^head: (\d+:[0-9a-f]{64})$", output, re.MULTILINE):
            it.words["1204:aa2b4624..."] = found[1]
    assert "ok: " in output


def _backup(it: World) -> None:
    """The page on backups: all is there again after auth's state was lost."""
    it.words["/backup"] = "/home/backup"
    it.run("mkdir -m 700 /backup", "one")
    it.words["/etc/tele/restore.pub"] = "/home/restore.pub"
    it.words["/root/restore.key"] = "/home/restore.key"
    keygen, taken, restored = lines_of("docs/howto/backup.rst")
    it.run(keygen, "one")
    output = it.run(taken, "one")
    assert output.splitlines()[-1].startswith("head: ")
    it.run("tele down; rm -r /var/lib/tele", "one")
    assert it.run(restored, "one").splitlines()[-1] == output.splitlines()[-1]
    it.run("tele up --detach", "one")
    assert "alice" in it.run("tele users ls --format names", "one").split()
    assert it.run("tele ssh one 'id -un'", "other", "alice") == "alice\n"


def test_several_machines(tmp_path: Path) -> None:
    """The second tutorial: auth, a proxy and a node on machines of their own, the administrator on
    a fourth; and a script, which is logged in as its own user.
    """
    accounts = {"auth": "", "proxy": "", "web1": "www", "laptop": "dana"}
    with world(tmp_path, **accounts) as it:
        by_hand = lines_of("docs/tutorial/three-machines.rst")
        for line in by_hand + lines_of("docs/howto/automation.rst"):
            if line.startswith("twistd"):
                part = line.split()[2].removeprefix("tele-")
                at, port = {
                    "node": ("web1", 3022),
                    "proxy": ("proxy", 3080),
                    "auth": ("auth", 3025),
                }[part]
                has = {"node": "labels", "proxy": "public_addr", "auth": "cluster_name"}[part]
                text = file_of("docs/tutorial/three-machines.rst", has)
                for word, value in it.words.items():
                    text = text.replace(word, value)
                it.machines[at].write(f"/home/root/{part}.yaml", text)
                it.machines[at].start(line, port)
            elif line.endswith("--config auth.yaml"):
                it.run(line, "auth")
            elif line == "tele ls":
                until(lambda: "online" in it.run("tele ls", "laptop", "dana"))
            else:
                output = it.run(line, "laptop", "dana", "echo I am $TELE_USER on $(id -un)\n")
        assert "I am deploy on www" in output
        it.run("tele logout && mv .tele gone", "laptop", "dana")
        assert "I am deploy" in it.run(line, "laptop", "dana", "echo I am $TELE_USER\n")
        for line in lines_of("README.rst", "twistd -n tele-auth", "twistd"):
            if line.startswith("tele "):
                it.run(line, "auth")
            else:  # they run
                assert " ".join(line.split()) in by_hand


def _started_as_a_service(it: World, part: str, at: str) -> None:
    """Start a part as its unit does, but for systemd: with its account, folder and credentials."""
    unit = (ROOT / "docs/examples/systemd" / f"tele-{part}.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    machine, owner = it.machines[at], f"tele-{part}" if "DynamicUser=yes" in unit else "root"
    if owner != "root":
        machine.run(f"useradd --system {owner}")
        command = f"setpriv --reuid {owner} --regid {owner} --clear-groups --no-new-privs {command}"
    machine.run(f"install -d -m 700 -o {owner} /var/lib/tele-{part}")
    text = file_of("docs/howto/services.rst", f"data_dir: /var/lib/tele-{part}")
    for word, value in it.words.items():
        text = text.replace(word, value)
    machine.write(f"/etc/tele/{part}.yaml", text, "644")
    if "LoadCredential=" in unit:
        folder = f"/run/credentials/tele-{part}.service"
        machine.run(f"install -d -m 711 {folder}")
        machine.run(f"install -m 400 -o {owner} /etc/tele/token {folder}/token")
    machine.start(command, {"auth": 3025, "proxy": 3080}.get(part), "/")


def test_services_and_tunnels(tmp_path: Path) -> None:
    """The units' commands with the files of their page, each as its account; then a node behind
    NAT, used by ``alice`` as the page on nodes says; and the last administrator.
    """
    accounts = {"auth": "", "proxy": "", "db1": "", "web1": "", "laptop": "alice"}
    with world(tmp_path, **accounts) as it:
        for line in lines_of("docs/howto/services.rst"):
            if line.startswith("tele users add admin"):
                _started_as_a_service(it, "auth", "auth")
            it.run(line, "auth")
        _started_as_a_service(it, "proxy", "proxy")
        _started_as_a_service(it, "node", "db1")
        text = file_of("docs/howto/add-node.rst", "join: {proxy")
        for word, value in it.words.items():
            text = text.replace(word, value)
        it.machines["web1"].write("/etc/tele/node.yaml", text + "  labels: {env: prod, role: db}\n")
        it.machines["web1"].start("twistd -n tele-node --config /etc/tele/node.yaml")
        it.run(
            "tele users add alice --role access --login root --config /etc/tele/auth.yaml", "auth"
        )
        it.run(
            "tele login --proxy proxy.example.com:3080 --ca-pin sha256:... --invite",
            "laptop",
            "alice",
        )
        until(lambda: it.run("tele ls", "laptop", "alice").count("online") == 2)
        for line in lines_of("docs/howto/add-node.rst"):
            if line.startswith("tele node check"):
                assert "BPF" in it.run(line, "web1")
                continue
            output = it.run(line, "laptop", "alice", "echo I am $TELE_USER on $(hostname)\n")
            if "ssh " in line:
                assert "I am alice on web1" in output, line
        it.run("tele users add dana --role editor --config /etc/tele/auth.yaml", "auth")
        for line in lines_of("docs/howto/offboarding.rst", "# ", "# "):
            it.run(line.removeprefix("# "), "auth")


#: The settings of a cluster whose proxies answer clients that know no certificates, too.
PLAIN_KEYS = json.dumps(
    {
        "kind": "cluster", "version": "v1", "metadata": {"name": "tele"},
        "spec": {"session_recording": {"mode": "node", "proxy_plain_keys": True}},
    }
)  # fmt: skip


def test_a_machine_with_sshd(tmp_path: Path) -> None:
    """The page on machines that keep their sshd, by the administrator of a cluster of one machine
    and on a machine without tele: what was done there is recorded, and direct logins are refused.
    """
    page = "docs/howto/sshd-fleet.rst"
    with world(tmp_path, **{"one": "", "db-legacy": ""}) as it:
        machine = it.machines["db-legacy"]
        it.run("tele up --detach", "one")
        machine.run("mkdir -p /run/sshd; rm -f /etc/ssh/ssh_host_*; ssh-keygen -A")
        public = machine.run("cat /etc/ssh/ssh_host_ed25519_key.pub")
        it.machines["one"].write("/home/root/ssh_host_ed25519_key.pub", public)
        it.words["10.0.0.9:22"] = "10.0.0.1:2222"
        it.words["gate1"] = "one-proxy"
        it.machines["one"].write("/home/root/cluster.json", PLAIN_KEYS)
        said = []
        texts = [block.text for block in of_page(page)]
        for line in lines_of(page):
            if line.startswith("tele nodes add"):
                for name in ("tele-users.pub", "ssh_host_ed25519_key-cert.pub"):
                    machine.write(f"/etc/ssh/{name}", it.run(f"cat {name}", "one"))
                (lines,) = (text for text in texts if text.startswith("HostCertificate"))
                (principal,) = (text for text in texts if text.startswith("session:"))
                machine.run("mkdir /etc/ssh/principals")
                machine.write("/etc/ssh/principals/root", f"{principal}\n")
                machine.write("/etc/ssh/sshd_config", f"Port 2222\nUsePAM no\n{lines}\n")
                machine.start("/usr/sbin/sshd -D", 2222)
            if line.startswith("tele ssh"):
                until(lambda: "online" in it.run("tele ls env=legacy", "one"))
            if line.startswith("mkdir"):  # then the page is about clients without certificates
                it.run("tele apply -f cluster.json", "one")
                recording = newest_recording(it, "one")
            said.append(it.run(line, "one"))
        assert any("load average" in output for output in said)
        assert "one-proxy" in it.run("cat .ssh/known_hosts", "one")
        shown = it.run(f"tele play {recording} --format text", "one")
        assert "load average" in shown
        options = "-o BatchMode=yes -o StrictHostKeyChecking=no -p 2222"
        own = "$(ls .tele/tele/*-cert.pub | sed s/-cert.pub//)"
        direct = f"ssh {options} -i {own} root@10.0.0.1 true"
        assert "Permission denied" in it.machines["one"].run(direct, status=255)


def test_each_page_is_in_a_story() -> None:
    """A page that is named as run has commands, and a story above types all of them."""
    source = Path(__file__).read_text()
    for page in PAGES_RUN:
        assert lines_of(page)
        assert source.count(f'"{page}"') > 1, page
