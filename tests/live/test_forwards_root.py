"""Forwards as root: sockets are the account's, and nothing is done with the node's rights."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import stat
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from own_reactor import OwnReactor, own_reactor
from tele.errors import AccessDenied, Unavailable
from tele.node.ports import LOOPBACK, listen_on
from tele.node.spawning import Spawning
from tele.node.user_sockets import UserSockets
from tele.spawner.program import PREPARED

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("useradd") is None, reason="useradd is not installed"),
]


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    """An account of its own."""
    name = f"tele{uuid.uuid4().hex[:10]}"
    made = ["useradd", "-m", "-s", "/usr/sbin/nologin", name]
    subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
    try:
        yield pwd.getpwnam(name)
    finally:
        subprocess.run(["userdel", "-r", name], check=True, stderr=subprocess.DEVNULL)


@pytest.fixture
def spawning() -> Iterator[tuple[OwnReactor, Spawning]]:
    """A spawner that runs."""
    with own_reactor() as reactor:
        made = Spawning(reactor)
        made.open()
        try:
            yield reactor, made
        finally:
            reactor.wait(made.close())


def test_an_agents_folder_is_the_accounts(
    spawning: tuple[OwnReactor, Spawning], user: pwd.struct_passwd
) -> None:
    """The socket and its private folder are the user's own, and are gone at the end."""
    reactor, spawner = spawning
    made = reactor.wait(UserSockets(spawner, user.pw_name).listen_for_agent())
    path = Path(os.fsdecode(made.path))
    for each, mode in ((path, 0o600), (path.parent, 0o700)):
        found = each.lstat()
        assert (found.st_uid, found.st_gid) == (user.pw_uid, user.pw_gid)
        assert stat.S_IMODE(found.st_mode) == mode
    assert stat.S_ISSOCK(path.lstat().st_mode)
    made.socket.close()
    made.close()
    reactor.until(lambda: not path.parent.exists())


def test_paths_are_tried_as_the_account(
    spawning: tuple[OwnReactor, Spawning], user: pwd.struct_passwd, tmp_path: Path
) -> None:
    """A socket or a folder that is only for root is refused (attack)."""
    reactor, spawner = spawning
    sockets = UserSockets(spawner, user.pw_name)
    path = f"/run/tele-test-{uuid.uuid4().hex[:12]}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        try:
            os.chmod(path, 0o600)
            server.listen()
            with pytest.raises(Unavailable, match="Permission denied"):
                reactor.wait(sockets.connect(path.encode()))
            link = Path(user.pw_dir) / "link"
            link.symlink_to(path)
            with pytest.raises(Unavailable, match="Permission denied"):
                reactor.wait(sockets.connect(bytes(link)))
            made = reactor.wait(UserSockets(spawner, "root").connect(path.encode()))
            made.close()
        finally:
            os.unlink(path)
    for where in (path, f"{user.pw_dir}/../../run/{Path(path).name}"):
        with pytest.raises(Unavailable, match="Permission denied"):
            reactor.wait(sockets.listen(where.encode()))
    assert not Path(path).exists()


def test_what_is_removed_is_removed_as_the_account(
    spawning: tuple[OwnReactor, Spawning], user: pwd.struct_passwd
) -> None:
    """A link put in the socket's place does not make us remove what it leads to (attack)."""
    reactor, spawner = spawning
    folder = Path(user.pw_dir)
    made = reactor.wait(UserSockets(spawner, user.pw_name).listen(bytes(folder / "s")))
    (folder / "s").unlink()
    target = Path(f"/run/tele-test-{uuid.uuid4().hex[:12]}")
    target.write_text("root's")
    try:
        (folder / "s").symlink_to(target)
        made.socket.close()
        made.close()
        spawner_pid = spawner.pid
        children = Path(f"/proc/{spawner_pid}/task/{spawner_pid}/children")
        reactor.until(lambda: len(children.read_text().split()) == PREPARED)
        assert target.read_text() == "root's"
        assert (folder / "s").is_symlink()
    finally:
        target.unlink()


def test_it_is_gone_when_the_node_dies(
    spawning: tuple[OwnReactor, Spawning], user: pwd.struct_passwd
) -> None:
    """The process that holds the path waits for the node's end of a socket: no signal ends it
    before.
    """
    reactor, spawner = spawning
    path = Path(user.pw_dir) / "s"
    made = reactor.wait(UserSockets(spawner, user.pw_name).listen(bytes(path)))
    reactor.wait(spawner.close())  # hangs all sessions up
    reactor.sleep(0.2)
    assert path.exists()
    made.socket.close()
    made.close()
    reactor.until(lambda: not path.exists())
    spawner.open()


def test_accounts_that_are_not_there(spawning: tuple[OwnReactor, Spawning]) -> None:
    """An account that does not exist has no sockets."""
    reactor, spawner = spawning
    with pytest.raises(AccessDenied, match="no account"):
        reactor.wait(UserSockets(spawner, "no-such-account").connect(b"/run/x"))


def test_reserved_ports_are_roots(user: pwd.struct_passwd) -> None:
    """The node may bind any port; who is not root on it may not (attack)."""
    for port in (1, 22, 1023):
        with pytest.raises(AccessDenied, match="root"):
            listen_on(LOOPBACK, port, user.pw_name)
    for made in listen_on(LOOPBACK, 0, user.pw_name):
        assert made.getsockname()[1] >= 1024
        made.close()
