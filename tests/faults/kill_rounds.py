"""Parts are killed while sessions are recorded and users are added: nothing acknowledged is lost.

::

    python tests/faults/kill_rounds.py --rounds 34

In each round ten recorded sessions run; one part gets kill -9, and is started again.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from commands import main, say
from ledger import Ledger
from three_processes import make_cluster

PARTS = ("node", "auth", "proxy")


def kill_rounds(folder: Path, rounds: int, dice: random.Random, sessions: int = 10) -> Counter[str]:
    """Do ``rounds`` rounds; return what was acknowledged and is there."""
    cluster = make_cluster(folder)
    ledger = Ledger(cluster)
    try:
        for number in range(rounds):
            part = PARTS[number % len(PARTS)]

            def fault(part: str = part) -> None:
                cluster.kill(part)
                time.sleep(dice.uniform(0.0, 2.0))
                cluster.start(part)

            # Sessions go on without auth; what they show then is recorded, too.
            ledger.go_through(fault, sessions, dice.uniform(1.0, 6.0), recorded=part == "auth")
            say(f"round {number + 1}: {part} was killed; {len(ledger.users)} users")
        return ledger.check()
    finally:
        cluster.stop()


if __name__ == "__main__":
    main(kill_rounds, "rounds", 34)
