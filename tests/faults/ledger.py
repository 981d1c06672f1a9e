"""What a cluster acknowledged, kept beside it, and whether it still has it.

Invariants:

* Something is noted only after the cluster said that it is done; what was under way when a fault
  came may be there or not.
* What was shown by a session counts as recorded ``promised`` seconds later.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from attrs import define, field

from three_processes import Cluster, wait_for

#: A recording loses at most its last second; the rest is for a busy machine.
PROMISED = 3.0
#: How long after a fault everything has to be as it should be again.
SETTLES = 120.0
#: How many recordings are verified and replayed at once.
REPLAYS = 4
#: The status of ``recordings verify`` for a session that ended and is not uploaded yet.
NOT_UPLOADED = 8
#: And of any command that has to be tried again, on a busy machine.
UNREACHABLE = 6


class RunningSession:
    """A recorded terminal that counts aloud: ``<mark> 1``, ``<mark> 2``, ...

    ``words`` are arguments of ssh, without them the cluster's node is meant.
    """

    def __init__(self, cluster: Cluster, mark: str, words: Sequence[str] = ()) -> None:
        self.mark = mark
        words = words or ("-F", str(cluster.ssh_config), cluster.host)
        self._shown: list[tuple[float, int]] = []
        script = f"stty -echo; n=0; while n=$((n+1)); do echo {mark} $n; sleep 0.2; done"
        self._client = subprocess.Popen(
            ["ssh", "-tt", *words, script],
            env=cluster.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._client.stdout is not None
        for line in self._client.stdout:
            words = line.split()
            if len(words) == 2 and words[0].decode() == self.mark:
                self._shown.append((time.monotonic(), int(words[1])))

    @property
    def has_begun(self) -> bool:
        """Whether it has shown anything."""
        return bool(self._shown)

    @property
    def number(self) -> int:
        """The last number that it has shown, or 0."""
        return self._shown[-1][1] if self._shown else 0

    @property
    def has_ended(self) -> bool:
        """Whether the client ended, by itself or because its connection did."""
        return self._client.poll() is not None

    def shown_before(self, moment: float) -> int:
        """The last number that was shown before ``moment``, or 0."""
        return max((number for at, number in list(self._shown) if at < moment), default=0)

    def hang_up(self) -> None:
        """End the client as a closed terminal does."""
        self._client.terminate()
        try:
            self._client.wait(20)
        except subprocess.TimeoutExpired:
            self._client.kill()
            self._client.wait()
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.close()
        self._reader.join(20)
        self._client.stdout.close()


@define
class Ledger:
    """What ``cluster`` acknowledged to its administrator and to those with sessions."""

    cluster: Cluster
    #: A mode in which output waits for auth promises what is shown.
    promised: float = PROMISED
    users: set[str] = field(factory=set)
    #: By mark, the number up to which it has to be on the recording.
    sessions: dict[str, int] = field(factory=dict)
    _count: int = 0

    def next_name(self, kind: str) -> str:
        """Return a name that was not used."""
        self._count += 1
        return f"{kind}{self._count}"

    def add_user(self) -> bool:
        """Add a user; note it when that is acknowledged."""
        name = self.next_name("user")
        words = ["--role", "access", "--login", "nobody"]
        done = self.cluster.tele("users", "add", name, *words, check=False)
        if done.returncode == 0:
            self.users.add(name)
        return done.returncode == 0

    @contextmanager
    def adding_users(self) -> Iterator[None]:
        """Add one user after the other, while something else happens."""
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                self.add_user()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def begin_sessions(self, count: int) -> list[RunningSession]:
        """Begin sessions; they are noted by :meth:`note`."""
        made = [RunningSession(self.cluster, self.next_name("mark")) for _ in range(count)]
        wait_for(lambda: all(each.has_begun or each.has_ended for each in made), "sessions", 90)
        return made

    def note(self, session: RunningSession, fault: float | None) -> None:
        """Note what has to be on the recording of ``session``, after a fault at ``fault``.

        None means that there was none that its recording could have suffered from: all that it
        showed until it was hung up, less the time that was promised.
        """
        moment = (time.monotonic() if fault is None else fault) - self.promised
        number = session.shown_before(moment)
        if number:
            self.sessions[session.mark] = number

    def go_through(
        self, fault: Callable[[], None], count: int, seconds: float, *, recorded: bool
    ) -> None:
        """Have ``count`` sessions run for a while, and users added, when ``fault()`` comes.

        ``recorded``: what the sessions show goes on being recorded all the time.
        """
        running = self.begin_sessions(count)
        with self.adding_users():
            time.sleep(seconds)
            moment = time.monotonic()
            fault()
        until(self.add_user, "users to be added")
        until(self.cluster.online, "the node to be online")
        for each in running:
            self.note(each, None if recorded else moment)
            each.hang_up()

    # -- checks -----------------------------------------------------------------------
    def check(self) -> Counter[str]:
        """Wait until nothing runs any more, then compare; return how many of what there are.

        Raises AssertionError with what is missing.
        """
        wait_for(self._nothing_runs, "everything to end", SETTLES)
        return Counter(
            users=self._check_users(),
            sessions=self._check_recordings(),
            events=self._check_audit(),
        )

    def recordings(self) -> list[dict[str, Any]]:
        """Rows of all recordings."""
        return self._list("recordings", "ls")

    def running(self) -> int:
        """How many sessions auth lists as running."""
        return len(self._list("sessions", "ls"))

    def _list(self, *words: str) -> list[dict[str, Any]]:
        done = self.cluster.tele(*words, "--format", "json")
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    def _nothing_runs(self) -> bool:
        listed = self.cluster.tele("sessions", "ls", "--format", "json", check=False)
        if listed.returncode or json.loads(listed.stdout):
            return False
        return all(row["ended"] for row in self.recordings())

    def _check_users(self) -> int:
        there = {row["metadata"]["name"] for row in self._list("users", "ls")}
        assert self.users <= there, f"users are gone: {sorted(self.users - there)}"
        return len(self.users)

    def _check_recordings(self) -> int:
        rows = self.recordings()
        assert len({row["id"] for row in rows}) == len(rows), "a recording is listed twice"
        with ThreadPoolExecutor(REPLAYS) as pool:
            replayed = dict(pool.map(self._replay, (row for row in rows if row["interactive"])))
        for mark, number in self.sessions.items():
            assert mark in replayed, f"the recording of {mark} is gone"
            shown = replayed[mark]
            assert shown >= number, f"{mark}: {number} was shown, {shown} is recorded"
        return len(self.sessions)

    def _replay(self, row: dict[str, Any]) -> tuple[str, int]:
        """Return the mark of a recording and the last number on it, after its verification."""

        def verified() -> bool:
            done = self.cluster.tele("recordings", "verify", row["id"], check=False)
            waits = (0, NOT_UPLOADED, UNREACHABLE)
            assert done.returncode in waits, f"{row}: {done.stdout!r} {done.stderr!r}"
            return done.returncode == 0

        until(verified, f"{row} to be uploaded")
        text = self.cluster.tele("play", row["id"], "--format", "text").stdout.decode()
        lines = [line.split() for line in text.splitlines()]
        counted = [line for line in lines if len(line) == 2 and line[1].isdigit()]
        return (counted[-1][0], int(counted[-1][1])) if counted else (row["id"], 0)

    def _check_audit(self) -> int:
        verified = self.cluster.tele("audit", "verify", check=False)
        assert verified.returncode == 0, f"{verified.stdout!r} {verified.stderr!r}"
        events = self._list("audit", "ls", "--limit", "0")
        assert len({event["id"] for event in events}) == len(events), "an event is there twice"
        starts = Counter(e["session_id"] for e in events if e["event"] == "session.start")
        ends = Counter(e["session_id"] for e in events if e["event"] == "session.end")
        assert starts.keys() == ends.keys(), (
            f"starts without an end: {starts.keys() - ends.keys()}; "
            f"ends without a start: {ends.keys() - starts.keys()}"
        )
        created = {event["name"] for event in events if event["event"] == "user.create"}
        assert self.users <= created, f"not in the audit: {sorted(self.users - created)}"
        return len(events)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait as long as a cluster may take to settle."""
    wait_for(condition, what, SETTLES)
