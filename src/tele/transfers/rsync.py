"""What does a client copy by rsync?

Its protocol is not read: the command line of ``rsync --server`` has direction and paths; what
passes is counted.

Invariant: a command line is parsed, never run or expanded.
"""

from __future__ import annotations

from typing import Final

from tele.model.transfer import DOWNLOAD, UPLOAD, Transfer
from tele.spawner.shells import split_words
from tele.transfers.observer import TEXT_LIMIT, Report

COMMAND_LIMIT: Final = 64 * 1024
#: Paths of one command that are reported, each for itself.
PATHS_LIMIT: Final = 100


class RsyncCounter:
    """Counts both directions; see :class:`tele.transfers.observer.Observer`."""

    def __init__(self, report: Report, *, upload: bool, paths: tuple[str, ...]) -> None:
        self._report = report
        self._upload = upload
        self._paths = paths
        self._input = self._output = 0

    def input(self, view: memoryview) -> None:
        """See :class:`Observer`."""
        self._input += len(view)

    def output(self, *views: memoryview) -> None:
        """See :class:`Observer`."""
        self._output += sum(map(len, views))

    def ended(self, how: str) -> None:
        """See :class:`Observer`."""
        op, direction = ("write", UPLOAD) if self._upload else ("read", DOWNLOAD)
        for path in self._paths[:PATHS_LIMIT] or ("",):
            self._report(
                Transfer(
                    "rsync",
                    op,
                    path,
                    direction=direction,
                    bytes=self._input if self._upload else self._output,
                    result=how,
                    unhashed="the protocol of rsync is not read",
                )
            )


def rsync_counter(command: str, report: Report) -> RsyncCounter | None:
    """Return what counts the streams of ``command``, if it is the server of an rsync client.

    Its options end with a ``.``, behind which are the paths; with ``-s`` the client sends them
    later.
    """
    if len(command) > COMMAND_LIMIT or "--server" not in command:
        return None
    try:
        words = split_words(command)
    except ValueError:
        return None
    if "--server" not in words:
        return None
    at = words.index("--server")
    if not any(word.rpartition("/")[2] == "rsync" for word in words[:at]):
        return None
    rest = words[at + 1 :]
    paths = rest[rest.index(".") + 1 :] if "." in rest else []
    return RsyncCounter(
        report,
        upload="--sender" not in rest,
        paths=tuple(path[:TEXT_LIMIT] for path in paths),
    )
