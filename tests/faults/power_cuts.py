"""The power of one part is cut at random moments: what was acknowledged is on its disk.

::

    python tests/faults/power_cuts.py --cuts 50

Each part has a disk of its own (a loop device: this needs root). The disk is copied at a moment,
the part is killed, and started again on the copy.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from commands import main, say
from disks import disk
from ledger import Ledger
from three_processes import make_cluster

PARTS = ("node", "auth", "proxy")


def power_cuts(folder: Path, cuts: int, dice: random.Random, sessions: int = 4) -> Counter[str]:
    """Cut the power ``cuts`` times; return what was acknowledged and is there."""
    with ExitStack() as stack:
        disks = {part: stack.enter_context(disk(folder / part, 256)) for part in PARTS}
        cluster = make_cluster(folder)
        stack.callback(cluster.stop)
        ledger = Ledger(cluster)
        for number in range(cuts):
            part = PARTS[number % len(PARTS)]

            def fault(part: str = part) -> None:
                process = cluster.processes.pop(part)
                disks[part].cut_power(process.pid)
                process.wait()
                cluster.start(part)

            ledger.go_through(fault, sessions, dice.uniform(1.0, 6.0), recorded=part == "auth")
            say(f"cut {number + 1}: {part}; {len(ledger.users)} users")
        return ledger.check()


if __name__ == "__main__":
    main(power_cuts, "cuts", 50)
