"""Machines for the commands of the documentation: namespaces with a name, a network, accounts,
home directories and an ``/etc`` of their own. Nothing of it is left when they end.

tele is in ``/opt/tele``, root's home is ``/home/root``. Machines of one network share the address
10.0.0.1.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

VENV = Path(sys.prefix)
NETWORK = (
    "ip link set lo up; ip addr add 10.0.0.1/24 dev lo; ip route add default dev lo src 10.0.0.1"
)
MACHINE = """
set -e
mount --make-rprivate /
mount -t tmpfs none {overlay}
cd {overlay}
for each in etc root var opt; do
    mkdir $each $each.work
    mount -t overlay -o lowerdir=/$each,upperdir=$each,workdir=$each.work none /$each
done
mount -t tmpfs none /home
mount -t tmpfs none /run
hostname {name}
echo '127.0.0.1 localhost {name}' > /etc/hosts
echo '10.0.0.1 auth.example.com proxy.example.com' >> /etc/hosts
chmod 711 /root  # Python may be there
mkdir -m 700 /home/root
sed -i 's#^root:.*#root:x:0:0:root:/home/root:/bin/bash#' /etc/passwd
ln -s {venv} /opt/tele
mkdir /etc/tele
for each in {accounts}; do useradd --create-home --shell /bin/bash $each; done
"""


@define
class Machine:
    """One machine; ``pid`` is its first process."""

    name: str
    pid: int
    services: list[subprocess.Popen[bytes]] = field(factory=list)

    def words(self, line: str, account: str = "root", folder: str = "") -> list[str]:
        """Return a command that lets bash run ``line`` as a user who has just logged in."""
        home = f"/home/{account}"
        environment = {
            "HOME": home, "USER": account, "LOGNAME": account, "TERM": "dumb", "LANG": "C.UTF-8",
            "PATH": "/opt/tele/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }  # fmt: skip
        as_account = [] if account == "root" else ["runuser", "-u", account, "--"]
        settings = [f"{name}={value}" for name, value in environment.items()]
        return [
            "nsenter", "-t", str(self.pid), "-m", "-u", "-n", "-p", "--", *as_account,
            "env", "-i", "-C", folder or home, *settings, "bash", "-c", line,
        ]  # fmt: skip

    def run(self, line: str, account: str = "root", stdin: str = "", status: int | None = 0) -> str:
        """Run a line; return all that it prints. It has to end with ``status`` (None: any)."""
        done = subprocess.run(
            self.words(line, account), input=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert status in (None, done.returncode), (
            f"{account}@{self.name}: {line}\nended with {done.returncode}: {done.stdout}"
        )
        return done.stdout

    def write(self, path: str, text: str, mode: str = "600", owner: str = "root") -> None:
        """Write a file."""
        quoted = shlex.quote(path)
        self.run(f"cat > {quoted} && chmod {mode} {quoted} && chown {owner} {quoted}", stdin=text)

    def start(self, line: str, port: int | None = None, folder: str = "") -> None:
        """Start what serves, in ``folder``; wait until it listens at ``port``, if it does."""
        log = f"/run/{len(self.services)}.log"
        self.services.append(
            subprocess.Popen(
                self.words(f"exec {line} > {log} 2>&1", folder=folder), stdin=subprocess.DEVNULL
            )
        )
        if port is not None:
            listens = f"ss -Hltn 'sport = :{port}' | grep -q ."
            until(
                lambda: self.run(f"{listens} && echo yes", status=None) == "yes\n",
                lambda: self.run(f"cat {log}"),
            )

    def stop(self) -> None:
        """End all that runs on it, in order, so that it cleans up what is not its own."""
        self.run("trap '' TERM; kill -TERM -1", status=None)  # there may be nothing to end
        runs = "ps -e -o stat=,comm= | grep -v ^Z | grep -cE ' (tele|twistd|python.*)$'"
        until(lambda: self.run(runs, status=None) == "0\n", lambda: self.run("ps -ef"))
        for service in self.services:
            service.wait(60)
        self.services.clear()


def until(found: Callable[[], bool], why: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline, f"not met after 120 s: {why()}"
        time.sleep(0.1)


def _held(words: list[str]) -> subprocess.Popen[str]:
    """Start a program that holds namespaces until it is killed, and wait until they are ready."""
    held = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert held.stdout is not None
    output = held.stdout.readline()
    if output != "ready\n":
        rest = output + held.communicate(timeout=10)[0]
        raise AssertionError(f"no namespaces: {rest}")
    return held


@contextmanager
def network(folder: Path, **machines: str) -> Iterator[dict[str, Machine]]:
    """Make machines, by their names and with these accounts (words), on a network of their own."""
    program = f"set -e; {NETWORK}; echo ready; exec sleep infinity"
    running = [_held(["unshare", "-n", "sh", "-c", program])]
    try:
        made = {}
        for name, accounts in machines.items():
            overlay = folder / name
            overlay.mkdir()
            setup = MACHINE.format(overlay=overlay, name=name, venv=VENV, accounts=accounts)
            words = ["nsenter", "-t", str(running[0].pid), "-n", "unshare", "-m", "-u", "-p", "-f"]
            words += ["--mount-proc", "--kill-child", "sh", "-c"]
            running.append(_held([*words, f"{setup}\necho ready; exec sleep infinity"]))
            first = Path(f"/proc/{running[-1].pid}/task/{running[-1].pid}/children")
            made[name] = Machine(name, int(first.read_text().split()[0]))
        try:
            yield made
        finally:
            for machine in made.values():
                machine.stop()
    finally:
        for each in reversed(running):
            each.kill()
            each.wait()
            assert each.stdout is not None
            each.stdout.close()
