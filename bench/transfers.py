"""How fast do bytes and files pass, and what CPU do they cost the server?

CPU is of the server's processes and what serves files; not of the commands that make or take
the bytes, which have ended, while the session has not.
"""

from __future__ import annotations

import random
import shutil
import subprocess
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


def bulk_down(server: Server, megabytes: int) -> dict[str, float]:
    """Fetch zeros from a command."""
    size = megabytes * 1_000_000
    return download(server, size, f"head -c {size} /dev/zero")


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
    """Get or put one file with OpenSSH's sftp."""
    size = megabytes * 1_000_000
    given, taken = shared / "given", shared / f"taken.{server.name}"
    if not given.exists() or given.stat().st_size != size:
        with given.open("wb") as file:
            file.truncate(size)
        given.chmod(0o644)
    taken.unlink(missing_ok=True)
    batch = f"{'put' if up else 'get'} {given} {taken}\n!echo done\n"
    client = subprocess.Popen(
        ["sftp", "-q", "-b", "-", *server.where("-P"), "127.0.0.1"],
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
    if taken.stat().st_size != size:
        raise RuntimeError(f"{server.name}: {taken.stat().st_size} of {size} bytes arrived")
    taken.unlink()
    return rates(spent, size)


def small_files(server: Server, shared: Path, count: int, *, up: bool) -> dict[str, float]:
    """Copy a tree of files of a kilobyte with scp."""
    given, taken = shared / f"tree{count}", shared / f"tree.{server.name}"
    if not given.exists():
        given.mkdir()
        for number in range(count):
            folder = given / f"{number // 100}"
            folder.mkdir(exist_ok=True)
            (folder / f"{number}").write_bytes(number.to_bytes(4, "big") * 256)
    shutil.rmtree(taken, ignore_errors=True)
    source, target = str(given), f"127.0.0.1:{taken}"
    if not up:
        source, target = f"127.0.0.1:{given}", str(taken)

    def copy() -> None:
        run("scp", "-q", "-r", *server.where("-P"), source, target)

    spent = server.spend(copy)
    arrived = sum(1 for path in taken.rglob("*") if path.is_file())
    if arrived != count:
        raise RuntimeError(f"{server.name}: {arrived} of {count} files arrived")
    shutil.rmtree(taken)
    return {"files/s": count / spent.wall}
