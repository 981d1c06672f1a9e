"""Other SSH clients run a command on a node, and copy a file there and back.

::

    python tests/interop/foreign_clients.py            # those that are installed
    python tests/interop/foreign_clients.py plink      # one of them
    python tests/interop/foreign_clients.py --mode proxy    # through a proxy that records
    python tests/interop/foreign_clients.py --mode proxy --plain-keys    # with plain host keys

prints a table for ``docs/reference/clients.rst``. Each client is given a certificate and the host
authority as its own manual says. Debian has them as packages; paramiko, asyncssh,
ssh-python, ssh2-python and parallel-ssh are on PyPI.

Through a proxy, a client with an SSH of its own connects to a port here, where the ProxyCommand of
``tele config`` runs, by the node's name: ``127.0.0.1 web1.interop`` has to be in /etc/hosts.
Clients that know no host certificates are given the key that ``tele nodes keys`` prints.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pwd
import re
import shlex
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import define, frozen

from three_processes import Cluster, make_cluster

LOGIN = pwd.getpwuid(os.geteuid()).pw_name
SECONDS = 90
BLOB = os.urandom(3_000_001)


@define
class World:
    """A node at ``host`` and ``port``, and what a client needs, in ``folder``."""

    cluster: Cluster
    folder: Path
    host: str
    port: int
    count: int = 0

    def path(self, name: str) -> str:
        """The path of a file here."""
        return str(self.folder / name)

    def run(
        self, *arguments: str, data: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> bytes:
        """Run a client; return its output, or raise with its errors."""
        own = {**self.cluster.environment, "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            arguments, input=data, env={**own, **(environment or {})}, cwd=self.folder,
            capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(done.stderr.decode("utf-8", "replace").strip()[-400:])
        return done.stdout

    def target(self) -> str:
        """Return a path on the node that does not exist yet."""
        self.count += 1
        return self.path(f"target{self.count}")

    def check_file(self, path: str) -> None:
        """Whether the blob arrived there."""
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert found == hashlib.sha256(BLOB).hexdigest(), f"{path} is not what was sent"


@frozen
class Client:
    """A client: its ``program``, and the command that prints its ``version``."""

    name: str
    version: Sequence[str]
    use: Callable[[World], None]
    #: Whose protocol it speaks.
    speaks: str = "ssh(1)"

    def installed(self) -> str:
        """Return the version, or nothing if it is not installed."""
        if shutil.which(self.version[0]) is None:
            return ""
        done = subprocess.run(self.version, capture_output=True, timeout=SECONDS, check=False)
        found = re.search(rb"\d+(?:\.\w+)+", done.stdout + done.stderr)
        return found[0].decode() if found and not done.returncode else ""


# -- with OpenSSH's client inside -------------------------------------------------------
def _ssh(world: World) -> None:
    config = ("-F", str(world.cluster.ssh_config), world.cluster.host)
    assert world.run("ssh", *config, "cat", data=BLOB) == BLOB


def _scp(world: World) -> None:
    target = world.target()
    config = str(world.cluster.ssh_config)
    for mode in ("-O", "-s"):
        world.run("scp", mode, "-F", config, "blob", f"{world.cluster.host}:{target}")
        world.check_file(target)
        Path(target).unlink()


def _sftp(world: World) -> None:
    target = world.target()
    arguments = f"put blob {target}\nget {target} back\nls -l {target}\n"
    config = str(world.cluster.ssh_config)
    world.run("sftp", "-b", "-", "-F", config, world.cluster.host, data=arguments.encode())
    world.check_file(world.path("back"))


def _rsync(world: World) -> None:
    target = world.target()
    world.run(
        "rsync",
        "-az",
        "blob",
        f"{world.cluster.host}:{target}",
        environment={"RSYNC_RSH": _shell(world)},
    )
    world.check_file(target)


def _shell(world: World) -> str:
    return f"ssh -F {world.cluster.ssh_config}"


def _git(world: World) -> None:
    origin = world.target()
    world.run("git", "init", "-q", "--bare", origin)
    clone = world.target()
    url = f"ssh://{LOGIN}@{world.cluster.host}{origin}"
    world.run("git", "clone", "-q", url, clone, environment={"GIT_SSH_COMMAND": _shell(world)})


def _mercurial(world: World) -> None:
    origin, clone = world.target(), world.target()
    world.run("hg", "init", origin)
    url = f"ssh://{LOGIN}@{world.cluster.host}/{origin}"
    world.run("hg", "clone", "--config", f"ui.ssh={_shell(world)}", url, clone)


def _borg(world: World) -> None:
    target = world.target()
    repository = f"ssh://{LOGIN}@{world.cluster.host}{target}"
    shell = {"BORG_RSH": _shell(world), "BORG_BASE_DIR": str(world.folder)}
    world.run("borg", "init", "-e", "none", repository, environment=shell)
    world.run("borg", "create", f"{repository}::one", "blob", environment=shell)


def _restic(world: World) -> None:
    repository = f"sftp:{world.cluster.host}:{world.target()}"
    command = f"sftp.command={_shell(world)} {world.cluster.host} -s sftp"
    arguments = ("restic", "-o", command, "-r", repository)
    world.run(*arguments, "init", environment={"RESTIC_PASSWORD": "secret"})
    world.run(*arguments, "backup", "blob", environment={"RESTIC_PASSWORD": "secret"})


def _unison(world: World) -> None:
    target = world.target()
    source = world.folder / "unison"
    source.mkdir()
    shutil.copy(world.path("blob"), source)
    remote = f"ssh://{LOGIN}@{world.cluster.host}/{target}"
    arguments = ("-batch", "-auto", "-sshargs", f"-F {world.cluster.ssh_config}")
    world.run("unison", str(source), remote, *arguments)
    world.check_file(f"{target}/blob")


def _sshfs(world: World) -> None:
    mount = Path(world.target())
    there = Path(world.target())
    mount.mkdir()
    there.mkdir()
    config = str(world.cluster.ssh_config)
    world.run("sshfs", "-F", config, f"{world.cluster.host}:{there}", str(mount))
    try:
        (mount / "blob").write_bytes(BLOB)
        (mount / "blob").rename(mount / "renamed")
        assert (mount / "renamed").read_bytes() == BLOB
    finally:
        world.run("fusermount", "-u", str(mount))
    world.check_file(str(there / "renamed"))


def _lftp(world: World) -> None:
    target = world.target()
    arguments = (
        f"set sftp:connect-program 'ssh -a -x -F {world.cluster.ssh_config}';"
        f" open sftp://{LOGIN}:@{world.cluster.host}; put blob -o {target}; bye"
    )
    world.run("lftp", "-c", arguments)
    world.check_file(target)


def _ansible(world: World) -> None:
    python = "ansible_python_interpreter=" + sys.executable
    (world.folder / "inventory").write_text(f"{world.cluster.host} {python}\n")
    arguments = ("ansible", "all", "-i", "inventory", "--ssh-common-args")
    config = f"-F {world.cluster.ssh_config}"
    assert b"pong" in world.run(*arguments, config, "-m", "ping")
    target = world.target()
    world.run(*arguments, config, "-m", "copy", "-a", f"src={world.path('blob')} dest={target}")
    world.check_file(target)


def _parallel_ssh(world: World) -> None:
    arguments = (
        "-H",
        world.cluster.host,
        "-x",
        f"-F {world.cluster.ssh_config}",
        "-i",
        "echo hello",
    )
    assert b"hello" in world.run("parallel-ssh", *arguments)


def _autossh(world: World) -> None:
    target = world.target()
    arguments = ("-M", "0", "-F", str(world.cluster.ssh_config), world.cluster.host)
    world.run(
        "autossh",
        *arguments,
        f"cp {world.path('blob')} {target}",
        environment={"AUTOSSH_GATETIME": "0"},
    )
    world.check_file(target)


def _tramp(world: World) -> None:
    target = world.target()
    (world.folder / ".ssh").mkdir(exist_ok=True)
    login_arguments = f'(("-F" "{world.cluster.ssh_config}") ("-l" "%u") ("%h"))'
    program = (
        "(progn (require 'tramp)"
        ' (let ((m (copy-sequence (assoc "ssh" tramp-methods)))) (setcar m "tele")'
        f" (setcdr m (cons '(tramp-login-args {login_arguments}) (cdr m)))"
        " (add-to-list 'tramp-methods m))"
        f' (copy-file "{world.path("blob")}" "/tele:{LOGIN}@{world.cluster.host}:{target}"))'
    )
    world.run("emacs", "-Q", "--batch", "--eval", program)
    world.check_file(target)


# -- with an SSH of their own -----------------------------------------------------------
def _rclone(world: World) -> None:
    target = world.target()
    arguments = (
        "--sftp-host", world.host, "--sftp-port", str(world.port), "--sftp-user", LOGIN,
        "--sftp-key-file", world.path("k_ed25519"),
        "--sftp-pubkey-file", world.path("k_ed25519-cert.pub"),
        "--sftp-known-hosts-file", world.path("known_hosts.port"),
    )  # fmt: skip
    world.run("rclone", "copyto", "blob", f":sftp:{target}", *arguments)
    world.check_file(target)


def _putty_words(world: World, kind: str) -> list[str]:
    settings = world.folder / ".putty" / "sshhostcas"
    settings.mkdir(parents=True, exist_ok=True)
    key = (world.folder / "known_hosts").read_text().split()[3]
    (settings / "tele").write_text(f"PublicKey={key}\nValidity=*\nPermitRSASHA512=1\n")
    world.run("puttygen", world.path(f"k_{kind}"), "-O", "private", "-o", f"{kind}.ppk")
    certificate = world.path(f"k_{kind}-cert.pub")
    return ["-batch", "-P", str(world.port), "-i", f"{kind}.ppk", "-cert", certificate]


def _plink(world: World) -> None:
    for kind in ("ed25519", "ecdsa", "rsa"):
        arguments = [*_putty_words(world, kind), "-ssh", f"{LOGIN}@{world.host}", "cat"]
        assert world.run("plink", *arguments, data=BLOB) == BLOB


def _pscp(world: World) -> None:
    arguments = _putty_words(world, "ed25519")
    for protocol in ("-sftp", "-scp"):
        target = world.target()
        world.run("pscp", protocol, *arguments, "blob", f"{LOGIN}@{world.host}:{target}")
        world.check_file(target)


def _psftp(world: World) -> None:
    target = world.target()
    batch = f"put blob {target}\nget {target} psftp.back\nquit\n"
    arguments = _putty_words(world, "ed25519")
    world.run("psftp", *arguments, f"{LOGIN}@{world.host}", data=batch.encode())
    world.check_file(world.path("psftp.back"))


def _python(program: str) -> Callable[[World], None]:
    def use(world: World) -> None:
        target = world.target()
        text = program.format(
            folder=world.folder, host=world.host, port=world.port, login=LOGIN, target=target
        )
        world.run(sys.executable, "-c", text)
        world.check_file(target)

    return use


_PARAMIKO = """
import os, paramiko
from paramiko import Ed25519Key, SSHClient
key = Ed25519Key.from_private_key_file("{folder}/k_ed25519")
key.load_certificate("{folder}/k_ed25519-cert.pub")
client = SSHClient()
plain = os.path.exists("{folder}/known_hosts.plain")
if plain:
    client.load_host_keys("{folder}/known_hosts.plain")
client.set_missing_host_key_policy(paramiko.RejectPolicy() if plain else paramiko.AutoAddPolicy())
client.connect("{host}", {port}, "{login}", pkey=key, allow_agent=False, look_for_keys=False)
assert client.exec_command("echo hello")[1].read() == b"hello\\n"
client.open_sftp().put("{folder}/blob", "{target}")
client.close()
"""
_ASYNCSSH = """
import asyncio, asyncssh
async def main():
    async with asyncssh.connect("{host}", {port}, username="{login}", config=None,
            known_hosts="{folder}/known_hosts",
            client_keys=[("{folder}/k_ed25519", "{folder}/k_ed25519-cert.pub")]) as client:
        assert (await client.run("echo hello", check=True)).stdout == "hello\\n"
        async with client.start_sftp_client() as files:
            await files.put("{folder}/blob", "{target}")
asyncio.run(main())
"""
_LIBSSH = """
import os
from ssh.session import Session
from ssh import options
session = Session()
session.options_set(options.HOST, "{host}")
session.options_set(options.USER, "{login}")
session.options_set(options.ADD_IDENTITY, "{folder}/k_rsa")
session.options_set_port({port})
plain = os.path.exists("{folder}/known_hosts.plain")
if plain:
    session.options_set(options.KNOWNHOSTS, "{folder}/known_hosts.plain")
session.connect()
if plain:
    assert session.is_server_known() == 1, "another host key"
session.userauth_publickey_auto("")
channel = session.channel_new()
channel.open_session()
channel.request_exec("cat > {target}")
data = open("{folder}/blob", "rb").read()
while data:
    _, n = channel.write(data[:30000])
    data = data[n:]
channel.send_eof()
while not channel.is_eof():
    channel.read()
channel.close()
"""
_LIBSSH2 = """
import os, socket
from ssh2.session import Session
link = socket.create_connection(("{host}", {port}))
session = Session()
session.handshake(link)
if os.path.exists("{folder}/known_hosts.plain"):
    known, (key, kind) = session.knownhost_init(), session.hostkey()
    known.readfile("{folder}/known_hosts.plain")
    from ssh2.knownhost import LIBSSH2_KNOWNHOST_KEYENC_RAW, LIBSSH2_KNOWNHOST_TYPE_PLAIN
    known.checkp(b"{host}", {port}, key,
                 LIBSSH2_KNOWNHOST_TYPE_PLAIN | LIBSSH2_KNOWNHOST_KEYENC_RAW)
session.userauth_publickey_fromfile(
    "{login}", "{folder}/k_rsa", "", "{folder}/k_rsa-cert.pub")
files = session.sftp_init()
from ssh2.sftp import LIBSSH2_FXF_CREAT, LIBSSH2_FXF_WRITE
with files.open("{target}", LIBSSH2_FXF_CREAT | LIBSSH2_FXF_WRITE, 0o600) as file:
    file.write(open("{folder}/blob", "rb").read())
"""


_PYLIBSSH = """
import os
from pylibsshext.session import Session
session = Session()
session.connect(host="{host}", port={port}, user="{login}", add_identity="{folder}/k_rsa",
                knownhosts="{folder}/known_hosts.plain",
                host_key_checking=os.path.exists("{folder}/known_hosts.plain"))
channel = session.new_channel()
assert channel.exec_command("echo hello").stdout == b"hello\\n"
channel.close()
files = session.sftp()
files.put("{folder}/blob", "{target}")
files.close()
session.close()
"""


def _curl(world: World) -> None:
    target = world.target()
    plain = Path(world.path("known_hosts.plain"))
    known = world.folder / ".ssh"
    known.mkdir(exist_ok=True)
    if plain.exists():
        shutil.copy(plain, known / "known_hosts")
    arguments = (
        *(() if plain.exists() else ("--insecure",)),
        "--key",
        world.path("k_rsa"),
        "--pubkey",
        world.path("k_rsa-cert.pub"),
    )
    url = f"sftp://{LOGIN}@{world.host}:{world.port}{target}"
    world.run("curl", "-sS", *arguments, "-T", "blob", url)
    world.check_file(target)


def _ruby(world: World) -> None:
    target = world.target()
    program = (
        "require 'net/ssh'; require 'net/sftp';"
        f"Net::SSH.start('{world.host}', '{LOGIN}', port: {world.port},"
        f" keys: ['{world.path('k_ed25519')}'], keys_only: true, non_interactive: true,"
        f" user_known_hosts_file: ['{world.path('known_hosts')}'], verify_host_key: :always) do |s|"
        " raise 'no' unless s.exec!('echo hello') == \"hello\\n\";"
        f" s.sftp.upload!('{world.path('blob')}', '{target}') end"
    )
    world.run("ruby", "-e", program)
    world.check_file(target)


def _dropbear(world: World) -> None:
    arguments = (
        "-y",
        "-y",
        "-i",
        world.path("k_ed25519"),
        "-p",
        str(world.port),
        f"{LOGIN}@{world.host}",
    )
    assert world.run("dbclient", *arguments, "echo hello") == b"hello\n"


def _version(module: str) -> list[str]:
    return [sys.executable, "-c", f"import importlib.metadata as m; print(m.version({module!r}))"]


CLIENTS = (
    Client("OpenSSH ssh", ["ssh", "-V"], _ssh, "own"),
    Client("OpenSSH scp (both protocols)", ["ssh", "-V"], _scp, "own"),
    Client("OpenSSH sftp", ["ssh", "-V"], _sftp, "own"),
    Client("rsync", ["rsync", "--version"], _rsync),
    Client("git", ["git", "--version"], _git),
    Client("Mercurial", ["hg", "--version"], _mercurial),
    Client("BorgBackup", ["borg", "--version"], _borg),
    Client("restic", ["restic", "version"], _restic),
    Client("Unison", ["unison", "-version"], _unison),
    Client("sshfs", ["sshfs", "--version"], _sshfs),
    Client("lftp", ["lftp", "--version"], _lftp),
    Client("Ansible", ["ansible", "--version"], _ansible),
    Client("parallel-ssh (pssh)", ["parallel-ssh", "--version"], _parallel_ssh),
    Client("autossh", ["autossh", "-V"], _autossh),
    Client("Emacs TRAMP", ["emacs", "--version"], _tramp),
    Client("rclone", ["rclone", "--version"], _rclone, "x/crypto (Go)"),
    Client("PuTTY plink", ["plink", "-V"], _plink, "own"),
    Client("PuTTY pscp (both protocols)", ["pscp", "-V"], _pscp, "own"),
    Client("PuTTY psftp", ["psftp", "-V"], _psftp, "own"),
    Client("paramiko", _version("paramiko"), _python(_PARAMIKO), "own"),
    Client("asyncssh", _version("asyncssh"), _python(_ASYNCSSH), "own"),
    Client("ssh-python", _version("ssh-python"), _python(_LIBSSH), "libssh"),
    Client("ssh2-python", _version("ssh2-python"), _python(_LIBSSH2), "libssh2"),
    Client("ansible-pylibssh", _version("ansible-pylibssh"), _python(_PYLIBSSH), "libssh"),
    Client("curl", ["curl", "--version"], _curl, "libssh2"),
    Client("Ruby net-ssh", ["ruby", "-e", "require 'net/ssh'; puts Net::SSH::Version::STRING"],
           _ruby, "own"),
    Client("Dropbear dbclient", ["dbclient", "-V"], _dropbear, "own"),
)  # fmt: skip


class _Relay(socketserver.BaseRequestHandler):
    """Connects a client with the ProxyCommand of ``server``."""

    server: _Relays

    def handle(self) -> None:
        """Run the command with the connection."""
        subprocess.run(
            self.server.command, stdin=self.request, stdout=self.request, check=False,
            env=self.server.environment,
        )  # fmt: skip


class _Relays(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        done = subprocess.run(
            ["ssh", "-F", cluster.ssh_config, "-G", f"{LOGIN}@{cluster.host}"],
            check=True, capture_output=True, text=True, env=cluster.environment,
        )  # fmt: skip
        words = dict(line.partition(" ")[::2] for line in done.stdout.splitlines())
        tokens = {"%r": LOGIN, "%h": cluster.host, "%p": words["port"]}
        command = re.sub("%[rhp]", lambda found: tokens[found[0]], words["proxycommand"])
        self.command = shlex.split(command)
        self.environment = cluster.environment


@contextmanager
def reached(cluster: Cluster, mode: str) -> Iterator[tuple[str, int]]:
    """Where clients reach the node of ``cluster``: at a relay if proxies record."""
    if not mode.startswith("proxy"):
        yield "127.0.0.1", cluster.ports["node"]
        return
    with _Relays(cluster) as relays:
        threading.Thread(target=relays.serve_forever, daemon=True).start()
        yield cluster.host, int(relays.server_address[1])
        relays.shutdown()


def make_world(
    folder: Path, cluster: Cluster, host: str, port: int, *, plain_keys: bool = False
) -> World:
    """Make keys and certificates of each kind in ``folder``, and what clients trust."""
    world = World(cluster, folder, host, port)
    (folder / "blob").write_bytes(BLOB)
    for kind in ("ed25519", "ecdsa", "rsa"):
        key = world.path(f"k_{kind}")
        form = ("-m", "PEM") if kind == "rsa" else ()
        world.run("ssh-keygen", "-q", "-t", kind, *form, "-N", "", "-f", key)
        signed = cluster.tele("ca", "sign-user", f"{key}.pub", "--user", "alice").stdout
        Path(f"{key}-cert.pub").write_bytes(signed)
    authority = cluster.tele("ca", "export", "--type", "host").stdout.decode()
    (folder / "known_hosts").write_text(f"@cert-authority * {authority}")
    # As Go reads it: a port that is not 22 is named.
    (folder / "known_hosts.port").write_text(f"@cert-authority [*]:{world.port} {authority}")
    if plain_keys:
        done = cluster.tele("nodes", "keys", host.partition(".")[0], "--format", "json")
        (key,) = json.loads(done.stdout)["keys"]
        line = f"[{host}]:{port} {key['key']}\n"
        (folder / "known_hosts.plain").write_text(line)
    return world


def results(world: World, wanted: Sequence[str]) -> Iterator[tuple[Client, str, str]]:
    """Use each installed client; yield it, its version, and its error or nothing."""
    for client in CLIENTS:
        if wanted and not any(name.lower() in client.name.lower() for name in wanted):
            continue
        version = client.installed()
        if not version:
            print(f"{client.name}: not installed", file=sys.stderr)
            continue
        try:
            client.use(world)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            yield client, version, str(error) or type(error).__name__
        else:
            yield client, version, ""


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clients", nargs="*", help="parts of names")
    parser.add_argument("--mode", default="node", help="how sessions are recorded")
    parser.add_argument(
        "--plain-keys", action="store_true", help="accept clients that know no host certificates"
    )
    options = parser.parse_args()
    recording = f"mode: {options.mode}, proxy_plain_keys: {str(options.plain_keys).lower()}"
    with tempfile.TemporaryDirectory(prefix="tele-clients.") as name:
        folder = Path(name)
        cluster = make_cluster(folder, auth_settings=f"session_recording: {{{recording}}}")
        try:
            with reached(cluster, options.mode) as (host, port):
                world = make_world(folder, cluster, host, port, plain_keys=options.plain_keys)
                for client, version, problem in results(world, options.clients):
                    print(f"{client.name:32}{version:16}{client.speaks:16}{problem or 'works'}")
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
