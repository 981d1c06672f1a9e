"""How does a child of the spawner become the session of a user?

Invariants:

* Standard library only, and only what the spawner loaded before: nothing is imported, no
  file of ours is read, after the privileges are gone.
* The identity changes once, for good, with proof, before anything is executed.
* The user supplies one command line for their own shell, and values of allow-listed variables,
  and no other path or argument.
* Where a user is restricted to one command or to files, nothing of theirs runs before: no
  start-up file of a shell is read, and no variable that they could have set changes what runs.
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
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from tele.spawner import scp_server
from tele.spawner.accounts import (
    Refused,
    check_files,
    check_open,
    check_sessions,
    find_account,
    read_file,
)
from tele.spawner.control_groups import Groups
from tele.spawner.display_child import add_cookie
from tele.spawner.greeting import MOTD_FILES, greeting
from tele.spawner.login_environment import environment_of, harmless, system_variables
from tele.spawner.login_records import Records
from tele.spawner.pam_monitor import open_pam, stay_behind
from tele.spawner.restricted_files import read_files
from tele.spawner.scp_request import ScpRequest
from tele.spawner.shells import execution
from tele.spawner.socket_child import pass_socket
from tele.spawner.spawn_messages import (
    RESTRICTED_KINDS,
    SESSION_KINDS,
    SOCKET_KINDS,
    Start,
)
from tele.spawner.traced import join

SFTP_SERVERS: Final = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
)


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


def place_descriptors(descriptors: list[int]) -> None:
    """Make descriptors 0 to 2 of ``descriptors``, all of which are above, and close these."""
    for target in range(3):
        os.dup2(descriptors[min(target, len(descriptors) - 1)], target)
    for fd in descriptors:
        os.close(fd)


def limit_files(wanted: int | None) -> None:
    """Have the soft limit that the node was given, as under sshd: it may have raised its own."""
    if wanted is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    beyond = wanted == resource.RLIM_INFINITY or wanted > hard
    soft = hard if hard != resource.RLIM_INFINITY and beyond else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def leave_root_settings(uid: int, oom_score: bytes, unaudited: bool) -> None:
    """As root: the session is not spared by the kernel when memory ends, and is its user's
    in the kernel's audit. Both may be forbidden in a container, and are no protection.
    """
    write_own("oom_score_adj", oom_score)
    if unaudited:
        write_own("loginuid", b"%d" % uid)


def has_no_login_uid() -> bool:
    """Whether this process is no user's yet in the kernel's audit."""
    return read_own("loginuid").startswith(b"4294967295")


def read_own(name: str) -> bytes:
    """Return what ``/proc/self/name`` says; nothing where there is none."""
    return read_file(f"/proc/self/{name}", 64) or b""


def write_own(name: str, value: bytes) -> None:
    """Write ``/proc/self/name``, if that is allowed."""
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def drop_privileges(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Become ``uid`` and ``gid`` for good, in ``groups``. Raises Refused if privileges could be
    regained.
    """
    if os.geteuid() == 0:
        os.setgroups(groups)
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


def sftp_server() -> str | None:
    """Return where OpenSSH's file server is."""
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


def _file_server(start: Start, home: bytes) -> Callable[[], int]:
    """Return what serves files once we are the account. Raises ValueError for rules that are
    none.
    """
    sftp = _load_sftp()
    if start.kind == "sftp":
        if not start.words:
            return lambda: int(sftp.serve(0, 1))
        rules = start.words[0]
        return lambda: int(sftp.serve(0, 1, read_files(rules, home)))
    rules, options, *paths = start.words
    request = ScpRequest(options.decode("ascii"), tuple(paths))

    def copy() -> int:
        sftp.protect_memory()
        return scp_server.serve(request, read_files(rules, home), home)

    return copy


class SpawnContext(NamedTuple):
    """What the spawner gives every session beside the request for it."""

    groups: Groups
    #: Signals that do not have their default action in the spawner.
    changed_signals: tuple[int, ...] = ()
    #: The PAM service of sessions, or empty.
    pam: str = ""
    #: What the kernel's score for ending processes is without our own protection.
    oom_score: bytes = b"0"
    records: Records = Records()
    #: The soft limit of open files that it begins with.
    open_files: int | None = None
    #: Whether the spawner is no user's in the kernel's audit.
    unaudited: bool = True
    #: The tracer's socket for sessions, if there is one.
    tracer: int | None = None

    def is_monitored(self, kind: str) -> bool:
        """Whether a session of ``kind`` has a PAM session, and a monitor that closes it."""
        return bool(self.pam) and kind in SESSION_KINDS and os.geteuid() == 0


def leave_tracer(context: SpawnContext) -> None:
    """Close the tracer's socket in a process that does not need it."""
    if context.tracer is not None:
        os.close(context.tracer)


def _join_tracer(start: Start, context: SpawnContext) -> None:
    """Be traced from here on, if that was asked for. Raises Refused."""
    if not start.trace:
        leave_tracer(context)
    elif context.tracer is None:
        raise Refused("its commands have to be recorded: this node has no tracer", "tracing")
    else:
        join(context.tracer, start.trace)


def enter(
    start: Start, report: int, outcome: int | None, context: SpawnContext, group: str, group_id: int
) -> None:
    """Be the session: everything between the request and exec.

    ``group_id`` is that of the control group it is in; 0 if it is to enter ``group`` if any.
    """
    # PAM may set others: pam_limits, pam_umask.
    limit_files(context.open_files)
    os.umask(0o022)
    account = find_account(start.login)
    if start.kind in SOCKET_KINDS:
        leave_tracer(context)
        check_open(account)
        os.setsid()
        os.write(report, f"{account.pw_uid} {account.pw_gid} {os.getpid()} 0 \n".encode())
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        drop_privileges(account.pw_uid, account.pw_gid, groups)
        pass_socket(start.kind, start.words, report, os.fsencode(account.pw_dir))
    if start.kind != "program":
        check_open(account)
        check_sessions(account)
    serve_files = None
    if start.kind in ("sftp", "scp"):
        check_files(account)
        if start.words or sftp_server() is None:
            serve_files = _file_server(start, os.fsencode(account.pw_dir))
    pam = None
    host = start.environment.get("SSH_CLIENT", b"").decode("ascii", "replace").partition(" ")[0]
    if outcome is not None:
        pam = open_pam(context.pam, account, host, os.ttyname(0) if start.pty else "")
        stay_behind(pam, report, outcome)
    os.setsid()
    terminal = _take_terminal(0, account) if start.pty else None
    if pam is not None:
        group_id = context.groups.enter_unless_moved(group)
    groups = os.getgrouplist(account.pw_name, account.pw_gid) if pam is None else os.getgroups()
    extra = {} if start.kind == "program" else system_variables()
    if pam is not None:
        added = pam.variables()
        extra = extra | harmless(added) if start.kind in RESTRICTED_KINDS else added
    last = context.records.last_login(account.pw_uid) if terminal is not None else None
    if os.geteuid() == 0:
        unaudited = context.unaudited if pam is None else has_no_login_uid()
        leave_root_settings(account.pw_uid, context.oom_score, unaudited)
        if terminal is not None:
            line = terminal.removeprefix("/dev/")
            context.records.log_in(line, os.getpid(), account.pw_name, host)
            context.records.remember(account.pw_uid, line, host)
    whose = (account.pw_uid, account.pw_gid, os.getpid(), group_id)
    os.write(report, f"{' '.join(map(str, whose))} {terminal or ''}\n".encode())
    drop_privileges(account.pw_uid, account.pw_gid, groups)
    environment = environment_of(account, start.environment, terminal, extra)
    if start.kind == "program":
        os.chdir("/")
        _join_tracer(start, context)
        _execute(os.fsdecode(start.words[0]), start.words, environment)
    enter_home(account.pw_dir, 2)
    if start.cookie:
        add_cookie(start.cookie, environment)
    if serve_files is not None:
        _join_tracer(start, context)
        os.close(report)
        os._exit(serve_files())
    if start.kind == "shell" and terminal is not None:
        news = b"" if pam is None else pam.messages
        files = MOTD_FILES if pam is None else ()
        os.write(1, news + greeting(account.pw_dir, last, files, start.message))
    program = program_of(start, account)
    _join_tracer(start, context)
    _execute(*program, environment)


def program_of(start: Start, account: pwd.struct_passwd) -> tuple[str, list[bytes]]:
    """Return path and argv of what a session executes. Raises Refused."""
    if start.kind == "sftp":
        check_files(account)
        server = sftp_server()
        if server is None or start.words:  # rules of paths are ours to keep
            raise Refused("sftp is not installed on this node", "spawner")
        return server, [os.path.basename(server).encode()]
    return execution(account.pw_shell or "/bin/sh", start.kind, start.words)


def enter_home(home: str, errors: int) -> None:
    """Change to the folder ``home``; write to the descriptor ``errors`` if that cannot be."""
    try:
        os.chdir(home)
    except OSError as error:
        os.chdir("/")
        text = f"Could not chdir to home directory {home}: {error.strerror}\n"
        os.write(errors, os.fsencode(text))


def _execute(path: str, words: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
    try:
        if "/" in path:
            os.execve(path, words, environment)  # noqa: S606 - a shell is what it is
        os.execvpe(path, words, environment)  # noqa: S606 - words of the configuration
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}", "exec") from None
