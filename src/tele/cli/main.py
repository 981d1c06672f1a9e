"""The command ``tele``: its subcommands, its errors, its exit status.

Invariants:

* A module that a command may not need is not imported here.
* Every error ends as one or two lines on standard error and a status of
  :mod:`tele.errors`; never as a traceback.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

from tele._version import VERSION
from tele.cli.lazy import Lazy, LazyGroup
from tele.errors import TeleError

COMMANDS: Final = {
    "up": Lazy("tele.cli.up:up", "Start a cluster on this machine."),
    "down": Lazy("tele.cli.up:down", "Stop the cluster that `tele up` started."),
    "login": Lazy("tele.cli.login:login", "Get certificates for a cluster."),
    "logout": Lazy("tele.cli.login:logout", "Remove the certificates of a cluster."),
    "passwd": Lazy("tele.cli.passwd:passwd", "Change your own password."),
    "mfa": Lazy("tele.cli.mfa:mfa", "Manage your second factors."),
    "status": Lazy("tele.cli.status:status", "Show your login, and how long it is valid."),
    "ls": Lazy("tele.cli.nodes:ls", "List the nodes that you may log in to."),
    "ssh": Lazy("tele.cli.ssh:ssh", "Log in to a node, or run a command there."),
    "join": Lazy("tele.cli.join:join", "Watch a running session, or take part in it."),
    "scp": Lazy("tele.cli.ssh:scp", "Copy files to and from nodes."),
    "config": Lazy("tele.cli.openssh:config", "Print a configuration for OpenSSH."),
    "proxy": Lazy("tele.cli.ssh:proxy", "Connect OpenSSH to a node through the proxy."),
    "play": Lazy("tele.cli.play:play", "Replay a recording."),
    "recordings": Lazy("tele.cli.recordings:recordings", "List, export and verify recordings."),
    "sessions": Lazy("tele.cli.sessions:sessions", "List and end running sessions."),
    "users": Lazy("tele.cli.users:users", "Manage users."),
    "locks": Lazy("tele.cli.locks:locks", "Lock users, roles, logins, nodes and sessions."),
    "tokens": Lazy("tele.cli.tokens:tokens", "Manage join tokens."),
    "nodes": Lazy("tele.cli.nodes:nodes", "Manage nodes."),
    "node": Lazy("tele.cli.node_check:node", "Check this machine as a node."),
    "access": Lazy("tele.cli.access:access", "Explain and test what roles allow."),
    "get": Lazy("tele.cli.resources:get", "Print resources."),
    "apply": Lazy("tele.cli.resources:apply", "Create or replace resources from YAML."),
    "edit": Lazy("tele.cli.edit:edit", "Change a resource in your editor."),
    "rm": Lazy("tele.cli.resources:rm", "Remove a resource."),
    "ca": Lazy("tele.cli.authorities:ca", "Show the cluster's authorities, sign keys."),
    "audit": Lazy("tele.cli.audit:audit", "List and verify audit events."),
    "store": Lazy("tele.cli.store:store", "Move a cluster's state to another store."),
    "top": Lazy("tele.cli.top:top", "Show a cluster live."),
    "backup": Lazy("tele.cli.backup:backup", "Write an encrypted backup of auth."),
    "restore": Lazy("tele.cli.backup:restore", "Restore a backup of auth."),
    "completion": Lazy("tele.cli.completion:completion", "Print a completion script."),
    "version": Lazy("tele.cli.version:version", "Print the version."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    metavar="DIR",
    help="The folder of keys and certificates.  [env: TELE_HOME; default: ~/.tele]",
)
@click.version_option(VERSION, message="%(prog)s %(version)s")
def tele(home: str | None) -> None:
    """SSH access to a fleet of machines without a long-lived key on any of them."""
    if home is not None:
        os.environ["TELE_HOME"] = home


def run(arguments: Sequence[str]) -> int:
    """Run the command in ``arguments`` and return the exit status."""
    try:
        status = tele.main(list(arguments), prog_name="tele", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except TeleError as error:
        _complain(str(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe. Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    except Exception as error:
        if os.environ.get("TELE_DEBUG"):
            import traceback

            _complain(traceback.format_exc())
            return 1
        _complain(
            f"internal error: {type(error).__name__}: {error}\n"
            "set TELE_DEBUG=1 for a traceback; please report it"
        )
        return 1
    return status if isinstance(status, int) else 0


def _show(error: click.ClickException) -> None:
    """Print click's error about the arguments, without control sequences."""
    from tele.cli.output import print_notice

    message = io.StringIO()
    error.show(message)
    print_notice(message.getvalue().rstrip("\n").expandtabs(4))


def _complain(text: str) -> None:
    from tele.cli.output import print_notice

    first, *rest = text.split("\n")
    print_notice("\n".join([f"tele: {first}", *(f"      {line}" for line in rest)]))


def _stand_in() -> None:
    """Open standard streams that are closed, so that no other file gets their descriptors."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None and os.open(os.devnull, os.O_RDWR) == number:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def main() -> NoReturn:
    """Run the command line of this process."""
    _stand_in()
    sys.exit(run(sys.argv[1:]))
