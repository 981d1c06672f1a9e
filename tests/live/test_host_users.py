"""Accounts and sudoers from roles: real OpenSSH, a real node, real useradd, visudo and sudo."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from made_accounts import SUDOERS, Names, made_accounts, needs_sudo
from small_cluster import SmallCluster, small_cluster
from tele.config.values import Chosen, HostUsersConfig
from tele.interfaces import IHostUsers
from tele.model.api.roles import PUT_ROLE, PutRole
from tele.model.host_user import Ensured, HostUser, HostUserMode, Recovered, Released
from tele.model.resources import Conditions, Metadata, Role, RoleOptions, RoleSpec
from tele.node.local_accounts import LocalAccounts

pytestmark = needs_sudo

KEEP, DROP = HostUserMode.KEEP, HostUserMode.DROP
ID = "ALL=(ALL) NOPASSWD: /usr/bin/id"


class World:
    """A node that makes accounts, and a user whose role says which."""

    def __init__(self, cluster: SmallCluster, names: Names) -> None:
        self.cluster = cluster
        self.names = names
        self.login = names("u")
        cluster.person("alice", self.login)
        self.node = cluster.node(accounts=True)

    def role(
        self, mode: HostUserMode = DROP, shell: str = "", deny: Any = None, **allow: Any
    ) -> None:
        """Have the role of alice say this of accounts, and wait until the node knows."""
        conditions = Conditions(("{{internal.logins}}",), {"*": ("*",)}, **allow)
        options = RoleOptions(create_host_user=mode, create_host_user_shell=shell)
        spec = RoleSpec(conditions, Conditions(**(deny or {})), options)
        put = PutRole("access", Role(Metadata("access"), spec))
        self.cluster.reactor.wait(self.cluster.admin.perform(PUT_ROLE, put))
        self.until(lambda: any(role.spec == spec for role in self.node.member.state.roles))

    def until(self, condition: Any) -> None:
        self.cluster.reactor.until(condition)

    def ssh(self, *words: str, login: str = "") -> subprocess.CompletedProcess[bytes]:
        return self.cluster.ssh("alice", self.node, *words, login=login or self.login)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """A session that lasts meanwhile."""
        words = self.cluster.ssh_words("alice", self.node, "127.0.0.1", "cat", login=self.login)
        process = subprocess.Popen(
            ["ssh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert process.stdin is not None
        assert process.stdout is not None
        pool = self.cluster.reactor.getThreadPool()
        echoed: list[bytes] = []
        process.stdin.write(b"here\n")
        output = process.stdout
        pool.callInThread(lambda: echoed.append(output.readline()))
        try:
            self.until(lambda: echoed)
            assert echoed == [b"here\n"]
            yield
        finally:
            process.stdin.close()
            pool.callInThread(lambda: echoed.append(output.read()))
            self.until(lambda: len(echoed) == 2)
            self.until(lambda: process.poll() is not None)
            output.close()

    @property
    def account(self) -> pwd.struct_passwd | None:
        try:
            return pwd.getpwnam(self.login)
        except KeyError:
            return None

    @property
    def home(self) -> Path:
        return Path("/home") / self.login

    def sudoers(self) -> list[Path]:
        return [path for path in SUDOERS.iterdir() if self.names.word in path.name]

    def restart(self) -> None:
        """Stop the node and start it again, with the same folders."""
        self.cluster.stop_node(self.node)
        self.node = self.cluster.node(accounts=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_accounts() as names, small_cluster(tmp_path) as cluster:
        yield World(cluster, names)


def groups_of(login: str) -> set[str]:
    return {each.gr_name for each in grp.getgrall() if login in each.gr_mem}


def test_an_account_is_made_and_dropped(world: World) -> None:
    """The account, its home, shell, groups and sudoers come with the login and go with the last
    session of it.
    """
    group = world.names("g")
    world.role(DROP, "/bin/bash", host_groups=(group, "audio"), host_sudoers=(ID,))
    script = "id -nG; echo $SHELL; pwd; ls -A | sort; sudo -n id -u; sudo -n true || echo no"
    done = world.ssh(script)
    lines = done.stdout.decode().split("\n")
    assert set(lines[0].split()) == {world.login, group, "audio"}, done.stderr
    assert lines[1:3] == ["/bin/bash", f"/home/{world.login}"]
    assert lines[3 : 3 + len(os.listdir("/etc/skel"))] == sorted(os.listdir("/etc/skel"))
    assert lines[-3:] == ["0", "no", ""]
    world.until(lambda: not world.names.left())
    created = world.cluster.wait_event("host_user.create")
    removed = world.cluster.wait_event("host_user.remove")
    assert [(each.user, each.login) for each in created] == [("alice", world.login)]
    assert [(each.user, each.login) for each in removed] == [("alice", world.login)]
    assert created[0].fields["sudoers"] == [ID]


def test_a_kept_account_loses_its_sudoers(world: World) -> None:
    """``keep`` leaves the account and what is in its home; its groups follow the roles."""
    world.role(KEEP, host_groups=("audio",), host_sudoers=(ID,))
    assert world.ssh("echo mine > file; sudo -n id -u").stdout == b"0\n"
    world.until(lambda: not world.sudoers())
    kept = world.account
    assert kept is not None
    world.role(KEEP, "/bin/bash", host_groups=("video",))
    done = world.ssh("cat file; id -nG; sudo -n id -u || echo no")
    assert done.stdout.decode() == f"mine\n{world.login} video\nno\n"
    assert groups_of(world.login) == {"video"}
    changed = world.account
    assert changed is not None
    assert (changed.pw_uid, changed.pw_shell) == (kept.pw_uid, "/bin/bash")
    updated = world.cluster.wait_event("host_user.update")
    assert [each.fields["groups"] for each in updated] == [["video"]]
    # A role that drops does not remove what was kept.
    world.role(DROP)
    assert world.ssh("cat file").stdout == b"mine\n"
    world.role(HostUserMode.OFF)
    assert world.ssh("cat file; id -nG").stdout.decode() == f"mine\n{world.login}\n"
    assert world.home.is_dir()


def test_the_last_session_counts(world: World) -> None:
    """Two sessions at once have one account, which stays until both have ended."""
    world.role(DROP, host_sudoers=(ID,))
    with world.connected():
        for _ in range(2):
            assert world.ssh("sudo -n id -u").stdout == b"0\n"
            assert world.account is not None
            assert world.sudoers()
    world.until(lambda: not world.names.left())


def test_a_changed_role_changes_a_running_session(world: World) -> None:
    """Sudoers and groups are gone while the session runs; the account still goes with it."""
    world.role(DROP, host_groups=("audio",), host_sudoers=(ID,))
    with world.connected():
        assert world.sudoers()
        world.role(DROP, host_groups=("audio",), host_sudoers=(ID,), deny={"host_sudoers": ("*",)})
        world.until(lambda: not world.sudoers())
        assert groups_of(world.login) == {"audio"}
        world.role(HostUserMode.OFF, host_groups=("audio",), host_sudoers=(ID,))
        world.until(lambda: not groups_of(world.login))
        assert world.account is not None
    world.until(lambda: not world.names.left())


def test_a_crash_of_all_of_the_node_is_recovered(world: World) -> None:
    """What was made is known on disk: the next start takes rights away and drops accounts."""
    world.role(DROP, host_sudoers=(ID,))
    with world.connected():
        account, sudoers = world.account, world.sudoers()
        assert account is not None
        assert sudoers
        # As a crash leaves it: nobody releases the account.
        released = world.node.service._host_users
        released._accounts.clear()
        text = sudoers[0].read_bytes()
    assert world.account is not None
    assert sudoers[0].read_bytes() == text
    world.restart()
    world.until(lambda: not world.names.left())


def test_the_end_of_the_spawner_is_no_end_of_the_account(world: World) -> None:
    """Another spawner knows what the first has made, and removes it."""
    world.role(DROP, host_sudoers=(ID,))
    with world.connected():
        first = world.node.spawning.pid
        assert first is not None
        os.kill(first, 9)
        world.until(lambda: world.node.spawning.pid not in (None, first))
        assert world.ssh("sudo -n id -u").stdout == b"0\n"
    world.until(lambda: not world.names.left())


def test_processes_that_stay_keep_the_account(world: World) -> None:
    """An account of which a process runs is not removed under it, and is removed after it."""
    world.role(DROP, host_sudoers=(ID,))
    pid = int(world.ssh("sleep 600 >/dev/null 2>&1 & echo $!").stdout)
    world.until(lambda: not world.sudoers())
    assert world.account is not None
    os.kill(pid, 9)
    world.until(lambda: not world.names.left())


def test_an_account_that_tele_did_not_make_is_left_alone(world: World) -> None:
    """Its groups and shell are the administrator's; roles put nothing into sudoers for it."""
    theirs = ["useradd", "-M", "-d", "/nonexistent", "-s", "/bin/sh", "-G", "audio", world.login]
    subprocess.run(theirs, check=True)
    before = world.account
    world.role(DROP, "/bin/bash", host_groups=("video",), host_sudoers=(ID,))
    done = world.ssh("sudo -n id -u || echo no")
    assert done.stdout == b"no\n"
    assert not world.sudoers()
    assert (world.account, groups_of(world.login)) == (before, {"audio"})
    world.restart()
    assert world.account == before


def test_a_node_from_its_configuration(world: World, tmp_path: Path) -> None:
    """``host_users.accounts: local`` makes accounts; without it none is made any more, and what was
    made is still released.
    """
    cluster = world.cluster
    proxy = cluster.proxy()
    world.role(DROP, host_groups=("audio",), host_sudoers=(ID,))
    making = HostUsersConfig(Chosen("local"), sudoers=False)
    node = cluster.tunnel_node(proxy, host_users=making)
    words = ("nat1.small", "-l", world.login)
    done = cluster.jump("alice", proxy, *words, "id -nG; sudo -n id || echo no")
    assert done.stdout.decode() == f"{world.login} audio\nno\n", done.stderr
    world.until(lambda: not world.names.left())
    # As a crash leaves it: made, and never released.
    spawner = node.serving._spawning
    made = cluster.reactor.wait(
        LocalAccounts(spawner.request_account).ensure(world.login, HostUser(True))
    )
    assert made.made
    cluster.stop_tunnel_node(node)
    world.until(lambda: not world.names.left())
    cluster.tunnel_node(proxy)
    refused = cluster.jump("alice", proxy, *words, "true")
    assert refused.returncode == 255
    assert not world.names.left()


def test_a_plugin_makes_accounts(world: World) -> None:
    """Another kind of accounts takes part as the built-in one does: before, and after."""
    plugin = Plugin()
    world.role(DROP, host_groups=("wheel",))
    node = world.cluster.node(name="web2", host_users=plugin)
    login = pwd.getpwuid(os.geteuid()).pw_name
    world.cluster.person("root-user", login)
    words = world.cluster.ssh_words("root-user", node, "127.0.0.1", "true", login=login)
    words = [word.replace("web1.small", "web2.small") for word in words]
    assert world.cluster.run("ssh", *words).returncode == 0
    world.until(lambda: len(plugin.asked) == 3)
    wanted = HostUser(True, ("wheel",))
    assert plugin.asked == [("recover",), ("ensure", login, wanted), ("release", login)]


@implementer(IHostUsers)
class Plugin:
    """Accounts of a directory, say."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def recover(self) -> Deferred[Recovered]:
        self.asked.append(("recover",))
        return succeed(Recovered())

    def ensure(self, login: str, wanted: HostUser | None) -> Deferred[Ensured]:
        self.asked.append(("ensure", login, wanted))
        return succeed(Ensured(managed=True, made=True))

    def release(self, login: str) -> Deferred[Released]:
        self.asked.append(("release", login))
        return succeed(Released(removed=True))
