"""A cluster under everyday load: nothing is lost, and no part grows.

::

    python tests/faults/soak.py --seconds 900

Logins, commands, terminals, copies, forwards and users that come and go, and now and then one part
that is started again. After the first third no idle part may have more open files, and the
memory may grow by :data:`GROWTH` at most.
"""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from commands import main, say
from ledger import Ledger
from three_processes import Cluster, free_port, make_cluster, wait_for

#: KiB that a part may have more at the end than after a third.
GROWTH = 16 * 1024
#: Open files of idle parts differ by what connections to auth happen to be open.
FILES = 8


def soak(folder: Path, seconds: int, dice: random.Random) -> Counter[str]:
    """Use a cluster for ``seconds``; return what was acknowledged and is there."""
    cluster = make_cluster(folder)
    ledger = Ledger(cluster)
    done: Counter[str] = Counter()
    try:
        _use(cluster, ledger, seconds / 3, dice, done)
        before = _idle(cluster)
        say(f"after a third: {before}")
        _use(cluster, ledger, seconds * 2 / 3, dice, done)
        after = _idle(cluster)
        say(f"at the end: {after}")
        for part, (memory, files) in before.items():
            assert after[part][0] <= memory + GROWTH, f"{part} grew: {memory}, {after[part][0]} KiB"
            assert after[part][1] <= files + FILES, f"{part} has files: {files}, {after[part][1]}"
        return done + ledger.check()
    finally:
        cluster.stop()


def _use(
    cluster: Cluster, ledger: Ledger, seconds: float, dice: random.Random, done: Counter[str]
) -> None:
    end = time.monotonic() + seconds
    failed: list[BaseException] = []

    def person(seed: int) -> None:
        mine = random.Random(seed)
        try:
            while time.monotonic() < end and not failed:
                deed = mine.choice(DEEDS)
                deed(cluster, ledger, mine)
                done[deed.__name__.strip("_")] += 1
        except BaseException as error:
            failed.append(error)

    people = [threading.Thread(target=person, args=(dice.getrandbits(32),)) for _ in range(4)]
    for each in people:
        each.start()
    for each in people:
        each.join()
    if failed:
        raise failed[0]


# -- what people do -------------------------------------------------------------------
def _command(cluster: Cluster, ledger: Ledger, dice: random.Random) -> None:
    number = dice.getrandbits(32)
    assert cluster.ssh(cluster.host, f"echo {number}").stdout == b"%d\n" % number


def _terminal(cluster: Cluster, ledger: Ledger, dice: random.Random) -> None:
    (session,) = ledger.begin_sessions(1)
    time.sleep(dice.uniform(1, 8))
    ledger.note(session, None)
    session.hang_up()


def _copy(cluster: Cluster, ledger: Ledger, dice: random.Random) -> None:
    data = dice.randbytes(dice.randrange(1 << 20))
    name = ledger.next_name("copied")
    source, target = cluster.folder / f"{name}.from", cluster.folder / f"{name}.to"
    source.write_bytes(data)
    cluster.client("scp", "-q", str(source), f"{cluster.host}:{target}")
    assert target.read_bytes() == data
    source.unlink()
    target.unlink()


def _forward(cluster: Cluster, ledger: Ledger, dice: random.Random) -> None:
    port = free_port()
    words = ["ssh", "-N", "-F", str(cluster.ssh_config), "-L"]
    target = f"127.0.0.1:{cluster.ports['proxy']}"
    client = subprocess.Popen(
        [*words, f"127.0.0.1:{port}:{target}", cluster.host],
        env=cluster.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def greets() -> bool:
            try:
                with socket.create_connection(("127.0.0.1", port), 10) as through:
                    return through.recv(8).startswith(b"SSH-2.0")
            except OSError:
                return False

        wait_for(greets, "the forward to work")
    finally:
        client.terminate()
        client.wait()


def _user(cluster: Cluster, ledger: Ledger, dice: random.Random) -> None:
    assert ledger.add_user()


def _listing(cluster: Cluster, ledger: Ledger, dice: random.Random) -> None:
    cluster.tele(*dice.choice((["ls"], ["sessions", "ls"], ["recordings", "ls"], ["audit", "ls"])))


Deed = Callable[[Cluster, Ledger, random.Random], None]
DEEDS: tuple[Deed, ...] = (_command, _command, _terminal, _copy, _forward, _user, _listing)


# -- what parts have ------------------------------------------------------------------
def _idle(cluster: Cluster) -> dict[str, tuple[int, int]]:
    """Return (resident KiB, open files) of each part, once connections had time to close."""
    time.sleep(5)
    return {part: _resources(each.pid) for part, each in cluster.processes.items()}


def _resources(pid: int) -> tuple[int, int]:
    status = Path(f"/proc/{pid}/status").read_text()
    (memory,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(memory), len(list(Path(f"/proc/{pid}/fd").iterdir()))


if __name__ == "__main__":
    main(soak, "seconds", 900)
