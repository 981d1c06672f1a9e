"""What is in a backup, and under which names may it be restored?

A tar file, compressed with zstd. First ``backup.json``, then the store as it was at one moment,
then what is beside it in auth's ``data_dir``.

Invariants:

* A name that is not of this list is refused, before anything is written: no path leads elsewhere.
* Regular files only, each once.
* Both are done as the account that owns the folder: that account could lead root elsewhere.
"""

from __future__ import annotations

import os
import pwd
import re
from datetime import datetime
from pathlib import Path
from typing import Final

from attrs import frozen

from tele.errors import InvalidInput

INFO: Final = "backup.json"
STORE: Final = "auth.sqlite"
#: Files of auth's data_dir that are taken, if they are there.
FILES: Final = ("host_id", "signing.key", "recordings.key", "tele.yaml")
#: What makes the hosts of the same data_dir (``tele up``) the same hosts again.
IDENTITIES: Final = "identity"
IDENTITY: Final = "identity.json"
#: The archive of recordings, and what waits to be uploaded to a bucket.
RECORDINGS: Final = "recordings"
LANDING: Final = "s3"
#: Bytes of ``backup.json``, at most.
INFO_LIMIT: Final = 64 * 1024

_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAMES: Final = re.compile(
    rf"{re.escape(STORE)}|{'|'.join(map(re.escape, FILES))}"
    rf"|{IDENTITIES}/(?:node|proxy)/{re.escape(IDENTITY)}"
    rf"|(?:{RECORDINGS}|{LANDING})(?:/{_PART}){{1,4}}",
    re.ASCII,
)


@frozen
class BackupInfo:
    """``backup.json``: of which cluster, when, and by which version."""

    cluster: str
    created: datetime
    version: str
    recordings: bool = False


def check_owner(folder: Path) -> None:
    """Raise :class:`InvalidInput` if ``folder`` belongs to another account. May raise OSError."""
    uid = folder.stat().st_uid
    if uid == os.geteuid():
        return
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"#{uid}"
    raise InvalidInput(
        f"{folder} belongs to the account {name}: run this as that account, for example with"
        f" sudo -u '{name}'"
    )


def is_name(name: str) -> bool:
    """Whether a file of a backup may have this name."""
    return _NAMES.fullmatch(name) is not None
