"""Operations on how long recordings are kept: removal, legal hold, uploads that do not go on."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Nothing, Operation, Permitted
from tele.model.api.paging import ById, Paged
from tele.model.bounds import AtMost
from tele.model.stuck import StuckUpload

#: Characters of a reason.
REASON_LIMIT: Final = 500


@frozen
class RemoveRecording:
    """``reason`` is why; it is in the audit, and cannot be left out."""

    id: str
    reason: str = field(default="", validator=AtMost(REASON_LIMIT))


@frozen
class HoldRecording:
    """``reason`` is why, such as the number of a case."""

    id: str
    reason: str = field(validator=AtMost(REASON_LIMIT))


@frozen
class ReleaseRecording:
    """``reason`` is why the hold ends."""

    id: str
    reason: str = field(default="", validator=AtMost(REASON_LIMIT))


@frozen
class Hold:
    """The recording ``id`` is not removed. ``by`` is who said so."""

    id: str
    reason: str
    by: str
    since: datetime


@frozen
class HoldList:
    """Holds, by id. ``next`` continues the list."""

    items: tuple[Hold, ...]
    next: str = ""


@frozen
class StuckList:
    """Uploads to the archive that do not go on."""

    items: tuple[StuckUpload, ...]


DELETE_RECORDING = Operation(
    "delete_recording",
    "DELETE",
    "/v1/recordings/{id}",
    RemoveRecording,
    Nothing,
    (Permitted("recording", "delete"),),
    "Remove a recording; the audit keeps that it was there, and why it was removed",
)

HOLD_RECORDING = Operation(
    "hold_recording",
    "PUT",
    "/v1/recordings/{id}/hold",
    HoldRecording,
    Nothing,
    (Permitted("recording", "update"),),
    "Hold a recording: neither people nor retention remove it",
)

RELEASE_RECORDING = Operation(
    "release_recording",
    "DELETE",
    "/v1/recordings/{id}/hold",
    ReleaseRecording,
    Nothing,
    (Permitted("recording", "update"),),
    "End the hold of a recording",
)

LIST_HOLDS = Operation(
    "list_holds",
    "GET",
    "/v1/recording-holds",
    Paged,
    HoldList,
    (Permitted("recording", "list"),),
    "Recordings that are held",
    cost=10,
)

LIST_STUCK = Operation(
    "list_stuck",
    "GET",
    "/v1/stuck-recordings",
    Nothing,
    StuckList,
    (Permitted("recording", "list"),),
    "Recordings whose upload to the archive does not go on, with the reason",
    cost=10,
)

RETRY_RECORDING = Operation(
    "retry_recording",
    "POST",
    "/v1/recordings/{id}/retry",
    ById,
    Nothing,
    (Permitted("recording", "update"),),
    "Upload a stuck recording again, now",
    cost=4,
)
