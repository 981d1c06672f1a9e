"""Why does the upload of a recording to the archive not go on?"""

from __future__ import annotations

from datetime import datetime

from attrs import frozen


@frozen
class StuckUpload:
    """An upload that failed. ``since`` is the first of ``attempts`` failures in a row.

    ``state`` is ``retry`` (the same will be tried again soon), ``refused`` (an operator has to
    change credentials, rights or settings; it is tried again every few minutes) or ``quarantine``
    (it is set aside until ``tele recordings retry``).
    """

    id: str
    state: str
    reason: str
    since: datetime
    attempts: int
