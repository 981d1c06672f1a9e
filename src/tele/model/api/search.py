"""Operations that search in what sessions showed."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Final

from attrs import field, frozen

from tele.model.api.operation import Operation, Permitted, Users
from tele.model.bounds import OMITTED, AtMost, Between

#: Characters of what is searched, at least (fewer have no trigram) and at most.
SHORTEST: Final = 3
LONGEST: Final = AtMost(200)


class FoundIn(str, Enum):
    """Where a text was: the command of a channel or at a prompt, a file, a forward, the output; of
    what was traced: an executed program, the path of a file, the address of a connection.
    """

    OUTPUT = "output"
    EXEC = "exec"
    PROMPT = "prompt"
    FILE = "file"
    FORWARD = "forward"
    COMMAND = "command"
    PATH = "path"
    CONNECTION = "connection"


@frozen
class SearchRecordings:
    """Find ``text``, at least three characters, in recordings: those indexed last come first.

    ``kinds`` are where to look; none: everywhere. ``since`` and ``until`` count by when auth
    received the recording. A page may have fewer than ``limit``, or none, and say how to go on.
    """

    text: str = field(validator=LONGEST)
    limit: int = field(default=50, validator=Between(1, 200))
    after: str = ""
    user: str = ""
    kinds: tuple[FoundIn, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@frozen
class SearchHit:
    """One line of a recording. ``at`` is seconds into the session; ``line`` has the text in it."""

    recording: str
    user: str
    login: str
    node: str
    started: datetime
    at: float
    channel: int
    kind: FoundIn
    line: str


@frozen
class SearchResult:
    """``next`` continues the search. ``cut``: it took too long, and looked at a part only.

    ``waiting`` and ``failed``: of the cluster's closed recordings, how many have no index yet, and
    how many will have none, up to 1,000 each: those were not searched. ``sealed``: there are sealed
    recordings, and their text is not kept. Only the first page of one who may read all recordings
    has them.
    """

    items: tuple[SearchHit, ...]
    next: str = ""
    cut: bool = False
    waiting: int = field(default=0, metadata=OMITTED)
    failed: int = field(default=0, metadata=OMITTED)
    sealed: bool = field(default=False, metadata=OMITTED)


SEARCH_RECORDINGS: Final = Operation(
    "search_recordings",
    "GET",
    "/v1/search/recordings",
    SearchRecordings,
    SearchResult,
    (Permitted("recording", "read"), Users()),
    "Find a text in commands, files and output; without a rule, in one's own recordings",
    cost=40,
)
