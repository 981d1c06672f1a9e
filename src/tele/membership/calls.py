"""Does auth answer? Calls to it, and one line in the log whenever that changes.

Invariant: the same trouble is logged once, however many calls meet it and however long.
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


#: Seconds to wait after a refusal: asking again changes nothing soon, and each is in the audit.
DENIED_PAUSE: Final = 120.0


def pause_after(error: TeleError, usual: float) -> float:
    """Return how many seconds to wait before trying again: ``usual``, or longer after a refusal."""
    return usual + DENIED_PAUSE if isinstance(error, AccessDenied) else usual


class Calls:
    """Calls auth for several loops, each of which has a name."""

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
            _log.failure("call to auth failed", call=name)
            wrapped = TeleError(f"{type(error).__name__} in a call to auth")
            self.failed(name, wrapped)
            raise wrapped from error
        self.succeeded(name)
        return answer

    def failed(self, name: str, error: TeleError) -> None:
        """The loop ``name`` failed: this host serves by the state of the cluster that it knows."""
        if self._is_new(name, error):
            _log.warn("auth does not answer, using cached state", call=name, error=str(error))

    def blocked(self, name: str, error: TeleError, pause: float) -> None:
        """The loop ``name`` failed, and this host cannot serve before it succeeds.

        It is tried again after ``pause`` seconds.
        """
        if self._is_new(name, error):
            _log.error(
                "not a member of the cluster, serving no clients",
                call=name,
                error=str(error),
                retry_seconds=round(pause, 1),
            )

    def _is_new(self, name: str, error: TeleError) -> bool:
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
