"""What was done to one file, by SFTP, scp or rsync?"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

#: What ``direction`` is of bytes that the client sends, and that it receives.
UPLOAD: Final = "upload"
DOWNLOAD: Final = "download"
#: The ``result`` of what succeeded.
OK: Final = "ok"


@frozen
class Transfer:
    """One operation on one file of a host.

    ``protocol`` is ``sftp``, ``scp`` or ``rsync``. ``op`` is ``read``, ``write``, ``copy``,
    ``rename``, ``remove``, ``mkdir``, ``rmdir``, ``link``, ``symlink``, ``setstat`` or ``list``, or
    the name of an extension of SFTP. ``path`` and ``to`` are as the client gave them. ``bytes`` is
    how many bytes of content passed (None: none can). ``mode`` is octal. ``result`` is ``ok`` or
    the error.

    ``sha256`` is hex, of the content that passed: the first ``bytes`` bytes of the file. It is
    empty if that is not known, for the reason ``unhashed``.
    """

    protocol: str
    op: str
    path: str
    to: str = ""
    direction: str = ""
    bytes: int | None = None
    mode: str = ""
    result: str = OK
    sha256: str = ""
    unhashed: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields in a frame and in an event; those that say nothing are left out."""
        given = {
            "protocol": self.protocol,
            "op": self.op,
            "path": self.path,
            "to": self.to,
            "direction": self.direction,
            "bytes": self.bytes,
            "mode": self.mode,
            "result": self.result,
            "sha256": self.sha256,
            "unhashed": self.unhashed,
        }
        return {name: value for name, value in given.items() if value not in ("", None)}
