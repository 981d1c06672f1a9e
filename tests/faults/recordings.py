"""Parts are killed while sessions are recorded: nothing that was promised is lost.

::

    python tests/faults/recordings.py --rounds 40
    python tests/faults/recordings.py --rounds 40 --mode proxy-sync

In each round a few recorded sessions show numbers; one part gets kill -9, and is started again
after up to :data:`AWAY` seconds, during which half of them end. In the modes ``node`` and
``proxy`` a recording has what was shown until a moment before its recorder was killed, and all of
it if that was another part. In the modes whose names end in ``-sync`` it has all that was shown,
whatever was killed and when. Each recording verifies, and each session has a start and an end.
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
from ledger import PROMISED, Ledger, RunningSession, until
from three_processes import make_cluster

#: The part that records, by mode.
RECORDERS = {"node": "node", "node-sync": "node", "proxy": "proxy", "proxy-sync": "proxy"}
PARTS = ("node", "auth", "proxy")
#: Seconds for which a part is away, and for which sessions go on afterwards, at most.
AWAY, AFTER = 8.0, 4.0


def recordings(
    folder: Path,
    rounds: int,
    dice: random.Random,
    sessions: int = 6,
    mode: str = "node",
    *,
    pace: float = 1.0,
) -> Counter[str]:
    """Do ``rounds`` rounds in a mode of recording; return what was promised and is there.

    ``pace`` is what part of :data:`AWAY` and :data:`AFTER` is waited at most.
    """
    cluster = make_cluster(folder, auth_settings=f"session_recording: {{mode: {mode}}}")
    sync = mode.endswith("-sync")
    ledger = Ledger(cluster, 0.0 if sync else PROMISED)
    try:
        for number in range(rounds):
            part = PARTS[number % len(PARTS)]
            running = ledger.begin_sessions(sessions)
            if number == 0:
                until(lambda: ledger.running() == sessions, "one running session for each client")
            time.sleep(dice.uniform(0.0, 5.0))
            moment = time.monotonic()
            cluster.kill(part)
            lost_from = moment if part == RECORDERS[mode] and not sync else None
            # Some end while the part is away, the others go on.
            early, late = running[::2], running[1::2]
            if part == "auth" and mode == "node":
                # One begins then, too. In the other modes a login waits for auth.
                early += ledger.begin_sessions(1)
            time.sleep(dice.uniform(0.0, AWAY * pace))
            for each in early:
                _end(ledger, each, lost_from)
            cluster.start(part)
            time.sleep(dice.uniform(0.0, AFTER * pace))
            for each in late:
                _end(ledger, each, lost_from)
            say(f"round {number + 1}: {part} was killed; {len(ledger.sessions)} recordings")
        found = ledger.check()
        by = {row.get("recorder", "node") for row in ledger.recordings()}
        assert by == {RECORDERS[mode]}, f"in the mode {mode} sessions were recorded by {by}"
        return found
    finally:
        cluster.stop()


def _end(ledger: Ledger, session: RunningSession, fault: float | None) -> None:
    ledger.note(session, fault)
    session.hang_up()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--mode", default="node", choices=RECORDERS)
    given, sys.argv[1:] = parser.parse_known_args()
    main(partial(recordings, mode=given.mode), "rounds", 40)
