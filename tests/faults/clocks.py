"""Clocks are set by an hour while sessions are recorded: nothing is lost, and all of it verifies.

::

    python tests/faults/clocks.py --rounds 12
    python tests/faults/clocks.py --rounds 12 --mode proxy

In each round the clock of one part is set forward or back under running sessions, and right again
later; every second time the part is killed meanwhile. Sessions begin before, and while the clock is
wrong. Monotonic clocks stay as they are, as they do on a machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from commands import main, say
from ledger import PROMISED, Ledger, until
from recordings import PARTS, RECORDERS
from set_clocks import HOUR, clocked, set_clock
from three_processes import make_cluster


def clocks(
    folder: Path, rounds: int, dice: random.Random, sessions: int = 4, mode: str = "node"
) -> Counter[str]:
    """Set a clock ``rounds`` times; return what was promised and is there."""
    cluster = make_cluster(
        folder,
        auth_settings=f"session_recording: {{mode: {mode}}}",
        prefixes=clocked(folder),
    )
    ledger = Ledger(cluster, PROMISED)
    # The one that records is first.
    parts = sorted(PARTS, key=lambda part: part != RECORDERS[mode])
    try:
        for number in range(rounds):
            part = parts[number // 2 % len(parts)]
            hour = HOUR if number % 2 else -HOUR
            killed = number // 2 % 2 == 0
            running = ledger.begin_sessions(sessions)
            set_clock(folder, part, hour)
            time.sleep(dice.uniform(1.0, 5.0))
            running += ledger.begin_sessions(1)
            time.sleep(dice.uniform(2.0, 5.0))
            moment = time.monotonic()
            if killed:
                cluster.kill(part)
            set_clock(folder, part, 0)
            if killed:
                cluster.start(part)
            else:
                time.sleep(dice.uniform(1.0, 5.0))
            for each in running:
                ledger.note(each, moment if killed and part == RECORDERS[mode] else None)
                each.hang_up()
            until(cluster.online, "the node to be online")
            say(f"round {number + 1}: {part} by {hour} s, killed: {killed}")
        return ledger.check()
    finally:
        cluster.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mode", default="node", choices=RECORDERS)
    given, sys.argv[1:] = parser.parse_known_args()
    main(partial(clocks, mode=given.mode), "rounds", 12)
