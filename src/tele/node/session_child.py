"""How does a fresh child of the spawner become somebody's session?

Laws of this file:

* Standard library only, and only what the spawner loaded before: nothing is imported, no
  file of ours is read, after the privileges are gone.
* The identity changes once, for good, with proof, before anything is executed.
* What comes from the person is one command line for their own shell, and the values of
  allow-listed variables. Nothing else of theirs is a path or a word.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import importlib.util
import os
import pwd
import resource
import signal
import sys
import termios
from typing import Any, Final, NoReturn

from tele.node.accounts import Refused, check_open, check_sessions, find_account
from tele.node.spawn_messages import Start

SFTP_SERVERS: Final = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
)
OPEN_FILES: Final = 1024
_ROOT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER_PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/games"


def changed_signals() -> tuple[int, ...]:
    """Return the signals that do not have their default action: asked once, before any child.

    Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays so over exec.
    """
    default = (signal.SIG_DFL, None)
    return tuple(n for n in range(1, signal.NSIG) if signal.getsignal(n) not in default)


def reset_signals(changed: tuple[int, ...]) -> None:
    """Give every signal its default action and block none."""
    for number in changed:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take_terminal(slave: int, account: pwd.struct_passwd) -> str:
    name = os.ttyname(slave)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    if os.geteuid() == 0:
        try:
            group = grp.getgrnam("tty").gr_gid
            mode = 0o620
        except KeyError:
            group, mode = account.pw_gid, 0o600
        os.fchown(slave, account.pw_uid, group)
        os.fchmod(slave, mode)
    return name


def place_descriptors(descriptors: list[int], report: int) -> int:
    """Make descriptors 0 to 2 of ``descriptors``, close the rest, return where ``report`` is."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16) for fd in (*descriptors, report)]
    *standard, report = high
    for target in range(3):
        os.dup2(standard[min(target, len(standard) - 1)], target)
    try:
        left = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        left = list(range(os.sysconf("SC_OPEN_MAX")))
    for fd in left:
        if fd > 2 and fd != report:
            with contextlib.suppress(OSError):  # the one of the listing itself is closed
                os.close(fd)
    return report


def _set_limits() -> None:
    os.umask(0o022)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _leave_root_things(uid: int) -> None:
    """As root: the session is not spared by the kernel when memory ends, and is its user's
    in the kernel's audit. Both may be forbidden in a container, and are no protection.
    """
    for path, value in (("/proc/self/oom_score_adj", 0), ("/proc/self/loginuid", uid)):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if os.read(file, 32).startswith((b"-", b"4294967295")):
                    os.pwrite(file, b"%d" % value, 0)
            finally:
                os.close(file)


def drop_privileges(uid: int, gid: int, name: str | None) -> None:
    """Become ``uid`` and ``gid`` for good. Raises Refused unless there is no way back.

    With ``name`` also in all groups of that account, otherwise in none.
    """
    if os.geteuid() == 0:
        if name is None:
            os.setgroups(())
        else:
            os.initgroups(name, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        if os.getresgid() != (gid, gid, gid):
            raise Refused("the process could not become the account", "spawner")
    if os.getresuid() != (uid, uid, uid):
        raise Refused("the process could not become the account", "spawner")
    if uid == 0:
        return
    regains = (
        [os.setuid, os.seteuid] if gid == 0 else [os.setuid, os.seteuid, os.setgid, os.setegid]
    )
    for regain in regains:
        try:
            regain(0)
        except PermissionError:
            continue
        raise Refused("the process could take root's privileges back", "spawner")


def environment_of(
    account: pwd.struct_passwd, given: dict[str, bytes], terminal: str | None
) -> dict[bytes, bytes]:
    """Return what sshd would give: from the client, then ours on top (session.c)."""
    own = {
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "HOME": account.pw_dir,
        "SHELL": account.pw_shell or "/bin/sh",
        "PATH": _ROOT_PATH if account.pw_uid == 0 else _USER_PATH,
        "MAIL": f"/var/mail/{account.pw_name}",
    }
    if "TZ" in os.environ:
        own["TZ"] = os.environ["TZ"]
    if terminal is not None:
        own["SSH_TTY"] = terminal
    return {
        **{name.encode(): value for name, value in given.items()},
        **{name.encode(): os.fsencode(value) for name, value in own.items()},
    }


def _sftp_server() -> str | None:
    return next((path for path in SFTP_SERVERS if os.access(path, os.X_OK)), None)


def _load_sftp() -> Any:
    # Read while it can be: the account may not be able to read where we are installed.

    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sftp_server.py")
    spec = importlib.util.spec_from_file_location("sftp_server", path)
    if spec is None or spec.loader is None:
        raise Refused("sftp is not installed on this node", "spawner")
    module = importlib.util.module_from_spec(spec)
    sys.modules["sftp_server"] = module
    spec.loader.exec_module(module)
    return module


def enter(start: Start, report: int) -> None:
    """Be the session: everything between fork and exec."""
    account = find_account(start.login)
    shell = account.pw_shell or "/bin/sh"
    if start.kind != "program":
        check_open(account)
        check_sessions(account)
    own_sftp = None
    words = start.words
    if start.kind == "sftp":
        server = _sftp_server()
        if server is None:
            own_sftp = _load_sftp()
            try:
                own_sftp.check_shell(shell)
            except PermissionError as error:
                raise Refused(str(error)) from None
        else:
            words = [server.encode()]
    os.setsid()
    terminal = _take_terminal(0, account) if start.pty else None
    _set_limits()
    if os.geteuid() == 0:
        _leave_root_things(account.pw_uid)
    os.write(report, f"{account.pw_uid} {account.pw_gid}\n".encode())
    drop_privileges(account.pw_uid, account.pw_gid, account.pw_name)
    environment = environment_of(account, start.environment, terminal)
    if start.kind == "program":
        os.chdir("/")
        _execute(os.fsdecode(words[0]), words, environment)
    _go_home(account.pw_dir)
    if own_sftp is not None:
        os.close(report)
        os._exit(own_sftp.serve(0, 1))
    name = os.path.basename(shell).encode()
    arguments = [b"-" + name] if start.kind == "shell" else [name, b"-c", words[0]]
    _execute(shell, arguments, environment)


def _go_home(home: str) -> None:
    try:
        os.chdir(home)
    except OSError as error:
        os.chdir("/")
        os.write(2, os.fsencode(f"Could not go to home directory {home}: {error.strerror}\n"))


def _execute(path: str, words: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
    try:
        if "/" in path:
            os.execve(path, words, environment)  # noqa: S606 - a shell is what it is
        os.execvpe(path, words, environment)  # noqa: S606 - words of the configuration
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", "exec") from None
