"""Is it now within a role's windows of time, and when does that change?

Invariants:

* No windows are always; of several, one is enough.
* A window begins and ends by the clocks of its zone, also when these are changed.
* In a zone that this machine does not know a window never is: the role allows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from tele.errors import InvalidInput, quoted
from tele.model.time_windows import Day, TimeWindow, minutes

#: Days, before today and after it, whose windows today may be in; that have the next change, too.
_NOW: Final = range(-1, 1)
_AROUND: Final = range(-1, 9)
_DAYS: Final = tuple(Day)


@lru_cache(maxsize=128)
def zone(name: str) -> ZoneInfo | None:
    """Return a time zone, or None if this machine does not know it."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def within(windows: Iterable[TimeWindow], now: datetime) -> bool:
    """Whether ``now`` is in one of ``windows``, or there are none."""
    several = tuple(windows)
    return not several or any(
        begin <= now < end for each in several for begin, end in _spans(each, now, _NOW)
    )


def next_change(windows: Iterable[TimeWindow], now: datetime) -> datetime | None:
    """Return when one of ``windows`` begins or ends next, or None."""
    moments = (moment for each in windows for span in _spans(each, now, _AROUND) for moment in span)
    return min((moment for moment in moments if moment > now), default=None)


def check_windows(windows: Iterable[TimeWindow]) -> None:
    """Raise :class:`InvalidInput` for a zone that does not exist, and an empty window."""
    for each in windows:
        if zone(each.time_zone) is None:
            raise InvalidInput(
                f"{quoted(each.time_zone)} is no time zone: expected a name such as Europe/Berlin"
            )
        if each.start == each.end:
            raise InvalidInput(f"a window from {each.start} to {each.end} is empty")
        if each.start == "24:00":
            raise InvalidInput("a window starts before 24:00")


def _spans(window: TimeWindow, now: datetime, days: range) -> Iterator[tuple[datetime, datetime]]:
    """Give the begin and the end of ``window`` on the days around ``now``."""
    there = zone(window.time_zone)
    if there is None:
        return
    today = now.astimezone(there).date()
    start, end = minutes(window.start), minutes(window.end)
    if end <= start:
        end += 24 * 60
    for distance in days:
        day = today + timedelta(days=distance)
        if window.days and _DAYS[day.weekday()] not in window.days:
            continue
        midnight = datetime.combine(day, time())
        yield _moment(midnight, start, there), _moment(midnight, end, there)


def _moment(midnight: datetime, minute: int, there: ZoneInfo) -> datetime:
    """Return when the clocks of a zone show so many minutes after ``midnight``."""
    return (midnight + timedelta(minutes=minute)).replace(tzinfo=there).astimezone(UTC)
