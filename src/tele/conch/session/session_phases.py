"""In which phase is a session, and what may happen next?

Invariant: all transitions are here. What is not in the table does not happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Phase(Enum):
    """What a session waits for."""

    IDLE = "a request for a program"
    STARTING = "the program to start"
    STARTED = "the reply to the request to be sent"
    RUNNING = "the program to exit"
    EXITED = "its output to be sent"
    FAILED = "the reply to be sent, though no program was started"
    REFUSED = "the reason to be sent"
    REPORTED = "the channel to be closed"


class Event(Enum):
    """What happens to a session."""

    REQUESTED = "the client asked for a program"
    STARTED = "the program was started"
    FAILED = "it was not started"
    ANSWERED = "the reply was sent"
    EXITED = "the program exited, and all its output was written to the channel"
    REPORTED = "the exit status was sent"


NEXT: Final[Mapping[Phase, Mapping[Event, Phase]]] = {
    Phase.IDLE: {Event.REQUESTED: Phase.STARTING},
    Phase.STARTING: {Event.STARTED: Phase.STARTED, Event.FAILED: Phase.FAILED},
    Phase.STARTED: {Event.ANSWERED: Phase.RUNNING},
    Phase.RUNNING: {Event.EXITED: Phase.EXITED},
    Phase.EXITED: {Event.REPORTED: Phase.REPORTED},
    Phase.FAILED: {Event.ANSWERED: Phase.REFUSED},
    Phase.REFUSED: {Event.REPORTED: Phase.REPORTED},
    Phase.REPORTED: {},
}
