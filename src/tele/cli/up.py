"""``tele up`` and ``tele down``: start and stop a cluster on one machine.

Invariants:

* Errors are found before the start where possible, so that they get a clear message.
* ``--detach`` exits with 0 only when all parts serve; until then the new process reports through a
  pipe, and its error becomes the error of the command.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from tele.cli.folder import Folder, default_folder
from tele.cli.openssh import openssh_program, proxy_address
from tele.errors import BY_KIND, AccessDenied, InvalidInput, NotFound, TeleError
from tele.text import printable_lines

DEFAULT_CLUSTER = "tele"
DEFAULT_LISTEN = "127.0.0.1:3080"
#: How long the parts may take to serve.
START_SECONDS = 90.0

_TEMPLATE = """\
# Written once by `tele up`; may be edited. See docs/reference/configuration.
version: v1
data_dir: .
auth:
  cluster_name: {cluster}
  listen: 127.0.0.1:{auth}{suite}
  metrics: off
proxy:
  listen: "{proxy}"
  metrics: off
node:
  name: {node}
  listen: 127.0.0.1:{port}
  metrics: off
"""

_dir = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    help="The folder of the cluster.  [default: ~/.local/share/tele, for root /var/lib/tele]",
)


@click.command()
@_dir
@click.option("--cluster", help=f"Its name; at the first start only.  [default: {DEFAULT_CLUSTER}]")
@click.option(
    "--listen", metavar="HOST:PORT", help=f"Where the proxy listens.  [default: {DEFAULT_LISTEN}]"
)
@click.option(
    "--login", "logins", multiple=True, help="As root: an account that you may log in to."
)
@click.option(
    "--signature-algorithm-suite",
    "suite",
    type=click.Choice(("ed25519", "ecdsa", "rsa", "mldsa44-ed25519")),
    help="Type of the cluster's SSH keys; at the first start only: ecdsa for clients in FIPS mode."
    "  [default: ed25519]",
)
@click.option("--detach", is_flag=True, help="Run in the background; return when all parts serve.")
def up(
    folder: Path | None,
    cluster: str | None,
    listen: str | None,
    logins: tuple[str, ...],
    suite: str | None,
    detach: bool,
) -> int:
    """Start a cluster on this machine, and log in as its administrator."""
    openssh_program("ssh")
    account = pwd.getpwuid(os.geteuid()).pw_name
    accounts = _accounts(account, logins)
    address = None if listen is None else _read_listen(listen)
    place = Folder(folder or default_folder())
    place.prepare()
    lock = place.lock()
    try:
        _configure(place, cluster, address, suite)
        place.rotate_log()
    except BaseException:
        place.unlock(lock)
        raise
    if detach:
        return _detached(place, lock, account, accounts, address)
    place.write_pid(lock)
    from tele.cli.up_process import run_cluster

    status = run_cluster(place, account, accounts, address, _print_result)
    place.unlock(lock)
    return status


def _read_listen(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``; port 0 chooses a free one."""
    host, colon, port = text.rpartition(":")
    if colon and port == "0":
        host, _ = proxy_address(f"{host}:1")
        return host, _free_ports(1)[0]
    return proxy_address(text)


def _accounts(own: str, logins: tuple[str, ...]) -> tuple[str, ...]:
    """Return the OS accounts that the administrator may log in to."""
    for login in logins:
        try:
            pwd.getpwnam(login)
        except KeyError:
            raise NotFound(f"--login {login}: no such account on this machine") from None
        if os.geteuid() != 0 and login != own:
            raise InvalidInput(
                f"--login {login}: only root can serve other accounts than {own}; as {own},"
                " leave it out"
            )
    return tuple(dict.fromkeys((own, *logins)))


def _configure(
    place: Folder, cluster: str | None, listen: tuple[str, int] | None, suite: str | None
) -> None:
    """Write the configuration at the first start; check it."""
    from tele.certs.suites import SignatureSuite
    from tele.config.reading import load
    from tele.config.values import Address, cluster_name_problem
    from tele.data_dir import PARTS, check_unlocked

    if not place.config.exists():
        check_unlocked(place.path, PARTS)
        name = cluster or DEFAULT_CLUSTER
        if wrong := cluster_name_problem(name):
            raise InvalidInput(f"--cluster {name}: {wrong}")
        proxy = Address(*(listen or proxy_address(DEFAULT_LISTEN)))
        _check_free(proxy.host, proxy.port)
        auth, port = _free_ports(2, but=proxy.port)
        from tele.cli.home import replace_file

        text = _TEMPLATE.format(
            cluster=name,
            auth=auth,
            suite="" if suite is None else f"\n  signature_algorithm_suite: {suite}",
            proxy=proxy,
            port=port,
            node=json.dumps(socket.gethostname()),
        )
        replace_file(place.config, text, 0o600)
        return
    config = load(place.config).config
    if config.auth is None or config.proxy is None:
        raise InvalidInput(f"{place.config}: tele up needs the sections auth and proxy")
    check_unlocked(config.data_dir, [part for part in PARTS if getattr(config, part) is not None])
    if cluster is not None and cluster != config.auth.cluster_name:
        raise InvalidInput(
            f"{place.path} holds the cluster {config.auth.cluster_name}, not {cluster}; leave"
            " --cluster out, or choose another folder with --dir"
        )
    written = config.auth.signature_algorithm_suite or SignatureSuite.ED25519
    if suite not in (None, written.value):
        raise InvalidInput(
            f"{place.path} holds a cluster with the suite {written.value}, not"
            f" {suite}; leave --signature-algorithm-suite out, or choose another folder with --dir"
        )
    chosen = listen or (config.proxy.listen.host, config.proxy.listen.port)
    _check_free(*chosen)


def _check_free(host: str, port: int) -> None:
    """Raise :class:`TeleError` if the proxy could not listen there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise TeleError(
            f"the proxy cannot listen on {host}:{port}: {error.strerror}\n"
            "choose another address with --listen HOST:PORT"
        ) from None


def _free_ports(count: int, but: int = 0) -> list[int]:
    """Return free ports on 127.0.0.1, except ``but``."""
    probes = [socket.socket() for _ in range(count + 1)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
        return [port for port in ports if port != but][:count]
    finally:
        for probe in probes:
            probe.close()


def _print_result(outcome: dict[str, Any]) -> None:
    """Print what runs and what to type next."""
    from tele.cli.output import print_text

    print_text(
        f"Cluster {outcome['cluster']} runs at {outcome['proxy']}; "
        f"you are logged in as {outcome['user']}, an administrator.\n"
        f"{_served(outcome['user'])}\n"
        f"{_reached(outcome['proxy'])}"
        f"Its folder is {outcome['folder']}.\n\n"
        "Next steps:\n"
        "  tele ls\n"
        f"  tele ssh {outcome['node']}\n"
        f"  tele config --install   # then: ssh {outcome['node']}.{outcome['cluster']}\n"
        f"  https://{outcome['proxy']}/   # pages; for a password: tele users reset"
        f" {outcome['user']} --invite\n"
        f"  tele down{outcome['dir_option']}"
    )


def _reached(proxy: str) -> str:
    """Return a note if only this machine can reach the proxy."""
    if proxy_address(proxy)[0] not in ("127.0.0.1", "::1", "localhost"):
        return ""
    return "Only this machine can reach it; for others, use --listen 0.0.0.0:3080.\n"


def _served(user: str) -> str:
    if os.geteuid() == 0:
        return "The node serves all accounts of this machine that a certificate allows."
    return f"The node serves the account {user} only: it does not run as root."


# -- in the background ----------------------------------------------------------------
def _detached(
    place: Folder,
    lock: int,
    account: str,
    accounts: tuple[str, ...],
    listen: tuple[str, int] | None,
) -> int:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run_daemon(place, lock, account, accounts, listen, writing)
    os.close(writing)
    os.close(lock)  # the child has it, too
    outcome = _wait(place, child, reading)
    os.close(reading)
    if "error" in outcome:
        os.waitpid(child, 0)
        error = BY_KIND.get(outcome["error"], TeleError)
        raise (
            error(outcome["message"], "denied")
            if error is AccessDenied
            else error(outcome["message"])
        )
    _print_result(outcome)
    return 0


def _wait(place: Folder, child: int, reading: int) -> dict[str, Any]:
    """Return the report of the child: that it serves, or its error."""
    deadline = time.monotonic() + START_SECONDS
    data = b""
    try:
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGTERM)
                return _failed_start(place, f"not ready within {START_SECONDS:.0f} s")
            got = os.read(reading, 65536)
            if not got:
                return _failed_start(place, "it exited while starting")
            data += got
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    outcome: dict[str, Any] = json.loads(data)
    return outcome


def _failed_start(place: Folder, what: str) -> dict[str, Any]:
    return {"error": "failed", "message": f"the cluster did not start: {what}; see {place.log}"}


def _run_daemon(
    place: Folder,
    lock: int,
    account: str,
    accounts: tuple[str, ...],
    listen: tuple[str, int] | None,
    writing: int,
) -> NoReturn:
    """Run the cluster as a daemon."""
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        os.close(nothing)
        os.close(log)
        place.write_pid(lock)
        from tele.cli.up_process import run_cluster

        def report(outcome: dict[str, Any]) -> None:
            os.write(writing, json.dumps(outcome).encode("utf-8") + b"\n")
            os.close(writing)

        try:
            status = run_cluster(place, account, accounts, listen, report)
        except TeleError as error:
            report({"error": error.kind, "message": str(error)})
            status = error.exit_code
        place.unlock(lock)
    except Exception:
        import traceback

        print(printable_lines(traceback.format_exc()), file=sys.stderr)  # into the log
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@click.command()
@_dir
def down(folder: Path | None) -> None:
    """Stop the cluster that `tele up` started. Sessions end at once."""
    from tele.cli.output import print_notice

    place = Folder(folder or default_folder())
    if not place.end():
        print_notice(f"no cluster is running in {place.path}")
