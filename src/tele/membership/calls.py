"""Is auth there? Calls to it, and one line in the log whenever the answer changes.

Invariants:

* The same trouble is logged once, however many calls run into it and however long.
* What auth said is data: it is logged with ``!r``.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from tele.errors import AccessDenied, TeleError, Unavailable, Unreachable
from tele.interfaces import IAuthority
from tele.log import make_logger
from tele.loop import now
from tele.model.api.operation import Operation

_log: Final = make_logger(__name__)


#: How long to wait after a no: asking again changes nothing soon, and each is in the audit.
DENIED_PAUSE: Final = 120.0


def pause_after(error: TeleError, usual: float) -> float:
    """Return how many seconds to wait before trying again: ``usual``, or longer after a no."""
    return usual + DENIED_PAUSE if isinstance(error, AccessDenied) else usual


class Calls:
    """Calls auth on behalf of several loops, each with a name of its own."""

    def __init__(self, clock: IReactorTime) -> None:
        self.authority: IAuthority | None = None
        #: Since when auth does not answer at all; None: it did when it was called last.
        self.away_since: datetime | None = None
        self._clock = clock
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str:
        """What is wrong now, or nothing."""
        return "; ".join(dict.fromkeys(self._troubles.values()))

    async def perform(self, name: str, operation: Operation[Any, Any], request: Any) -> Any:
        """Perform an operation for the loop ``name``. Raises :class:`TeleError` only."""
        if self.authority is None:
            raise Unavailable("this host is not a member of a cluster yet")
        try:
            answer = await self.authority.perform(operation, request)
        except CancelledError:
            raise
        except TeleError as error:
            self.failed(name, error)
            raise
        except Exception as error:
            _log.failure("a call to auth failed in an unexpected way")
            wrapped = TeleError(f"{type(error).__name__} in a call to auth")
            self.failed(name, wrapped)
            raise wrapped from error
        self.succeeded(name)
        return answer

    def failed(self, name: str, error: TeleError) -> None:
        """The loop ``name`` of a member could not do its work."""
        if self._is_news(name, error):
            _log.warn(
                "auth: {text!r}; trying again, meanwhile this host decides by the state of the"
                " cluster that it knows",
                text=str(error),
            )

    def serves_nobody(self, name: str, error: TeleError, pause: float) -> None:
        """The same, of a host that cannot do without: it is tried again after ``pause`` seconds."""
        if self._is_news(name, error):
            _log.error(
                "cannot {what} the cluster: {text!r}; until it can, this host serves nobody; trying"
                " again in {pause} s, and so on",
                what=name,
                text=str(error),
                pause=round(pause, 1),
            )

    def _is_news(self, name: str, error: TeleError) -> bool:
        if not isinstance(error, Unreachable):
            self.away_since = None
        elif self.away_since is None:
            self.away_since = now(self._clock)
        text = str(error)
        known = text in self._troubles.values()
        self._troubles[name] = text
        return not known

    def succeeded(self, name: str) -> None:
        """The loop ``name`` did its work."""
        self.away_since = None
        if self._troubles.pop(name, None) is not None and not self._troubles:
            _log.info("auth answers again")
