"""What a user with several roles gets through OpenSSH's client, on one connection."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from small_cluster import ME, SmallCluster, SmallNode, small_cluster
from tele.model.api.roles import PutRole
from tele.model.api.table import PUT_ROLE, PUT_USER
from tele.model.api.users import PutUser
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec, User, UserSpec
from tele.model.time_windows import Day, TimeWindow

HERE = {"*": ("*",)}
NOWHERE = {"env": ("elsewhere",)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SmallCluster, SmallNode]]:
    """A cluster with a node."""
    with small_cluster(tmp_path_factory.mktemp("roles")) as cluster:
        cluster.person("alice", ME)
        yield cluster, cluster.node(labels={"env": "prod"})


def role(name: str, nodes: Any = HERE, deny: Conditions | None = None, **options: Any) -> Role:
    allow = Conditions((ME,), nodes)
    return Role(Metadata(name), RoleSpec(allow, deny or Conditions(), RoleOptions(**options)))


#: The same login, and another one, if the login has two letters that differ.
SAME = "{{regexp.replace(internal.logins, '^(.)(.*)$', '$1$2')}}"
OTHERS = "{{regexp.replace(internal.logins, '^(.)(.*)$', '$2$1')}}"
PROD = 'labels.env == "prod"'
BOTH = 'labels.env == "prod" && contains(user.roles, "by")'


def by_expression(text: str, login: str = ME) -> Role:
    return Role(Metadata("by"), RoleSpec(Conditions((login,), node_labels_expression=text)))


def at_times(days_from_now: int) -> Role:
    """A role that counts on three days of the week."""
    today = datetime.now(UTC).weekday()
    days = (tuple(Day)[(today + days_from_now + each) % 7] for each in (-1, 0, 1))
    return role("times", valid_times=(TimeWindow(tuple(days)),))


SCRIPT = role("script", permit_pty=False, port_forwarding=False)
BACKUP = role("backup", force_command="echo backup; tty")
OTHER = role("other", force_command="echo other", port_forwarding=True)


TTY: Final = ("-tt", "echo free; tty")
FREE: Final = ("echo free",)
DENIES: Final = role("no", NOWHERE, Conditions(logins=(ME,)))
CASES: Final = {
    "free": ((SCRIPT,), ("echo free; tty",), b"free\nnot a tty\n"),
    "no terminal": ((SCRIPT,), TTY, None),
    "both": ((SCRIPT, BACKUP), ("echo free; tty",), b"free\nnot a tty\n"),
    "forced": ((SCRIPT, BACKUP), TTY, b"backup\r\n/dev/pts/"),
    "requested": ((BACKUP, OTHER), ("echo other",), b"other\n"),
    "first": ((BACKUP, OTHER), TTY, b"backup\r\n/dev/pts/"),
    "elsewhere": ((role("free", NOWHERE), SCRIPT), TTY, None),
    "denied": ((SCRIPT, DENIES), FREE, None),
    "expression": ((by_expression(BOTH),), FREE, b"free\n"),
    "other expression": ((by_expression('user.name == "bob"'),), FREE, None),
    "template": ((by_expression(PROD, SAME),), FREE, b"free\n"),
    "other template": ((by_expression(PROD, OTHERS),), FREE, None),
    "in time": ((at_times(0),), FREE, b"free\n"),
    "another time": ((at_times(3),), FREE, None),
}


@pytest.mark.parametrize(("roles", "words", "expected"), CASES.values(), ids=CASES)
def test_roles_do_not_combine_through_openssh(
    place: tuple[SmallCluster, SmallNode],
    roles: tuple[Role, ...],
    words: tuple[str, ...],
    expected: bytes | None,
) -> None:
    """A shell without a terminal and a command with one stay two things; None is refused
    (attack).
    """
    cluster, node = place
    give(cluster, node, roles)
    options = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    done = cluster.run(
        "ssh", *cluster.ssh_words("alice", node, *options, "127.0.0.1", *rest), stdin=b""
    )
    if expected is None:
        assert done.returncode != 0
        assert b"free" not in done.stdout
    else:
        assert done.stdout.startswith(expected), done


def test_what_a_changed_role_forbids_ends(place: tuple[SmallCluster, SmallNode]) -> None:
    """A terminal that no role gives any more ends within seconds, and a shell where only a forced
    command is left; what is still permitted goes on, on the same connection, too. The user reads
    why, and the audit has it.
    """
    cluster, node = place
    free, plain = role("free"), role("plain", permit_pty=False)
    give(cluster, node, (free, plain))
    begun, ended = (len(cluster.events(name)) for name in ("exec", "exec.end"))
    with TemporaryDirectory(dir="/tmp") as folder:  # a path that fits into a socket's address
        socket = f"{folder}/s"
        words = cluster.ssh_words("alice", node, "-M", "-S", socket, "127.0.0.1", "sleep 300")
        command = cluster.start("ssh", *words)
        cluster.reactor.until(lambda: Path(socket).exists())
        shared = ("ssh", "-F", "none", "-S", socket, "-tt", "127.0.0.1", "echo begun; sleep 300")
        terminal = subprocess.Popen(shared, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        cluster.programs.append(terminal)
        cluster.wait_event("exec", begun + 2)
        give(cluster, node, (role("free", NOWHERE), plain))
        cluster.reactor.until(lambda: terminal.poll() is not None, 20)
        assert (
            b"a terminal is not permitted any more: a role has changed" in terminal.communicate()[0]
        )
        assert command.poll() is None
        ends = max(cluster.wait_event("exec.end", ended + 1), key=lambda each: each.time)
        assert ends.fields["pty"] is True
        assert "a role has changed" in ends.error
        give(cluster, node, (role("free", NOWHERE), role("plain", force_command="true")))
        cluster.reactor.until(lambda: command.poll() is not None, 20)
        cluster.wait_event("exec.end", ended + 2)


def give(cluster: SmallCluster, node: SmallNode, roles: tuple[Role, ...]) -> None:
    """Give alice these roles, a certificate with them, and wait until the node knows."""
    for each in roles:
        cluster.reactor.wait(cluster.admin.perform(PUT_ROLE, PutRole(each.metadata.name, each)))
    names = tuple(each.metadata.name for each in roles)
    user = User(Metadata("alice"), UserSpec(("editor", *names), {"logins": (ME,)}))
    cluster.reactor.wait(cluster.admin.perform(PUT_USER, PutUser("alice", user)))
    cluster.certify("alice")

    def known() -> bool:
        present = {each.metadata.name: each.spec for each in node.member.state.roles}
        return all(present.get(each.metadata.name) == each.spec for each in roles)

    cluster.reactor.until(known)
