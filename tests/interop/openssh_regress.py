"""OpenSSH's own regression tests, of its source, run against a node in the place of its server.

::

    ./configure --disable-security-key && make && make regress-binaries    # in its source
    python tests/interop/openssh_regress.py DIRECTORY [TEST ...]

prints a table for ``docs/reference/clients.rst``. Tests of what OpenSSH's server reads from its own
configuration, of programs without a server, and of authentication methods that a node does not
have, are left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from three_processes import Cluster, make_cluster

SECONDS = 600
TESTS = (
    "connect", "exit-status", "exit-status-signal", "transfer", "rekey",
    "stderr-data", "stderr-after-eof", "broken-pipe", "try-ciphers", "yes-head", "keyscan", "scp",
    "scp3", "scp-uri", "sftp-uri", "dynamic-forward", "forwarding", "multiplex", "localcommand",
    "kextype", "ssh-tty", "host-expand", "proxyjump", "percent", "cert-file",
)  # fmt: skip

_SSHD = """#!/bin/sh
# In the place of sshd: -t prepares, -i connects standard input, else the node listens already.
trap 'rm -f {obj}/pidfile; exit 0' TERM
case " $* " in
*" -t "*|*" -T "*) grep -q the-node {obj}/known_hosts || cat {obj}/the-node >>{obj}/known_hosts
    exit 0;;
*" -i "*) exec {obj}/netcat 127.0.0.1 {port};;
esac
(trap 'rm -f {obj}/pidfile; exit 0' TERM; while :; do sleep 0.2; done) >/dev/null 2>&1 </dev/null &
echo $! >{obj}/pidfile
"""


def run_test(cluster: Cluster, source: Path, name: str) -> str:
    """Run one of the scripts in ``source/regress``; return what it complained about."""
    folder = source / "regress"
    port = cluster.ports["node"]
    (folder / "the-sshd").write_text(_SSHD.format(obj=folder, port=port))
    (folder / "the-sshd").chmod(0o755)
    programs = {
        f"TEST_SSH_{name.upper().replace('-', '')}": str(source / name)
        for name in ("ssh", "ssh-agent", "ssh-add", "ssh-keygen", "ssh-keyscan", "sftp", "scp")
    }
    done = subprocess.run(
        ["sh", "test-exec.sh", str(folder), str(folder / f"{name}.sh")],
        cwd=folder,
        env={
            **cluster.environment, **programs,
            "TEST_SSH_SSHD": str(folder / "the-sshd"), "TEST_SSH_PORT": str(port),
            "TEST_SSH_SFTPSERVER": str(source / "sftp-server"), "TEST_SHELL": "sh",
            "BUILDDIR": str(source), "EGREP": "grep -E", "TEST_SSH_UNSAFE_PERMISSIONS": "1",
        },
        stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    output = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
    return "; ".join(output[-6:]) if done.returncode or "SKIPPED" in output[-1:] else ""


def prepare(cluster: Cluster, source: Path) -> None:
    """Make the keys that the scripts would make, with certificates, and the node's plain key."""
    folder = source / "regress"
    keygen = str(source / "ssh-keygen")
    query = subprocess.run(
        [str(source / "ssh"), "-Q", "key-plain"], capture_output=True, text=True, check=True
    )
    for kind in query.stdout.split():
        key = folder / kind
        for path in (key, Path(f"{key}.pub"), Path(f"{key}-cert.pub")):
            path.unlink(missing_ok=True)
        if kind.startswith(("sk-", "webauthn")):
            continue
        words = [keygen, "-q", "-N", "", "-t", kind, "-f", str(key)]
        subprocess.run(words, check=True)
        done = cluster.tele("ca", "sign-user", f"{key}.pub", "--user", "alice", check=False)
        if done.returncode == 0:
            Path(f"{key}-cert.pub").write_bytes(done.stdout)
    scan = [str(source / "ssh-keyscan"), "-t", "ed25519", "-p", str(cluster.ports["node"])]
    scanned = subprocess.run([*scan, "127.0.0.1"], capture_output=True, text=True, check=True)
    found = re.search(r"(ssh-ed25519) (\S+)$", scanned.stdout, re.MULTILINE)
    assert found, scanned
    line = f"localhost-with-alias,127.0.0.1,::1 {found[1]} {found[2]} the-node\n"
    (folder / "the-node").write_text(line)


def main() -> None:
    """Run as a command."""
    source = Path(sys.argv[1]).resolve()
    assert os.access(source / "regress" / "netcat", os.X_OK), "make regress-binaries first"
    with tempfile.TemporaryDirectory(prefix="tele-regress.") as folder:
        cluster = make_cluster(Path(folder))
        try:
            prepare(cluster, source)
            for name in sys.argv[2:] or TESTS:
                problem = run_test(cluster, source, name)
                print(f"{name:20} {problem or 'passes'}", flush=True)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
