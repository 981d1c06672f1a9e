"""Which sessions are traced, and what of them is to be sent to the node?

Invariants:

* Standard library and libbpf only; the time is an argument.
* Programs are in the kernel only while a session is traced, and for a short time after the last.
* What is read is bounded in each round: sockets are served between rounds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from tele.tracer import records
from tele.tracer.libbpf import Ring
from tele.tracer.messages import SESSIONS_LIMIT, Options, Wanted
from tele.tracer.operations import KINDS, MAY_END
from tele.tracer.programs import Programs
from tele.tracer.sequencing import Sequencer

#: Records of a ring that are read in one round.
ROUND: Final = 2000
#: Rounds in which all is read that the largest rings can hold of small records.
ROUNDS: Final = 100
#: Seconds between looks for records that were lost at the end of a burst.
LOOK: Final = 0.5
#: Where the kind of a record is in its head.
_KIND: Final = struct.Struct("=H")
_KIND_AT: Final = 56
_COUNTED: Final = KINDS["syscalls"]


class Tracing:
    """The sessions of one tracer; ``load`` brings the programs into the kernel."""

    def __init__(self, options: Options, load: Callable[[Options], Programs] = Programs) -> None:
        self._options = options
        self._load = load
        self._programs: Programs | None = None
        self._rings: list[Ring] = []
        self._kinds: dict[int, int] = {}
        #: Bytes of each session that were read from each ring.
        self._sizes: dict[int, list[int]] = {}
        self._sequencer = Sequencer(self._given_and_lost)
        #: Runs that the kernel has left out, as each session was told of them.
        self._missed: dict[int, int] = {}
        self._busy = False
        self._look_at = 0.0
        self._unload_at: float | None = None

    @property
    def rings(self) -> list[Ring]:
        """What to poll for records."""
        return self._rings

    @property
    def pause(self) -> float | None:
        """Seconds until :meth:`read` should be called if nothing happens."""
        if self._busy:
            return 0.0
        return LOOK if self._programs is not None else None

    def knows(self, number: int) -> bool:
        """Whether a session is traced."""
        return number in self._kinds

    def start(self, wanted: Wanted, now: float) -> None:
        """Trace a session. Raises OSError, ValueError and Unavailable."""
        if wanted.number in self._kinds:
            raise ValueError("the number of a session is in use")
        if len(self._kinds) >= SESSIONS_LIMIT:
            raise ValueError(f"{SESSIONS_LIMIT} sessions are traced already")
        programs = self._programs or self._loaded(now)
        missing = [kind for kind in programs.missing if wanted.kinds & KINDS[kind]]
        if missing:
            raise ValueError(f"{missing[0]} cannot be recorded: {programs.missing[missing[0]]}")
        if not self._kinds:
            programs.attach()
        self._unload_at = None
        try:
            programs.start(wanted)
        except OSError:
            self._rest(now)
            raise
        self._kinds[wanted.number] = wanted.kinds
        self._sizes[wanted.number] = [0, 0]
        self._missed[wanted.number] = programs.missed()
        self._sequencer.start(wanted.number)

    def join(self, number: int, pidfd: int) -> None:
        """Have a process be of a session. Raises OSError and ValueError."""
        if self._programs is None or number not in self._kinds:
            raise ValueError("the session is not traced")
        self._programs.join(number, pidfd)

    def end(self, number: int) -> None:
        """Have a session end that may, with all its processes. Raises OSError and ValueError."""
        if self._programs is None or not self._kinds.get(number, 0) & MAY_END:
            raise ValueError("it is not traced, or may not be told to end")
        self._programs.end(number)

    def missed(self, number: int) -> int:
        """Return how many runs the kernel has left out since a session began, or was told of them:
        what happened then, in whichever session, is not recorded.
        """
        if self._programs is None or number not in self._missed:
            return 0
        now = self._programs.missed()
        before, self._missed[number] = self._missed[number], now
        return max(0, now - before)

    def stop(self, number: int, now: float) -> tuple[list[bytes], dict[str, Any]]:
        """End a session; return its last records, and what is known of all."""
        programs = self._programs
        if programs is None or number not in self._kinds:
            raise ValueError("the session is not traced")
        out: list[bytes] = []
        given, _ = programs.given_and_lost(number)
        uncounted = programs.uncounted(number)
        programs.stop(number)
        self._read_all(out, now)
        if self._kinds[number] & _COUNTED:
            for pid, counters in programs.all_counters(number):
                out.append(records.counted_at(number, pid, int(now * 1e9), counters))
            if uncounted:
                counters = records.COUNTER.pack(0, min(uncounted, 0xFFFFFFFF), 0)
                out.append(records.counted_at(number, 0, int(now * 1e9), counters))
        passed, lost = self._sequencer.stop(number, given, out)
        del self._kinds[number], self._sizes[number], self._missed[number]
        if not self._kinds:
            self._rest(now)
        return self._completed(out), {"records": passed, "lost": lost}

    def read(self, now: float) -> list[bytes]:
        """Return records in their order, as many as one round has."""
        if self._programs is None:
            return []
        if self._unload_at is not None and now >= self._unload_at:
            self.close()
            return []
        out: list[bytes] = []
        look = now >= self._look_at
        if look:
            self._look_at = now + LOOK
        # Asked before the rings are read: what was given by then is in them, or lost.
        states = self._sequencer.states(everything=look)
        self._busy = not self._read(out, now)
        if not self._busy:
            self._sequencer.settle(states, out, now)
        return self._completed(out)

    def flush(self, now: float) -> list[bytes]:
        """Return all records that were made before, but for those that wait for an earlier one."""
        out: list[bytes] = []
        states = self._sequencer.states(everything=True)
        self._read_all(out, now)
        self._sequencer.settle(states, out, now)
        return self._completed(out)

    def close(self) -> None:
        """Leave nothing in the kernel."""
        self._busy = False
        self._unload_at = None
        for ring in self._rings:
            ring.close()
        self._rings = []
        if self._programs is not None:
            self._programs.close()
            self._programs = None

    def adopt(self, programs: Programs, now: float) -> None:
        """Use programs that are loaded, for sessions that come soon."""
        self._programs = programs
        self._rings = programs.rings()
        self._unload_at = now + self._options.linger

    def _loaded(self, now: float) -> Programs:
        programs = self._load(self._options)
        self.adopt(programs, now)
        return programs

    def _rest(self, now: float) -> None:
        if self._programs is not None and not self._kinds:
            self._programs.detach()
            self._unload_at = now + self._options.linger

    def _given_and_lost(self, number: int) -> tuple[int, int]:
        return (0, 0) if self._programs is None else self._programs.given_and_lost(number)

    def _read_all(self, out: list[bytes], now: float) -> None:
        """Read what is in the rings now: who goes on writing does not keep others waiting."""
        for _ in range(ROUNDS):
            if self._read(out, now):
                return

    def _read(self, out: list[bytes], now: float) -> bool:
        """Read one round; return whether that was all."""
        done = True
        touched: set[int] = set()
        for which, ring in enumerate(self._rings):
            read = ring.read(ROUND)
            done = done and len(read) < ROUND
            for record in read:
                number = self._sequencer.add(record, out, now)
                sizes = self._sizes.get(number)
                if sizes is not None:
                    sizes[which] += len(record)
                    touched.add(number)
        if self._programs is not None:
            for number in touched:
                self._programs.have_read(number, self._sizes[number])
        return done

    def _completed(self, out: list[bytes]) -> list[bytes]:
        """Add the counters of processes that have ended."""
        if self._programs is None or not any(k & _COUNTED for k in self._kinds.values()):
            return out
        completed: list[bytes] = []
        for record in out:
            completed.append(record)
            (kind,) = _KIND.unpack_from(record, _KIND_AT)
            if kind == records.EXITED:
                number, pid, start = records.process_of(record)
                counters = self._programs.counters(number, pid, start)
                if counters:
                    completed.append(records.counted(record, counters))
        return completed
