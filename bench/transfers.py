"""How fast do bytes and files pass, and what CPU do they cost the server?

CPU is of the server's processes and what serves files; not of the commands that make or take
the bytes, which have ended, while the session has not.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from servers import Server, Spent, run

GIGA = 1_000_000_000


def rates(spent: Spent, size: int) -> dict[str, float]:
    """Return what it took as rates for ``size`` bytes."""
    return {"MB/s": size / spent.wall / 1e6, "cpu_s/GB": spent.cpu / size * GIGA}


def download(server: Server, size: int, words: str, *options: str) -> dict[str, float]:
    """Run ``words``, which put out ``size`` bytes, until all are here."""
    ssh = subprocess.Popen(
        server.command(f"{words}; exec cat", options=options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    room = bytearray(1 << 18)
    arrived = 0

    def take() -> None:
        nonlocal arrived
        assert ssh.stdout is not None
        while arrived < size and (count := ssh.stdout.raw.readinto(room)):  # type: ignore[attr-defined]
            arrived += count

    with ssh:
        spent = server.spend(take)
        ssh.kill()
    if arrived != size:
        raise RuntimeError(f"{server.name}: {arrived} of {size} bytes arrived")
    return rates(spent, size)


def bulk_down(server: Server, megabytes: int, block: int = 0) -> dict[str, float]:
    """Fetch zeros from a command that writes 4 KiB at a time, as stdio does, or ``block``.

    A server that is faster than the command sends a packet for each time, and all that is behind
    the server handles it.
    """
    size = megabytes * 1_000_000
    words = f"head -c {size} /dev/zero"
    if block:
        words = f"dd if=/dev/zero bs={block} count={size} iflag=count_bytes 2>/dev/null"
    return download(server, size, words)


def bulk_up(server: Server, megabytes: int) -> dict[str, float]:
    """Send zeros to a command."""
    size = megabytes * 1_000_000
    source = subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE)
    ssh = subprocess.Popen(
        server.command("wc -c; exec sleep 1"), stdin=source.stdout, stdout=subprocess.PIPE
    )
    arrived = 0

    def wait() -> None:
        nonlocal arrived
        assert ssh.stdout is not None
        arrived = int(ssh.stdout.readline() or 0)

    with source, ssh:
        assert source.stdout is not None
        source.stdout.close()
        spent = server.spend(wait)
        ssh.kill()
    if arrived != size:
        raise RuntimeError(f"{server.name}: {arrived} of {size} bytes arrived")
    return rates(spent, size)


def terminal(server: Server, text: Path) -> dict[str, float]:
    """Show a text file on a terminal; tele records it, sshd does not."""
    return download(server, text.stat().st_size, f"stty -opost; cat {text}", "-tt")


def write_text(path: Path, megabytes: int) -> None:
    """Write text as programs put it out: lines of words and numbers, always the same."""
    dice = random.Random(1)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=k)) for k in range(2, 14)] * 9
    lines = []
    size = 0
    while size < min(megabytes, 4) * 1_000_000:
        line = f"{dice.random():.6f} {' '.join(dice.choices(words, k=dice.randint(1, 15)))}\n"
        lines.append(line)
        size += len(line)
    part = "".join(lines).encode()
    with path.open("wb") as file:
        for _ in range(max(1, megabytes // 4)):
            file.write(part)
    path.chmod(0o644)


def sftp(server: Server, shared: Path, megabytes: int, *, up: bool) -> dict[str, float]:
    """Get or put one file with OpenSSH's sftp, after the login."""
    size = megabytes * 1_000_000
    given, taken = large_file(server, shared, size)
    batch = f"{'put' if up else 'get'} {given} {taken}\n!echo done\n"
    client = subprocess.Popen(
        ["sftp", "-q", "-b", "-", *server.where("-P"), server.host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def copy() -> None:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(batch.encode())
        client.stdin.flush()
        for line in client.stdout:
            if line == b"done\n":
                return
        raise RuntimeError(f"{server.name}: sftp failed")

    with client:
        spent = server.spend(copy)
        assert client.stdin is not None
        client.stdin.close()
    remove(server, taken, size)
    return rates(spent, size)


def large_file(server: Server, shared: Path, size: int) -> tuple[Path, Path]:
    """Return a file of ``size`` bytes, and where to copy it."""
    given, taken = shared / "given", shared / f"taken.{server.name}"
    if not given.exists() or given.stat().st_size != size:
        with given.open("wb") as file:
            file.truncate(size)
        given.chmod(0o644)
    taken.unlink(missing_ok=True)
    return given, taken


def remove(server: Server, taken: Path, size: int) -> None:
    """Remove a copy, which has to be complete."""
    arrived = taken.stat().st_size
    taken.unlink()
    if arrived != size:
        raise RuntimeError(f"{server.name}: {arrived} of {size} bytes arrived")


def scp(server: Server, shared: Path, megabytes: int, *, up: bool) -> dict[str, float]:
    """Copy one file with OpenSSH's scp; the login counts."""
    size = megabytes * 1_000_000
    given, taken = large_file(server, shared, size)
    spent = server.spend(lambda: run_scp(server, given, taken, up=up), ended=True)
    remove(server, taken, size)
    return rates(spent, size)


def run_scp(server: Server, given: Path, taken: Path, *, up: bool) -> None:
    """Run OpenSSH's scp; here and there are the same machine."""
    there = f"{server.host}:"
    source, target = (f"{given}", f"{there}{taken}") if up else (f"{there}{given}", f"{taken}")
    run("scp", "-q", "-r", *server.where("-P"), source, target)


def run_sftp(server: Server, given: Path, taken: Path, *, up: bool) -> None:
    """Run OpenSSH's sftp, for a tree."""
    batch = f"{'put' if up else 'get'} -r {given} {taken}\n"
    words = ["sftp", "-q", "-b", "-", *server.where("-P"), server.host]
    done = subprocess.run(words, input=batch.encode(), check=False, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{server.name}: sftp failed: {done.stderr.decode()}")


def small_files(
    server: Server, shared: Path, count: int, copy: Callable[..., None], *, up: bool
) -> dict[str, float]:
    """Copy a tree of files of 1 to 10 KiB with ``copy``: ``run_scp`` or ``run_sftp``."""
    given, taken = shared / f"tree{count}", shared / f"tree.{server.name}"
    if not given.exists():
        given.mkdir()
        for number in range(count):
            folder = given / f"{number // 100}"
            folder.mkdir(exist_ok=True)
            content = number.to_bytes(4, "big") * 256
            (folder / f"{number}").write_bytes(content * (1 + number % 10))
    shutil.rmtree(taken, ignore_errors=True)
    spent = server.spend(lambda: copy(server, given, taken, up=up), ended=True)
    arrived = sum(1 for path in taken.rglob("*") if path.is_file())
    if arrived != count:
        raise RuntimeError(f"{server.name}: {arrived} of {count} files arrived")
    shutil.rmtree(taken)
    return {"files/s": count / spent.wall, "cpu_ms": spent.cpu / count * 1000}
