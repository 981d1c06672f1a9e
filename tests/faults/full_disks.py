"""The disk of each part gets full and has space again: what was acknowledged meanwhile is there.

::

    python tests/faults/full_disks.py --rounds 12
    python tests/faults/full_disks.py --rounds 12 --mode proxy

While it is full an administrator logs in, at auth and at the node, and commands on a connection
from before answer; whatever is refused is refused with the reason. Each part has a disk of its own
(a loop device: this needs root).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from commands import main, say
from disks import disk
from ledger import Ledger, until
from recordings import RECORDERS
from three_processes import Cluster, make_cluster

PARTS = ("node", "auth", "proxy")


def full_disks(
    folder: Path, rounds: int, dice: random.Random, sessions: int = 4, mode: str = "node"
) -> Counter[str]:
    """Fill a disk ``rounds`` times; return what was acknowledged and is there."""
    with ExitStack() as stack:
        disks = {part: stack.enter_context(disk(folder / part, 96)) for part in PARTS}
        cluster = make_cluster(folder, auth_settings=f"session_recording: {{mode: {mode}}}")
        stack.callback(cluster.stop)
        ledger = Ledger(cluster)
        for number in range(rounds):
            part = PARTS[number % len(PARTS)]
            running = ledger.begin_sessions(sessions)
            time.sleep(dice.uniform(3.0, 6.0))
            with _connection(cluster, folder / f"master{number}") as answers:
                full = time.monotonic()
                with disks[part].filled():
                    answers()
                    _while_full(cluster, ledger, part)
                    answers()
                answers()
            until(ledger.add_user, "users to be added")
            for each in running:
                assert not each.has_ended, f"a session ended when the disk of {part} was full"
                # A recording has a gap for what its recorder had no space for.
                ledger.note(each, full if part == RECORDERS[mode] else None)
                each.hang_up()
            say(f"round {number + 1}: {part} was full; {len(ledger.users)} users")
        return ledger.check()


@contextmanager
def _connection(cluster: Cluster, path: Path) -> Iterator[Callable[[], None]]:
    """A connection that is open; what is yielded runs a command on it, which has to answer."""
    shared = ("-o", f"ControlPath={path}", "-o", "ControlMaster=auto", "-o", "ControlPersist=600")

    def answers() -> None:
        assert cluster.ssh(*shared, cluster.host, "echo answer").stdout == b"answer\n"

    answers()
    try:
        yield answers
    finally:
        cluster.ssh(*shared, "-O", "exit", cluster.host, check=False)


def _while_full(cluster: Cluster, ledger: Ledger, part: str) -> None:
    """An administrator can log in everywhere; an error names its cause."""
    for _ in range(3):
        until(lambda: cluster.ssh(cluster.host, "true", check=False).returncode == 0, "a way in")
        time.sleep(1)
    assert cluster.tele("recordings", "ls", check=False).returncode == 0
    login = cluster.person(ledger.next_name("person"), "access") if part != "auth" else cluster
    assert login.tele("ls", "--format", "names").stdout == b"web1\n"
    name = ledger.next_name("user")
    done = cluster.tele("users", "add", name, "--role", "access", "--login", "nobody", check=False)
    if done.returncode == 0:
        ledger.users.add(name)
    else:
        assert part == "auth", done.stderr
        assert b"disk" in done.stderr, done.stderr


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mode", default="node", choices=RECORDERS)
    given, sys.argv[1:] = parser.parse_known_args()
    main(partial(full_disks, mode=given.mode), "rounds", 12)
