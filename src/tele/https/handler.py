"""What does the API's server ask of the program behind it?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Interface

from tele.model.api.operation import Operation
from tele.model.identity import Caller


class IHandler(Interface):
    """Performs operations for callers. The kind of caller was checked."""

    def check(operation: Operation[Any, Any], caller: Caller) -> Awaitable[None]:
        """Return if ``caller`` may perform the operation now; raises a
        :class:`tele.errors.TeleError` if not, and keeps a record of that.
        """

    def perform(
        operation: Operation[Any, Any], read: Callable[[], Any], caller: Caller
    ) -> Awaitable[Any]:
        """Return the response; raises a :class:`tele.errors.TeleError`.

        ``read()`` decodes the request; raises :class:`tele.errors.InvalidInput` if it cannot be
        read. It is called after everything about the caller was checked as by :meth:`check`.
        """

    def follow(
        operation: Operation[Any, Any],
        request: Any,
        caller: Caller,
        receiver: Callable[[Any], None],
    ) -> Deferred[None]:
        """Call ``receiver`` with each value; the Deferred fires at the end and can be cancelled."""
