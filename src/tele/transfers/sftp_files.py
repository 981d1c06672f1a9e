"""What is known of a file that a client has open by SFTP, and of a request without a reply?"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from tele.model.transfer import DOWNLOAD, OK, UPLOAD, Transfer
from tele.transfers.content import Content
from tele.transfers.sftp_packets import Fields

#: The flag of OPEN for writing.
WRITING = 2


@define(eq=False)
class File:
    """An open file. ``mode`` is that of a file that is made, or as it was last seen."""

    path: str
    flags: int
    mode: str
    read: Content = field(factory=Content)
    written: Content = field(factory=Content)
    error: str = ""
    #: Whether the file ends where what was written ends.
    cut: bool = False
    #: Whether it was reported.
    done: bool = False

    def transfers(self, result: str) -> list[Transfer]:
        """Return what was done to it."""
        done = []
        self.done = True
        result = self.error or result
        if self.written.count or (self.flags & WRITING and not self.read.count):
            if not self.cut and not self.written.unhashed:
                self.written.spoil("the file was not cut where the upload ended")
            if result != OK:
                self.written.spoil("it was not written completely")
            done.append(self._transfer("write", UPLOAD, self.written, result))
        if self.read.count or not self.flags & WRITING:
            done.append(self._transfer("read", DOWNLOAD, self.read, result))
        return done

    def _transfer(self, op: str, direction: str, content: Content, result: str) -> Transfer:
        return Transfer(
            "sftp",
            op,
            self.path,
            direction=direction,
            bytes=content.count,
            mode=self.mode,
            result=result,
            sha256=content.sha256,
            unhashed=content.unhashed,
        )


@define(eq=False)
class Request:
    """A request that has no reply yet; ``replied`` is called with the status, or None for another
    reply, which ``head`` has.
    """

    number: int
    replied: Callable[[int | None, Fields | None], None] | None = None
    #: What is reported if no reply comes.
    transfer: Transfer | None = None
    #: The file that is read.
    file: File | None = None
    offset: int = 0
    #: The file that is closed.
    closed: File | None = None
    #: Whether it asks for a handle.
    opens: bool = False
