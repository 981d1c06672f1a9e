"""Which observer reads the streams of a program?"""

from __future__ import annotations

from attrs import frozen

from tele.model.session import Launched
from tele.transfers.observer import Broken, Guarded, Observer, Reader, Report
from tele.transfers.rsync import rsync_counter
from tele.transfers.scp import ScpReader, arguments
from tele.transfers.sftp import SftpReader


def observer_of(
    launched: Launched, report: Report, broken: Broken, opened: Report | None = None
) -> Observer:
    """Return what reports the transfers of ``launched``, a program without a terminal.

    What a command line says is used for paths, and to know rsync; SFTP and scp are told by what
    passes. ``opened`` is told of files when they are opened by SFTP.
    """
    sftp = SftpReader(report, opened, certain=launched.files)
    if launched.files:
        return Guarded([sftp], broken, certain=True)
    command = launched.command.decode("utf-8", "replace")
    paths = arguments(command)
    readers: list[Reader] = [
        sftp,
        ScpReader(report, upload=True, paths=paths),
        ScpReader(report, upload=False, paths=paths),
    ]
    guarded, counter = Guarded(readers, broken), rsync_counter(command, report)
    return guarded if counter is None else _Both(guarded, counter)


@frozen
class _Both:
    """Two observers of the same: a command line may say anything."""

    _one: Observer
    _other: Observer

    def input(self, view: memoryview) -> None:
        """See :class:`Observer`."""
        self._one.input(view)
        self._other.input(view)

    def output(self, *views: memoryview) -> None:
        """See :class:`Observer`."""
        self._one.output(*views)
        self._other.output(*views)

    def ended(self, how: str) -> None:
        """See :class:`Observer`."""
        self._one.ended(how)
        self._other.ended(how)
