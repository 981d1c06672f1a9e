"""When does a role count? Weekly windows in a time zone."""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import field, frozen

from tele.model.bounds import AtMost, Pattern

#: Windows of one role.
WINDOWS_LIMIT: Final = 32
_CLOCK: Final = Pattern("(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00")


class Day(str, Enum):
    """A day of the week."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


@frozen
class TimeWindow:
    """From ``start`` to ``end`` (excluded) on ``days``, in ``time_zone``; no days are all of them.

    An end that is not after the start is one of the next day. The zone is a name of the time zone
    database (``Europe/Berlin``).
    """

    days: tuple[Day, ...] = ()
    start: str = field(default="00:00", validator=_CLOCK)
    end: str = field(default="24:00", validator=_CLOCK)
    time_zone: str = field(default="UTC", validator=AtMost(64))

    @property
    def text(self) -> str:
        """The window for messages."""
        days = ",".join(each.value for each in self.days)
        return f"{days} {self.start}-{self.end} {self.time_zone}".lstrip()


def minutes(clock: str) -> int:
    """Return the minutes since midnight of a time of day."""
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)
