"""The tracer on this machine's kernel: what it records of a session, and of nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tele.tracer.hand_overs import hand_over
from tele.tracer.libbpf import Library
from tele.tracer.records import (
    Action,
    Executed,
    Exited,
    FileAction,
    Lost,
    Record,
    SocketAction,
    SystemCalls,
)
from traced import ALL, Tracer, executed, tracing

pytestmark = pytest.mark.root
PYTHON = sys.executable


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    """One tracer for all: each test has sessions of its own."""
    with tracing() as found:
        yield found


def files(found: list[Record], below: Path) -> list[tuple[str, str, int]]:
    """What happened to files below a folder: action, path below it, and error or 0."""
    return [
        (each.action, os.path.relpath(os.fsdecode(each.path), below), min(each.result, 0))
        for each in found
        if isinstance(each, FileAction) and each.path.startswith(os.fsencode(below) + b"/")
    ]


def test_fifty_programs(tracer: Tracer) -> None:
    """Each program is there once, in order, with its arguments, its end and its parent."""
    script = "".join(f"/bin/echo {number} >/dev/null\n" for number in range(50)) + "/bin/false\n"
    found = tracer.run("/bin/sh", "-c", script, kinds=("command",))
    programs = [each for each in found if isinstance(each, Executed)]
    shell = programs[0].origin.pid
    assert [each.arguments for each in programs[1:-1]] == [
        (b"/bin/echo", b"%d" % number) for number in range(50)
    ]
    assert {each.origin.parent for each in programs[1:-1]} == {shell}
    assert {each.executable for each in programs[1:-1]} == {b"/usr/bin/echo"}
    ends = {each.origin.pid: each.status for each in found if isinstance(each, Exited)}
    assert [ends[each.origin.pid] for each in programs[1:]] == [0] * 50 + [256]
    assert [each.origin.sequence for each in programs] == sorted(
        each.origin.sequence for each in programs
    )


def test_arguments_and_failures(tracer: Tracer, tmp_path: Path) -> None:
    """Arguments come whole or marked, the environment never; what cannot run has its error."""
    secret = {**os.environ, "SECRET": "not-to-be-seen"}
    long = "y" * 30_000
    code = "import os; os.environ['A']='b'\n"
    code += "for n in ('/nowhere/x', %r):\n try: os.execv(n, ['x', '-q'])\n except OSError: pass\n"
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    for words in (("/bin/echo", "a b", "", "\n*"), ("/bin/true", long)):
        first = tracer.run(*words, kinds=("command",), env=secret)[0]
        assert isinstance(first, Executed)
        assert b"".join(first.arguments).startswith("".join(words)[:20000].encode())
        assert first.cut == (words[-1] is long)
        assert first.size == sum(len(word) + 1 for word in words)
        assert b"not-to-be-seen" not in repr(first).encode()
    found = tracer.run(PYTHON, "-S", "-c", code % str(plain), kinds=("command",))
    failed = [each for each in found if isinstance(each, Executed) and each.result]
    assert [(each.path, each.arguments, each.result) for each in failed] == [
        (b"/nowhere/x", (b"x", b"-q"), -errno.ENOENT),
        (os.fsencode(plain), (b"x", b"-q"), -errno.EACCES),
    ]


def test_files(tracer: Tracer, tmp_path: Path) -> None:
    """Files are created, read, renamed, linked, changed and removed, with results."""
    script = f"""
    cd {tmp_path}
    echo x >a; cat a >/dev/null; cat missing 2>/dev/null
    mv a b; ln b c; ln -s b d; chmod 600 ./b; mkdir e; rmdir e; truncate -s 5 c; rm b c d
    """
    found = tracer.run("/bin/sh", "-c", script, kinds=("disk",))
    assert files(found, tmp_path) == [
        ("create", "a", 0),
        ("open", "a", 0),
        ("open", "missing", -errno.ENOENT),
        ("rename", "a", 0),
        ("link", "b", 0),
        ("symlink", "d", 0),
        ("chmod", "b", 0),
        ("mkdir", "e", 0),
        ("rmdir", "e", 0),
        ("open", "c", 0),
        ("truncate", "c", 0),
        ("unlink", "b", 0),
        ("unlink", "c", 0),
        ("unlink", "d", 0),
    ]
    assert {type(each) for each in found} == {FileAction}


NETWORK = """
import os, socket
def server(family, address, kind=socket.SOCK_STREAM):
    made = socket.socket(family, kind); made.bind(address)
    if kind == socket.SOCK_STREAM: made.listen()
    return made
def client(family, address, kind=socket.SOCK_STREAM):
    made = socket.socket(family, kind)
    try: made.connect(address)
    except OSError: pass
    return made
four = server(socket.AF_INET, ("127.0.0.1", 0)); six = server(socket.AF_INET6, ("::1", 0))
a = client(socket.AF_INET, four.getsockname()); b, _ = four.accept()
c = client(socket.AF_INET6, six.getsockname()); d, _ = six.accept()
port = four.getsockname(); four.close(); e = client(socket.AF_INET, port)
udp = server(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM)
f = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
f.sendto(b"x", udp.getsockname()); f.sendmsg([b"y"], [], 0, udp.getsockname())
h = client(socket.AF_INET, udp.getsockname(), socket.SOCK_DGRAM); h.send(b"not told")
os.chdir(os.environ["FOLDER"])
u = server(socket.AF_UNIX, "s"); v = client(socket.AF_UNIX, "./s"); w = client(socket.AF_UNIX, "no")
"""


def test_network(tracer: Tracer, tmp_path: Path) -> None:
    """TCP, UDP and unix sockets over both families, connected, accepted, sent to and refused."""
    words = (PYTHON, "-I", "-S", "-c", NETWORK)
    found = tracer.run(*words, kinds=("network",), env={"FOLDER": str(tmp_path)})
    assert {type(each) for each in found} == {SocketAction}
    seen = [
        (each.action, each.family, each.kind, each.address or each.local, min(each.result, 0))
        for each in found
        if isinstance(each, SocketAction)
    ]
    four, six, unix = b"127.0.0.1", b"::1", os.fsencode(tmp_path / "s")
    assert seen == [
        ("bind", "inet", "stream", four, 0),
        ("listen", "inet", "stream", four, 0),
        ("bind", "inet6", "stream", six, 0),
        ("listen", "inet6", "stream", six, 0),
        ("connect", "inet", "stream", four, 0),
        ("accept", "inet", "stream", four, 0),
        ("connect", "inet6", "stream", six, 0),
        ("accept", "inet6", "stream", six, 0),
        ("connect", "inet", "stream", four, -errno.ECONNREFUSED),
        ("bind", "inet", "datagram", four, 0),
        ("send", "inet", "datagram", four, 0),
        ("send", "inet", "datagram", four, 0),
        ("connect", "inet", "datagram", four, 0),
        ("bind", "unix", "stream", unix, 0),
        ("listen", "unix", "stream", b"", 0),
        ("connect", "unix", "stream", unix, 0),
        ("connect", "unix", "stream", os.fsencode(tmp_path / "no"), -errno.ENOENT),
    ]
    ports = [each.port or each.local_port for each in found if isinstance(each, SocketAction)]
    assert ports[0] == ports[1] == ports[4] == ports[8] > 0
    assert ports[9] == ports[10] == ports[11] == ports[12] > 0


#: Ways to leave a session: each ends in a program ``id`` that has to be in it.
ESCAPES = {
    "setsid": "setsid -w id",
    "background": "id & wait",
    "nohup": "nohup id </dev/null & wait",
    "orphan": "sh -c '(setsid sh -c \"sleep 0.2; id\" &)'; sleep 0.5",
    "environment": "env -i /usr/bin/id",
    "loader": "/lib64/ld-linux-x86-64.so.2 /usr/bin/id",
    "copy": "cp /usr/bin/id {folder}/ls; {folder}/ls",
    "script": "printf '#!/bin/sh\\nid' >{folder}/x; chmod 755 {folder}/x; {folder}/x",
    "descriptor": '{python} -S -c \'import os; f=os.open("/usr/bin/id",0);'
    ' os.execve(f,["id"],{{}})\'',
    "memory": '{python} -S -c \'import os; f=os.memfd_create("m",0);'
    ' os.write(f,open("/usr/bin/id","rb").read()); os.execve(f,["id"],{{}})\'',
    "thread": "{python} -S -c 'import os,_thread,time;"
    ' _thread.start_new_thread(os.system,("id",)); time.sleep(0.5)\'',
    "namespaces": "unshare -m -p -f -i -u id",
    "user": "setpriv --reuid 65534 --regid 65534 --clear-groups id",
    "priority": "nice -n 5 id",
    "xargs": "echo id | xargs -n 1 timeout 5",
    "chroot": "chroot / id",
}


@pytest.mark.parametrize("way", ESCAPES)
def test_no_escape(way: str, tracer: Tracer, tmp_path: Path) -> None:
    """A process stays in its session however it is started, and whatever it is called."""
    script = ESCAPES[way].format(folder=tmp_path, python=PYTHON)
    found = tracer.run("/bin/sh", "-c", script, kinds=("command",), stdout=subprocess.DEVNULL)
    seen = [each for each in found if isinstance(each, Executed) and each.result == 0]
    last = seen[-1]
    assert last.arguments[0].rpartition(b"/")[2] in (b"id", b"ls", b"/usr/bin/id") or (
        way == "loader" and last.arguments[-1] == b"/usr/bin/id"
    )
    assert isinstance(found[-1], Exited)


def test_another_control_group(tracer: Tracer) -> None:
    """A process that moves to another control group is still of its session, and it shows."""
    root = next(
        (
            p
            for p in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
            if os.path.exists(f"{p}/cgroup.procs")
        ),
        "",
    )
    if not root:
        pytest.skip("no cgroup v2 here")
    group = Path(root, f"tele-test-{os.getpid()}")
    group.mkdir()
    try:
        script = f"id; echo $$ >{group}/cgroup.procs; id"
        found = tracer.run("/bin/sh", "-c", script, kinds=("command",), stdout=subprocess.DEVNULL)
    finally:
        group.rmdir()
    assert executed(found) == [b"sh", b"id", b"id"]
    groups = [each.origin.cgroup for each in found if isinstance(each, Executed)]
    assert groups[0] == groups[1] != groups[2]


CALLS_OF_32_BITS = """
import ctypes, mmap, struct
page = mmap.mmap(-1, 4096, prot=7, flags=0x22 | 0x40)  # MAP_32BIT
at = ctypes.addressof(ctypes.c_char.from_buffer(page))
page[1024:1024 + len(NAME) + 1] = NAME + b"\\0"
# open(name, O_RDONLY) by int 0x80: push rbx; mov eax, 5; mov ebx, name; xor ecx, ecx; int 0x80; ...
name = struct.pack("<I", at + 1024).hex()
page[:19] = bytes.fromhex("53" "b805000000" "bb" + name + "31c9" "31d2" "cd80" "5b" "c3")
print(ctypes.CFUNCTYPE(ctypes.c_int)(at)())
"""


def test_calls_of_32_bits(tracer: Tracer, tmp_path: Path) -> None:
    """A 64-bit program that calls the kernel as 32-bit ones do is read as these are."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    code = f"NAME = {os.fsencode(secret)!r}\n{CALLS_OF_32_BITS}"
    words = (PYTHON, "-I", "-c", code)
    done = subprocess.run(words, capture_output=True, check=True)
    if int(done.stdout) < 0:
        pytest.skip("this kernel runs no 32-bit calls")
    found = tracer.run(*words, kinds=("disk",), stdout=subprocess.DEVNULL)
    assert files(found, tmp_path) == [("open", "secret", 0)]


def ways_of(found: list[Record]) -> list[str]:
    """The ways in which a session handed something over."""
    return [over.way for over in map(hand_over, found) if over is not None]


def test_hand_overs(tracer: Tracer, tmp_path: Path) -> None:
    """What a session has others do is recorded as that, with any kind of record."""
    folder = tmp_path / "tmux-0"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "default"))
        server.listen()
        code = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        words = (PYTHON, "-I", "-S", "-c", code, str(folder / "default"))
        for kind in ("command", "disk", "network"):
            found = tracer.run(*words, kinds=(kind,))
            assert ways_of(found) == ["tmux"], kind
    home = tmp_path / ".ssh"
    home.mkdir()
    found = tracer.run("/bin/sh", "-c", f"echo key >>{home}/authorized_keys", kinds=("disk",))
    assert ways_of(found) == ["authorized_keys"]


def test_a_session_is_told_to_end(tracer: Tracer) -> None:
    """All of its processes end, wherever they went; one that may not be told is left alone."""
    number = tracer.start("command", may_end=True)
    script = "setsid sh -c 'while :; do sleep 0.05; done' & while :; do sleep 0.05; done"
    process = tracer.begin(number, "/bin/sh", "-c", script)
    other = tracer.start("command")
    tracer.control.send(b'{"op": "end", "id": %d}' % number)
    assert process.wait(20) == -signal.SIGKILL
    assert tracer.ask(op="end", id=other)["event"] == "refused"
    until = time.monotonic() + 20
    while not _both_ended(tracer, number):
        assert time.monotonic() < until
        tracer.read(0.05)
    for each in (number, other):
        tracer.stop(each)


def _both_ended(tracer: Tracer, number: int) -> bool:
    """Whether the shell and the one that it started were killed, or the one never began."""
    killed = [
        each
        for each in tracer.records.get(number, [])
        if isinstance(each, Exited) and each.status == signal.SIGKILL
    ]
    return len(killed) >= 2


def test_calls_of_processes(tracer: Tracer) -> None:
    """All calls are counted by process; those that are named are recorded one by one."""
    number = tracer.start("syscalls", syscalls=["getppid", "kill"])
    code = "import os, contextlib\nfor _ in range(500): os.getppid()\n"
    code += "with contextlib.suppress(OSError): os.kill(os.getpid(), 999)\n"
    process = tracer.begin(number, PYTHON, "-I", "-S", "-c", code)
    while process.poll() is None:
        tracer.read(0.05)
    assert tracer.stop(number)["lost"] == 0
    found = tracer.records.pop(number)
    (counted,) = [each for each in found if isinstance(each, SystemCalls)]
    counts = {name: (calls, errors) for name, calls, errors in counted.counts}
    assert counts["getppid"] == (500, 0)
    assert counts["kill"] == (1, 1)
    named = [each for each in found if isinstance(each, Action)]
    assert [each.action for each in named] == ["getppid"] * 500 + ["kill"]
    assert named[-1].arguments[1] == 999
    assert named[-1].result == -errno.EINVAL


def test_two_sessions(tracer: Tracer) -> None:
    """Sessions that run at once have their own records only; what is in none has no record."""
    one, two = tracer.start("command"), tracer.start("command")
    first = tracer.begin(one, "/bin/sh", "-c", "for i in 1 2 3 4 5; do /bin/echo; done >/dev/null")
    second = tracer.begin(two, "/bin/sh", "-c", "for i in 1 2 3 4; do /bin/ls /; done >/dev/null")
    subprocess.run(["/bin/cat", "/dev/null"], check=True)
    for process in (first, second):
        assert process.wait(20) == 0
    assert tracer.stop(one) == {
        "event": "stopped",
        "id": one,
        "records": 12,
        "lost": 0,
        "missed": 0,
    }
    assert tracer.stop(two) == {
        "event": "stopped",
        "id": two,
        "records": 10,
        "lost": 0,
        "missed": 0,
    }
    assert executed(tracer.records.pop(one)) == [b"sh", *[b"echo"] * 5]
    assert executed(tracer.records.pop(two)) == [b"sh", *[b"ls"] * 4]


def test_nothing_after_the_stop(tracer: Tracer) -> None:
    """A process that lives longer than its session is not recorded any more, nor is its number."""
    number = tracer.start("command")
    process = tracer.begin(number, "/bin/sh", "-c", "read x; /bin/echo", stdin=subprocess.PIPE)
    assert tracer.stop(number)["lost"] == 0
    other = tracer.start("command")
    process.communicate(b"\n")
    assert tracer.stop(other)["records"] == 0
    assert executed(tracer.records.pop(number)) == [b"sh"]


def test_flush(tracer: Tracer) -> None:
    """What a session did before it was asked for comes before the answer."""
    number = tracer.start("command")
    for _ in range(3):
        assert tracer.begin(number, "/bin/true").wait(20) == 0
    tracer.flush(number)
    assert executed(tracer.records[number]) == [b"true"] * 3
    assert tracer.ask(op="flush", id=90_000)["event"] == "failed"
    assert tracer.stop(number)["records"] == 6


def test_what_is_lost_is_told() -> None:
    """With buffers that are too small, each number of a session has a record or is lost."""
    with tracing(command_buffer=4096, event_buffer=4096) as tracer:
        number = tracer.start(*ALL)
        script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); : </etc/hostname; done"
        process = tracer.begin(number, "/bin/sh", "-c", script)
        while process.poll() is None:
            tracer.read(0.05)
        known = tracer.stop(number)
        expected = 1
        lost = 0
        for record in tracer.records[number]:
            if isinstance(record, Lost):
                assert record.first == expected
                expected = record.last + 1
                lost += record.last - record.first + 1
            elif record.origin.sequence and not isinstance(record, SystemCalls):
                assert record.origin.sequence == expected
                expected += 1
        assert expected - 1 == known["records"] + known["lost"] > 2000
        assert lost == known["lost"] > 0


def test_a_flood_takes_nothing_from_others() -> None:
    """A session that does more than can be recorded loses its own records, and no other's."""
    with tracing(command_buffer=65536, event_buffer=65536) as tracer:
        flooding, quiet = tracer.start("disk"), tracer.start("disk")
        code = "import os\nwhile True: os.close(os.open('/etc/hostname', 0))"
        flood = tracer.begin(flooding, PYTHON, "-I", "-S", "-c", code)
        try:
            while not any(isinstance(each, Lost) for each in tracer.records.get(flooding, ())):
                tracer.read(0.05)
            for _ in range(20):
                process = tracer.begin(
                    quiet, "/bin/cat", "/etc/hostname", stdout=subprocess.DEVNULL
                )
                while process.poll() is None:
                    tracer.read(0.05)
        finally:
            flood.kill()
            flood.wait()
        assert tracer.stop(quiet)["lost"] == 0
        assert tracer.stop(flooding)["lost"] > 0
        opened = [each for each in tracer.records[quiet] if isinstance(each, FileAction)]
        assert [each.path for each in opened].count(b"/etc/hostname") == 20


def test_only_a_process_itself_joins(tracer: Tracer) -> None:
    """Nothing has another process be of a session, nor of one that is not there."""
    number = tracer.start("command")
    other = subprocess.Popen(["/bin/sleep", "60"])
    try:
        for session, process, said in (
            (number, other.pid, b"a process can only be joined by itself"),
            (99_999, os.getpid(), b"the session is not traced"),
        ):
            answer, theirs = os.pipe()
            found = os.pidfd_open(process)
            message = b'{"id": %d}' % session
            socket.send_fds(tracer.joining, [message], [found, theirs])
            assert os.read(answer, 512) == said
            for fd in (answer, theirs, found):
                os.close(fd)
        # Messages without what they need have no answer, and end nothing.
        tracer.joining.send(b"{}")
        tracer.joining.send(b"[" * 1000)
    finally:
        other.kill()
        other.wait()
    assert tracer.stop(number) == {
        "event": "stopped",
        "id": number,
        "records": 0,
        "lost": 0,
        "missed": 0,
    }


def test_refused_requests(tracer: Tracer) -> None:
    """What is asked wrongly is answered, and what runs goes on."""
    for message in (
        {"op": "start", "id": 0, "kinds": ["disk"]},
        {"op": "start", "id": 900, "kinds": []},
        {"op": "start", "id": 900, "kinds": ["all"]},
        {"op": "start", "id": 900, "kinds": ["syscalls"], "syscalls": ["no_such_call"]},
        {"op": "x", "id": 900},
    ):
        assert tracer.ask(**message)["event"] == "refused", message
    assert tracer.ask(op="stop", id=900)["event"] == "failed"
    number = tracer.start("disk")
    assert tracer.ask(op="start", id=number, kinds=["disk"])["event"] == "failed"
    assert tracer.stop(number)["records"] == 0


def _programs_of(pid: int) -> list[int]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fdinfo"):
        with open(f"/proc/{pid}/fdinfo/{fd}") as file:
            found += [int(line.split()[1]) for line in file if line.startswith("prog_id:")]
    return found


def _is_loaded(program: int) -> bool:
    fd = Library().functions.bpf_prog_get_fd_by_id(program)
    if fd >= 0:
        os.close(fd)
    return bool(fd >= 0)


@pytest.mark.parametrize("end", ["linger", "close", "kill"])
def test_nothing_is_left(end: str) -> None:
    """When the last session has ended, or the node, no program is in the kernel any more."""
    with tracing(linger=0.2) as tracer:
        tracer.read(1.5)
        assert _programs_of(tracer.process.pid) == []
        number = tracer.start("command")
        programs = _programs_of(tracer.process.pid)
        assert len(set(programs)) >= 4
        if end == "linger":
            tracer.stop(number)
            tracer.read(1.5)
            assert _programs_of(tracer.process.pid) == []
        elif end == "close":
            tracer.close()
        else:
            tracer.kill()
        until = time.monotonic() + 20  # the kernel frees them when no processor runs one
        while any(map(_is_loaded, programs)):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_without_privilege() -> None:
    """A root that may not load programs, as in a container, gets a reason and no traceback."""
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    tracer = Tracer("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
    try:
        assert tracer.hello["event"] == "unavailable"
        assert tracer.hello["reason"] == "no_privilege"
        assert "CAP_BPF" in tracer.hello["message"]
        assert tracer.process.wait(20) == 0
    finally:
        tracer.kill()
