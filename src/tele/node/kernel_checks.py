"""Why can sessions not be traced on this machine, if they cannot, and what helps?"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tele.tracer.messages import MAX_MESSAGE

PROGRAM: Final = Path(__file__).parents[1] / "tracer" / "program.py"
#: Seconds for the tracer to load its programs.
LOAD_SECONDS: Final = 20.0
LIBBPF: Final = "libbpf.so.1"
TYPES: Final = "/sys/kernel/btf/vmlinux"
LOCKDOWN: Final = "/sys/kernel/security/lockdown"
#: The oldest kernel with the ring buffer, and with tasks' storage for tracing programs.
OLDEST: Final = (5, 11)
#: Capabilities (capabilities(7)): one of the first, or both of the others.
_SYS_ADMIN, _PERFMON, _BPF = 21, 38, 39


def tracing_problem() -> tuple[str, str]:
    """Return why BPF programs cannot be loaded here, and what to do; both empty if they can."""
    if os.uname().sysname != "Linux":
        return "this is not Linux", ""
    release = os.uname().release
    if kernel_version(release) < OLDEST:
        return f"the kernel {release} is too old", "run Linux 5.11 or newer"
    if not os.path.exists(TYPES):
        return (
            f"the kernel does not describe its types ({TYPES})",
            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        )
    if _reads(LOCKDOWN, "[confidentiality]"):
        return "the kernel is locked down (confidentiality)", "boot with lockdown=integrity"
    if not _privileged():
        container = " in this container" if os.geteuid() == 0 and in_container() else ""
        return (
            f"the process lacks the capabilities for it{container}",
            "give the container CAP_BPF and CAP_PERFMON" if container else "run as root",
        )
    try:
        ctypes.CDLL(LIBBPF)
    except OSError:
        return f"{LIBBPF} is not installed", "install libbpf (Debian: apt-get install libbpf1)"
    return "", ""


def traced_kinds(program: Path = PROGRAM) -> dict[str, str]:
    """Have the tracer load its programs once; return what it can trace: each kind with an empty
    text, or with what is missing. Nothing is left in the kernel.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unused, joining = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, unused, joining:
        fds = theirs.fileno(), joining.fileno()
        ours.settimeout(LOAD_SECONDS)
        try:
            with subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", str(program), *map(str, fds)],
                pass_fds=fds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/", env={},
            ) as process:  # fmt: skip
                theirs.close()
                try:
                    answer: dict[str, Any] = json.loads(ours.recv(MAX_MESSAGE))
                finally:
                    ours.close()  # which ends it
                    process.wait(LOAD_SECONDS)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return {"tracer": f"it does not answer: {error}"}
    if answer.get("event") != "ready":
        return {"tracer": str(answer.get("message", "it does not answer"))}
    found = dict.fromkeys(map(str, answer["kinds"]), "")
    return found | {str(kind): str(why) for kind, why in answer["missing"].items()}


def kernel_version(release: str) -> tuple[int, int]:
    """Return the first two numbers of a release such as ``6.18.0-1-amd64``; zeros for others."""
    numbers = [part for part in release.split("-")[0].split(".")[:2] if part.isdecimal()]
    major, minor = (*map(int, numbers), 0, 0)[:2]
    return major, minor


def _reads(path: str, text: str) -> bool:
    try:
        return text in Path(path).read_text("utf-8", "replace")
    except OSError:
        return False


def _privileged() -> bool:
    try:
        lines = Path("/proc/self/status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    given = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return bool(given >> _SYS_ADMIN & 1 or (given >> _BPF & 1 and given >> _PERFMON & 1))


def in_container() -> bool:
    """Whether this looks like the inside of a container."""
    known = ("/.dockerenv", "/run/.containerenv", "/run/systemd/container")
    return any(os.path.exists(path) for path in known)
