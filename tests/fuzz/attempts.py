"""Runs a fuzz target: ``attempt(dice)`` again and again, each with its own seed.

::

    python tests/fuzz/fuzz_packets.py --seconds 600
    python tests/fuzz/fuzz_packets.py --seed 4711 --count 1

The second form does again what failed: the seed is printed with the failure.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from tele.log import event_text

# The ends that some targets are about; with pytest they are there already.
sys.path.append(str(Path(__file__).resolve().parents[1] / "wired"))

#: An attempt that takes longer hangs.
HANG_SECONDS = 60
#: What a run of any length may add to the memory of the process, in KiB.
GROWTH = 128 * 1024

_EDGES = (0, 1, 2, 3, 4, 7, 8, 9, 255, 256, 32768, 35000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Dice(random.Random):
    """What an attempt is made of."""

    def bytes_up_to(self, most: int) -> bytes:
        """Return up to ``most`` bytes, short ones more often."""
        return self.randbytes(self.randint(0, self.randint(0, most)))

    def number(self) -> int:
        """Return a number of four bytes, often one at an edge."""
        if self.random() < 0.7:
            return (self.choice(_EDGES) + self.randint(-1, 1)) & 0xFFFFFFFF
        return self.getrandbits(self.randint(1, 32))

    def damaged(self, data: bytes, most: int = 4) -> bytes:
        """Return ``data`` with some damage."""
        for _ in range(self.randint(0, most)):
            at = self.randint(0, len(data))
            end = min(len(data), at + self.choice((0, 1, 1, 2, 4, 4, 8, 40)))
            piece = self.choice((self._noise, self._edge, self._flip, self._copy))(data, at, end)
            data = data[:at] + piece + data[end:]
        return data if self.random() > 0.1 else data[: self.randint(0, len(data))]

    def _noise(self, data: bytes, at: int, end: int) -> bytes:
        return self.bytes_up_to(8)

    def _edge(self, data: bytes, at: int, end: int) -> bytes:
        return self.number().to_bytes(4, "big")

    def _flip(self, data: bytes, at: int, end: int) -> bytes:
        return bytes(byte ^ (1 << self.randint(0, 7)) for byte in data[at:end])

    def _copy(self, data: bytes, at: int, end: int) -> bytes:
        start = self.randint(0, len(data))
        return data[start : start + self.randint(0, 64)]

    def pieces(self, data: bytes) -> list[bytes]:
        """Return ``data`` as it may come over a network."""
        cuts = sorted(self.randint(0, len(data)) for _ in range(self.choice((0, 0, 1, 5))))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


Attempt = Callable[[Dice], None]


@contextmanager
def _nothing_fails() -> Iterator[list[str]]:
    """What is logged as a mistake of ours; what others left behind is not."""
    gc.collect()
    failed: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event or event["log_level"].name in ("error", "critical"):
            failure = event.get("log_failure")
            failed.append(event_text(event) + (failure.getTraceback() if failure else ""))

    globalLogPublisher.addObserver(observe)
    try:
        yield failed
    finally:
        globalLogPublisher.removeObserver(observe)


def _hangs(number: int, frame: object) -> None:
    raise TimeoutError("the attempt hangs")


def run(attempt: Attempt, seeds: Iterator[int] | Sequence[int]) -> int:
    """Make an attempt with each seed; return how many. Raises AssertionError with the seed."""
    count = 0
    with _nothing_fails() as failed:
        for seed in seeds:
            count += 1
            try:
                attempt(Dice(seed))
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error!r}") from error
            assert not failed, f"seed {seed}: {failed[0]}"
    return count


def _memory() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def main(attempt: Attempt) -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(48))
    parser.add_argument("--count", type=int, default=0)
    words = parser.parse_args()
    signal.signal(signal.SIGALRM, _hangs)

    def guarded(dice: Dice) -> None:
        signal.alarm(HANG_SECONDS)
        attempt(dice)
        signal.alarm(0)

    def seeds() -> Iterator[int]:
        end = time.monotonic() + words.seconds
        number = words.seed
        while number - words.seed < words.count if words.count else time.monotonic() < end:
            yield number
            number += 1

    warm = run(guarded, range(words.seed, words.seed + min(words.count or 200, 200)))
    before = _memory()
    count = run(guarded, seeds())
    grown = _memory() - before
    print(f"{Path(sys.argv[0]).stem}: {warm + count} attempts, {grown} KiB more, seed {words.seed}")
    assert grown < GROWTH, f"memory grew by {grown} KiB"
