"""Logging, time and the one timer for many keepalives."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher

from tele.log import LineObserver, LogFormat, make_logger
from tele.loop import DateTimer, StepWatch, Ticker, backoff, make_monotonic, now
from tele.testing import SettableClock


def written(form: LogFormat, level: str = "info") -> tuple[Logger, io.StringIO]:
    stream = io.StringIO()
    publisher = LogPublisher(LineObserver(stream, form, level))
    return Logger("part", observer=publisher), stream


def test_text_of_a_peer_stays_on_one_line() -> None:
    """Control characters in arguments can neither start a line nor drive a terminal."""
    logger, stream = written(LogFormat.TEXT)
    logger.info("hello {x} {y!r}", x="a\n2026 error fake\x1b[2J\u2028", y="b\nc")
    assert stream.getvalue().count("\n") == 1
    assert "hello a\\x0a2026 error fake\\x1b[2J\\u2028 'b\\nc'" in stream.getvalue()


@pytest.mark.parametrize("form", LogFormat)
def test_nothing_in_the_log_moves_a_cursor_or_turns_text_around(form: LogFormat) -> None:
    """Neither in a message, nor in an argument, nor in the words of an error with its traceback."""
    logger, stream = written(form)
    evil = "x\x1b[2J\u202ey\u2028z\x9b\x7f\ud800\r\n2026-01-01 error forged: line"
    try:
        raise RuntimeError(evil)
    except RuntimeError:
        logger.failure("it failed: {evil}", evil=evil)
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines[1:] if line and not line.startswith("    ")]


def test_json_lines_carry_the_arguments() -> None:
    """Programs get time, level, source, text and each argument."""
    logger, stream = written(LogFormat.JSON)
    logger.warn("from {peer!r}", peer=("::1", 5), count=3)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["from"], line["message"]) == ("warn", "part", "from ('::1', 5)")
    assert (line["count"], line["peer"]) == (3, "('::1', 5)")
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("form", LogFormat)
def test_bytes_are_shown_as_text(form: LogFormat) -> None:
    """What a peer said in bytes is read as what it said, whatever is not UTF-8 as an escape."""
    logger, stream = written(form)
    logger.info("{said!r} {view}", said=b"Bye\x1b\xff", view=memoryview("ü".encode()))
    line = stream.getvalue()
    assert "b'" not in line
    assert "Bye" in line
    assert "\x1b" not in line


def test_fields_follow_the_message() -> None:
    """An event is its message and ``key=value``; what is more than one word is a JSON string."""
    logger, stream = written(LogFormat.TEXT)
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    logger.info("login accepted", user="alice", port=22, at=at, why="no such role", none="", b=b"x")
    line = stream.getvalue().rstrip("\n").partition(": ")[2]
    assert line == (
        'login accepted user=alice port=22 at=2026-01-02T03:04:05Z why="no such role" none="" b=x'
    )


def test_a_field_cannot_pose_as_another_field() -> None:
    """A user called ``x ok=true`` is one value, quoted (attack)."""
    logger, stream = written(LogFormat.TEXT)
    logger.info("login refused", user='x" ok=true', other="a=b", more="c\nd")
    line = stream.getvalue().rstrip("\n").partition(": ")[2]
    assert line == 'login refused user="x\\" ok=true" other="a=b" more="c\\nd"'


def test_a_field_cannot_pose_as_the_time_or_level() -> None:
    """The four keys that each line has are ours."""
    logger, stream = written(LogFormat.JSON)
    logger.info("text", message="forged", time="forged")
    line = json.loads(stream.getvalue())
    assert line["message"] == "text"
    assert line["time"] != "forged"


def test_json_fields_are_written_as_in_text() -> None:
    """Dates, errors and members of an enumeration are no Python expressions, in either form."""
    fields: dict[str, Any] = {
        "expires": datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC),
        "error": OSError(28, "No space left on device"),
        "form": LogFormat.JSON,
    }
    logger, stream = written(LogFormat.JSON)
    logger.info("certificates renewed", **fields)
    line = json.loads(stream.getvalue())
    assert line["expires"] == "2026-05-04T03:02:01Z"
    assert line["error"] == "[Errno 28] No space left on device"
    assert line["form"] == "json"
    logger, stream = written(LogFormat.TEXT)
    logger.info("certificates renewed", **fields)
    assert 'expires=2026-05-04T03:02:01Z error="[Errno 28] No' in stream.getvalue()
    assert stream.getvalue().endswith(" form=json\n")


@pytest.mark.parametrize("form", LogFormat)
@pytest.mark.parametrize("message", ["a { brace", "a } brace", "{unknown} field", "{0} {x!z}"])
def test_braces_in_a_message_lose_no_line(form: LogFormat, message: str) -> None:
    """A message of other code that is no good format is a line all the same (attack)."""
    logger, stream = written(form)
    logger.info(message, x=1)
    assert stream.getvalue().count("\n") == 1
    assert message.replace("'", "") in stream.getvalue()


def test_a_field_with_the_name_of_a_part_of_a_line_is_kept() -> None:
    """Neither replaces the other in JSON."""
    logger, stream = written(LogFormat.JSON)
    fields = {"from": "here", "time": "late", "level_": "high"}
    logger.info("disk is low", message="hello", **fields)
    line = json.loads(stream.getvalue())
    assert (line["message"], line["message_"]) == ("disk is low", "hello")
    assert (line["from"], line["from_"], line["time_"]) == ("part", "here", "late")
    assert line["time"].endswith("Z")


def test_lines_below_the_level_are_dropped() -> None:
    """Also those of Twisted's own loggers."""
    logger, stream = written(LogFormat.TEXT, "warn")
    logger.info("no")
    logger.error("yes")
    assert "no" not in stream.getvalue()
    assert "yes" in stream.getvalue()


def test_a_failure_is_written_with_its_traceback() -> None:
    """Tracebacks are indented in text and one key in JSON."""
    for form in LogFormat:
        logger, stream = written(form)
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            logger.failure("it failed")
        assert "RuntimeError: broken" in stream.getvalue()
        lines = stream.getvalue().splitlines()
        assert all(line.startswith("    ") for line in lines[1:])


def test_a_long_line_is_cut() -> None:
    """A peer cannot fill the disk with one line."""
    logger, stream = written(LogFormat.TEXT)
    logger.info("{x!r}", x="a" * 100_000)
    assert len(stream.getvalue()) < 10_000


def test_a_closed_stream_does_not_hurt() -> None:
    """Logging never raises into the one who logs."""
    logger, stream = written(LogFormat.TEXT)
    stream.close()
    logger.info("lost")


def test_our_loggers_name_their_part() -> None:
    """``make_logger(name)`` is the namespace of its events."""
    events: list[Any] = []
    log = make_logger("tele.here")
    log._logger._logger.observer = events.append
    log.error("{x!r} {text}", x=1, text="t")
    assert events[0]["log_namespace"] == "tele.here"
    assert events[0]["log_level"] is LogLevel.error


def test_now_is_utc() -> None:
    """The clock's seconds are Unix time."""
    clock = Clock()
    clock.advance(1_700_000_000.5)
    assert now(clock) == datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC)


@pytest.mark.parametrize(
    ("attempt", "dice", "expected"),
    [(0, 0.0, 0.5), (0, 1.0, 1.0), (2, 0.0, 2.0), (2, 1.0, 4.0), (9, 1.0, 15.0), (9, 0.0, 7.5)],
)
def test_backoff_doubles_with_jitter(attempt: int, dice: float, expected: float) -> None:
    """From half a second to fifteen, the upper half of each wait by chance."""
    assert backoff(attempt, dice=lambda: dice) == expected


def test_backoff_of_a_huge_attempt() -> None:
    """Weeks of failures do not overflow."""
    assert backoff(100_000, dice=lambda: 1.0) == 15.0


def advance(clock: Clock, seconds: float) -> None:
    clock.pump([0.25] * int(seconds * 4))


def test_ticker_calls_each_once_a_period() -> None:
    """Callbacks are called once per period, the first time after nearly one."""
    clock, calls = Clock(), []
    ticker = Ticker(clock, 16.0, slots=16)
    ticker.add(lambda: calls.append(clock.seconds()))
    advance(clock, 50)
    assert [b - a for a, b in pairwise(calls)] == [16.0, 16.0]
    assert 15.0 <= calls[0] <= 16.0


def test_ticker_needs_one_timer() -> None:
    """However many callbacks there are."""
    clock = Clock()
    ticker = Ticker(clock, 15.0)
    ticks = [ticker.add(lambda: None) for _ in range(1000)]
    assert len(clock.getDelayedCalls()) == 1
    for tick in ticks:
        tick.cancel()
    advance(clock, 2)
    assert clock.getDelayedCalls() == []


def test_ticker_spreads_what_comes_at_different_times() -> None:
    """Those added at different times are called at different times."""
    clock, times = Clock(), set()
    ticker = Ticker(clock, 8.0, slots=8)
    for _ in range(8):
        ticker.add(lambda: times.add(clock.seconds()))
        advance(clock, 1)
    advance(clock, 16)
    assert len({t % 8 for t in times}) == 8


def test_ticker_cancel_from_within_a_callback() -> None:
    """A callback may end another of the same slot, itself, or the whole ticker."""
    clock, calls = Clock(), []
    ticker = Ticker(clock, 4.0, slots=4)

    def first() -> None:
        calls.append("first")
        second.cancel()
        own.cancel()
        own.cancel()

    own = ticker.add(first)
    second = ticker.add(lambda: calls.append("second"))
    advance(clock, 20)
    assert calls == ["first"]
    ticker.add(ticker.stop)
    advance(clock, 20)
    assert clock.getDelayedCalls() == []


def test_ticker_survives_a_failing_callback() -> None:
    """One that fails does not starve the others, and is called again."""
    clock, calls = Clock(), []
    ticker = Ticker(clock, 1.0, slots=1)

    def fail() -> None:
        calls.append("failed")
        raise RuntimeError("broken")

    ticker.add(fail)
    ticker.add(lambda: calls.append("fine"))
    advance(clock, 2)
    assert calls == ["failed", "fine"] * 2
    ticker.stop()


# -- a clock that is set ---------------------------------------------------------------
REACTORS = (
    "epollreactor.EPollReactor",
    "selectreactor.SelectReactor",
    "pollreactor.PollReactor",
    "asyncioreactor.AsyncioSelectorReactor",
)

#: Sets the date three hours back or forward while timers of a real reactor run.
_STEPPING = """
import importlib, sys, time
real, by, fired = time.time, 0.0, []
time.time = lambda: real() + by  # before Twisted takes it

module, name = sys.argv[1].rsplit(".", 1)
reactor = getattr(importlib.import_module("twisted.internet." + module), name)()
from twisted.internet.task import LoopingCall
import tele.loop

early = reactor.callLater(0.2, fired.append, "made before")
tele.loop.make_monotonic(reactor)
tele.loop.make_monotonic(reactor)
tele.loop.CHECK_SECONDS = 0.05
tele.loop.StepWatch(reactor, lambda seconds: fired.append(round(seconds / 3600))).start()
reactor.callLater(0.3, fired.append, "made after")
moved = reactor.callLater(0.4, fired.append, "moved")
far = reactor.callLater(3000, fired.append, "far")
ticks = LoopingCall(lambda: None)
ticks.clock = reactor
ticks.start(0.01)

def step():
    global by
    by = float(sys.argv[2])
    moved.reset(0.1)
    reactor.callLater(0.5, finish)

def finish():
    ahead = (tele.loop.now(reactor).timestamp() - real()) / 3600
    print(sorted(map(str, fired)), round(ahead), far.active())
    reactor.crash()

reactor.callLater(0.1, step)
reactor.run(installSignalHandlers=False)
"""


@pytest.mark.parametrize("hours", [-3, 3])
@pytest.mark.parametrize("name", REACTORS)
def test_timers_of_each_reactor_know_nothing_of_a_clock_that_is_set(name: str, hours: int) -> None:
    """Neither those that were made before, nor those that are moved; dates are the wall clock's."""
    done = subprocess.run(
        [sys.executable, "-c", _STEPPING, name, str(hours * 3600)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    seen = sorted(["made before", "made after", "moved", str(hours)])
    assert done.stdout.strip() == f"{seen} {hours} True", done.stderr


def test_a_fake_clock_is_left_as_it_is_and_is_its_own_date() -> None:
    """Tests and programs that bring a clock of their own keep it."""
    clock = Clock()
    make_monotonic(clock)
    clock.advance(100)
    assert (clock.seconds(), now(clock)) == (100.0, datetime.fromtimestamp(100, UTC))


def test_a_date_is_waited_for_however_the_clock_is_set() -> None:
    """A step forward is noticed soon, and one back makes the wait longer: it is a date."""
    clock, calls = SettableClock(), list[str]()
    DateTimer(clock, datetime.fromtimestamp(3600, UTC), lambda: calls.append("first"))
    clock.pump([5.0] * 10)
    clock.set_wall(-600)
    clock.pump([5.0] * 720)
    assert calls == []
    clock.pump([5.0] * 120)
    assert calls == ["first"]
    DateTimer(clock, now(clock) + timedelta(hours=10), lambda: calls.append("second"))
    clock.set_wall(36_000)
    clock.advance(5)
    assert calls == ["first", "second"]
    gone = DateTimer(clock, now(clock), lambda: calls.append("third"))
    gone.cancel()
    gone.cancel()
    clock.advance(3600)
    assert calls == ["first", "second"]
    assert clock.getDelayedCalls() == []


def test_a_step_of_the_clock_is_noticed_and_slewing_is_not() -> None:
    """Each step is reported once, with its sign; a slewed clock moves a little at a time."""
    clock, steps = SettableClock(), list[float]()
    watch = StepWatch(clock, steps.append)
    watch.stop()
    watch.start()
    for _ in range(1000):
        clock.set_wall(0.5)
        clock.advance(5)
    assert steps == []
    clock.set_wall(-7200)
    clock.pump([1.0] * 20)
    clock.set_wall(10_800)
    clock.pump([1.0] * 20)
    assert steps == [-7200.0, 10_800.0]
    watch.stop()
    assert clock.getDelayedCalls() == []
