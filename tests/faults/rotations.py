"""CAs rotate while sessions run, and a part is killed in each phase: no session, no login is lost.

::

    python tests/faults/rotations.py --rounds 10
    python tests/faults/rotations.py --rounds 10 --mode proxy

A cluster of auth, two proxies, a node, a node behind tunnels, and a machine with OpenSSH's sshd,
each a process. A session counts on each route. Each round is a rotation of all CAs: to its end, or,
every second one, rolled back from one of its phases. In each phase one part gets kill -9 and is
started again moments later. When all hosts have followed, each session that did not go through that
part counts on, and a new login by each route succeeds at once, also by certificates of before as
long as their key is trusted. After the last phase these are refused. No host needs a token. With
``--mode proxy`` the proxies record, and end the SSH of all sessions.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field

from commands import main, say
from ledger import RunningSession, until
from sshd_fleet import NAME, Fleet, keys, running_sshd
from three_processes import Cluster, free_port, make_cluster

PARTS: Final = ("auth", "proxy", "node", "proxy2", "node2")
PHASES: Final = ("init", "update_clients", "update_servers", "standby")
#: Seconds for which a part is away at most.
AWAY: Final = 3.0


@define
class Route:
    """A way to a host: arguments of ssh, and the parts that a session on it goes through."""

    words: tuple[str, ...]
    parts: frozenset[str]


@define
class Rotating:
    """A cluster whose CAs rotate. ``second`` is the same user by the second proxy."""

    cluster: Cluster
    second: Cluster
    sshd: Fleet
    sshd_process: subprocess.Popen[bytes]
    mode: str
    dice: random.Random
    sessions: dict[str, RunningSession] = field(factory=dict)
    count: Counter[str] = field(factory=Counter)

    @property
    def local(self) -> tuple[str, str]:
        """What makes ``tele`` call auth as its owner."""
        return ("--config", str(self.cluster.folder / "auth.yaml"))

    def routes(self, old: Path | None = None) -> dict[str, Route]:
        """Return all, by name; with the login to hosts that is kept in the folder ``old``."""
        first, second = (
            ("-F", str(each.ssh_config if old is None else old / each.home))
            for each in (self.cluster, self.second)
        )
        name = self.cluster.name
        found = {
            "tunnel": Route((*first, f"web2.{name}"), frozenset(("proxy", "node2"))),
            "jump": Route((*second, f"web1.{name}"), frozenset(("proxy2", "node"))),
            "sshd": Route((*second, f"{NAME}.{name}"), frozenset(("proxy2",))),
        }
        if self.mode == "node":
            direct = (*first, *self._direct, f"web1.{name}")
            found["direct"] = Route(direct, frozenset(("node",)))
        return found

    @property
    def _direct(self) -> Sequence[str]:
        """Options of ssh to the node's own port."""
        host = f"web1.{self.cluster.name}"
        pairs = ("ProxyCommand=none", "HostName=127.0.0.1", f"HostKeyAlias={host}",
                 f"Port={self.cluster.ports['node']}")  # fmt: skip
        return [word for pair in pairs for word in ("-o", pair)]

    # -- sessions and logins ------------------------------------------------------------
    def begin_sessions(self) -> None:
        """Begin those that do not run."""
        for name, route in self.routes().items():
            if name not in self.sessions:
                self.sessions[name] = RunningSession(self.cluster, f"mark-{name}", route.words)
        until(self._have_begun, "a session on each route")

    def _have_begun(self) -> bool:
        for name, session in self.sessions.items():
            assert not session.has_ended, f"the session on {name} ended\n{self.cluster.logs()}"
        return all(session.has_begun for session in self.sessions.values())

    def check_sessions(self, killed: str) -> None:
        """Fail unless each session counts on that did not go through the part ``killed``."""
        for name in [n for n, route in self.routes().items() if killed in route.parts]:
            self.sessions.pop(name).hang_up()
        before = {name: session.number for name, session in self.sessions.items()}

        def count_on() -> bool:
            for name, session in self.sessions.items():
                assert not session.has_ended, f"{name} was lost, {killed} was killed"
            return all(self.sessions[name].number > number for name, number in before.items())

        until(count_on, "all sessions to count on")
        self.count["sessions"] += len(before)

    def log_in_to_hosts(self, old: Path | None = None) -> None:
        """Fail unless a login by each route succeeds at once."""
        for name, route in self.routes(old).items():
            done = self._ssh(*route.words, "echo on")
            assert done.stdout == b"on\n", f"{name}: {done.stderr!r}\n{self.cluster.logs()}"
            self.count["logins"] += 1

    def _ssh(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["ssh", "-o", "BatchMode=yes", *words],
            env=self.cluster.environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip

    def log_in(self) -> None:
        """Log the user in again, at both proxies."""
        for each, part in ((self.cluster, "proxy"), (self.second, "proxy2")):
            log_in(each, part)

    @contextmanager
    def old_login(self) -> Iterator[Path]:
        """A folder with the login of now, and configurations of ssh for it."""
        folder = self.cluster.folder / "old"
        shutil.copytree(self.cluster.folder / self.cluster.home / self.cluster.name, folder)
        for each in (self.cluster, self.second):
            mine = each.folder / each.home / each.name / "alice"
            text = each.ssh_config.read_text().replace(str(mine), str(folder / "alice"))
            (folder / each.home).write_text(text)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    # -- rotation -----------------------------------------------------------------------
    def look(self) -> Any:
        """What hosts have not got that the present phase needs, by name; None: auth is away."""
        found = self.cluster.tele(
            "nodes", "ls", "--rotation", "--format", "json", *self.local, check=False
        )
        return json.loads(found.stdout) if found.returncode == 0 else None

    def _have_followed(self) -> bool:
        hosts = self.look()
        return hosts is not None and all(
            not host.get("behind") and host["status"] == "online" for host in hosts
        )

    def begin(self, phase: str) -> None:
        """Begin a phase: what holds it up are only users and sshd, which this program renews."""
        words = ["ca", "rotate", "--manual", "--phase", phase, *self.local]
        done = self.cluster.tele(*words, check=False)
        if done.returncode:
            held = done.stderr.decode()
            assert "held up by users" in held or f"held up by {NAME}" in held, held
            assert not any(f"{host}: " in held for host in ("web1", "web2", "proxy")), held
            self.cluster.tele(*words, "--force", "--yes")
        self.count["phases"] += 1

    def renew_sshd(self, phase: str) -> None:
        """Do what an operator does for a machine with sshd."""
        folder = self.sshd.folder
        if phase in ("init", "standby"):
            words = ("ca", "export", "--type", "user", "--format", "openssh", *self.local)
            (folder / "users").write_bytes(self.cluster.tele(*words).stdout)
        else:
            out = str(folder / "host-cert.pub")
            signed = ("--principal", NAME, "--out", out, *self.local)
            self.cluster.tele("ca", "sign-host", str(folder / "host.pub"), *signed)
            self.sshd_process.send_signal(signal.SIGHUP)

    def go_through(self, phase: str, killed: str, old: Path) -> None:
        """Begin ``phase``, kill a part in it, and check what has to hold."""
        self.begin_sessions()
        self.begin(phase)
        time.sleep(self.dice.uniform(0.0, AWAY))
        self.cluster.kill(killed)
        time.sleep(self.dice.uniform(0.0, AWAY))
        self.cluster.start(killed)
        until(self._have_followed, f"all hosts to follow {phase} after {killed} was killed")
        self.renew_sshd(phase)
        self.log_in()
        self.check_sessions(killed)
        until(self._reachable, "all hosts to be reachable")
        self.log_in_to_hosts()
        if phase != "standby":
            self.log_in_to_hosts(old)
        say(f"{phase}: {killed} was killed; {dict(self.count)}")

    def _reachable(self) -> bool:
        """Whether tunnels are there again, and sshd has answered since auth was started."""
        listed = self.cluster.tele("ls", "--format", "json", check=False)
        return listed.returncode == 0 and all(
            node["status"] == "online" and (node["name"] != "web2" or len(node["tunnels"]) == 2)
            for node in json.loads(listed.stdout)
        )

    def refused(self, old: Path) -> None:
        """Fail unless each host refuses a certificate of a dropped key."""
        for name, route in self.routes(old).items():
            done = self._ssh(*route.words, "echo on")
            assert done.stdout == b"", f"{name} accepted a certificate of a dropped key"
            assert b"Permission denied" in done.stderr, done.stderr
            self.count["refusals"] += 1

    def rotate(self, phases: Sequence[str], killed: Iterator[str]) -> None:
        """Go through a rotation."""
        with self.old_login() as old:
            for phase in phases:
                self.go_through(phase, next(killed), old)
            if "rollback" not in phases:
                self.refused(old)

    def check(self) -> Counter[str]:
        """Fail if a host has joined again, or a session's record is not as it should be."""
        for session in self.sessions.values():
            session.hang_up()
        listed = self.cluster.tele("audit", "ls", "--limit", "0", "--format", "json").stdout
        events = Counter(event["event"] for event in json.loads(listed))
        assert events["node.join"] == len(PARTS) - 1, events
        self.cluster.tele("audit", "verify")
        return self.count


def log_in(cluster: Cluster, part: str) -> None:
    """Log alice in at a proxy, and write the configuration for ssh."""
    cluster.tele(
        "login", "--proxy", f"127.0.0.1:{cluster.ports[part]}", "--user", "alice",
        "--password-file", str(cluster.folder / "alice.password"), "--ca-pin", cluster.pin,
    )  # fmt: skip
    cluster.ssh_config.write_bytes(cluster.tele("config").stdout)


def add_parts(cluster: Cluster) -> None:
    """Add a second proxy, and a node that has tunnels to both."""
    cluster.ports.update(proxy2=free_port(), node2=0)
    for part, changed in (("proxy2", "proxy"), ("node2", "node")):
        text = (cluster.folder / f"{changed}.yaml").read_text()
        for old, new in (
            (f"data_dir: {cluster.folder}/{changed}", f"data_dir: {cluster.folder}/{part}"),
            (f"127.0.0.1:{cluster.ports[changed]}", f"127.0.0.1:{cluster.ports[part]}"),
            ("name: web1", "name: web2"),
            (f"join: {{auth: '127.0.0.1:{cluster.ports['auth']}'",
             f"join: {{proxy: '127.0.0.1:{cluster.ports['proxy']}'"),
        ):  # fmt: skip
            text = text.replace(old, new) if part == "node2" or "join" not in old else text
        lines = [line for line in text.splitlines() if "listen: 127.0.0.1:0" not in line]
        if part == "proxy2":
            lines.insert(lines.index("proxy:") + 1, "  name: proxy2")
        cluster.write(f"{part}.yaml", lines)
        cluster.start(part)


def rotations(
    folder: Path, rounds: int, dice: random.Random, mode: str = "node", depth: int = 3
) -> Counter[str]:
    """Do ``rounds`` rotations; return what was counted. ``depth``: phases before a rollback."""
    with ExitStack() as stack:
        cluster = make_cluster(folder, auth_settings=f"session_recording: {{mode: {mode}}}")
        stack.callback(cluster.stop)
        add_parts(cluster)
        second = evolve(cluster, home="home.second")
        log_in(second, "proxy2")
        port = free_port()
        sshd = Fleet(cluster, folder / "sshd", port)
        keys(cluster, sshd.folder)
        process = stack.enter_context(running_sshd(sshd.folder, port))
        cluster.tele("nodes", "add", NAME, "--address", f"127.0.0.1:{port}")
        rotating = Rotating(cluster, second, sshd, process, mode, dice)
        until(rotating._reachable, "all hosts to be reachable")
        killed = parts_in_turn(dice)
        for number in range(rounds):
            forward = number % 2 == 0
            steps = (
                PHASES if forward else (*PHASES[: 1 + number // 2 % depth], "rollback", "standby")
            )
            say(f"round {number + 1}: {', '.join(steps)}")
            rotating.rotate(steps, killed)
        return rotating.check()


def parts_in_turn(dice: random.Random) -> Iterator[str]:
    """Yield each part once, in any order, and again and again."""
    while True:
        yield from dice.sample(PARTS, len(PARTS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mode", default="node", choices=("node", "proxy"))
    given, sys.argv[1:] = parser.parse_known_args()
    main(partial(rotations, mode=given.mode), "rounds", 10)
