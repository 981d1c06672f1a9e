"""Hand-overs whose paths a session hides are told all the same, whatever kinds are recorded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tele.tracer.hand_overs import hand_over
from tele.tracer.records import Record
from traced import ALL, Tracer, tracing

pytestmark = pytest.mark.root
PYTHON = f"{sys.executable} -I -S"
CALL = "import ctypes,os; c=ctypes.CDLL(None).syscall; "
KEYS, HIDDEN, MOUNT = "authorized_keys", "hidden_path", "mount"
#: Each is told by one of these words. ``{f}`` has a folder ``.ssh``.
WAYS = {
    "a link to the folder": ("ln -s {f}/.ssh {f}/l; mv {f}/k {f}/l/authorized_keys", KEYS),
    "a relative link": ("cd {f}; ln -s .ssh l; mv k l/rc", KEYS),
    "another folder in its place": ("mv {f}/n {f}/.config", "user_unit"),
    "a link in its place": ("rm -r {f}/.ssh; ln -s n {f}/.ssh", KEYS),
    "slashes and dots": ("mv {f}/k {f}/n/.././/.ssh/rc", KEYS),
    "the folder as current": ("cd {f}/.ssh; mv ../k rc", KEYS),
    "the current folder by proc": ("cd {f}/.ssh; mv ../k /proc/self/cwd/rc", HIDDEN),
    "a descriptor": ("exec 3<{f}/.ssh; mv {f}/k /dev/fd/3/rc", HIDDEN),
    "a descriptor by proc": ("exec 3<{f}/.ssh; mv {f}/k /proc/self/fd/3/rc", KEYS),
    "a hard link": ("echo >{f}/.ssh/rc; ln {f}/.ssh/rc {f}/o", KEYS),
    "a bind mount": ("unshare -m mount --bind {f}/.ssh {f}/n", MOUNT),
    "a new mount": ("unshare -m mount -t proc proc {f}/n", MOUNT),
    "a tree of a mount": ("{py} -c \"{call}c(428,-100,b'{f}/.ssh',1)\"", MOUNT),
    "a name with a newline": ("mkdir -p '{f}/a\nb/.ssh'; echo >'{f}/a\nb/.ssh/rc'", KEYS),
    "openat2": ("{py} -c \"{call}c(437,-100,b'{f}/.ssh/rc',(ctypes.c_ulong*3)(65,384),24)\"", KEYS),
    "a device": ("mknod {f}/m c 1 1", "device"),
    "input of a terminal": (
        "{py} -c \"import os,fcntl; fcntl.ioctl(os.openpty()[1],0x5412,b'x')\"",
        "terminal",
    ),
    "ptrace": (
        '{py} -c "{call}r,w=os.pipe(); p=os.fork() or (os.close(w),os.read(r,1)); c(101,16,p)"',
        "process_memory",
    ),
    "io_uring": ('{py} -c "{call}c(425,4,ctypes.create_string_buffer(120))"', "io_uring"),
    "another namespace": ("{py} -c \"{call}c(308,os.open('/proc/self/ns/uts',0),0)\"", "namespace"),
}


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    """One tracer for all: each test has a session of its own."""
    with tracing() as found:
        yield found


def ways_of(found: list[Record]) -> list[str]:
    """The ways in which a session handed something over."""
    return [over.way for over in map(hand_over, found) if over is not None]


@pytest.mark.parametrize("way", WAYS)
def test_no_hidden_hand_over(way: str, tracer: Tracer, tmp_path: Path) -> None:
    """What hides the path of a hand-over is one itself, though only the network is recorded."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "n" / "systemd").mkdir(parents=True)
    (tmp_path / "k").write_text("key")
    script, expected = WAYS[way]
    words = ("/bin/sh", "-c", script.format(f=tmp_path, py=PYTHON, call=CALL))
    found = tracer.run(*words, kinds=("network", "handovers"), stdout=subprocess.DEVNULL)
    assert expected in ways_of(found), found


def test_plain_work_hands_nothing_over(tracer: Tracer, tmp_path: Path) -> None:
    """Files of one's own, namespaces without mounts, and devices that all accounts may write to."""
    script = f"""
    cd {tmp_path}; mkdir a; echo x >a/b; cp -a a c; mv c d; ln -s d e; ln a/b f; chmod 600 f
    rm -r a d e f; echo >/dev/null; unshare -m -u true; cat /proc/self/status; ls -la /etc /proc/1
    """
    words = ("/bin/sh", "-c", script)
    found = tracer.run(*words, kinds=(*ALL, "handovers"), stdout=subprocess.DEVNULL)
    assert ways_of(found) == []
